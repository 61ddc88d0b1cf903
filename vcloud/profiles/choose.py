"""Which version of a profile counts on a day, and which profiles an own one brings with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from vcloud.documents.field import nearest
from vcloud.errors import Problem
from vcloud.profiles.model import Applied, Profile

DEEPEST = 5
"""Profiles that may extend one another in a row."""


@dataclass(frozen=True, slots=True)
class Named:
    """A profile as a vApp file names it."""

    text: str
    """`pci-dss`, `pci-dss@4.0`, `./corp-baseline`."""
    file: str
    line: int
    field: str

    def problem(self, what: str, hint: str) -> Problem:
        return Problem(self.file, self.line, self.field, what, hint)


@dataclass(frozen=True, slots=True)
class Chosen:
    """A version that counts."""

    profile: Profile
    floats: bool
    named: Named

    @property
    def applied(self) -> Applied:
        one = self.profile
        return Applied(one.name, one.version, one.digest, floats=self.floats, draft=one.draft)


Known = Mapping[str, tuple[Profile, ...]]
"""What a file may name (`pci-dss`, `./corp-baseline`) -> its versions."""


def chosen(
    names: Sequence[Named], known: Known, day: date
) -> tuple[tuple[Chosen, ...], tuple[Problem, ...]]:
    """The versions that count on a day, each after those that it extends, and what is wrong with the
    names.
    """
    found: dict[str, Chosen] = {}
    problems: list[Problem] = []
    for named in names:
        for one in _with_extended(named, known, day):
            if isinstance(one, Problem):
                problems.append(one)
                continue
            other = found.get(one.profile.name)
            if other is not None and other.profile != one.profile:
                what = f"{other.profile.label} and {one.profile.label} are both named"
                problems.append(named.problem(what, "Name one version of a profile."))
            found.setdefault(one.profile.name, one)
    return tuple(found.values()), tuple(problems)


def _with_extended(named: Named, known: Known, day: date) -> Iterator[Chosen | Problem]:
    trail: list[Chosen] = []
    text = named.text
    while text:
        one = _one(Named(text, named.file, named.line, named.field), known, day)
        if isinstance(one, Problem):
            by = f"{trail[-1].profile.label} extends it: " if trail else ""
            yield Problem(one.file, one.line, one.field, f"{by}{one.what}", one.hint)
            break
        if len(trail) == DEEPEST:
            what = f"more than {DEEPEST} profiles extend one another"
            yield named.problem(what, "Let one of them extend nothing.")
            break
        trail.append(one)
        text = one.profile.extends
    yield from reversed(trail)


def _one(named: Named, known: Known, day: date) -> Chosen | Problem:
    name, _, version = named.text.partition("@")
    versions = known.get(name, ())
    if not versions:
        hint = nearest(name, [one for one in known if not one.startswith("./")], "profile")
        return named.problem(f"no profile is called '{name}'", hint)
    if version:
        exact = next((one for one in versions if one.version == version), None)
        if exact is None:
            hint = nearest(version, [one.version for one in versions], "version")
            return named.problem(f"'{name}' has no version '{version}'", hint)
        return Chosen(exact, False, named)
    in_force = [one for one in versions if one.in_force_on(day)]
    if not in_force:
        listed = ", ".join(f"{one.version}{' (draft)' * one.draft}" for one in versions)
        what = f"no version of '{name}' is in force on {day}"
        law = [one for one in versions if not one.draft] or versions
        return named.problem(what, f"Name a version: {name}@{law[-1].version}. Known: {listed}.")
    return Chosen(max(in_force, key=lambda one: one.begins), True, named)
