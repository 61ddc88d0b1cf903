"""The uplink of a host: the network on which the firewalls of its vApps meet the internet. It is
either a segment that the inventory names, or a NAT network that vcloud creates.

`uplink_for` only reads and decides, so that `vcloud plan` changes nothing. `make_uplink` then
creates what was decided. The address of a firewall is computed from a hash of the vApp's name. If
another vApp has that address, the next free one is taken. A vApp keeps its addresses from one `up`
to the next as long as they fit the host's uplink. On a segment of the inventory vcloud takes
addresses from the upper half of the prefix; the lower half is left to hosts and others.

Other vApps learn from the manifest which addresses are taken. So `up` holds the lock
`choosing_uplink` from `uplink_for` until the manifest is written. If two vApps come up at the same
time, the second then sees the addresses of the first.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_network,
)
from xml.etree.ElementTree import Element

import libvirt

from vcloud.compile.libvirt.network import render_nat_network
from vcloud.compile.libvirt.storage import PoolView, render_pool
from vcloud.design.addressing import hash_number
from vcloud.design.internet import Address, beyond_local
from vcloud.design.model import Uplink
from vcloud.design.names import NAT_NETWORK, network_uuid
from vcloud.errors import HostError
from vcloud.hosts import machines
from vcloud.hosts.connection import Host, found_or_none, run_parallel, translated
from vcloud.hosts.inventory import UplinkConfig
from vcloud.hosts.lock import Lock, named_lock
from vcloud.hosts.manifests import addresses_outside, delete_manifest, read_manifest, vapp_names
from vcloud.hosts.metadata import parse
from vcloud.iproute import ADDRESSES, ROUTES, Card, cards_in, networks_without_router
from vcloud.plan.manifest import Manifest
from vcloud.untrusted import UnreadableError
from vcloud.values import Network

NETWORK = NAT_NETWORK
BRIDGE = "vcloud-up"
"""The name of the NAT network's bridge on the host. Linux allows at most 15 characters."""
LOCK = "vcloud-uplink-lock"
NAT_PREFIXES = IPv4Network("172.16.0.0/12")
"""The NAT network is the first free /24 of these. They do not overlap with 10.0.0.0/8, which zones
use, and seldom with home networks.
"""
LOCK_TIMEOUT = 20
"""Seconds to wait for another operator who holds the lock."""
NIC_LIST_FOLDER = "/var/lib/libvirt/dnsmasq"
"""libvirt writes a list of the NICs on a network with addresses into this folder. libvirt creates
the folder only for a network with DNS or DHCP, and the NAT network has neither.
"""
SHORTEST_ROUTE = {4: 8, 6: 16}
"""Version of IP -> bits of the prefix of the largest network that can be beside a host."""
SUFFIX_BITS = 48
"""Bits of the IPv6 address that come from a hash. With so many bits, two vApps practically never
get the same address.
"""


def uplink_for(host: Host, vapp: str, current: Uplink | None = None) -> Uplink:
    """The uplink of a vApp's firewall on this host, with the host's own networks. Changes nothing.

    Args:
        host: an open host.
        vapp: the vApp's name.
        current: the uplink in the vApp's manifest. It is kept if it still fits the host.

    Raises:
        HostError: no address is free, or vcloud cannot find out which addresses are.
    """
    uplink = _addressed(host, vapp, current)
    around, own = _surroundings(host, uplink), _network_addresses(host, uplink)
    if around is None:
        # What an earlier look has found stays. What libvirt says of its network is known in any case.
        gateways = beyond_local(uplink, (), own)
        return replace(uplink, beside=tuple(dict.fromkeys((*uplink.beside, *gateways))))
    cards, routes = around
    networks = [*routes, *(network for card in cards for network in card.networks)]
    own |= {address for card in cards for address in card.addresses}
    return replace(uplink, beside=beyond_local(uplink, networks, own))


