"""What stands on a host, read in few calls: four for a vApp that a manifest describes, however many VMs it has.

A vApp's manifest is a record of a fixed UUID. While it is settled (`Phase.READY`) its word counts for all that it names and that has the
UUIDs it names; everything else of the vApp's names is asked itself.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import libvirt

from vcloud.compile.libvirt.network import zone_networks
from vcloud.design.addressing import uuid_of
from vcloud.design.model import Design
from vcloud.hosts.connection import Host, is_absent, translated
from vcloud.hosts.metadata import Record, own_element, read_record, record_of, remove_record, write_record
from vcloud.plan.state import DomainState, Manifest, NetworkState, Phase, VappState, VmDigests, manifest_from_json, manifest_to_json

MANIFEST = "vcloud-manifest-"
PAUSED = libvirt.VIR_DOMAIN_PAUSED
STOPPED = {libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_CRASHED, libvirt.VIR_DOMAIN_NOSTATE}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class HostState:
    """Every domain and network of a host, ours and others'."""

    domains: tuple[DomainState, ...]
    networks: tuple[NetworkState, ...]
    vapps: tuple[str, ...]
    """Names of the vApps that have a manifest, in alphabetical order."""


def observe(host: Host) -> HostState:
    """Everything on a host. Asks each domain and each network once."""
    seen = _look(host)
    with translated(f"{host.name} could not be looked at"):
        saved = seen.saved(host)
        domains = [_asked_domain(domain, state, saved) for domain, state in seen.domains.values()]
        networks = [_asked_network(network, active) for name, (network, active) in seen.networks.items() if not name.startswith("vcloud-")]
    return HostState(tuple(filter(None, domains)), tuple(filter(None, networks)), seen.vapps())


def observe_vapp(host: Host, vapp: str) -> VappState:
    """Everything of one vApp on a host."""
    seen = _look(host)
    prefix = f"{vapp}."
    with translated(f"'{vapp}' could not be looked at on {host.name}"):
        manifest = seen.manifest(vapp)
        known, saved = _known(manifest), seen.saved(host, prefix)
        domains = [
            _vouched_for(known, domain, state, saved) or _asked_domain(domain, state, saved)
            for name, (domain, state) in seen.domains.items()
            if name.startswith(prefix)
        ]
        networks = [
            NetworkState(name, network.UUIDString(), active, vapp)
            if network.UUIDString() in known.networks
            else _asked_network(network, active)
            for name, (network, active) in seen.networks.items()
            if name.startswith(prefix)
        ]
        others = {domain.UUIDString(): name for name, (domain, _) in seen.domains.items() if not name.startswith(prefix)}
    return VappState(manifest, tuple(filter(None, domains)), tuple(filter(None, networks)), others, seen.uplink_gone(manifest))


def domain_ids(host: Host, design: Design) -> tuple[tuple[str, int], ...]:
    """(VM, libvirt's id) of the VMs of a vApp that run. One call."""
    with translated(f"'{design.vapp}' could not be looked at on {host.name}"):
        ids = {domain.name(): domain.ID() for domain in host.connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)}
    return tuple((vm.name, ids[vm.domain]) for vm in design.vms if vm.domain in ids)


def observe_domain(host: Host, name: str) -> DomainState | None:
    """One domain with all that its mark says, its SSH host key too, but not whether it is saved. None: there is none of that name."""
    with translated(f"'{name}' could not be looked at on {host.name}"):
        try:
            domain = host.connection.lookupByName(name)
            return _asked_domain(domain, domain.state()[0], frozenset())
        except libvirt.libvirtError as error:
            if is_absent(error):
                return None
            raise


def vapp_names(host: Host) -> tuple[str, ...]:
    """The vApps that have a manifest, in alphabetical order. One call."""
    with translated(f"the vApps of {host.name} could not be listed"):
        names = [network.name() for network in host.connection.listAllNetworks(libvirt.VIR_CONNECT_LIST_NETWORKS_INACTIVE)]
    return tuple(sorted(name.removeprefix(MANIFEST) for name in names if name.startswith(MANIFEST)))


def read_manifest(host: Host, vapp: str) -> Manifest | None:
    """The manifest of a vApp; None without one, or where it is of another release's format."""
    with translated(f"the manifest of '{vapp}' could not be read on {host.name}"):
        record = read_record(host, MANIFEST + vapp)
    return None if record is None else _decoded(record)


def write_manifest(host: Host, manifest: Manifest) -> None:
    """Keeps the manifest of a vApp on the host, instead of the one before. Hold the vApp's lock.

    Raises:
        HostError: libvirt refuses it.
    """
    vapp = manifest.design.vapp
    text = base64.b64encode(zlib.compress(manifest_to_json(manifest))).decode()
    with translated(f"the manifest of '{vapp}' could not be written on {host.name}"):
        write_record(host, Record(MANIFEST + vapp, uuid_of("manifest", vapp), text=text))


