"""The firewall's ruleset as values: its maps, their elements, its chains.
`templates/nftables/firewall.nft.j2` prints them.

No text of the user's becomes nft syntax: names of chains are prefixed and restricted here, and
comments lose every character that could end them. Addresses are those of the VMs themselves,
because the forward hook sees packets after DNAT and before SNAT.

The ruleset names a flow by its id alone, and everything is sorted: flows by id, elements by their
text. So the order of the vApp file, its comments and its name change no byte. If two flows allow
the same packets, the flow whose id comes first in the alphabet counts them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Network, IPv6Network, collapse_addresses

from vcloud.compile.firewall.maps import entries_of, maps_of, prefix_maps
from vcloud.compile.firewall.model import (
    CHECKED_MARK,
    IPV4,
    IPV6,
    LEAVING_MARK,
    ROUTED_MARK,
    Family,
    FlowChain,
    Ruleset,
    Words,
    address_of,
    chain_name,
    flow_comment,
    harmless,
    in_order,
)
from vcloud.compile.firewall.publishing import (
    ingress_maps,
    leaving,
    publish_maps,
    publish_prefixes,
    published_by,
    publishers,
    source_ports,
)
from vcloud.compile.firewall.timeouts import CONNTRACK_TIMEOUTS
from vcloud.design.addressing import spread
from vcloud.design.internet import local_ranges
from vcloud.design.model import Design, Flow, Nic, Uplink
from vcloud.values import NEVER_OUTSIDE4, NEVER_OUTSIDE6, Denied

TABLE = 131072
"""Connections that the firewall's kernel remembers, of 0.4 KiB each."""
CLIENT_GROUPS = 16
MOST_OF_CLIENTS, MOST_OF_STRANGERS, MOST_RESUMED, MOST_DATAGRAMS = 640, 640, 384, 384
"""In each version of IP and each group. The clients outside never have more than half of the table.

A client whose address is false cannot complete a TCP connection, so it stays a stranger.
"""
_MOST_OF_VM, _LEAST_OF_VM = 4096, 512
_HALF_OPEN = {"syn_sent", "syn_recv"}
_NFT_STATES = {"max_retrans": "retrans", "unacknowledged": "unack"}
BEFORE_DEFRAGMENTATION = -450
FRAGMENTS_OF_VM, FRAGMENTS_OUTSIDE = 500, 2000
"""In a second. A fragment that waits for others takes about 2.3 KiB for as long as
`FRAGMENT_TIMEOUT`.
"""
RATE_OF_VM, BURST_OF_VM = 1000, 5000
"""Connections that one address of a VM may begin in a second, and at once after a pause. The kernel
does not count a TCP connection that has ended, but remembers it for 2 s.
"""
_GROUPS = {4: "0.0.0.15", 6: "0:0:f::"}
"""In IPv6 one client may have all addresses of a /48 (RFC 6177), so these four bits are the last
ones that a client cannot choose.
"""
_CLIENTS = {4: "255.255.255.255", 6: "ffff:ffff:ffff::"}
HURRY = 1
"""Seconds. A client is slower only if its round trip takes longer. Then it comes back as a new one."""
_IFNAME = re.compile(r"[A-Za-z0-9._-]{1,15}")


def build_ruleset(design: Design, uplink: Uplink) -> Ruleset:
    """The ruleset of a design. If two flows allow the same packets, a flow with the single port
    counts them before one with a range; among equals, the flow whose id comes first.
    """
    flows = _by_id(design.flows)
    chains = tuple(_flow_chains(design.vapp, flows))
    if len({chain.name for chain in chains}) != len(chains):
        raise ValueError("two flows have the same id")
    nics = [
        (_ifname(design.zone(nic.zone).gateway), nic) for vm in design.workloads for nic in vm.nics
    ]
    address4, address6 = uplink.address4.ip, uplink.address6.ip if uplink.address6 else None
    # The prefixes are collapsed, because nft refuses overlapping intervals in a set. They include
    # the firewall's own address, because a packet from outside must not claim to come from there.
    prefixes4 = collapse_addresses(
        (*(zone.prefix4 for zone in design.zones), IPv4Network(address4), *NEVER_OUTSIDE4)
    )
    own6 = (IPv6Network(address6),) if address6 else ()
    prefixes6 = collapse_addresses(
        (*(zone.prefix6 for zone in design.zones), *own6, *NEVER_OUTSIDE6)
    )
    published = tuple(published_by(flows, (IPV4, IPV6) if address6 else (IPV4,)))
    return Ruleset(
        vapp=harmless(design.vapp),
        # The last NIC of the firewall is the one on the uplink (`design.resolve`).
        uplink=_ifname(design.firewall.nics[-1]),
        checked_mark=f"{CHECKED_MARK:#x}",
        routed_mark=f"{ROUTED_MARK:#x}",
        leaving_mark=f"{LEAVING_MARK:#x}",
        before_defragmentation=BEFORE_DEFRAGMENTATION,
        fragments_of_vm=FRAGMENTS_OF_VM,
        fragments_outside=FRAGMENTS_OUTSIDE,
        macs=in_order(f'"{ifname}" . {nic.mac}' for ifname, nic in nics),
        families=(
            _family(design, flows, IPV4, uplink, tuple(map(str, prefixes4)), nics),
            _family(design, flows, IPV6, uplink, tuple(map(str, prefixes6)), nics),
        ),
        flows=chains,
        marks=in_order(f"{chain.mark} : goto {chain.name}" for chain in chains),
        published=published,
        publish_maps=tuple(publish_maps(published)),
        source_ports=tuple(source_ports(flows)),
        rejecting=in_order(
            f'"{_ifname(zone.gateway)}"' for zone in design.zones if zone.denied is Denied.REJECT
        ),
        most_of_vm=most_of_vm(len(nics)),
        most_of_clients=MOST_OF_CLIENTS,
        most_of_strangers=MOST_OF_STRANGERS,
        most_resumed=MOST_RESUMED,
        most_datagrams=MOST_DATAGRAMS,
        hurried=tuple(hurried()),
        client_groups=CLIENT_GROUPS,
        rate_of_vm=RATE_OF_VM,
        burst_of_vm=BURST_OF_VM,
    )


