"""Reads the state of a vApp from a host. If the vApp has a manifest, this takes five libvirt calls,
however many VMs there are.

Reading the XML of every domain would be slow. So if the manifest is settled (`Phase.READY`), the
marks of a domain or network come from the manifest, provided that the manifest names the object
with the same UUID. For every other object vcloud reads the marks from the object's own metadata.
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
"""libvirt's state of a domain whose processors do not run."""
STOPPED = {libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_CRASHED, libvirt.VIR_DOMAIN_NOSTATE}
"""libvirt's states of a domain without a QEMU process."""

T = TypeVar("T")


def observe_vapp(host: Host, vapp: str) -> VappState:
    """The state of one vApp on a host. Raises HostError."""
    objects = _list_objects(host)
    prefix = f"{vapp}."
    with translated(f"the state of '{vapp}' could not be read on {host.name}"):
        found = objects.manifest(vapp)
        manifest = found if isinstance(found, Manifest) else None
        described, saved = _described_by(manifest), objects.saved(host, prefix)
        domains = [
            _domain_from_manifest(described, domain, state, saved)
            or _domain_from_xml(domain, state, saved)
            for name, (domain, state) in objects.domains.items()
            if name.startswith(prefix)
        ]
        networks = [
            _network_from_manifest(described, network, active) or _network_from_xml(network, active)
            for name, (network, active) in objects.networks.items()
            if name.startswith(prefix)
        ]
        others = {
            domain.UUIDString(): name
            for name, (domain, _) in objects.domains.items()
            if not name.startswith(prefix)
        }
        return VappState(
            manifest,
            tuple(filter(None, domains)),
            tuple(filter(None, networks)),
            others,
            uplink_gone=objects.uplink_gone(manifest),
            filter_gone=_filter_gone(host, vapp),
            unreadable=found if isinstance(found, Unreadable) else None,
        )


def domain_ids(host: Host, design: Design) -> tuple[tuple[str, int], ...]:
    """Pairs of VM name and libvirt's domain id, for the running VMs of a vApp. Costs one call to
    libvirt.
    """
    with translated(f"the state of '{design.instance.name}' could not be read on {host.name}"):
        ids = {
            domain.name(): domain.ID()
            for domain in host.connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
        }
    return tuple((vm.name, ids[vm.domain]) for vm in design.vms if vm.domain in ids)


def observe_domain(host: Host, name: str) -> DomainState | None:
    """The state of one domain with all its marks, also the SSH host key. None if there is no domain
    of that name.

    It does not find out whether the memory of the domain is saved.
    """
    with translated(f"the state of '{name}' could not be read on {host.name}"):
        try:
            domain = host.connection.lookupByName(name)
            return _domain_from_xml(domain, domain.state()[0], frozenset())
        except libvirt.libvirtError as error:
            if is_absent(error):
                return None
            raise


@dataclass(frozen=True, slots=True)
class _Objects:
    """libvirt's objects by name, each with the state that the list call returned."""

    domains: Mapping[str, tuple[libvirt.virDomain, int]]
    networks: Mapping[str, tuple[libvirt.virNetwork, bool]]

    def manifest(self, vapp: str) -> Manifest | Unreadable | None:
        found = self.networks.get(PREFIX + vapp)
        record = found and _unless_gone(lambda: record_of(found[0]))
        return manifest_in(record) if record else None

    def saved(self, host: Host, prefix: str) -> frozenset[str]:
        """The UUIDs of the domains whose memory is saved (managed save).

        libvirt is asked only if a domain whose name begins with `prefix` is stopped: only such a
        domain can have a saved memory.
        """
        if not any(
            state in STOPPED for name, (_, state) in self.domains.items() if name.startswith(prefix)
        ):
            return frozenset()
        kept = host.connection.listAllDomains(
            libvirt.VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE | libvirt.VIR_CONNECT_LIST_DOMAINS_INACTIVE
        )
        return frozenset(domain.UUIDString() for domain in kept)

    def uplink_gone(self, manifest: Manifest | None) -> bool:
        name = manifest.uplink.network if manifest else ""
        return bool(name) and not self.networks.get(name, (None, False))[1]


@dataclass(frozen=True, slots=True)
class _Described:
    """The domains and networks that a settled manifest describes, by UUID."""

    domains: Mapping[str, DomainState]
    networks: Mapping[str, NetworkState]


def _list_objects(host: Host) -> _Objects:
    with translated(f"the domains and networks of {host.name} could not be listed"):
        stats = host.connection.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_STATE)
        active = host.connection.listAllNetworks(libvirt.VIR_CONNECT_LIST_NETWORKS_ACTIVE)
        inactive = host.connection.listAllNetworks(libvirt.VIR_CONNECT_LIST_NETWORKS_INACTIVE)
    networks = {network.name(): (network, False) for network in inactive} | {
        network.name(): (network, True) for network in active
    }
    return _Objects(
        {domain.name(): (domain, values.get("state.state", 0)) for domain, values in stats},
        networks,
    )


def _filter_gone(host: Host, vapp: str) -> bool:
    """Whether the vApp's network filter is missing. False if libvirt cannot tell; the start of a VM
    then reports the failure.
    """
    try:
        host.connection.nwfilterLookupByUUIDString(filter_uuid(vapp))
    except libvirt.libvirtError as error:
        return is_absent(error)
    return False


def _described_by(manifest: Manifest | None) -> _Described:
    if manifest is None or manifest.phase is not Phase.READY:
        return _Described({}, {})
    design = manifest.design
    domains = {
        vm.uuid: DomainState(
            vm.domain,
            vm.uuid,
            False,
            marks=VmMarks(
                design.instance.name, vm.name, vm.role.value, digests=manifest.digests_of(vm.name)
            ),
        )
        for vm in design.vms
    }
    networks = {
        network.uuid: NetworkState(
            network.name,
            network.uuid,
            False,
            NetworkMarks(design.instance.name, zone.name, manifest.network_digest(network.name)),
        )
        for zone in design.zones
        for network in zone_networks(zone)
    }
    return _Described(domains, networks)


def _domain_from_manifest(
    described: _Described, domain: libvirt.virDomain, state: int, saved: frozenset[str]
) -> DomainState | None:
    found = described.domains.get(domain.UUIDString())
    if found is None or found.name != domain.name():
        return None
    return replace(
        found,
        running=state not in STOPPED,
        paused=state == PAUSED,
        id=domain.ID(),
        saved=found.uuid in saved,
    )


def _network_from_manifest(
    described: _Described, network: libvirt.virNetwork, active: bool
) -> NetworkState | None:
    found = described.networks.get(network.UUIDString())
    return (
        replace(found, active=active)
        if found is not None and found.name == network.name()
        else None
    )


def _domain_from_xml(
    domain: libvirt.virDomain, state: int, saved: frozenset[str]
) -> DomainState | None:
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


def _network_from_xml(network: libvirt.virNetwork, active: bool) -> NetworkState | None:
    xml = _unless_gone(network.XMLDesc)
    if xml is None:
        return None
    element = own_element(xml, "network")
    return NetworkState(
        network.name(),
        network.UUIDString(),
        active,
        network_marks(None if element is None else element.attrib),
    )


def _unless_gone(call: Callable[[], T]) -> T | None:
    """The answer of an object from a list, or None if somebody removed the object since the list
    was made.
    """
    try:
        return call()
    except libvirt.libvirtError as error:
        if is_absent(error):
            return None
        raise