def delete_manifest(host: Host, vapp: str) -> None:
    with translated(f"the manifest of '{vapp}' could not be removed from {host.name}"):
        remove_record(host, uuid_of("manifest", vapp))


@dataclass(frozen=True, slots=True)
class _Seen:
    """libvirt's objects by name, with the state that came with the list."""

    domains: Mapping[str, tuple[libvirt.virDomain, int]]
    networks: Mapping[str, tuple[libvirt.virNetwork, bool]]

    def manifest(self, vapp: str) -> Manifest | None:
        found = self.networks.get(MANIFEST + vapp)
        record = found and _unless_gone(lambda: record_of(found[0]))
        return _decoded(record) if record else None

    def saved(self, host: Host, prefix: str = "") -> frozenset[str]:
        """UUIDs of the domains whose memory libvirt keeps. Asked only where one with such a name is stopped."""
        if not any(state in STOPPED for name, (_, state) in self.domains.items() if name.startswith(prefix)):
            return frozenset()
        kept = host.connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE | libvirt.VIR_CONNECT_LIST_DOMAINS_INACTIVE)
        return frozenset(domain.UUIDString() for domain in kept)

    def uplink_gone(self, manifest: Manifest | None) -> bool:
        name = manifest.uplink.network if manifest else ""
        return bool(name) and not self.networks.get(name, (None, False))[1]

    def vapps(self) -> tuple[str, ...]:
        return tuple(sorted(name.removeprefix(MANIFEST) for name in self.networks if name.startswith(MANIFEST)))


@dataclass(frozen=True, slots=True)
class _Known:
    """What a settled manifest vouches for, by UUID."""

    domains: Mapping[str, DomainState]
    networks: frozenset[str]


def _look(host: Host) -> _Seen:
    with translated(f"{host.name} could not be looked at"):
        stats = host.connection.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_STATE)
        active = host.connection.listAllNetworks(libvirt.VIR_CONNECT_LIST_NETWORKS_ACTIVE)
        inactive = host.connection.listAllNetworks(libvirt.VIR_CONNECT_LIST_NETWORKS_INACTIVE)
    networks = {network.name(): (network, False) for network in inactive} | {network.name(): (network, True) for network in active}
    return _Seen({domain.name(): (domain, values.get("state.state", 0)) for domain, values in stats}, networks)


def _known(manifest: Manifest | None) -> _Known:
    if manifest is None or manifest.phase is not Phase.READY:
        return _Known({}, frozenset())
    design = manifest.design
    domains = {
        vm.uuid: DomainState(
            vm.domain, vm.uuid, False, vapp=design.vapp, vm=vm.name, role=vm.role.value, digests=manifest.digests_of(vm.name)
        )
        for vm in design.vms
    }
    return _Known(domains, frozenset(network.uuid for zone in design.zones for network in zone_networks(zone)))


def _vouched_for(known: _Known, domain: libvirt.virDomain, state: int, saved: frozenset[str]) -> DomainState | None:
    found = known.domains.get(domain.UUIDString())
    if found is None or found.name != domain.name():
        return None
    return replace(found, running=state not in STOPPED, paused=state == PAUSED, id=domain.ID(), saved=found.uuid in saved)


def _asked_domain(domain: libvirt.virDomain, state: int, saved: frozenset[str]) -> DomainState | None:
    xml = _unless_gone(domain.XMLDesc)
    if xml is None:
        return None
    element = own_element(xml, "vm")
    mark = {} if element is None else dict(element.attrib)
    digests = [mark.get(key, "") for key in ("root", "hardware", "identity")]
    return DomainState(
        name=domain.name(),
        uuid=domain.UUIDString(),
        running=state not in STOPPED,
        paused=state == PAUSED,
        id=domain.ID(),
        saved=domain.UUIDString() in saved,
        vapp=mark.get("vapp", ""),
        vm=mark.get("name", ""),
        role=mark.get("role", ""),
        digests=VmDigests(*digests) if all(digests) else None,
        host_key=mark.get("host-key", ""),
        rules=mark.get("rules", ""),
        keeps_data=mark.get("data") == "kept",
    )


def _asked_network(network: libvirt.virNetwork, active: bool) -> NetworkState | None:
    xml = _unless_gone(network.XMLDesc)
    if xml is None:
        return None
    element = own_element(xml, "network")
    return NetworkState(network.name(), network.UUIDString(), active, "" if element is None else element.get("vapp", ""))


def _unless_gone(question: Callable[[], T]) -> T | None:
    """The answer of an object that was listed, or None when it went in the meantime."""
    try:
        return question()
    except libvirt.libvirtError as error:
        if is_absent(error):
            return None
        raise


def _decoded(record: Record) -> Manifest | None:
    try:
        return manifest_from_json(zlib.decompress(base64.b64decode(record.text)))
    except (binascii.Error, zlib.error, ValueError):
        return None
