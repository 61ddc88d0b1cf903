"""Which addresses a flow to `internet` reaches. All other addresses outside need a flow to a
prefix.

`internet` means public addresses. The registries of IANA say which addresses are not public
(iana-ipv4-special-registry, iana-ipv6-special-registry). The addresses of the vApp's host and of
its neighbours do not count as `internet` either: the segment of the uplink, the host's own
addresses and its LAN. Nor does the one public address at which a cloud serves metadata.

Two kinds of addresses count as `internet` all the same. One is the uplink's gateway, unless the
gateway is the host itself, as on a NAT network of libvirt's. The other are the addresses that IANA
reserves for documentation: no real machine has them, and the simulated internet of a lab uses them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    collapse_addresses,
    ip_network,
)

from vcloud.design.model import Flow, Uplink
from vcloud.design.names import NAT_NETWORK
from vcloud.values import NEVER_OUTSIDE4, Network

Address = IPv4Address | IPv6Address

LOCAL4 = (
    *NEVER_OUTSIDE4,
    *map(
        IPv4Network,
        (
            "10.0.0.0/8",  # private (RFC 1918)
            "100.64.0.0/10",  # between a provider and its customers (RFC 6598)
            "168.63.129.16/32",  # what Azure's hosts serve to a machine, its secrets among it
            "169.254.0.0/16",  # link-local (RFC 3927), and the metadata services of clouds
            "172.16.0.0/12",  # private
            "192.0.0.0/24",  # protocols of the local network (RFC 6890)
            "192.88.99.0/24",  # relays of 6to4 (RFC 7526)
            "192.168.0.0/16",  # private
            "198.18.0.0/15",  # benchmarks of devices (RFC 2544)
        ),
    ),
)
LOCAL6 = tuple(
    map(
        IPv6Network,
        (
            # All but 2000::/3, in which IANA gives out public addresses. That is, among others: IPv4
            # in IPv6 (::ffff:0:0/96, ::/96, and 64:ff9b:1::/48 of local translators), discard-only
            # (100::/64), segments (5f00::/16), unique local (fc00::/7), link-local (fe80::/10),
            # site-local (fec0::/10) and multicast (ff00::/8).
            "::/3",
            "4000::/2",
            "8000::/1",
            "2001::/23",  # protocols (RFC 2928), among them Teredo, which holds an IPv4 address
            "2002::/16",  # 6to4, which holds an IPv4 address
        ),
    )
)
TRANSLATED = IPv6Network("64:ff9b::/96")
"""Public IPv4 addresses as a translator shows them in IPv6 (RFC 6052)."""


def local_ranges(uplink: Uplink, version: int) -> tuple[tuple[Address, Address], ...]:
    """The addresses that `internet` does not mean in one version of IP, as ranges (first, last).
    The ranges are sorted and do not touch.
    """
    kind = IPv4Address if version == 4 else IPv6Address
    local = _joined(map(_span, (*LOCAL4, *_own_networks(uplink, 4))))
    if version == 6:
        first = int(TRANSLATED.network_address)
        translated = [(first + start, first + end) for start, end in local]
        local6 = _joined(map(_span, (*LOCAL6, *_own_networks(uplink, 6))))
        local = _joined([*_without(local6, *_span(TRANSLATED)), *translated])
    if free := _exempt(uplink, version):
        local = list(_without(local, int(free), int(free)))
    return tuple((kind(start), kind(end)) for start, end in local)


def _own_networks(uplink: Uplink, version: int) -> Iterator[Network]:
    """The host's networks that no registry of IANA names."""
    segment = uplink.address4 if version == 4 else uplink.address6
    if segment:
        yield segment.network
    yield from (one for one in uplink.beside if one.version == version)


def _span(network: Network) -> tuple[int, int]:
    return int(network[0]), int(network[-1])


def _joined(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same numbers in sorted spans that do not touch."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1] + 1:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return found


def _without(spans: Iterable[tuple[int, int]], first: int, last: int) -> Iterator[tuple[int, int]]:
    """The spans without the numbers from `first` to `last`."""
    for start, end in spans:
        pieces = (start, min(end, first - 1)), (max(start, last + 1), end)
        yield from (piece for piece in pieces if piece[0] <= piece[1])


def _exempt(uplink: Uplink, version: int) -> Address | None:
    """The gateway if it is another machine than the host; else None."""
    if is_host_gateway(uplink, version):
        return None
    return uplink.gateway4 if version == 4 else uplink.gateway6


def is_host_gateway(uplink: Uplink, version: int) -> bool:
    """Whether the uplink's gateway in one version of IP is an address of the host itself."""
    gateway = uplink.gateway4 if version == 4 else uplink.gateway6
    if gateway is None:
        return False
    return uplink.network == NAT_NETWORK or ip_network(gateway) in uplink.beside


def is_internet(uplink: Uplink, address: Address) -> bool:
    """Whether a flow to `internet` leads to this address."""
    ranges = local_ranges(uplink, address.version)
    return not any(int(first) <= int(address) <= int(last) for first, last in ranges)


def leads_to(flow: Flow, uplink: Uplink, address: Address) -> bool:
    """Whether a flow to the outside leads to this address."""
    return address in flow.prefix if flow.prefix else is_internet(uplink, address)


def beyond_local(
    uplink: Uplink, networks: Iterable[Network], own: Collection[Address] = ()
) -> tuple[Network, ...]:
    """Those of a host's networks that are public and not the uplink's segment, without overlaps,
    IPv4 first. After them come the uplink's gateways that are among the host's own addresses, each
    as a network of one address.
    """
    bare = replace(uplink, beside=())
    found4, found6 = [], []
    gateways = [one for one in (uplink.gateway4, uplink.gateway6) if one]
    for network in networks:
        # If the host's address is a /32 or a /128, it has a route to the gateway alone.
        if network in map(ip_network, gateways):
            continue
        if is_internet(bare, network[0]) or is_internet(bare, network[-1]):
            if isinstance(network, IPv4Network):
                found4.append(network)
            else:
                found6.append(network)
    hosts = (ip_network(one) for one in gateways if one in own)
    return (*collapse_addresses(found4), *collapse_addresses(found6), *hosts)
