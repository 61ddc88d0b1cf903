"""`vcloud profile affected`: which vApps on the hosts a new version, a passed day or an expired
exception has made out of date, and what changes for them. No vApp file is needed: the manifests say
which versions a vApp was made by, and for which day.

To find one more reason: give it a `Reason`, and yield it in `outdated`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from functools import partial
from typing import Any

from vcloud.design.controls import Controls
from vcloud.errors import HostError, NoVappError
from vcloud.fleet.fleet import Fleet, open_lab
from vcloud.hosts.connection import Host, run_parallel
from vcloud.hosts.manifests import read_manifest, vapp_names
from vcloud.plan.copies import newest_copy
from vcloud.plan.manifest import Manifest
from vcloud.profile_files import shipped
from vcloud.profiles.choose import Known
from vcloud.profiles.difference import control_changes, demand_text
from vcloud.profiles.model import Applied, Control, Profile

UP = "`vcloud up` with its file"


class Reason(StrEnum):
    """Why a vApp is out of date."""

    VERSION = "new version"
    ENDED = "version ended"
    CONTROL = "control begins"
    EXCEPTION = "exception expired"
    DIGEST = "other text"


@dataclass(frozen=True, slots=True)
class Outdated:
    """One thing of a vApp that is out of date."""

    reason: Reason
    about: str
    """The version of a profile or the control, such as `pci-dss@4.0 6.4.2`."""
    since: date | None
    """The first day on which it is out of date; None: not known."""
    text: str
    changes: tuple[str, ...] = ()
    """The controls that change, each beginning with its sign."""

    def as_data(self) -> dict[str, Any]:
        return {
            "reason": self.reason.value,
            "about": self.about,
            "since": str(self.since or ""),
            "text": self.text,
            "changes": list(self.changes),
        }


def outdated(controls: Controls, known: Known, day: date) -> Iterator[Outdated]:
    """What is out of date on a day of a vApp that was made by these profiles. `known` are the shipped
    profiles; what is not among them is a user's own, which only its folder knows.
    """
    for one in controls.profiles:
        if one.name in known:
            yield from _of_profile(one, known[one.name], controls, day)
    for exception in controls.exceptions:
        if controls.day and exception.counts_on(controls.day) and not exception.counts_on(day):
            ref = exception.origin
            versions = known.get(ref.profile, ())
            profile = next((one for one in versions if one.version == ref.version), None)
            control = profile.control(ref.control) if profile else None
            yield Outdated(
                Reason.EXCEPTION,
                str(ref),
                date.fromordinal(exception.expires.toordinal() + 1),
                f"the exception for {ref} has expired on {exception.expires}, and the control is not enforced; {UP} enforces it",
                (_told("+", control),) if control else (),
            )


def expired(controls: Controls, day: date) -> Iterator[str]:
    """Exceptions that counted when the vApp was made and do not count any more."""
    found = _outdated_here(controls, day)
    yield from (one.text for one in found if one.reason is Reason.EXCEPTION)


def due(controls: Controls, day: date) -> Iterator[str]:
    """What else of its profiles is out of date since the day for which the vApp was made."""
    found = _outdated_here(controls, day)
    yield from (one.text for one in found if one.reason is not Reason.EXCEPTION)


def _outdated_here(controls: Controls, day: date) -> Iterator[Outdated]:
    # `status` and `list` ask this of every vApp, and most have no profiles, for which none is read.
    if controls.profiles or controls.exceptions:
        yield from outdated(controls, shipped(), day)


def _of_profile(
    one: Applied, versions: Sequence[Profile], controls: Controls, day: date
) -> Iterator[Outdated]:
    mine = next((other for other in versions if other.digest == one.digest), None)
    if mine is None or controls.day is None:
        what = f"this release ships no {one.label} with the text by which the vApp was made"
        yield Outdated(Reason.DIGEST, one.label, None, f"{what}; {UP} applies its own")
        return
    in_force = [other for other in versions if other.in_force_on(day)]
    newest = max(in_force, key=lambda other: other.begins, default=mine)
    if newest.begins > mine.begins and one.floats:
        text = f"{newest.label} is in force since {newest.begins}, and the vApp has {one.label}; {UP} applies it"
        yield Outdated(Reason.VERSION, newest.label, newest.begins, text, _changes(mine, newest))
        return
    if mine.ends is not None and mine.ends < day and not one.floats:
        instead = f" {newest.label} is in force." if newest is not mine else ""
        text = f"{one.label} was in force until {mine.ends}, and the file names that version.{instead} Name another one in the file, and then {UP} applies it"
        since = date.fromordinal(mine.ends.toordinal() + 1)
        yield Outdated(Reason.ENDED, one.label, since, text, _changes(mine, newest))
    waived = {
        exception.origin.control
        for exception in controls.exceptions
        if (exception.origin.profile, exception.origin.version) == (one.name, one.version)
        and exception.counts_on(day)
    }
    for control in mine.controls:
        new = control.counts_on(day) and not control.counts_on(controls.day)
        if new and control.demands and control.id not in waived:
            ref = mine.ref(control)
            text = f"{ref} counts since {control.begins}; {UP} applies it"
            yield Outdated(Reason.CONTROL, str(ref), control.begins, text, (_told("+", control),))


def _changes(before: Profile, after: Profile) -> tuple[str, ...]:
    return tuple(one.text for one in control_changes(before, after))


def _told(sign: str, control: Control) -> str:
    demands = ", ".join(map(demand_text, control.demands))
    return f"{sign} {control.id} ({control.status}) {control.says}" + (
        f" {demands}" if demands else ""
    )


@dataclass(frozen=True, slots=True)
class DeployedVapp:
    """A vApp on a host, by its manifest."""

    vapp: str
    host: str
    profiles: tuple[str, ...]
    as_of: date | None
    found: tuple[Outdated, ...]

    def as_data(self) -> dict[str, Any]:
        return {
            "vapp": self.vapp,
            "host": self.host,
            "profiles": list(self.profiles),
            "as_of": str(self.as_of or ""),
            "outdated": [one.as_data() for one in self.found],
        }


@dataclass(frozen=True, slots=True)
class Survey:
    """What the hosts say."""

    vapps: tuple[DeployedVapp, ...]
    """Those that have profiles."""
    unknown: tuple[str, ...]
    """A sentence for each host that cannot be asked, and each vApp that cannot be read."""

    @property
    def affected(self) -> tuple[DeployedVapp, ...]:
        return tuple(one for one in self.vapps if one.found)

    def as_data(self, day: date) -> dict[str, Any]:
        """What `profile affected -o json` prints."""
        return {
            "as_of": str(day),
            "affected": [one.as_data() for one in self.affected],
            "up_to_date": [one.vapp for one in self.vapps if not one.found],
            "unknown": list(self.unknown),
        }


def survey(connect: str | None, names: Collection[str], known: Known, day: date) -> Survey:
    """What is out of date on the hosts that the user means. Without `names` all vApps count.

    Raises NoVappError where a vApp is on no host, and what `open_lab` raises.
    """
    with open_lab(connect) as lab:
        return survey_of(lab, names, known, day)


def survey_of(lab: Fleet, names: Collection[str], known: Known, day: date) -> Survey:
    """As `survey`, of open hosts."""
    asked = run_parallel([partial(_manifests_on, host) for host in lab.hosts])
    found = dict(zip((host.name for host in lab.hosts), asked, strict=True))
    silent = {host: one for host, one in found.items() if isinstance(one, HostError)}
    silent |= lab.unreachable
    copies: dict[str, dict[str, Manifest | str]] = {}
    for host, there in found.items():
        if not isinstance(there, HostError):
            for vapp, one in there.items():
                copies.setdefault(vapp, {})[host] = one
    if (missing := sorted({*names} - {*copies})) and not silent:
        raise NoVappError(missing[0], ", ".join(found))
    unknown = [f"{host} cannot be asked: {error.what}" for host, error in sorted(silent.items())]
    vapps = []
    for vapp, its in sorted(copies.items()):
        if names and vapp not in names:
            continue
        for host, one in _counting(its).items():
            if isinstance(one, str):
                unknown.append(f"{vapp} on {host} cannot be read: {one}")
            elif (controls := one.design.controls).day is not None:
                labels = tuple(profile.told for profile in controls.profiles)
                late = tuple(outdated(controls, known, day))
                vapps.append(DeployedVapp(vapp, host, labels, controls.day, late))
    return Survey(tuple(vapps), tuple(unknown))


def _manifests_on(host: Host) -> dict[str, Manifest | str] | HostError:
    """vApp -> its manifest, or why it cannot be read."""
    try:
        found = {name: read_manifest(host, name) for name in vapp_names(host)}
    except HostError as error:
        return error
    return {
        name: one if isinstance(one, Manifest) else one.reason
        for name, one in found.items()
        if one is not None
    }


def _counting(copies: Mapping[str, Manifest | str]) -> Mapping[str, Manifest | str]:
    """The copy that counts, or all of them where that cannot be told."""
    known = {host: one for host, one in copies.items() if isinstance(one, Manifest)}
    newest = newest_copy(known) if len(known) == len(copies) else None
    return {newest: copies[newest]} if newest else copies
