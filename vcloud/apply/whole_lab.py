"""What all vApps of a lab need, and what its hosts have, for the planner of the whole lab."""

from __future__ import annotations

from dataclasses import replace

from vcloud.design.model import Design
from vcloud.errors import HostError
from vcloud.fleet.fleet import Fleet
from vcloud.hosts.accelerator import stored_accelerator
from vcloud.hosts.capabilities import capabilities_of
from vcloud.hosts.connection import Host
from vcloud.hosts.cores import cores_of_unmanaged, topology_of
from vcloud.hosts.labels import labels_of
from vcloud.hosts.manifests import read_manifest, vapp_names
from vcloud.hosts.tenancy import residents_of
from vcloud.placement.capacity import memory_of, not_taken
from vcloud.placement.cores import wanting_cores
from vcloud.placement.needs import Needs, Room
from vcloud.plan.manifest import Manifest
from vcloud.tenancy import Terms


def whole_lab(lab: Fleet, newcomer: Design) -> tuple[list[Needs], list[Room]] | None:
    """All vApps that run in the lab and the newcomer, and all hosts; None where not everything that
    runs there is known.
    """
    vapps, rooms = [needs_of(newcomer)], []
    try:
        for host in lab.hosts:
            there = _vapps_on(host)
            if there is None:
                return None
            vapps += there
            rooms.append(_with_cores(_room(host, there), host, vapps[0]))
    except HostError:
        return None
    return (vapps, rooms) if not lab.unreachable else None


def needs_of(design: Design, stands_on: str = "") -> Needs:
    """What a vApp needs if all of its VMs run."""
    return Needs(
        design.terms,
        sum(map(memory_of, design.vms)),
        sum(vm.cpus for vm in design.vms),
        design.placement,
        stands_on,
        sum(cpus for _, cpus in wanting_cores(design)),
    )


def _vapps_on(host: Host) -> list[Needs] | None:
    residents = {one.vapp for one in residents_of(host) if isinstance(one, Terms)}
    found = []
    for name in vapp_names(host):
        manifest = read_manifest(host, name)
        if name in residents and isinstance(manifest, Manifest):
            found.append(needs_of(manifest.design, host.name))
    return found if residents == {one.vapp for one in found} else None


def _with_cores(room: Room, host: Host, newcomer: Needs) -> Room:
    """The room with the cores that vApps may have for themselves, as `chosen_cores` gives them."""
    try:
        topology = topology_of(host)
    except HostError:
        return room  # A host that does not tell its cores has none to give.
    unmanaged = cores_of_unmanaged(host, but=newcomer.vapp)
    free = [core for core in topology.cores[1:] if not unmanaged & {*core}]
    return replace(room, cores=len(free), threads=min(map(len, topology.cores)))


def _room(host: Host, vapps: list[Needs]) -> Room:
    """What the host has for all vApps together: what is free, and what its vApps hold already."""
    capabilities, known = capabilities_of(host), stored_accelerator(host)
    names = tuple(f"{one.vapp}." for one in vapps)
    own = [vm for vm in capabilities.running if vm.domain.startswith(names)]
    others = [vm for vm in capabilities.running if not vm.domain.startswith(names)]
    free = int(capabilities.free_memory * capabilities.overcommit)
    return Room(
        labels_of(host, known.name if known else ""),
        free + sum(vm.held for vm in own) - sum(map(not_taken, others)),
        int(capabilities.processors * capabilities.cpu_overcommit) - sum(vm.cpus for vm in others),
        tuple(vm.domain for vm in others),
    )
