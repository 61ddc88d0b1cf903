"""The errors that users see. Each has a message (what happened, and where) and a hint (what to do).

An exception that is not a `VcloudError` is a bug in vcloud. Only `vcloud.cli` turns these errors
into exit codes and text.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of the command line. `vcloud --help` explains them."""

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
    """One problem in a document: where it is, what is wrong, and what to do about it."""

    file: str
    line: int
    """Counted from 1; 0 if the problem has no line."""
    field: str
    """The path of the field, such as `hosts.h1.uri`; empty if the problem belongs to no field."""
    what: str
    hint: str = ""

    def __str__(self) -> str:
        position = f"{self.file}:{self.line}: " if self.line else f"{self.file}: "
        field = f"{self.field}: " if self.field else ""
        return f"{position}{field}{self.what}" + (f"\n  {self.hint}" if self.hint else "")


class VcloudError(Exception):
    """An error whose text may be shown to the user as it is: a message and a hint."""

    exit = Exit.FAILED

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return self.what + (f"\n  {self.hint}" if self.hint else "")


class UsageError(VcloudError):
    """The command line names something that does not exist, or its parts contradict each other."""

    exit = Exit.INVALID


class NoVappError(UsageError):
    """The host has nothing of the vApp that the user named."""

    def __init__(self, vapp: str, host: str) -> None:
        super().__init__(
            f"there is no vApp '{vapp}' on {host}", "`vcloud list` shows the vApps of the host."
        )


class SpecError(VcloudError):
    """A document that the user wrote is invalid: a vApp file, an image recipe or an inventory.

    `problems` has all problems, in the order of the file.
    """

    exit = Exit.INVALID

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        self.problems = tuple(sorted(problems))
        count = len(self.problems)
        super().__init__(
            "\n".join(map(str, self.problems)),
            f"{count} problem{'s' if count != 1 else ''}; nothing was changed.",
        )

    def __str__(self) -> str:
        return f"{self.what}\n{self.hint}"


class RefusedError(VcloudError):
    """The file is valid, but this host or lab cannot enforce something in it. Nothing was changed."""

    exit = Exit.REFUSED

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        self.problems = tuple(sorted(problems))
        super().__init__("\n".join(map(str, self.problems)), "Refused; nothing was changed.")

    def __str__(self) -> str:
        return f"{self.what}\n{self.hint}"


class SmallerDiskError(VcloudError):
    """The file makes a data disk smaller, which would lose data. Nothing was changed."""

    exit = Exit.REFUSED


class HostError(VcloudError):
    """A libvirt host could not be reached, or did not do what vcloud asked for."""


class GuestError(VcloudError):
    """A VM did not boot, did not answer, or refused its configuration."""


class ImageError(VcloudError):
    """vcloud cannot build, find or trust an image."""