def _addressed(host: Host, vapp: str, current: Uplink | None) -> Uplink:
    if current is not None and (
        fits(current, host.ref.uplink) if host.ref.uplink else current.network == NETWORK
    ):
        return current
    used = addresses_outside(host, but=vapp)
    if host.ref.uplink is not None:
        return _uplink(host.ref.uplink, vapp, used, host.ref.uplink.prefix4.num_addresses // 2)
    # Number 0 is the network's own address, and number 1 is the host's.
    return _uplink(_existing_nat_network(host) or _planned_nat_network(host), vapp, used, 2)


def fits(uplink: Uplink, config: UplinkConfig) -> bool:
    """Whether an uplink agrees with this configuration: the same network or bridge, the same
    prefixes and gateways.
    """
    prefix6 = uplink.address6.network if uplink.address6 else None
    return (
        uplink.network,
        uplink.bridge,
        uplink.address4.network,
        uplink.gateway4,
        prefix6,
        uplink.gateway6,
    ) == (
        config.network or "",
        config.bridge or "",
        config.prefix4,
        config.gateway4,
        config.prefix6,
        config.gateway6,
    )


@contextmanager
def choosing_uplink(host: Host) -> Iterator[Lock]:
    """A lock: only one process at a time chooses an uplink on a host. Hold it from `uplink_for`
    until the manifest is written, and require it just before that.

    Raises:
        HostError: another process holds the lock for too long.
    """
    with named_lock(host, LOCK, "the choice of an uplink address", "up", LOCK_TIMEOUT) as lock:
        yield lock


def make_uplink(host: Host, uplink: Uplink) -> None:
    """Creates and starts vcloud's NAT network if the uplink is on it. vcloud creates no other
    network and no bridge.

    Raises:
        HostError: libvirt refuses it, or the network that the inventory names is not active.
    """
    if uplink.network != NETWORK:
        if uplink.network:
            _require_active(host, uplink.network)
        return
    with (
        _nat_network_lock(host),
        translated(f"the network '{NETWORK}' could not be made on {host.name}"),
    ):
        network = found_or_none(host.connection.networkLookupByName, NETWORK)
        if network is None:
            network = host.connection.networkDefineXML(render_nat_network(NETWORK, BRIDGE, uplink))
            _make_nic_list_folder(host.connection)
        network.setAutostart(1)
        if not network.isActive():
            network.create()


def _require_active(host: Host, name: str) -> None:
    with translated(f"the state of the network '{name}' could not be read on {host.name}"):
        network = found_or_none(host.connection.networkLookupByName, name)
        if not (network and network.isActive()):
            raise HostError(
                f"the network '{name}', the uplink of {host.name}, {'is not active' if network else 'does not exist'}",
                f"Run: virsh net-start {name}"
                if network
                else "Define this network, or name another one in the inventory.",
            )


def forget_vapp(host: Host, vapp: str) -> None:
    """Deletes the manifest of a vApp. Also deletes vcloud's NAT network, unless another vApp or any
    domain uses it or may use it.

    Both happen under one lock. So if two vApps are removed at the same time, the second finds that
    it is the last.

    Raises:
        HostError: libvirt refuses it.
    """
    with _nat_network_lock(host) as lock:
        others = [name for name in vapp_names(host) if name != vapp]
        # A vApp whose manifest is lost still has its firewall.
        if not any(_may_use_nat_network(host, name) for name in others) and not (
            machines.network_users(host, NETWORK)
        ):
            lock.require()  # without it, another vApp may have begun to use the network
            _remove_nat_network(host)
        # The manifest goes last: if this run is killed before, another `down` finds the vApp.
        delete_manifest(host, vapp)


def _remove_nat_network(host: Host) -> None:
    """Removes vcloud's NAT network. A network of that name that somebody else has made stays."""
    with translated(f"the network '{NETWORK}' of {host.name} could not be read"):
        ours = found_or_none(host.connection.networkLookupByUUIDString, network_uuid(NETWORK))
    if ours is not None:
        machines.remove_network(host, NETWORK)


def _may_use_nat_network(host: Host, vapp: str) -> bool:
    """Whether a vApp uses the NAT network. True if its manifest cannot be read."""
    manifest = read_manifest(host, vapp)
    return not isinstance(manifest, Manifest) or manifest.uplink.network == NETWORK


@contextmanager
def _nat_network_lock(host: Host) -> Iterator[Lock]:
    with named_lock(host, LOCK, f"the network '{NETWORK}'", "up or down", LOCK_TIMEOUT) as lock:
        yield lock


def _uplink(config: UplinkConfig, vapp: str, used: Collection[IPv4Address], first: int) -> Uplink:
    address4 = _free_address(config.prefix4, vapp, {*used, config.gateway4}, first)
    address6 = None
    if config.prefix6 is not None:
        # The bit above the hash keeps the address away from low numbers such as the gateway's ::1.
        number = hash_number(SUFFIX_BITS, vapp, str(address4), "uplink") | 1 << SUFFIX_BITS
        address6 = IPv6Interface((config.prefix6[number], config.prefix6.prefixlen))
    return Uplink(
        network=config.network or "",
        bridge=config.bridge or "",
        address4=IPv4Interface((address4, config.prefix4.prefixlen)),
        gateway4=config.gateway4,
        address6=address6,
        gateway6=config.gateway6,
    )


def _free_address(
    prefix: IPv4Network, vapp: str, used: Collection[IPv4Address], first: int
) -> IPv4Address:
    """An address between number `first` of the prefix and the broadcast address: the one from the
    vApp's hash, or the next free one.
    """
    count = prefix.num_addresses - 1 - first
    start = hash_number(32, vapp, "uplink") % count
    for step in range(count):
        address = prefix[first + (start + step) % count]
        if address not in used:
            return address
    raise HostError(
        f"no address is free for the firewall of '{vapp}' in {prefix}",
        "Write a larger prefix4 for the host's uplink in the inventory.",
    )


def _existing_nat_network(host: Host) -> UplinkConfig | None:
    """The NAT network of the host. None if it does not exist."""
    with translated(f"the network '{NETWORK}' of {host.name} could not be read"):
        network = found_or_none(host.connection.networkLookupByName, NETWORK)
        if network is None:
            return None
        prefixes = list(_prefixes([parse(network.XMLDesc())]))
    prefix4 = next((prefix for prefix in prefixes if isinstance(prefix, IPv4Network)), None)
    if prefix4 is None:
        raise HostError(
            f"the network '{NETWORK}' of {host.name} has no IPv4 prefix",
            f"Remove the network: virsh net-undefine {NETWORK}. Then run the command again.",
        )
    return _nat(
        prefix4, next((prefix for prefix in prefixes if isinstance(prefix, IPv6Network)), None)
    )


def _planned_nat_network(host: Host) -> UplinkConfig:
    """The NAT network that would be created on the host."""
    with translated(f"the networks of {host.name} could not be read"):
        networks = [parse(network.XMLDesc()) for network in host.connection.listAllNetworks()]
    prefix4 = _free_prefix([*_prefixes(networks), *_routes(host)])
    return _nat(
        prefix4,
        # A unique local prefix (RFC 4193): fd, then 40 random bits, here a hash, then subnet 0.
        IPv6Network((0xFD << 120 | hash_number(40, host.name, str(prefix4), "uplink") << 80, 64)),
    )


def _nat(prefix4: IPv4Network, prefix6: IPv6Network | None) -> UplinkConfig:
    """The configuration of the NAT network. The host itself has the first address of each prefix."""
    return UplinkConfig(
        network=NETWORK,
        prefix4=prefix4,
        gateway4=prefix4[1],
        prefix6=prefix6,
        gateway6=prefix6[1] if prefix6 else None,
    )


def _free_prefix(used: Collection[IPv4Network | IPv6Network]) -> IPv4Network:
    mine = [prefix for prefix in used if isinstance(prefix, IPv4Network)]
    for candidate in NAT_PREFIXES.subnets(new_prefix=24):
        if not any(candidate.overlaps(prefix) for prefix in mine):
            return candidate
    raise HostError(
        f"no /24 of {NAT_PREFIXES} is free for the network '{NETWORK}'",
        "Name another network or a bridge as the host's uplink in the inventory.",
    )


def _prefixes(networks: Iterable[Element]) -> Iterator[IPv4Network | IPv6Network]:
    """The prefixes of libvirt networks, active or not."""
    for network in networks:
        for element in (*network.iter("ip"), *network.iter("route")):
            address, length = (
                element.get("address", ""),
                element.get("prefix") or element.get("netmask"),
            )
            if address and length:
                yield ip_network(f"{address}/{length}", strict=False)


def _routes(host: Host) -> Iterator[IPv4Network]:
    """The host's own IPv4 routes, except the default route. Empty if vcloud cannot run commands on
    the host.
    """
    try:
        answer = host.shell.run(["ip", "-json", "-4", "route", "show", "table", "all"])
        routes = json.loads(answer.stdout or b"[]")
    except (HostError, ValueError):
        return
    for route in routes:
        if route["dst"] != "default" and route.get("type", "unicast") == "unicast":
            yield IPv4Network(route["dst"], strict=False)


def _surroundings(host: Host, uplink: Uplink) -> tuple[list[Card], list[Network]] | None:
    """The network cards of the host, and the networks that its routes say are beside it. None if
    vcloud cannot run commands on the host.
    """
    try:
        asked = [partial(host.shell.run, argv) for argv in (ADDRESSES, *ROUTES)]
        addresses, *listings = (done.stdout for done in run_parallel(asked))
        cards = list(cards_in(addresses))
        routes = [network for listing in listings for network in routes_in(listing)]
    except (HostError, UnreadableError):
        return None
    names = {card.name for card in cards}
    # A socket can lead to a libvirt in a container, while vcloud's commands run outside.
    if (bridge := _bridge_of(host, uplink)) and bridge not in names:
        return None
    return cards, routes


def _network_addresses(host: Host, uplink: Uplink) -> set[Address]:
    """The addresses that libvirt has given the host on the uplink's network."""
    with translated(f"the network '{uplink.network}' of {host.name} could not be read"):
        network = _network_of(host, uplink)
        return addresses_of(parse(network.XMLDesc())) if network else set()


def addresses_of(network: Element) -> set[Address]:
    """The addresses of the host that a libvirt network names."""
    return {ip_address(one.get("address", "")) for one in network.findall("ip[@address]")}


def _bridge_of(host: Host, uplink: Uplink) -> str:
    """The uplink's bridge; empty if its network does not stand yet."""
    if not uplink.network:
        return uplink.bridge
    with translated(f"the network '{uplink.network}' of {host.name} could not be read"):
        network = _network_of(host, uplink)
        return str(network.bridgeName()) if network and network.isActive() else ""


def _network_of(host: Host, uplink: Uplink) -> libvirt.virNetwork | None:
    """libvirt's network of an uplink; None for a bridge, and while the network does not stand."""
    by_name = host.connection.networkLookupByName
    return found_or_none(by_name, uplink.network) if uplink.network else None


def routes_in(listing: bytes) -> Iterator[Network]:
    """The networks beside the host, as `ip -json route` lists them. A route to much of all addresses
    leads through a tunnel, and is a default route in parts. Raises UnreadableError.
    """
    for network in networks_without_router(listing):
        if network.prefixlen >= SHORTEST_ROUTE[network.version]:
            yield network


def _make_nic_list_folder(connection: libvirt.virConnect) -> None:
    """Creates the folder through a storage pool that exists only for a moment.

    So libvirt itself creates the folder, on whatever machine it runs.
    """
    pool = render_pool(PoolView(f"{NETWORK}-nics", NIC_LIST_FOLDER, "0755"))
    connection.storagePoolCreateXML(pool, libvirt.VIR_STORAGE_POOL_CREATE_WITH_BUILD).destroy()
