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
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Interface,
    IPv6Network,
    ip_network,
)
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
SUFFIX_BITS = 48
"""Bits of the IPv6 address that come from a hash. With so many bits, two vApps practically never
get the same address.
"""


def uplink_for(host: Host, vapp: str, current: Uplink | None = None) -> Uplink:
    """The uplink of a vApp's firewall on this host. Changes nothing.

    Args:
        host: an open host.
        vapp: the vApp's name.
        current: the uplink in the vApp's manifest. It is kept if it still fits the host.

    Raises:
        HostError: no address is free, or vcloud cannot find out which addresses are.
    """
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
def choosing_uplink(host: Host) -> Iterator[None]:
    """A lock: only one process at a time chooses an uplink on a host. Hold it from `uplink_for`
    until the manifest is written.

    Raises:
        HostError: another process holds the lock for too long.
    """
    with named_lock(host, LOCK, "the choice of an uplink address", "up", LOCK_TIMEOUT):
        yield


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
    """Deletes the manifest of a vApp. Also deletes vcloud's NAT network, unless another vApp uses
    it or may use it.

    Both happen under one lock. So if two vApps are removed at the same time, the second finds that
    it is the last.

    Raises:
        HostError: libvirt refuses it.
    """
    with _nat_network_lock(host):
        if not any(_may_use_nat_network(host, name) for name in vapp_names(host) if name != vapp):
            _remove_network(host)
        delete_manifest(host, vapp)


def _may_use_nat_network(host: Host, vapp: str) -> bool:
    """Whether a vApp uses the NAT network. True if its manifest cannot be read."""
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
def _nat_network_lock(host: Host) -> Iterator[None]:
    with named_lock(host, LOCK, f"the network '{NETWORK}'", "up or down", LOCK_TIMEOUT):
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


def _make_nic_list_folder(connection: libvirt.virConnect) -> None:
    """Creates the folder through a storage pool that exists only for a moment.

    So libvirt itself creates the folder, on whatever machine it runs.
    """
    pool = render_pool(PoolView(f"{NETWORK}-nics", NIC_LIST_FOLDER, "0755"))
    connection.storagePoolCreateXML(pool, libvirt.VIR_STORAGE_POOL_CREATE_WITH_BUILD).destroy()
