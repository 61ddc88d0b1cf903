"""Reads the state of a vApp from a host.

What stands is believed, and not what the manifest says of it. So libvirt is asked for the XML of
each domain and each network. These calls run side by side over one connection.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from xml.etree.ElementTree import Element

import libvirt

from vcloud.design.names import domain_uuid, filter_name, filter_uuid, network_uuid
from vcloud.errors import VcloudError
from vcloud.hosts.connection import (
    Host,
    found_or_none,
    is_absent,
    run_both,
    run_parallel,
    translated,
)
from vcloud.hosts.manifests import PREFIX, manifest_in
from vcloud.hosts.metadata import definition_of, own_element, parse, read_record, record_of
from vcloud.hosts.operators import trusted_fingerprints
from vcloud.hosts.sealing import sealing_of
from vcloud.hosts.signing import TERMS, generation_in, signer_of
from vcloud.hosts.volumes import volumes_of_vms
from vcloud.marks import CONNECTED_NAMESPACE, NAMESPACE, network_marks
from vcloud.plan.facts import NO_FACTS, Facts, domain_facts, filters_facts, network_facts
from vcloud.plan.formats import Unreadable
from vcloud.plan.manifest import Manifest
from vcloud.plan.state import DomainState, NetworkState, VappState

PAUSED = {libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PMSUSPENDED}
"""libvirt's states of a domain whose processors do not run: somebody has paused it, or its guest has
suspended itself.
"""
STOPPED = {libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_CRASHED, libvirt.VIR_DOMAIN_NOSTATE}
"""libvirt's states of a domain without a QEMU process."""


def observe_vapp(host: Host, vapp: str) -> VappState:
    """The state of one vApp on a host. Raises HostError."""
    # No name of a vApp has a dot, so no object of another vApp begins like this.
    prefix = f"{vapp}."
    with translated(f"the state of '{vapp}' could not be read on {host.name}"):
        objects, (lists, volumes) = run_both(
            lambda: _list_objects(host),
            lambda: run_both(lambda: _read_lists(host, vapp), lambda: volumes_of_vms(host, vapp)),
        )
        found = objects.manifest(host, vapp)
        manifest = found if isinstance(found, Manifest) else None
        saved, uplink = objects.saved(host, prefix), manifest.uplink.network if manifest else ""
        domains, networks = run_both(
            lambda: run_parallel(
                [
                    functools.partial(_read_domain, host, domain, state, saved, lists)
                    for name, (domain, state) in objects.domains.items()
                    if name.startswith(prefix)
                ]
            ),
            lambda: run_parallel(
                [
                    functools.partial(_read_network, network, active, lists)
                    for name, (network, active) in objects.networks.items()
                    if name.startswith(prefix) or name == uplink
                ]
            ),
        )
        standing = tuple(filter(None, networks))
        others = {
            domain.UUIDString(): name
            for name, (domain, _) in objects.domains.items()
            if not name.startswith(prefix)
        }
        return VappState(
            manifest,
            tuple(filter(None, domains)),
            tuple(one for one in standing if one.name != uplink),
            others,
            uplink_gone=objects.uplink_gone(manifest),
            uplink=next((one for one in standing if one.name == uplink), None),
            filter_gone=lists.filter_gone,
            filter_foreign=lists.filter_foreign,
            filter=lists.filter,
            bindings=lists.bindings,
            volumes=volumes.names if volumes else None,
            sizes=volumes.sizes if volumes else {},
            images=volumes.images if volumes else frozenset(),
            folder=volumes.folder if volumes else "",
            unreadable=found if isinstance(found, Unreadable) else None,
        )


def observe_domain(host: Host, name: str, *, with_saved: bool = False) -> DomainState | None:
    """The state of one domain with all its marks, also the SSH host key. None if there is no domain
    of that name.

    Only `with_saved` it finds out whether the memory of the domain is saved, and whether the domain
    has snapshots. This costs two more calls.
    """
    with translated(f"the state of '{name}' could not be read on {host.name}"):
        domain = found_or_none(host.connection.lookupByName, name)
        state = domain and found_or_none(domain.state)
        if domain is None or state is None:
            return None
        found = _read_domain(host, domain, state[0], frozenset(), _NO_LISTS)
        if found is None or not with_saved:
            return found
        return replace(
            found,
            saved=not found.running and bool(found_or_none(domain.hasManagedSaveImage)),
            snapshots=bool(found_or_none(domain.snapshotNum)),
        )


