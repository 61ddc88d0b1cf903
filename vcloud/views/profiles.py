"""What `vcloud profile` shows: the profiles and their controls, and what another version changes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from typing import Any

from vcloud.compile.artifacts import compile_vapp
from vcloud.design.difference import protection_difference
from vcloud.design.model import Design
from vcloud.errors import RefusedError, SpecError, UsageError
from vcloud.files import Folder
from vcloud.pipeline import design_of
from vcloud.profile_files import chosen_on, known_beside, shipped
from vcloud.profiles.difference import ControlChange, control_changes, demand_text
from vcloud.profiles.model import Profile, Status
from vcloud.spec.model import Vapp
from vcloud.views.render import UPLINK


def profile_rows(day: date) -> list[dict[str, Any]]:
    """A row for each version of each shipped profile."""
    rows = []
    for versions in shipped().values():
        in_force = [one for one in versions if one.in_force_on(day)]
        floats = max(in_force, key=lambda one: one.begins, default=None)
        for one in versions:
            counts = {status: _count(one, status) for status in Status}
            rows.append(
                {
                    "profile": one.name,
                    "version": one.version,
                    "from": str(one.begins),
                    "until": str(one.ends) if one.ends else "",
                    "state": "draft"
                    if one.draft
                    else "newest in force"
                    if one is floats
                    else "in force"
                    if one in in_force
                    else "not in force",
                    **{status.replace(" ", "_"): number for status, number in counts.items()},
                    "title": one.title,
                    "digest": one.digest,
                }
            )
    return rows


def _count(profile: Profile, status: Status) -> int:
    return sum(one.status is status for one in profile.controls)


def found_profile(name: str, folder: Folder, day: date) -> Profile:
    """The version that a name means on a day. Raises UsageError, SpecError."""
    return chosen_on([name], known_beside(folder, [name]), day)[-1].profile


def control_rows(profile: Profile, day: date) -> list[dict[str, Any]]:
    """A row for each control."""
    return [
        {
            "control": one.id,
            "status": one.status.value,
            "counts": one.counts_on(day),
            "from": str(one.begins or ""),
            "says": one.says,
            "reason": one.reason,
            "evidence": one.evidence.value if one.evidence else "",
            "needs": list(one.needs),
            "demands": [demand_text(demand) for demand in one.demands],
            "proved_by": list(one.proved_by),
        }
        for one in profile.controls
    ]


@dataclass(frozen=True, slots=True)
class Effect:
    """What a version would do to a vApp that has the other one."""

    lines: tuple[str, ...]
    """Changes of its protection, each beginning with its sign."""
    new_problems: tuple[str, ...]
    """What breaks a control of the new version and none of the old one, or cannot be enforced."""
    loaded: tuple[str, ...]
    """What is loaded anew, or made anew."""


def changes(before: Profile, after: Profile) -> tuple[ControlChange, ...]:
    return control_changes(before, after)


def effect_on(vapp: Vapp, names: tuple[str, str], day: date) -> Effect:
    """What changes for a vApp when it names the second profile and not the first. Raises UsageError
    where the file breaks the first one already.
    """
    try:
        before = design_of(vapp, day=day, instead=names[:1])
    except (SpecError, RefusedError) as error:
        raise UsageError(
            f"the file does not fit {names[0]}, so there is nothing to compare:\n{error.what}",
            "Mend the file first.",
        ) from None
    try:
        after = design_of(vapp, day=day, instead=names[1:])
    except (SpecError, RefusedError) as error:
        return Effect((), tuple(map(str, error.problems)), ())
    return Effect(protection_difference(before, after), (), tuple(_loaded(before, after)))


def _loaded(before: Design, after: Design) -> Iterable[str]:
    one, other = compile_vapp(before, UPLINK), compile_vapp(after, UPLINK)
    if before.inspection.zones != after.inspection.zones:
        yield "zones get other networks, and the IPS other NICs: both appliances and the VMs there are restarted"
    if one.firewall_digest != other.firewall_digest:
        yield "the firewall's rules are loaded"
    if one.ips_digest != other.ips_digest:
        yield "the rules of the IPS are loaded"
