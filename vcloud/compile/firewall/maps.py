"""The maps of flows that begin at a VM: between VMs, to the internet, and to prefixes outside."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from vcloud.compile.firewall.model import (
    VerdictMap,
    Words,
    address_of,
    chain_name,
    in_order,
)
from vcloud.design.model import Flow, FlowPath
from vcloud.values import Network, Protocol, Service, covers, is_prefix

_MIRRORED = {"saddr": "daddr", "daddr": "saddr"}


@dataclass(slots=True)
class Entries:
    """What the flows of one scope allow. The keys are the ends as nft writes them: `source .
    target`, or only the VM for flows to the internet.
    """

    exact: dict[tuple[str, Protocol, int], str] = field(default_factory=dict)
    ranges: dict[tuple[str, Protocol], list[tuple[int, int, str]]] = field(default_factory=dict)
    echo: dict[str, str] = field(default_factory=dict)

    def add(self, ends: str, service: Service, chain: str) -> None:
        # If two flows allow the same packets, the flow whose id comes first counts them, so it is
        # not replaced (`setdefault`).
        if service.protocol is not Protocol.ICMP and service.first == service.last:
            self.exact.setdefault((ends, service.protocol, service.first), chain)
        else:
            self.add_range(ends, service, chain)

    def add_range(self, ends: str, service: Service, chain: str) -> None:
        if service.protocol is Protocol.ICMP:
            self.echo.setdefault(ends, chain)
        else:
            self.ranges.setdefault((ends, service.protocol), []).append(
                (service.first, service.last, chain)
            )


def entries_of(flows: Sequence[Flow], words: Words) -> dict[str, Entries]:
    found = {"inside": Entries(), "egress": Entries()}
    for flow in (flow for flow in flows if flow.prefix is None):
        chain = chain_name(flow)
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
    source, target = address_of(path.source, words), address_of(path.target, words)
    if path.target is None:
        return "egress", source
    return "inside", f"{source} . {target}" if source and target else ""


def maps_of(
    scope: str, entries: Entries, words: Words, fields: tuple[str, ...]
) -> Iterator[VerdictMap]:
    """The maps of a scope; empty maps are left out. `fields` are the fields of a packet that hold
    the ends, for a packet in the direction of the flow.
    """
    original = " . ".join(f"{words.ip} {field}" for field in fields)
    reply = " . ".join(f"{words.ip} {_MIRRORED[field]}" for field in fields)
    ends = " . ".join(words.type for _ in fields)
    ports = f"{ends} . inet_proto . inet_service"
    exact = in_order(
        f"{key} . {protocol} . {port} : goto {chain}"
        for (key, protocol, port), chain in entries.exact.items()
    )
    ranges = in_order(
        f"{key} . {protocol} . {first}-{last} : goto {chain}"
        for (key, protocol), declared in entries.ranges.items()
        for first, last, chain in disjoint(declared)
    )
    echo = in_order(f"{key} : goto {chain}" for key, chain in entries.echo.items())
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


def prefix_maps(flows: Sequence[Flow], words: Words) -> Iterator[VerdictMap]:
    """The maps of flows to prefixes outside.

    Two prefixes are disjoint, or one contains the other. nft refuses elements that overlap. So the
    elements of a prefix cover only the addresses that no longer prefix contains, and they hold the
    flows to this prefix and to all prefixes around it.
    """
    by_prefix: dict[Network, list[Flow]] = {}
    for flow in flows:
        if flow.prefix and words.applies_to(flow) and is_prefix(flow.target):
            by_prefix.setdefault(flow.prefix, []).append(flow)
    prefixes = sorted(by_prefix)
    ports: list[str] = []
    echo: list[str] = []
    around: list[Network] = []
    for number, prefix in enumerate(prefixes):
        while around and not covers(around[-1], prefix):
            around.pop()
        around.append(prefix)
        entries = _leading_to([flow for one in around for flow in by_prefix[one]], words)
        for part in _own_ranges(prefix, prefixes, number + 1):
            ports += (
                f"{source} . {part} . {protocol} . {first}-{last} : goto {chain}"
                for (source, protocol), declared in entries.ranges.items()
                for first, last, chain in disjoint(declared)
            )
            echo += (f"{source} . {part} : goto {chain}" for source, chain in entries.echo.items())
    ends = f"{words.type} . {words.type}"
    original, reply = (
        f"{words.ip} saddr . {words.ip} daddr",
        f"{words.ip} daddr . {words.ip} saddr",
    )
    if ports:
        yield VerdictMap(
            f"egress_prefix_ports{words.suffix}",
            f"{ends} . inet_proto . inet_service",
            True,
            f"{original} . meta l4proto . th dport",
            f"{reply} . meta l4proto . th sport",
            in_order(ports),
        )
    if echo:
        yield VerdictMap(
            f"egress_prefix_echo{words.suffix}",
            ends,
            True,
            f"{words.icmp} type echo-request {original}",
            f"{words.icmp} type echo-reply {reply}",
            in_order(echo),
        )


def _leading_to(flows: Iterable[Flow], words: Words) -> Entries:
    """What these flows to prefixes allow. A single port is written as a range, too, because one map
    holds all ports.
    """
    entries = Entries()
    for flow in sorted(flows, key=lambda flow: flow.id):
        for source in filter(None, (address_of(path.source, words) for path in flow.paths)):
            for service in flow.services:
                entries.add_range(source, service, chain_name(flow))
    return entries


def _own_ranges(prefix: Network, prefixes: Sequence[Network], number: int) -> Iterator[str]:
    """The addresses of a prefix that no longer prefix contains, as ranges. The longer prefixes
    follow it in `prefixes`, from index `number` on.
    """
    start, last = int(prefix[0]), int(prefix[-1])
    for other in itertools.islice(prefixes, number, None):
        if not covers(prefix, other):
            break
        # A prefix inside `other` comes after it, and is skipped because `start` is already behind
        # it.
        if start < int(other[0]):
            yield _range(prefix, start, int(other[0]) - 1)
        start = max(start, int(other[-1]) + 1)
    if start <= last:
        yield _range(prefix, start, last)


def _range(prefix: Network, first: int, last: int) -> str:
    kind = type(prefix[0])
    return f"{kind(first)}-{kind(last)}"


def disjoint(ranges: Iterable[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """The same ports in ranges that do not overlap, because nft refuses overlaps. A port that
    several ranges have stays in the earliest one.
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