@dataclass(frozen=True, slots=True)
class _Objects:
    """libvirt's objects by name, each with the state that the list call returned."""

    domains: Mapping[str, tuple[libvirt.virDomain, int]]
    networks: Mapping[str, tuple[libvirt.virNetwork, bool]]

    def manifest(self, host: Host, vapp: str) -> Manifest | Unreadable | None:
        found = self.networks.get(PREFIX + vapp)
        record = found and found_or_none(record_of, found[0])
        return manifest_in(host, record) if record else None

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


def _list_objects(host: Host) -> _Objects:
    with translated(f"the domains and networks of {host.name} could not be listed"):
        # All networks first: one that starts or stops between the two calls is missing in neither.
        stats, (known, active) = run_both(
            lambda: host.connection.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_STATE),
            lambda: (
                host.connection.listAllNetworks(),
                host.connection.listAllNetworks(libvirt.VIR_CONNECT_LIST_NETWORKS_ACTIVE),
            ),
        )
    networks = {network.name(): (network, False) for network in known} | {
        network.name(): (network, True) for network in active
    }
    return _Objects(
        # 0 is VIR_DOMAIN_NOSTATE.
        {domain.name(): (domain, values.get("state.state", 0)) for domain, values in stats},
        networks,
    )


@dataclass(frozen=True, slots=True)
class _Lists:
    """What libvirt tells of many objects in one call."""

    autostarted: frozenset[str] = frozenset()
    """UUIDs of the domains and networks that start with the host."""
    transient: frozenset[str] = frozenset()
    """UUIDs of the domains that run without a definition."""
    snapshots: frozenset[str] = frozenset()
    """UUIDs of the domains of which libvirt knows snapshots."""
    bindings: frozenset[tuple[str, str]] = frozenset()
    """(tap, network filter)."""
    filter: Facts | None = None
    filter_gone: bool = False
    filter_foreign: bool = False


_NO_LISTS = _Lists()


def _read_lists(host: Host, vapp: str) -> _Lists:
    connection = host.connection
    (starting, transient, snapshots, networks), (bindings, nwfilter, gone) = run_both(
        lambda: run_parallel(
            [
                lambda: connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_AUTOSTART),
                lambda: connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_TRANSIENT),
                lambda: connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_HAS_SNAPSHOT),
                lambda: connection.listAllNetworks(libvirt.VIR_CONNECT_LIST_NETWORKS_AUTOSTART),
            ]
        ),
        lambda: _read_filter(connection, vapp),
    )
    # A host that has the vApp's filter has no other filter of that name.
    foreign = gone and found_or_none(connection.nwfilterLookupByName, filter_name(vapp)) is not None
    return _Lists(
        frozenset(found.UUIDString() for found in (*starting, *networks)),
        frozenset(domain.UUIDString() for domain in transient),
        frozenset(domain.UUIDString() for domain in snapshots),
        bindings,
        nwfilter,
        gone,
        foreign,
    )


def has_vapp(host: Host, vapp: str) -> bool:
    """Whether the host has anything of the vApp: its manifest, a domain, a network, or a volume of one
    of its VMs. Raises HostError.
    """
    with translated(f"the vApps of {host.name} could not be listed"):
        if read_record(host, PREFIX + vapp) is not None:
            return True
        domains, networks = host.connection.listAllDomains(), host.connection.listAllNetworks()
        named = [one for one in (*domains, *networks) if one.name().startswith(f"{vapp}.")]
        own = {domain_uuid(vapp, one.name().partition(".")[2]) for one in named}
        own |= {network_uuid(one.name()) for one in named}
        if any(one.UUIDString() in own for one in named):
            return True
    volumes = volumes_of_vms(host, vapp)
    return volumes is not None and bool(volumes.names)


