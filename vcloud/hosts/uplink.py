"""Where a host's firewalls meet the outside: a segment that the inventory names, or a NAT network that vcloud makes.

`uplink_for` only reads and decides, so that a plan changes nothing; `make_uplink` makes what was decided. The firewall's addresses are a
hash of the vApp's name; where another vApp has them the next free ones are taken. What was decided stays from one `up` to the next for as
long as it fits the host. On a segment of the inventory they come from the upper half of its prefix: the lower half is for the hosts and for
others.

A choice counts once a manifest says it. Who chooses to stay holds `choosing_uplink` from the choice to the manifest, so that of two vApps
that come up at once the second sees what the first has taken.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Interface, IPv6Network, ip_network
from xml.etree.ElementTree import Element

import libvirt

from vcloud.compile.libvirt.network import render_nat_network
from vcloud.compile.libvirt.storage import PoolView, render_pool
from vcloud.design.addressing import hash_number
from vcloud.design.model import Uplink
from vcloud.errors import HostError
from vcloud.hosts.connection import Host, found_or_none, translated
from vcloud.hosts.inventory import UplinkConfig
from vcloud.hosts.lock import named_lock
from vcloud.hosts.manifests import addresses_outside, delete_manifest, read_manifest, vapp_names
from vcloud.hosts.metadata import parse
from vcloud.plan.manifest import Manifest

NETWORK = "vcloud-uplink"
BRIDGE = "vcloud-up"
LOCK = "vcloud-uplink-lock"
CANDIDATES = IPv4Network("172.16.0.0/12")
"""The NAT network is the first free /24 of these. The zones' 10.0.0.0/8 does not meet them, and home networks seldom do."""
PATIENCE = 20
"""Seconds to wait for another operator who makes or removes the NAT network."""
CARDS_FOLDER = "/var/lib/libvirt/dnsmasq"
"""Where libvirt notes the cards of a network that has addresses. It makes the folder itself only for one with DNS or DHCP."""
SUFFIX_BITS = 48
"""Of the IPv6 address: enough that hashes do not meet."""


