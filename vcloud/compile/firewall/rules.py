"""The firewall's ruleset as values: which maps, which elements, which chains. `templates/nftables/firewall.nft.j2` lays them out.

No text of the user's becomes nft syntax: names of chains are prefixed and restricted here, comments lose whatever could end them.
Addresses are those of the real VMs, because the forward hook sees packets after DNAT and before SNAT.
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
"""Bytes; nft's own limit is 128."""
NEVER_OUTSIDE4 = tuple(map(IPv4Network, ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3")))
NEVER_OUTSIDE6 = tuple(map(IPv6Network, ("::1/128", "ff00::/8")))
_MIRRORED = {"saddr": "daddr", "daddr": "saddr"}
_PLAIN_ID = re.compile(r"[a-z0-9-]{1,64}")
_IFNAME = re.compile(r"[A-Za-z0-9._-]{1,15}")
_UNSAFE = re.compile(r"[^ !#-\[\]-~]")


@dataclass(frozen=True, slots=True)
class Words:
    """One version of IP in nft's words."""

    suffix: str
    ip: str
    nfproto: str
    type: str
    icmp: str


IPV4 = Words("4", "ip", "ipv4", "ipv4_addr", "icmp")
IPV6 = Words("6", "ip6", "ipv6", "ipv6_addr", "icmpv6")


@dataclass(frozen=True, slots=True)
class VerdictMap:
    """A map from what a packet looks like to a chain: one look-up, however many elements there are."""

    name: str
    type: str
    interval: bool
    original: str
    """The look-up for packets in the direction of the flow ..."""
    reply: str
    """... and the mirrored one for their answers; empty where there is none."""
    elements: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Family:
    """What the ruleset says about one version of IP."""

    words: Words
    uplink: str
    """The firewall's address on the uplink; empty where the uplink does not speak this version."""
    prefixes: tuple[str, ...]
    """Never outside: no packet from the uplink may claim them, and none leaves for them."""
    cards: tuple[str, ...]
    """`interface . MAC . address` of every VM's card, as the firewall must see it."""
    gateways: tuple[str, ...]
    """`interface . address` of the firewall in every zone."""
    inside: tuple[VerdictMap, ...]
    """Flows between VMs, ..."""
    egress: tuple[VerdictMap, ...]
    """... to the outside ..."""
    ingress: tuple[VerdictMap, ...]
    """... and from it."""


@dataclass(frozen=True, slots=True)
class FlowChain:
    """Where every packet of a flow ends. By the mark, ICMP errors find the flow of the connection they speak of."""

    name: str
    mark: str
    comment: str


@dataclass(frozen=True, slots=True)
class Published:
    """A service on the uplink's addresses, and the statements that send it to VMs."""

    chain: str
    key: str
    interval: bool
    statements: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ruleset:
    """Everything that the template prints."""

    vapp: str
    uplink: str
    """Name of the firewall's card on the uplink."""
    macs: tuple[str, ...]
    """`interface . MAC` of every VM's card."""
    families: tuple[Family, ...]
    flows: tuple[FlowChain, ...]
    marks: tuple[str, ...]
    published: tuple[Published, ...]
    publish_maps: tuple[VerdictMap, ...]


def build_ruleset(design: Design, uplink: Uplink) -> Ruleset:
    """Where flows meet on the same packets, the one that stands first in the file counts them; exact ports go before ranges."""
    flows = tuple(_flow_chains(design))
    if len({flow.name for flow in flows}) != len(flows):
        raise ValueError("two flows have the same id")
    cards = [(_ifname(design.zone(nic.zone).gateway), nic) for vm in design.workloads for nic in vm.nics]
    address4, address6 = uplink.address4.ip, uplink.address6.ip if uplink.address6 else None
    prefixes4 = collapse_addresses((*(zone.prefix4 for zone in design.zones), IPv4Network(address4), *NEVER_OUTSIDE4))
    own6 = (IPv6Network(address6),) if address6 else ()
    prefixes6 = collapse_addresses((*(zone.prefix6 for zone in design.zones), *own6, *NEVER_OUTSIDE6))
    published = tuple(_published(design, (IPV4, IPV6) if address6 else (IPV4,)))
    return Ruleset(
        vapp=_harmless(design.vapp),
        uplink=_ifname(design.firewall.nics[-1]),
        macs=tuple(f'"{card}" . {nic.mac}' for card, nic in cards),
        families=(
            _family(design, IPV4, str(address4), tuple(map(str, prefixes4)), cards),
            _family(design, IPV6, str(address6 or ""), tuple(map(str, prefixes6)), cards),
        ),
        flows=flows,
        marks=tuple(f"{flow.mark} : goto {flow.name}" for flow in flows),
        published=published,
        publish_maps=tuple(_publish_maps(published)),
    )


def _family(design: Design, words: Words, uplink: str, prefixes: tuple[str, ...], cards: Iterable[tuple[str, Nic]]) -> Family:
    gateways = [zone.gateway for zone in design.zones]
    entries = _entries(design.flows, words)
    return Family(
        words=words,
        uplink=uplink,
        prefixes=prefixes,
        cards=tuple(f'"{card}" . {nic.mac} . {address}' for card, nic in cards if (address := _address(nic, words))),
        gateways=tuple(f'"{_ifname(nic)}" . {address}' for nic in gateways if (address := _address(nic, words))),
        inside=tuple(_maps("inside", entries["inside"], words, ("saddr", "daddr"))),
        egress=tuple(_maps("egress", entries["egress"], words, ("saddr",))) if uplink else (),
        ingress=tuple(_ingress_maps(design.flows, words)) if uplink else (),
    )


def _flow_chains(design: Design) -> Iterator[FlowChain]:
    """A flow's mark changes with its ends and services, so that errors about what is no longer declared do not pass either."""
    meanings = [f"{flow.id} {flow.source} {flow.target} {flow.services} {flow.publish}" for flow in design.flows]
    marks = spread(meanings, 32, 1, 2**32 - 1, design.vapp, "mark")
    for flow, meaning in zip(design.flows, meanings, strict=True):
        yield FlowChain(_chain_name(flow), f"0x{marks[meaning]:08x}", flow_comment(flow, design.file))


def flow_comment(flow: Flow, file: str) -> str:
    """`flow:<id> <file>:<line>`: ties a rule and its counters to the line of the vApp file that asked for it."""
    label = _harmless(f"flow:{flow.id} ")
    place = f":{flow.line}"
    return label + _harmless(file)[: COMMENT_LIMIT - len(label) - len(place)] + place


def _chain_name(flow: Flow) -> str:
    """Prefixed, because nft reserves words such as `fwd`. No plain id begins with the underscore of a hashed one."""
    if _PLAIN_ID.fullmatch(flow.id):
        return f"flow_{flow.id}"
    return f"flow__{hashlib.sha256(flow.id.encode()).hexdigest()[:16]}"


@dataclass(slots=True)
class _Entries:
    """What the flows of one scope allow. Keys are the ends as nft writes them: `source . target`, or the VM alone towards the outside."""

    exact: dict[tuple[str, Protocol, int], str] = field(default_factory=dict)
    ranges: dict[tuple[str, Protocol], list[tuple[int, int, str]]] = field(default_factory=dict)
    echo: dict[str, str] = field(default_factory=dict)

    def add(self, ends: str, service: Service, chain: str) -> None:
        if service.protocol is Protocol.ICMP:
            self.echo.setdefault(ends, chain)
        elif service.first == service.last:
            self.exact.setdefault((ends, service.protocol, service.first), chain)
        else:
            self.ranges.setdefault((ends, service.protocol), []).append((service.first, service.last, chain))


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
    """The scope of a path between VMs or to the outside, and its ends; no ends where a card lacks an address of this version."""
    source, target = _address(path.source, words), _address(path.target, words)
    if path.target is None:
        return "egress", source
    return "inside", f"{source} . {target}" if source and target else ""


def _maps(scope: str, entries: _Entries, words: Words, fields: tuple[str, ...]) -> Iterator[VerdictMap]:
    """The scope's maps that have elements. `fields` hold the ends in a packet that goes in the direction of the flow."""
    original = " . ".join(f"{words.ip} {field}" for field in fields)
    reply = " . ".join(f"{words.ip} {_MIRRORED[field]}" for field in fields)
    ends = " . ".join(words.type for _ in fields)
    ports = f"{ends} . inet_proto . inet_service"
    exact = tuple(f"{key} . {protocol} . {port} : goto {chain}" for (key, protocol, port), chain in entries.exact.items())
    ranges = tuple(
        f"{key} . {protocol} . {first}-{last} : goto {chain}"
        for (key, protocol), declared in entries.ranges.items()
        for first, last, chain in disjoint(declared)
    )
    echo = tuple(f"{key} : goto {chain}" for key, chain in entries.echo.items())
    by_port = (f"{original} . meta l4proto . th dport", f"{reply} . meta l4proto . th sport")
    by_type = (f"{words.icmp} type echo-request {original}", f"{words.icmp} type echo-reply {reply}")
    if exact:
        yield VerdictMap(f"{scope}_ports{words.suffix}", ports, False, *by_port, exact)
    if ranges:
        yield VerdictMap(f"{scope}_ranges{words.suffix}", ports, True, *by_port, ranges)
    if echo:
        yield VerdictMap(f"{scope}_echo{words.suffix}", ends, False, *by_type, echo)


def _ingress_maps(flows: Sequence[Flow], words: Words) -> Iterator[VerdictMap]:
    """The published port is part of the key, so that a connection to a port that is published no more finds nothing.

    No two flows publish the same port, so ranges do not overlap.
    """
    found: dict[bool, list[str]] = {False: [], True: []}
    for flow in flows:
        for published, service in zip(flow.publish, flow.services if flow.publish else (), strict=True):
            for target in filter(None, (_address(path.target, words) for path in flow.paths)):
                key = f"{target} . {service.protocol} . {_ports(published)} . {_ports(service)}"
                found[service.first != service.last].append(f"{key} : goto {_chain_name(flow)}")
    ports = f"{words.type} . inet_proto . inet_service . inet_service"
    original = f"{words.ip} daddr . meta l4proto . ct original proto-dst . th dport"
    reply = f"{words.ip} saddr . meta l4proto . ct original proto-dst . th sport"
    for name, interval in (("ingress_ports", False), ("ingress_ranges", True)):
        if found[interval]:
            yield VerdictMap(f"{name}{words.suffix}", ports, interval, original, reply, tuple(found[interval]))


def _ports(service: Service) -> str:
    return str(service.first) if service.first == service.last else f"{service.first}-{service.last}"


def disjoint(ranges: Iterable[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """The same ports without overlaps, which nft refuses; what an earlier range holds, it keeps."""
    taken: list[tuple[int, int, str]] = []
    for first, last, chain in ranges:
        free = [(first, last)]
        for low, high, _ in taken:
            pieces = [piece for start, end in free for piece in ((start, min(end, low - 1)), (max(start, high + 1), end))]
            free = [(start, end) for start, end in pieces if start <= end]
        taken += ((start, end, chain) for start, end in free)
    return sorted(taken)


def _published(design: Design, spoken: tuple[Words, ...]) -> Iterator[Published]:
    for flow in design.flows:
        for number, (published, service) in enumerate(zip(flow.publish, flow.services if flow.publish else (), strict=True)):
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
        elements = tuple(f"{service.key} : goto {service.chain}" for service in published if service.interval is interval)
        if elements:
            yield VerdictMap(name, "inet_proto . inet_service", interval, "meta l4proto . th dport", "", elements)


def _dnat(flow: Flow, published: Service, service: Service, words: Words) -> str:
    """New connections go to the flow's VMs in turn; the ports of a range keep their order."""
    targets = [address for path in flow.paths if (address := _address(path.target, words))]
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
        pairs = ", ".join(f"{port} : {port + shift}" for port in range(published.first, published.last + 1))
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
    """Text that can stand between the quotes of an nft comment."""
    return _UNSAFE.sub("_", text)[:COMMENT_LIMIT]
