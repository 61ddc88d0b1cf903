"""What differs between the parameters of this run and those of the last one, in words."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from vcloud.design.model import Design
from vcloud.documents.field import shown
from vcloud.documents.parameter import Parameter, Source
from vcloud.errors import UsageError
from vcloud.plan.manifest import Manifest


@dataclass(frozen=True, slots=True)
class ParameterChange:
    """A parameter that has another value than at the last `up`."""

    name: str
    old: str
    old_source: Source
    new: str
    new_source: Source

    @property
    def forgotten(self) -> bool:
        """Whether the user gave a value last time and gives none now."""
        return self.old_source is not Source.DEFAULT and self.new_source is Source.DEFAULT

    def as_data(self) -> dict[str, str]:
        return {
            "name": self.name,
            "old": self.old,
            "old_source": self.old_source.value,
            "new": self.new,
            "new_source": self.new_source.value,
        }

    def __str__(self) -> str:
        before, now = (
            f"{shown(value)} ({_told(source)})"
            for value, source in ((self.old, self.old_source), (self.new, self.new_source))
        )
        return f"{self.name}: {before} at the last `up`, now {now}"


def _told(source: Source) -> str:
    return "the default in the file" if source is Source.DEFAULT else f"by {source}"


def parameter_changes(wanted: Design, have: Manifest | None) -> tuple[ParameterChange, ...]:
    """The parameters whose values differ and are known."""
    old = {one.name: one for one in (have.design.parameters if have else ())}
    return tuple(_changes(wanted.parameters, old))


def _changes(wanted: Sequence[Parameter], old: dict[str, Parameter]) -> Iterator[ParameterChange]:
    for new in wanted:
        before = old.get(new.name)
        if before is None or before.value is None or new.value is None:
            continue
        if before.value != new.value:
            yield ParameterChange(new.name, before.value, before.source, new.value, new.source)


def forgotten(changes: Sequence[ParameterChange]) -> str:
    """What the user gave at the last `up` and does not give now, as a sentence with the way out; empty
    if there is nothing.
    """
    lost = [change for change in changes if change.forgotten]
    if not lost:
        return ""
    # The values come from the host. A user may copy this text into a shell.
    given = " ".join(shlex.join(("-P", f"{change.name}={shown(change.old)}")) for change in lost)
    return f"the last `up` was given {given}, and this one is not; to keep it, add --keep-params"


def kept_values(have: Design, given: Collection[str]) -> dict[str, str]:
    """The values that the user gave at the last `up`, for `--keep-params`. Those of the parameters
    `given` are given anew.

    Raises UsageError where one of them was not recorded.
    """
    kept = [
        one for one in have.parameters if one.source is not Source.DEFAULT and one.name not in given
    ]
    unknown = [one.name for one in kept if one.value is None]
    if unknown:
        names = ", ".join(unknown)
        raise UsageError(
            f"--keep-params does not know the last value of {names}: it stands in the content of a file or in a command, of which only digests are recorded",
            f"Give it again: {' '.join(f'-P {name}=VALUE' for name in unknown)}.",
        )
    return {one.name: one.value for one in kept if one.value is not None}
