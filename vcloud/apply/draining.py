"""`vcloud host drain`: keeps new vApps off a host, and moves those that stand there to other hosts, one
after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vcloud.apply.moving import could_move, move_in
from vcloud.errors import RefusedError, VcloudError
from vcloud.fleet.fleet import Fleet, open_lab
from vcloud.hosts.connection import Host
from vcloud.hosts.drained import is_drained, mark_drained, unmark_drained
from vcloud.hosts.manifests import read_manifest, vapp_names
from vcloud.placement.place import Offered, chosen_host
from vcloud.plan.manifest import Manifest
from vcloud.plan.moving import MovePlan
from vcloud.reporter import Reporter


@dataclass(frozen=True, slots=True)
class Stays:
    """A vApp that does not leave its host."""

    vapp: str
    why: str
    """The reasons of all other hosts, as a clause."""


@dataclass(frozen=True, slots=True)
class DrainPlan:
    """What draining a host does."""

    host: str
    moves: tuple[MovePlan, ...]
    stay: tuple[Stays, ...]
    is_marked: bool
    """Whether the host is drained already."""


@dataclass(frozen=True, slots=True)
class Drained:
    """What draining a host has done."""

    host: str
    moved: tuple[tuple[str, str], ...]
    """(vApp, the host that it is on now)."""
    stay: tuple[Stays, ...]


def drain_host(
    name: str,
    connect: str | None,
    agreed: Callable[[DrainPlan], bool],
    reporter: Reporter,
) -> Drained:
    """Drains a host. `agreed` is asked before the first change. A vApp whose move fails stays, and the
    others are moved all the same.

    Raises UsageError if there is no such host, HostError if it cannot be asked.
    """
    with open_lab(connect) as lab:
        host = lab.named(name)
        plan = _planned(lab, host)
        if not agreed(plan):
            raise VcloudError("stopped before the first change")
        mark_drained(host)
        moved, stay = [], [*plan.stay]
        for one in plan.moves:
            reporter.note(one.announced)
            try:
                move_in(lab, one.vapp, one.destination, one.is_agreed_to_as, reporter)
            except VcloudError as error:
                stay.append(Stays(one.vapp, _reason(error)))
            else:
                moved.append((one.vapp, one.destination))
    return Drained(name, tuple(moved), tuple(stay))


def undrain_host(name: str, connect: str | None) -> bool:
    """Lets vApps be placed on a host again. Returns whether it was drained. Raises as `drain_host`
    does.
    """
    with open_lab(connect) as lab:
        host = lab.named(name)
        before = is_drained(host)
        unmark_drained(host)
        return before


def _planned(lab: Fleet, host: Host) -> DrainPlan:
    moves, stay = [], []
    found: MovePlan | Stays
    for vapp in vapp_names(host):
        try:
            found = _best_move(lab, host, vapp)
        except VcloudError as error:
            found = Stays(vapp, _reason(error))
        if isinstance(found, MovePlan):
            moves.append(found)
        else:
            stay.append(found)
    return DrainPlan(host.name, tuple(moves), tuple(stay), is_drained(host))


def _best_move(lab: Fleet, host: Host, vapp: str) -> MovePlan | Stays:
    """The move of a vApp to the host that a new vApp would get, of all others that can run it."""
    home = lab.home_of(vapp)
    if home is not None and home is not host:
        return Stays(vapp, f"this copy does not count beside the one on {home.name}")
    manifest = read_manifest(host, vapp)
    if not isinstance(manifest, Manifest):
        return Stays(vapp, "its description cannot be read")
    plans: dict[str, MovePlan] = {}
    offers: dict[str, Offered] = {}
    reasons: dict[str, str] = {name: error.what for name, error in lab.unreachable.items()}
    for other in lab.hosts:
        if other is host:
            continue
        try:
            plans[other.name], offers[other.name] = could_move(lab, vapp, other.name)
        except VcloudError as error:
            reasons[other.name] = _reason(error)
    if not plans:
        return Stays(vapp, "; ".join(dict.fromkeys(reasons.values())) or "there is no other host")
    chosen, _ = chosen_host(offers, reasons, manifest.design.placement)
    return plans[chosen]


def _reason(error: VcloudError) -> str:
    if isinstance(error, RefusedError):
        return "; ".join(problem.what for problem in error.problems)
    return error.what
