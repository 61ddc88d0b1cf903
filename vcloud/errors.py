"""The errors of vcloud. Each says what happened, where, and what to do.

Any other exception is a bug in vcloud. Only `vcloud.cli` turns these errors into text and an exit code.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of the command line (stated in `vcloud --help`)."""

    DONE = 0
    FAILED = 1
    INVALID = 2
    DIFFERENT = 3
    CHECK_FAILED = 4
    NOT_CHECKED = 5
    REFUSED = 6
    INTERRUPTED = 130


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing that is wrong in a document: where it is, what it is and what to do about it."""

    file: str
    line: int
    field: str
    what: str
    hint: str = ""

    def __str__(self) -> str:
        position = f"{self.file}:{self.line}: " if self.line else f"{self.file}: "
        field = f"{self.field}: " if self.field else ""
        return f"{position}{field}{self.what}" + (f"\n  {self.hint}" if self.hint else "")


class VcloudError(Exception):
    """An error for users: one sentence says what happened, and a hint says what to do."""

    exit = Exit.FAILED

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return self.what + (f"\n  {self.hint}" if self.hint else "")


class UsageError(VcloudError):
    """The command line names something that does not exist, or combines what does not fit together."""

    exit = Exit.INVALID


class NoVappError(UsageError):
    """The host has nothing of the vApp that the user named."""

    def __init__(self, vapp: str, host: str) -> None:
        super().__init__(f"there is no vApp '{vapp}' on {host}", "vcloud list shows what is there.")


class SpecError(VcloudError):
    """A document that the user wrote (a vApp file, an image recipe, an inventory) is invalid. `problems` has all problems, in file order."""

    exit = Exit.INVALID

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        self.problems = tuple(sorted(problems))
        count = len(self.problems)
        super().__init__("\n".join(map(str, self.problems)), f"{count} problem{'s' if count != 1 else ''}; nothing was changed.")

    def __str__(self) -> str:
        return f"{self.what}\n{self.hint}"


class RefusedError(VcloudError):
    """The file is valid, but vcloud cannot enforce something in it, so it does nothing."""

    exit = Exit.REFUSED

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        self.problems = tuple(sorted(problems))
        super().__init__("\n".join(map(str, self.problems)), "Refused; nothing was changed.")

    def __str__(self) -> str:
        return f"{self.what}\n{self.hint}"


class SmallerDiskError(VcloudError):
    """A data disk would lose content, so vcloud does nothing."""

    exit = Exit.REFUSED


class HostError(VcloudError):
    """A libvirt host refused a request or failed."""


class GuestError(VcloudError):
    """A VM did not start, did not answer, or refused its configuration."""


class ImageError(VcloudError):
    """vcloud cannot build, find or trust an image."""
