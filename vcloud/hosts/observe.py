"""What stands on a host, read in few calls: five for a vApp that a manifest describes, however many VMs the vApp has.

While a vApp's manifest is settled (`Phase.READY`), it vouches for every domain and network that it names and that has the UUID it names.
The marks of all others are read from the objects themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import libvirt

from vcloud.compile.libvirt.network import zone_networks
from vcloud.design.model import Design
from vcloud.design.names import filter_uuid
from vcloud.hosts.connection import Host, is_absent, translated
from vcloud.hosts.manifests import PREFIX, manifest_in
from vcloud.hosts.metadata import own_element, record_of
from vcloud.marks import NetworkMarks, VmMarks, network_marks, vm_marks
from vcloud.plan.formats import Unreadable
from vcloud.plan.manifest import Manifest, Phase
from vcloud.plan.state import DomainState, NetworkState, VappState

PAUSED = libvirt.VIR_DOMAIN_PAUSED
STOPPED = {libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_CRASHED, libvirt.VIR_DOMAIN_NOSTATE}

T = TypeVar("T")


def observe_vapp(host: Host, vapp: str) -> VappState:
    """Everything of one vApp on a host. Raises HostError."""
    seen = _look(host)
    prefix = f"{vapp}."
    with translated(f"'{vapp}' could not be looked at on {host.name}"):
        found = seen.manifest(vapp)
        manifest = found if isinstance(found, Manifest) else None
        known, saved = _known(manifest), seen.saved(host, prefix)
        domains = [
            _vouched_domain(known, domain, state, saved) or _asked_domain(domain, state, saved)
            for name, (domain, state) in seen.domains.items()
            if name.startswith(prefix)
        ]
        networks = [
            _vouched_network(known, network, active) or _asked_network(network, active)
            for name, (network, active) in seen.networks.items()
            if name.startswith(prefix)
        ]
        others = {domain.UUIDString(): name for name, (domain, _) in seen.domains.items() if not name.startswith(prefix)}
        return VappState(
            manifest,
            tuple(filter(None, domains)),
            tuple(filter(None, networks)),
            others,
            uplink_gone=seen.uplink_gone(manifest),
            filter_gone=_filter_gone(host, vapp),
            unreadable=found if isinstance(found, Unreadable) else None,
        )


def domain_ids(host: Host, design: Design) -> tuple[tuple[str, int], ...]:
    """(VM, libvirt's id) of the VMs of a vApp that run. One call."""
    with translated(f"'{design.vapp}' could not be looked at on {host.name}"):
        ids = {domain.name(): domain.ID() for domain in host.connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)}
    return tuple((vm.name, ids[vm.domain]) for vm in design.vms if vm.domain in ids)


def observe_domain(host: Host, name: str) -> DomainState | None:
    """One domain with its whole mark, the SSH host key too, but not whether the domain is saved. None: there is none of that name."""
    with translated(f"'{name}' could not be looked at on {host.name}"):
        try:
            domain = host.connection.lookupByName(name)
            return _asked_domain(domain, domain.state()[0], frozenset())
        except libvirt.libvirtError as error:
            if is_absent(error):
                return None
            raise


@dataclass(frozen=True, slots=True)
class _Seen:
    """libvirt's objects by name, with the state that came with the list."""

    domains: Mapping[str, tuple[libvirt.virDomain, int]]
    networks: Mapping[str, tuple[libvirt.virNetwork, bool]]

    def manifest(self, vapp: str) -> Manifest | Unreadable | None:
        found = self.networks.get(PREFIX + vapp)
        record = found and _unless_gone(lambda: record_of(found[0]))
        return manifest_in(record) if record else None

    def saved(self, host: Host, prefix: str) -> frozenset[str]:
        """UUIDs of the domains whose memory libvirt keeps. Asked only where a domain with such a name is stopped."""
        if not any(state in STOPPED for name, (_, state) in self.domains.items() if name.startswith(prefix)):
            return frozenset()
        kept = host.connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE | libvirt.VIR_CONNECT_LIST_DOMAINS_INACTIVE)
        return frozenset(domain.UUIDString() for domain in kept)

    def uplink_gone(self, manifest: Manifest | None) -> bool:
        name = manifest.uplink.network if manifest else ""
        return bool(name) and not self.networks.get(name, (None, False))[1]