def _read_filter(
    connection: libvirt.virConnect, vapp: str
) -> tuple[frozenset[tuple[str, str]], Facts | None, bool]:
    """The NICs of the host that are filtered, the rules of the vApp's filters, and whether the one that
    each vApp has is missing.

    Where libvirt cannot tell, the filter does not count as missing: the start of a VM then reports
    the failure.
    """
    try:
        bindings = frozenset(
            (binding.portDev(), binding.filterName())
            for binding in connection.listAllNWFilterBindings()
        )
        closed = connection.nwfilterLookupByUUIDString(filter_uuid(vapp))
        opened = found_or_none(
            connection.nwfilterLookupByUUIDString, filter_uuid(vapp, open_zones=True)
        )
        texts = [found.XMLDesc() for found in (closed, opened) if found is not None]
        return bindings, filters_facts(map(parse, texts)), False
    except libvirt.libvirtError as error:
        return frozenset(), None, is_absent(error)


def _read_domain(
    host: Host, domain: libvirt.virDomain, state: int, saved: frozenset[str], lists: _Lists
) -> DomainState | None:
    xml = found_or_none(domain.XMLDesc)
    running, uuid = state not in STOPPED, domain.UUIDString()
    persistent = uuid not in lists.transient
    kept = (
        found_or_none(domain.XMLDesc, libvirt.VIR_DOMAIN_XML_INACTIVE)
        if running and persistent
        else xml
    )
    if xml is None or kept is None:
        return None
    root, definition = parse(xml), parse(kept)
    sides = [one for one, exists in ((root, running), (definition, persistent)) if exists]
    marks, connected = (
        root.find(f"metadata/{{{space}}}{tag}")
        for space, tag in ((NAMESPACE, "vm"), (CONNECTED_NAMESPACE, "connected"))
    )
    return DomainState(
        name=domain.name(),
        uuid=uuid,
        running=running,
        paused=state in PAUSED,
        token="" if connected is None else connected.get("token", ""),
        # A domain that is reverted or restored has its old metadata and a new id. Earlier releases
        # noted no id.
        brought_back=running
        and connected is not None
        and connected.get("id", str(domain.ID())) != str(domain.ID()),
        id=domain.ID(),
        sources=dict(_sources(root)),
        live=domain_facts(root) if running else NO_FACTS,
        kept=domain_facts(definition) if persistent else NO_FACTS,
        persistent=persistent,
        autostart=uuid in lists.autostarted,
        saved=uuid in saved,
        snapshots=uuid in lists.snapshots,
        marks=sealing_of(host).opened_marks(None if marks is None else marks.attrib),
        terms=tuple(one.findtext(f"metadata/{TERMS}") or "" for one in sides),
        generations=tuple(generation_in(one.find(f"metadata/{TERMS}")) or 0 for one in sides)
        if host.is_signed_on
        else (),
        unsigned=host.is_signed_on and not all(_counts(host, signer_of(one)) for one in sides),
    )


def _counts(host: Host, signer: str) -> bool:
    """Whether a signature by the key of this fingerprint counts on the host, as far as is known."""
    if not signer:
        return False
    with suppress(VcloudError):
        if host.operator is None or host.operator.fingerprint != signer:
            trusted = trusted_fingerprints(host)
            return trusted is None or signer in trusted
    return True


def _sources(domain: Element) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Target and files of each disk of a domain."""
    for disk in domain.iterfind("devices/disk"):
        target = disk.find("target")
        if target is not None:
            yield target.get("dev", ""), tuple(_chain(disk))


def _chain(layer: Element | None) -> Iterator[str]:
    while layer is not None:
        source = layer.find("source")
        if source is not None:
            # An empty text stands for a source that is neither a file nor a device of the host.
            yield source.get("file") or source.get("dev") or ""
        layer = layer.find("backingStore")


def _read_network(network: libvirt.virNetwork, active: bool, lists: _Lists) -> NetworkState | None:
    xml = found_or_none(network.XMLDesc)
    kept = found_or_none(definition_of, network) if active else xml
    if xml is None or kept is None:
        return None
    element = own_element(xml, "network")
    return NetworkState(
        network.name(),
        network.UUIDString(),
        active,
        network_marks(None if element is None else element.attrib),
        live=network_facts(parse(xml)) if active else {},
        kept=network_facts(parse(kept)),
        ports=frozenset(_ports(network)) if active else frozenset(),
        autostart=network.UUIDString() in lists.autostarted,
    )


def _ports(network: libvirt.virNetwork) -> list[str]:
    """UUIDs of a network's ports. Empty where libvirt has no ports, as its test driver."""
    try:
        return [port.UUIDString() for port in network.listAllPorts()]
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_SUPPORT:
            return []
        raise
