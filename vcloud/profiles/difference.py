"""What differs between two versions of a profile, control by control."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Final

from vcloud.profiles.model import Control, Demand, Profile, Status

TOLD: Final = ("demands", "begins")
"""Parts of which both values are told."""
COMPARED: Final = ("status", "says", "reason", "needs", "demands", "proved_by", "begins")


@dataclass(frozen=True, slots=True)
class ControlChange:
    """A control that only one version has, or that says something else in the other."""

    id: str
    before: Control | None
    after: Control | None

    @property
    def sign(self) -> str:
        return "+" if self.before is None else "-" if self.after is None else "~"

    @property
    def changed(self) -> tuple[str, ...]:
        """The parts that differ, by their names in the file; empty where one is missing."""
        if self.before is None or self.after is None:
            return ()
        one, other = self.before, self.after
        return tuple(name for name in COMPARED if getattr(one, name) != getattr(other, name))

    @property
    def text(self) -> str:
        """The change on one line. Of a control that both versions have, an id may have got another
        meaning, so its new words are told.
        """
        one, other = self.before, self.after
        if one is None or other is None:
            only = one or other
            assert only is not None  # noqa: S101 - one of the two is there
            return f"{self.sign} {self.id} ({only.status}) {only.says}".rstrip()
        status = (
            str(one.status) if one.status is other.status else f"{one.status} -> {other.status}"
        )
        told = [
            f"{name}: {_shown(one, name)} -> {_shown(other, name)}"
            for name in self.changed
            if name in TOLD
        ]
        words = other.says if "says" in self.changed else ""
        return (
            f"{self.sign} {self.id} ({status}) {'; '.join(filter(None, (words, *told)))}".rstrip()
        )


def control_changes(before: Profile, after: Profile) -> tuple[ControlChange, ...]:
    """The changes, in the order of the later version, then what it has no more. Controls that neither
    covers are left out.
    """
    ids = dict.fromkeys((*(one.id for one in after.controls), *(one.id for one in before.controls)))
    return tuple(_changes(before, after, ids))


def _changes(before: Profile, after: Profile, ids: dict[str, None]) -> Iterator[ControlChange]:
    for name in ids:
        found = ControlChange(name, before.control(name), after.control(name))
        uncovered = all(
            one is None or one.status is Status.NOT_COVERED for one in (found.before, found.after)
        )
        if not uncovered and (found.changed or found.before is None or found.after is None):
            yield found


def _shown(control: Control, name: str) -> str:
    value = getattr(control, name)
    if name == "demands":
        return ", ".join(map(demand_text, value)) or "nothing"
    return "from the beginning" if value is None else str(value)


def demand_text(demand: Demand) -> str:
    """A demand with its parameters, on one line."""
    parts = [
        f"{one.name} {_value(getattr(demand, one.name))}"
        for one in fields(demand)
        if one.name != "data" and getattr(demand, one.name) not in ("", ())
    ]
    # By the key of the file: FewPorts is few_ports there.
    name = re.sub("(?<=[a-z])(?=[A-Z])", "_", type(demand).__name__).lower()
    return f"{name} ({', '.join(parts)})"


def _value(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
