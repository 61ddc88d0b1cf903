"""`vcloud down`: deletes a vApp, whatever state it is in. It needs neither the vApp's file nor a
readable manifest: marks in libvirt suffice.
"""

from __future__ import annotations

from collections.abc import Sequence

from vcloud.design.model import Role
from vcloud.design.names import filter_uuid
from vcloud.errors import NoVappError
from vcloud.fleet.fleet import open_fleet
from vcloud.hosts import machines
from vcloud.hosts.memory_images import MemoryImages
from vcloud.hosts.uplink import forget_vapp
from vcloud.hosts.volumes import VappVolumes
from vcloud.plan.diff import refuse_renamed
from vcloud.plan.state import DomainState
from vcloud.reporter import Reporter


def take_down(vapp: str, connect: str | None, reporter: Reporter) -> tuple[str, ...]:
    """Deletes everything of a vApp, and returns the names of the deleted domains, networks and
    volumes.

    Raises NoVappError where the host has nothing of it, VcloudError where somebody has renamed a
    domain of it, HostError where a newer release of vcloud made it, or where something cannot be
    removed.
    """
    with open_fleet(connect) as fleet, fleet.locked(vapp, "down"):
        host, state = fleet.home, fleet.state_of(vapp)
        kept = VappVolumes(host)
        if state.manifest:
            refuse_renamed(state.manifest.design, state)
        domains = [domain for domain in state.domains if domain.is_of(vapp)]
        networks = [network.name for network in state.networks if network.marks.vapp == vapp]
        volumes = _without_those_of(state.domains, domains, kept.volumes_of_vapp(vapp))
        if not (state.manifest or state.unreadable or domains or networks or volumes):
            raise NoVappError(vapp, host.name)
        workloads_first = sorted(domains, key=lambda domain: domain.marks.role != Role.WORKLOAD)
        for domain in workloads_first:
            machines.cut_links(host, domain.name)
        for domain in workloads_first:
            reporter.report(domain.marks.vm, "removed")
            machines.remove_domain(host, domain.name)
        for network in networks:
            machines.remove_network(host, network)
        machines.remove_filter(host, filter_uuid(vapp))
        kept.delete(volumes)
        MemoryImages(host, kept.pool).sweep()
        forget_vapp(host, vapp)
        return (*(domain.name for domain in domains), *networks, *volumes)


def _without_those_of(
    standing: Sequence[DomainState], ours: Sequence[DomainState], volumes: Sequence[str]
) -> tuple[str, ...]:
    """Volumes but for those of domains that are somebody else's, though they are called like ours."""
    foreign = tuple(f".{domain.name}." for domain in standing if domain not in ours)
    return tuple(name for name in volumes if not any(part in name for part in foreign))
