"""The firewall's ruleset as values: its maps, their elements, its chains.
`templates/nftables/firewall.nft.j2` prints them.

No text of the user's becomes nft syntax: names of chains are prefixed and restricted here, and
comments lose every character that could end them. Addresses are those of the VMs themselves,
because the forward hook sees packets after DNAT and before SNAT.

A flow is known in the ruleset by its id alone, and everything is sorted: flows by id, elements by
their text. So the order of the vApp file, its comments and its name change no byte. Only where two
flows allow the same packets is there an order to choose: the flow whose id comes first in the
alphabet counts them. Both allow them, so nothing that passes depends on it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, collapse_addresses

from vcloud.design.addressing import spread
from vcloud.design.model import Design, Flow, FlowPath, Nic, Uplink
from vcloud.values import Protocol, Service

COMMENT_LIMIT = 120
"""Bytes. nft's own limit is 128."""
NEVER_OUTSIDE4 = tuple(map(IPv4Network, ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3")))
NEVER_OUTSIDE6 = tuple(map(IPv6Network, ("::1/128", "ff00::/8")))
_MIRRORED = {"saddr": "daddr", "daddr": "saddr"}
_PLAIN_ID = re.compile(r"[a-z0-9-]{1,64}")
_IFNAME = re.compile(r"[A-Za-z0-9._-]{1,15}")
_UNSAFE = re.compile(r"[^ !#-\[\]-~]")


@dataclass(frozen=True, slots=True)
class Words:
    """What nft calls things in one version of IP."""

    suffix: str
    ip: str
    nfproto: str
    type: str
    icmp: str


IPV4 = Words("4", "ip", "ipv4", "ipv4_addr", "icmp")
IPV6 = Words("6", "ip6", "ipv6", "ipv6_addr", "icmpv6")


@dataclass(frozen=True, slots=True)
class VerdictMap:
    """A map from fields of a packet to a chain. A packet costs one look-up, however many elements
    the map has.
    """

    name: str
    type: str
    interval: bool
    original: str
    """The look-up for packets in the direction of the flow."""
    reply: str
    """The same look-up with source and target exchanged, for the answers; empty for a map that no
    answer is looked up in.
    """
    elements: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Family:
    """The part of the ruleset for one version of IP."""

    words: Words
    uplink: str
    """The firewall's address on the uplink; empty where the uplink does not use this version of IP.
    """
    prefixes: tuple[str, ...]
    """Addresses that are never outside: a packet from the uplink with such a source is dropped, and
    none is sent there.
    """
    nics: tuple[str, ...]
    """`interface . MAC . address` of every NIC of the VMs, as the firewall must see it."""
    gateways: tuple[str, ...]
    """`interface . address` of the firewall in every zone."""
    inside: tuple[VerdictMap, ...]
    """Flows between VMs."""
    egress: tuple[VerdictMap, ...]
    """Flows to the internet."""
    ingress: tuple[VerdictMap, ...]
    """Flows from the internet."""


@dataclass(frozen=True, slots=True)
class FlowChain:
    """The chain in which every packet of a flow is counted and accepted.

    It leaves the mark on the connection. By the mark an ICMP error is assigned to the flow of the
    connection that it is about.
    """

    name: str
    mark: str
    comment: str


@dataclass(frozen=True, slots=True)
class Published:
    """A service on the uplink's addresses, and the statements that send its connections to VMs."""

    chain: str
    key: str
    interval: bool
    statements: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ruleset:
    """Everything that the template prints."""

    vapp: str
    uplink: str
    """Name of the firewall's NIC on the uplink."""
    macs: tuple[str, ...]
    """`interface . MAC` of every NIC of the VMs."""
    families: tuple[Family, ...]
    flows: tuple[FlowChain, ...]
    marks: tuple[str, ...]
    published: tuple[Published, ...]
    publish_maps: tuple[VerdictMap, ...]


def build_ruleset(design: Design, uplink: Uplink) -> Ruleset:
    """The ruleset of a design. Where two flows allow the same packets, exact ports go before
    ranges, then the flow of the first id counts.
    """
    flows = _by_id(design.flows)
    chains = tuple(_flow_chains(design.vapp, flows))
    if len({chain.name for chain in chains}) != len(chains):
        raise ValueError("two flows have the same id")
    nics = [
        (_ifname(design.zone(nic.zone).gateway), nic) for vm in design.workloads for nic in vm.nics
    ]
    address4, address6 = uplink.address4.ip, uplink.address6.ip if uplink.address6 else None
    prefixes4 = collapse_addresses(
        (*(zone.prefix4 for zone in design.zones), IPv4Network(address4), *NEVER_OUTSIDE4)
    )
    own6 = (IPv6Network(address6),) if address6 else ()
    prefixes6 = collapse_addresses(
        (*(zone.prefix6 for zone in design.zones), *own6, *NEVER_OUTSIDE6)
    )
    published = tuple(_published(flows, (IPV4, IPV6) if address6 else (IPV4,)))
    return Ruleset(
        vapp=_harmless(design.vapp),
        uplink=_ifname(design.firewall.nics[-1]),
        macs=_sorted(f'"{ifname}" . {nic.mac}' for ifname, nic in nics),
        families=(
            _family(design, flows, IPV4, str(address4), tuple(map(str, prefixes4)), nics),
            _family(design, flows, IPV6, str(address6 or ""), tuple(map(str, prefixes6)), nics),
        ),
        flows=chains,
        marks=_sorted(f"{chain.mark} : goto {chain.name}" for chain in chains),
        published=published,
        publish_maps=tuple(_publish_maps(published)),
    )


def _by_id(flows: Iterable[Flow]) -> tuple[Flow, ...]:
    return tuple(sorted(flows, key=lambda flow: flow.id))


def _sorted(elements: Iterable[str]) -> tuple[str, ...]:
    """The elements of a set or a map, in an order that does not depend on that of the file. nft has
    no order in them.
    """
    return tuple(sorted(elements))


def _family(
    design: Design,
    flows: Sequence[Flow],
    words: Words,
    uplink: str,
    prefixes: tuple[str, ...],
    nics: Iterable[tuple[str, Nic]],
) -> Family:
    gateways = [zone.gateway for zone in design.zones]
    entries = _entries(flows, words)
    return Family(
        words=words,
        uplink=uplink,
        prefixes=prefixes,
        nics=_sorted(
            f'"{ifname}" . {nic.mac} . {address}'
            for ifname, nic in nics
            if (address := _address(nic, words))
        ),
        gateways=_sorted(
            f'"{_ifname(nic)}" . {address}' for nic in gateways if (address := _address(nic, words))
        ),
        inside=tuple(_maps("inside", entries["inside"], words, ("saddr", "daddr"))),
        egress=tuple(_maps("egress", entries["egress"], words, ("saddr",))) if uplink else (),
        ingress=tuple(_ingress_maps(flows, words)) if uplink else (),
    )


def _flow_chains(vapp: str, flows: Sequence[Flow]) -> Iterator[FlowChain]:
    """A flow's mark changes with its ends and services: an ICMP error about a connection that is no
    longer declared must not pass either.
    """
    meanings = [
        f"{flow.id} {flow.source} {flow.target} {flow.services} {flow.publish}" for flow in flows
    ]
    marks = spread(meanings, 32, 1, 2**32 - 1, vapp, "mark")
    for flow, meaning in zip(flows, meanings, strict=True):
        yield FlowChain(_chain_name(flow), f"0x{marks[meaning]:08x}", flow_comment(flow))


def flow_comment(flow: Flow) -> str:
    """`flow:<id>`: assigns a rule and its counter to a flow of the design, which holds the line of
    the vApp file that asked for it.
    """
    return _harmless(f"flow:{flow.id}")


def _chain_name(flow: Flow) -> str:
    """A prefix, because nft reserves words such as `fwd`. The hash of an odd id follows an
    underscore, with which no plain id begins.
    """
    if _PLAIN_ID.fullmatch(flow.id):
        return f"flow_{flow.id}"
    return f"flow__{hashlib.sha256(flow.id.encode()).hexdigest()[:16]}"


@dataclass(slots=True)
class _Entries:
    """What the flows of one scope allow. The keys are the ends as nft writes them: `source .
    target`, or only the VM towards the internet.
    """

    exact: dict[tuple[str, Protocol, int], str] = field(default_factory=dict)
    ranges: dict[tuple[str, Protocol], list[tuple[int, int, str]]] = field(default_factory=dict)
    echo: dict[str, str] = field(default_factory=dict)

    def add(self, ends: str, service: Service, chain: str) -> None:
        if service.protocol is Protocol.ICMP:
            self.echo.setdefault(ends, chain)
        elif service.first == service.last:
            self.exact.setdefault((ends, service.protocol, service.first), chain)
        else:
            self.ranges.setdefault((ends, service.protocol), []).append(
                (service.first, service.last, chain)
            )


def _entries(flows: Sequence[Flow], words: Words) -> dict[str, _Entries]:
    found = {"inside": _Entries(), "egress": _Entries()}
    for flow in flows:
        chain = _chain_name(flow)
        for path in flow.paths:
            if path.source is None:
                continue
            scope, ends = _ends(path, words)
            for service in flow.services if ends else ():
                found[scope].add(ends, service, chain)
    return found


def _ends(path: FlowPath, words: Words) -> tuple[str, str]:
    """The scope of a path (between VMs, or to the internet) and its ends; no ends where a NIC has
    no address of this version of IP.
    """
    source, target = _address(path.source, words), _address(path.target, words)
    if path.target is None:
        return "egress", source
    return "inside", f"{source} . {target}" if source and target else ""


def _maps(
    scope: str, entries: _Entries, words: Words, fields: tuple[str, ...]
) -> Iterator[VerdictMap]:
    """The maps of a scope that have elements. `fields` are the fields that hold the ends in a
    packet in the direction of the flow.
    """
    original = " . ".join(f"{words.ip} {field}" for field in fields)
    reply = " . ".join(f"{words.ip} {_MIRRORED[field]}" for field in fields)
    ends = " . ".join(words.type for _ in fields)
    ports = f"{ends} . inet_proto . inet_service"
    exact = _sorted(
        f"{key} . {protocol} . {port} : goto {chain}"
        for (key, protocol, port), chain in entries.exact.items()
    )
    ranges = _sorted(
        f"{key} . {protocol} . {first}-{last} : goto {chain}"
        for (key, protocol), declared in entries.ranges.items()
        for first, last, chain in disjoint(declared)
    )
    echo = _sorted(f"{key} : goto {chain}" for key, chain in entries.echo.items())
    by_port = (f"{original} . meta l4proto . th dport", f"{reply} . meta l4proto . th sport")
    by_type = (
        f"{words.icmp} type echo-request {original}",
        f"{words.icmp} type echo-reply {reply}",
    )
    if exact:
        yield VerdictMap(f"{scope}_ports{words.suffix}", ports, False, *by_port, exact)
    if ranges:
        yield VerdictMap(f"{scope}_ranges{words.suffix}", ports, True, *by_port, ranges)
    if echo:
        yield VerdictMap(f"{scope}_echo{words.suffix}", ends, False, *by_type, echo)


def _ingress_maps(flows: Sequence[Flow], words: Words) -> Iterator[VerdictMap]:
    """The published port is part of the key, so a connection to a port that is no longer published
    finds no element.

    No two flows publish the same port, so ranges do not overlap.
    """
    found: dict[bool, list[str]] = {False: [], True: []}
    for flow in flows:
        for published, service in zip(
            flow.publish, flow.services if flow.publish else (), strict=True
        ):
            for target in filter(None, (_address(path.target, words) for path in flow.paths)):
                key = f"{target} . {service.protocol} . {_ports(published)} . {_ports(service)}"
                found[service.first != service.last].append(f"{key} : goto {_chain_name(flow)}")
    ports = f"{words.type} . inet_proto . inet_service . inet_service"
    original = f"{words.ip} daddr . meta l4proto . ct original proto-dst . th dport"
    reply = f"{words.ip} saddr . meta l4proto . ct original proto-dst . th sport"
    for name, interval in (("ingress_ports", False), ("ingress_ranges", True)):
        if found[interval]:
            yield VerdictMap(
                f"{name}{words.suffix}", ports, interval, original, reply, _sorted(found[interval])
            )


def _ports(service: Service) -> str:
    return (
        str(service.first) if service.first == service.last else f"{service.first}-{service.last}"
    )


def disjoint(ranges: Iterable[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """The same ports in ranges that do not overlap, because nft refuses overlaps. An earlier range
    keeps the ports that it has.
    """
    taken: list[tuple[int, int, str]] = []
    for first, last, chain in ranges:
        free = [(first, last)]
        for low, high, _ in taken:
            pieces = [
                piece
                for start, end in free
                for piece in ((start, min(end, low - 1)), (max(start, high + 1), end))
            ]
            free = [(start, end) for start, end in pieces if start <= end]
        taken += ((start, end, chain) for start, end in free)
    return sorted(taken)


def _published(flows: Sequence[Flow], spoken: tuple[Words, ...]) -> Iterator[Published]:
    for flow in flows:
        for number, (published, service) in enumerate(
            zip(flow.publish, flow.services if flow.publish else (), strict=True)
        ):
            if published.protocol is Protocol.ICMP:
                raise ValueError("ICMP has no port that could be published")
            interval = published.first != published.last
            statements = (_dnat(flow, published, service, words) for words in spoken)
            yield Published(
                chain=f"publish_{number}_{_chain_name(flow)}",
                key=f"{published.protocol} . {_ports(published)}",
                interval=interval,
                statements=tuple(filter(None, statements)),
            )


def _publish_maps(published: Sequence[Published]) -> Iterator[VerdictMap]:
    for name, interval in (("publish_ports", False), ("publish_ranges", True)):
        elements = _sorted(
            f"{service.key} : goto {service.chain}"
            for service in published
            if service.interval is interval
        )
        if elements:
            yield VerdictMap(
                name, "inet_proto . inet_service", interval, "meta l4proto . th dport", "", elements
            )


def _dnat(flow: Flow, published: Service, service: Service, words: Words) -> str:
    """New connections go to the VMs of the flow in turn. The ports of a range keep their order."""
    targets = _sorted(address for path in flow.paths if (address := _address(path.target, words)))
    if not targets:
        return ""
    turns = ", ".join(f"{number} : {address}" for number, address in enumerate(targets))
    to = targets[0] if len(targets) == 1 else f"numgen inc mod {len(targets)} map {{ {turns} }}"
    shift = service.first - published.first
    if shift == 0:
        port = ""
    elif published.first == published.last:
        port = f" : {service.first}"
    else:
        pairs = ", ".join(
            f"{port} : {port + shift}" for port in range(published.first, published.last + 1)
        )
        port = f" : {published.protocol} dport map {{ {pairs} }}"
    return f"meta nfproto {words.nfproto} meta l4proto {published.protocol} dnat {words.ip} to {to}{port}"


def _address(nic: Nic | None, words: Words) -> str:
    address = nic and (nic.address4 if words is IPV4 else nic.address6)
    return str(address) if address else ""


def _ifname(nic: Nic) -> str:
    if not _IFNAME.fullmatch(nic.ifname):
        raise ValueError(f"{nic.ifname!r} cannot be the name of an interface")
    return nic.ifname


def _harmless(text: str) -> str:
    """The text without any character that could end an nft comment, and short enough for one."""
    return _UNSAFE.sub("_", text)[:COMMENT_LIMIT]