def most_of_vm(nics: int) -> int:
    """Connections that one address of a VM may have begun at a time. All VMs together have half of
    the table, unless there are so many VMs that each would have too few.
    """
    return min(max(TABLE // 2 // (2 * max(nics, 1)), _LEAST_OF_VM), _MOST_OF_VM)


def hurried() -> Iterator[tuple[str, int]]:
    """States of TCP as nft names them, with their seconds for a stranger who has to hurry."""
    for key, seconds in CONNTRACK_TIMEOUTS:
        protocol, _, state = key.partition("_timeout_")
        if protocol == "tcp":
            yield _NFT_STATES.get(state, state), HURRY if state in _HALF_OPEN else seconds


def _by_id(flows: Iterable[Flow]) -> tuple[Flow, ...]:
    return tuple(sorted(flows, key=lambda flow: flow.id))


def _family(
    design: Design,
    flows: Sequence[Flow],
    words: Words,
    uplink: Uplink,
    prefixes: tuple[str, ...],
    nics: Sequence[tuple[str, Nic]],
) -> Family:
    gateways = [zone.gateway for zone in design.zones]
    entries = entries_of(flows, words)
    own = uplink.address4 if words is IPV4 else uplink.address6
    # If the uplink has no address of this version of IP, no packet of this version goes out or
    # comes in.
    outer = flows if own else ()
    excepted = {name for detector in design.inspection.detectors for name in detector.excepted}
    return Family(
        words=words,
        uplink=str(own.ip) if own else "",
        prefixes=prefixes,
        local=tuple(
            f"{first}-{last}" if first != last else str(first)
            for first, last in local_ranges(uplink, words.version)
        ),
        nics=in_order(
            f'"{ifname}" . {nic.mac} . {address}'
            for ifname, nic in nics
            if (address := address_of(nic, words))
        ),
        same=in_order(
            f"{address} . {address}" for _, nic in nics if (address := address_of(nic, words))
        ),
        gateways=in_order(
            f'"{_ifname(nic)}" . {address}'
            for nic in gateways
            if (address := address_of(nic, words))
        ),
        inside=tuple(maps_of("inside", entries["inside"], words, ("saddr", "daddr"))),
        egress=tuple(maps_of("egress", entries["egress"], words, ("saddr",))) if own else (),
        egress_prefixes=tuple(prefix_maps(outer, words)),
        ingress=tuple(ingress_maps(outer, words)),
        publish_prefixes=tuple(publish_prefixes(outer, words)),
        publishers=publishers(outer, words),
        leaving=leaving(outer, excepted, own.ip, words) if own else (),
        group=_GROUPS[words.version],
        client=_CLIENTS[words.version],
    )


def _flow_chains(vapp: str, flows: Sequence[Flow]) -> Iterator[FlowChain]:
    """The chains of all flows. A flow's mark changes with its ends and services, so that an ICMP
    error about a connection that is no longer allowed does not pass either.
    """
    meanings = [
        f"{flow.id} {flow.source} {flow.target} {flow.services} {flow.publish}" for flow in flows
    ]
    marks = spread(meanings, 32, 1, 2**32 - 1, vapp, "mark")
    for flow, meaning in zip(flows, meanings, strict=True):
        yield FlowChain(chain_name(flow), f"0x{marks[meaning]:08x}", flow_comment(flow))


def _ifname(nic: Nic) -> str:
    if not _IFNAME.fullmatch(nic.ifname):
        raise ValueError(f"{nic.ifname!r} cannot be the name of an interface")
    return nic.ifname
