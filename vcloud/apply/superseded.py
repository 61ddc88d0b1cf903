"""Superseded copies of a vApp, which stand on hosts that a person has said to be dead: removes them,
and then forgets what was said.

What was said must not outlive its use. If the vApp later moves back to such a host, because the host
that it moved to is dead in turn, the copy there is the newer one.
"""

from __future__ import annotations

from vcloud.apply.down import remove_copy
from vcloud.fleet.fleet import Fleet
from vcloud.hosts.manifests import read_manifest, write_manifest
from vcloud.plan.manifest import Manifest
from vcloud.plan.steps import Plan
from vcloud.reporter import Reporter


def remove_older(fleet: Fleet, vapp: str, plan: Plan, reporter: Reporter) -> None:
    """Removes the superseded copies that were agreed to, so that no two copies run when this one is
    touched. Raises as `remove_copy` does.
    """
    for host, copy in zip(fleet.older, plan.older, strict=True):
        reporter.note(copy.told(vapp, plan.host))
        for loss in copy.loses:
            reporter.note(f"data that goes: {loss}")
        remove_copy(fleet.only(host), vapp, reporter, copy.loses, superseded=True)


def forget_replaced(fleet: Fleet, vapp: str, seen: Manifest | None) -> None:
    """Takes the hosts that have no copy of the vApp (`Fleet.empty`) out of `Manifest.replaced`. If
    the manifest that was `seen` names none of them, nothing is done. Raises HostError, LockedError.
    """
    if seen is None or fleet.empty.isdisjoint(seen.replaced):
        return
    host = fleet.home
    with fleet.locked(vapp, "up") as locks:
        now = read_manifest(host, vapp)
        if isinstance(now, Manifest):
            locks[host.name].require()
            write_manifest(host, now.without_replaced(fleet.empty))