def uplink_for(host: Host, vapp: str, standing: Uplink | None = None) -> Uplink:
    """Where the firewall of a vApp meets the outside on this host. Changes nothing.

    Args:
        host: an open host.
        vapp: the vApp's name.
        standing: the one that its manifest names; it is kept if it still fits the host.

    Raises:
        HostError: no address is free, or it is not known which addresses are.
    """
    if standing is not None and (fits(standing, host.ref.uplink) if host.ref.uplink else standing.network == NETWORK):
        return standing
    used = addresses_outside(host, but=vapp)
    if host.ref.uplink is not None:
        return _uplink(host.ref.uplink, vapp, used, host.ref.uplink.prefix4.num_addresses // 2)
    return _uplink(_standing_network(host) or _new_network(host), vapp, used, 2)


def fits(uplink: Uplink, config: UplinkConfig) -> bool:
    """Whether an uplink is one of this configuration: on the same network or bridge, with its prefixes and gateways."""
    prefix6 = uplink.address6.network if uplink.address6 else None
    return (uplink.network, uplink.bridge, uplink.address4.network, uplink.gateway4, prefix6, uplink.gateway6) == (
        config.network or "",
        config.bridge or "",
        config.prefix4,
        config.gateway4,
        config.prefix6,
        config.gateway6,
    )


@contextmanager
def choosing_uplink(host: Host) -> Iterator[None]:
    """Only one at a time on a host chooses an uplink. Hold it from `uplink_for` until the manifest with what it chose is written.

    Raises:
        HostError: somebody else holds it for too long.
    """
    with named_lock(host, LOCK, "the choice of an uplink's address", "up", PATIENCE):
        yield


def make_uplink(host: Host, uplink: Uplink) -> None:
    """Makes vcloud's own NAT network if the uplink is on it, and starts it. Other networks and bridges are the host's affair.

    Raises:
        HostError: libvirt refuses it, or the host's own network is not active.
    """
    if uplink.network != NETWORK:
        if uplink.network:
            _require_active(host, uplink.network)
        return
    with _only_me(host), translated(f"the network '{NETWORK}' could not be made on {host.name}"):
        network = found_or_none(host.connection.networkLookupByName, NETWORK)
        if network is None:
            network = host.connection.networkDefineXML(render_nat_network(NETWORK, BRIDGE, uplink))
            _make_cards_folder(host.connection)
        network.setAutostart(1)
        if not network.isActive():
            network.create()


def _require_active(host: Host, name: str) -> None:
    with translated(f"the network '{name}' could not be looked at on {host.name}"):
        network = found_or_none(host.connection.networkLookupByName, name)
        if not (network and network.isActive()):
            raise HostError(
                f"the network '{name}', the uplink of {host.name}, is {'not active' if network else 'not there'}",
                f"Run: virsh net-start {name}" if network else "Define it, or name another one in the inventory.",
            )


def forget_vapp(host: Host, vapp: str) -> None:
    """Deletes the manifest of a vApp, and vcloud's own NAT network unless another vApp has its firewall there, or may have.

    Both in one turn: of two vApps that leave at once, the second finds that it is the last.

    Raises:
        HostError: libvirt refuses it.
    """
    with _only_me(host):
        if not any(_may_use(host, name) for name in vapp_names(host) if name != vapp):
            _remove_network(host)
        delete_manifest(host, vapp)


def _may_use(host: Host, vapp: str) -> bool:
    manifest = read_manifest(host, vapp)
    return not isinstance(manifest, Manifest) or manifest.uplink.network == NETWORK


def _remove_network(host: Host) -> None:
    with translated(f"the network '{NETWORK}' could not be removed from {host.name}"):
        network = found_or_none(host.connection.networkLookupByName, NETWORK)
        if network is None:
            return
        if network.isActive():
            network.destroy()
        network.undefine()


@contextmanager
def _only_me(host: Host) -> Iterator[None]:
    with named_lock(host, LOCK, f"the network '{NETWORK}'", "up or down", PATIENCE):
        yield


def _uplink(config: UplinkConfig, vapp: str, used: Collection[IPv4Address], first: int) -> Uplink:
    address4 = _free_address(config.prefix4, vapp, {*used, config.gateway4}, first)
    address6 = None
    if config.prefix6 is not None:
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


def _free_address(prefix: IPv4Network, vapp: str, used: Collection[IPv4Address], first: int) -> IPv4Address:
    """The vApp's own address between number `first` and the broadcast address, or the next one that is free."""
    count = prefix.num_addresses - 1 - first
    start = hash_number(32, vapp, "uplink") % count
    for step in range(count):
        address = prefix[first + (start + step) % count]
        if address not in used:
            return address
    raise HostError(
        f"no address is free for the firewall of '{vapp}' in {prefix}", "Give the host's uplink a larger prefix4 in the inventory."
    )


def _standing_network(host: Host) -> UplinkConfig | None:
    """The NAT network as it is; None where it has not been made."""
    with translated(f"the network '{NETWORK}' of {host.name} could not be read"):
        network = found_or_none(host.connection.networkLookupByName, NETWORK)
        if network is None:
            return None
        prefixes = list(_prefixes([parse(network.XMLDesc())]))
    prefix4 = next((prefix for prefix in prefixes if isinstance(prefix, IPv4Network)), None)
    if prefix4 is None:
        raise HostError(f"the network '{NETWORK}' of {host.name} has no IPv4 prefix", f"Remove it (virsh net-undefine {NETWORK}).")
    return _nat(prefix4, next((prefix for prefix in prefixes if isinstance(prefix, IPv6Network)), None))


def _new_network(host: Host) -> UplinkConfig:
    """The NAT network as it would be made."""
    with translated(f"the networks of {host.name} could not be read"):
        networks = [parse(network.XMLDesc()) for network in host.connection.listAllNetworks()]
    prefix4 = _free_prefix([*_prefixes(networks), *_routes(host)])
    return _nat(prefix4, IPv6Network((0xFD << 120 | hash_number(40, host.name, str(prefix4), "uplink") << 80, 64)))


def _nat(prefix4: IPv4Network, prefix6: IPv6Network | None) -> UplinkConfig:
    """The host's end of it is the first address of each prefix."""
    return UplinkConfig(network=NETWORK, prefix4=prefix4, gateway4=prefix4[1], prefix6=prefix6, gateway6=prefix6[1] if prefix6 else None)


def _free_prefix(used: Collection[IPv4Network | IPv6Network]) -> IPv4Network:
    mine = [prefix for prefix in used if isinstance(prefix, IPv4Network)]
    for candidate in CANDIDATES.subnets(new_prefix=24):
        if not any(candidate.overlaps(prefix) for prefix in mine):
            return candidate
    raise HostError(
        f"no /24 of {CANDIDATES} is free for the network '{NETWORK}'", "Name a network or a bridge as the host's uplink in the inventory."
    )


def _prefixes(networks: Iterable[Element]) -> Iterator[IPv4Network | IPv6Network]:
    """The prefixes of libvirt networks, active or not."""
    for network in networks:
        for place in (*network.iter("ip"), *network.iter("route")):
            address, length = place.get("address", ""), place.get("prefix") or place.get("netmask")
            if address and length:
                yield ip_network(f"{address}/{length}", strict=False)


def _routes(host: Host) -> Iterator[IPv4Network]:
    """The host's own routes, but for the default one. A host whose shell is closed to us has none that are known."""
    try:
        answer = host.shell.run(["ip", "-json", "-4", "route", "show", "table", "all"])
        routes = json.loads(answer.stdout or b"[]")
    except (HostError, ValueError):
        return
    for route in routes:
        if route["dst"] != "default" and route.get("type", "unicast") == "unicast":
            yield IPv4Network(route["dst"], strict=False)


def _make_cards_folder(connection: libvirt.virConnect) -> None:
    """As a pool that is there for a moment: so libvirt makes the folder itself, wherever it runs."""
    pool = render_pool(PoolView(f"{NETWORK}-cards", CARDS_FOLDER, "0755"))
    connection.storagePoolCreateXML(pool, libvirt.VIR_STORAGE_POOL_CREATE_WITH_BUILD).destroy()