@dataclass(frozen=True, slots=True)
class _Known:
    """What a settled manifest vouches for, by UUID."""

    domains: Mapping[str, DomainState]
    networks: Mapping[str, NetworkState]


def _look(host: Host) -> _Seen:
    with translated(f"{host.name} could not be looked at"):
        stats = host.connection.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_STATE)
        active = host.connection.listAllNetworks(libvirt.VIR_CONNECT_LIST_NETWORKS_ACTIVE)
        inactive = host.connection.listAllNetworks(libvirt.VIR_CONNECT_LIST_NETWORKS_INACTIVE)
    networks = {network.name(): (network, False) for network in inactive} | {network.name(): (network, True) for network in active}
    return _Seen({domain.name(): (domain, values.get("state.state", 0)) for domain, values in stats}, networks)


def _filter_gone(host: Host, vapp: str) -> bool:
    """Whether the vApp's network filter is not defined. False where libvirt cannot say: it then says so when a VM is started."""
    try:
        host.connection.nwfilterLookupByUUIDString(filter_uuid(vapp))
    except libvirt.libvirtError as error:
        return is_absent(error)
    return False


def _known(manifest: Manifest | None) -> _Known:
    if manifest is None or manifest.phase is not Phase.READY:
        return _Known({}, {})
    design = manifest.design
    domains = {
        vm.uuid: DomainState(
            vm.domain, vm.uuid, False, marks=VmMarks(design.vapp, vm.name, vm.role.value, digests=manifest.digests_of(vm.name))
        )
        for vm in design.vms
    }
    networks = {
        network.uuid: NetworkState(
            network.name, network.uuid, False, NetworkMarks(design.vapp, zone.name, manifest.network_digest(network.name))
        )
        for zone in design.zones
        for network in zone_networks(zone)
    }
    return _Known(domains, networks)


def _vouched_domain(known: _Known, domain: libvirt.virDomain, state: int, saved: frozenset[str]) -> DomainState | None:
    found = known.domains.get(domain.UUIDString())
    if found is None or found.name != domain.name():
        return None
    return replace(found, running=state not in STOPPED, paused=state == PAUSED, id=domain.ID(), saved=found.uuid in saved)


def _vouched_network(known: _Known, network: libvirt.virNetwork, active: bool) -> NetworkState | None:
    found = known.networks.get(network.UUIDString())
    return replace(found, active=active) if found is not None and found.name == network.name() else None


def _asked_domain(domain: libvirt.virDomain, state: int, saved: frozenset[str]) -> DomainState | None:
    xml = _unless_gone(domain.XMLDesc)
    if xml is None:
        return None
    element = own_element(xml, "vm")
    return DomainState(
        name=domain.name(),
        uuid=domain.UUIDString(),
        running=state not in STOPPED,
        paused=state == PAUSED,
        id=domain.ID(),
        saved=domain.UUIDString() in saved,
        marks=vm_marks(None if element is None else element.attrib),
    )


def _asked_network(network: libvirt.virNetwork, active: bool) -> NetworkState | None:
    xml = _unless_gone(network.XMLDesc)
    if xml is None:
        return None
    element = own_element(xml, "network")
    return NetworkState(network.name(), network.UUIDString(), active, network_marks(None if element is None else element.attrib))


def _unless_gone(question: Callable[[], T]) -> T | None:
    """The answer of an object that was listed, or None where the object went in the meantime."""
    try:
        return question()
    except libvirt.libvirtError as error:
        if is_absent(error):
            return None
        raise
