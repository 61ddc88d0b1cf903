"""The errors that users see. Each has a message (what happened, and where) and a hint (what to do).

An exception that is not a `VcloudError` is a bug in vcloud. Only `vcloud.cli` turns these errors
into exit codes and text.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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

    def __init__(self, problems: tuple[Problem, ...], more: str = "") -> None:
        """`more` is a sentence about all of the problems."""
        self.problems = tuple(sorted(problems))
        super().__init__(
            "\n".join(map(str, self.problems)),
            "Refused; nothing was changed." + (f" {more}" if more else ""),
        )

    def __str__(self) -> str:
        return f"{self.what}\n{self.hint}"


class Refusals:
    """Gathers what is refused on the way, so that all of it is told at once."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """What the block refuses ends the block, and is kept."""
        try:
            yield
        except RefusedError as error:
            self.problems += error.problems

    def refuse(self) -> None:
        """Raises RefusedError with all that was refused."""
        if self.problems:
            raise RefusedError(tuple(dict.fromkeys(self.problems)))


class SmallerDiskError(VcloudError):
    """The file makes a disk smaller, which would lose data. Nothing was changed."""

    exit = Exit.REFUSED


class UnprotectedError(VcloudError):
    """All of a vApp runs, and something on its host is not as vcloud made it."""

    def __init__(self, vapp: str, host: str, problems: tuple[str, ...]) -> None:
        lines = "".join(f"\n    {problem}" for problem in problems)
        super().__init__(
            f"'{vapp}' on {host} is up, and is not protected:{lines}",
            "Then run `vcloud up` again. `vcloud status` shows what is left.",
        )


class HostError(VcloudError):
    """A libvirt host could not be reached, or did not do what vcloud asked for."""


class UnreachableError(HostError):
    """A host that cannot be reached may have the vApp, so nothing is done elsewhere."""

    exit = Exit.REFUSED


class SilentError(HostError):
    """No answer at all came from a host: it may be dead, or only cut off."""


class HostRefusedError(HostError):
    """A host itself refused to start a VM, by its rules of tenancy."""

    exit = Exit.REFUSED


class GuestError(VcloudError):
    """A VM did not boot, did not answer, or refused its configuration."""


class ImageError(VcloudError):
    """vcloud cannot build, find or trust an image."""
