"""Connections on which the data of a detector may leave: rules that mark them, and the lists of
addresses that these rules need.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from vcloud.compile.ips.rules import ANY, NOT_VAPP, Rule
from vcloud.design.addressing import spread
from vcloud.design.model import Design, Detector, Flow, Nic
from vcloud.values import Protocol, Service

FIRST_EXCEPTION, LAST_EXCEPTION = 1270000, 1299999
SID_BITS: Final = 32
LONGEST_LIST: Final = 2000
"""Characters of a list of addresses that stands in a rule itself. Suricata takes no line of more
than 8192 characters.
"""
LIST_LENGTH: Final = 100
"""Entries of one group in `vars.yaml`. More entries become a group of groups, because Suricata
takes no list of more than 8192 characters.
"""

Addresses = tuple[str, ...]
"""Addresses of NICs, each NIC in both versions of IP; or `NOT_VAPP` alone."""
Ends = tuple[Addresses, Addresses]
"""Sources, and the targets that each of them may reach."""


@dataclass(frozen=True, slots=True)
class Exceptions:
    """The exceptions of all detectors of a design."""

    rules: tuple[Rule, ...]
    """Rules that mark the connections of excepted flows, and do nothing else."""
    bits: Mapping[str, str]
    """Detector -> the mark (a flowbit), for each detector that has an exception."""
    groups: Mapping[str, str]
    """Name and list of each group of addresses that is too long for a rule."""


def exceptions_of(design: Design, detectors: Iterable[Detector]) -> Exceptions:
    """The exceptions of these detectors. The same exception of the same detector keeps its sids."""
    wanted = {name for detector in detectors for name in detector.excepted}
    flows = {flow.id: flow for flow in design.flows if flow.id in wanted}
    ends = {name: tuple(_ends(flow)) for name, flow in flows.items()}
    bits: dict[str, str] = {}
    markers: dict[str, Rule] = {}
    for detector in detectors:
        plain = {
            name: tuple(_flow_rules(flows[name], ends[name]))
            for name in sorted(detector.excepted)
            if name in flows
        }
        if not plain:
            continue
        bit = bits[detector.id] = _bit(
            detector, [rule for rules in plain.values() for rule in rules]
        )
        for name, rules in plain.items():
            for index, rule in enumerate(rules):
                markers[f"{detector.id}/{name}/{index}"] = replace(
                    rule, options=f"flow:to_server; flowbits:set,{bit}; noalert;"
                )
    sids = spread(markers, SID_BITS, FIRST_EXCEPTION, LAST_EXCEPTION, "exception")
    rules = tuple(replace(rule, sid=sids[key]) for key, rule in markers.items())
    return Exceptions(
        rules,
        bits,
        dict(_groups(addresses for pairs in ends.values() for pair in pairs for addresses in pair)),
    )


def _bit(detector: Detector, rules: list[Rule]) -> str:
    """A name that changes with the connections that are excepted."""
    meant = "\n".join(rule.source + rule.target + rule.ports + rule.protocol for rule in rules)
    return f"free.{detector.id}.{hashlib.sha256(meant.encode()).hexdigest()[:8]}"


def _flow_rules(flow: Flow, ends: tuple[Ends, ...]) -> Iterator[Rule]:
    """Rules that match exactly the packets from the sources of a flow to its targets. They have
    neither sid nor options yet.
    """
    for service in sorted(flow.services):
        for sources, targets in ends:
            yield Rule(
                sid=0,
                message=f"data may leave on flow {flow.id}",
                protocol=service.protocol,
                source=_in_rule(sources),
                target=_in_rule(targets),
                ports=_ports(service),
                options="",
                kind="not-suspicious",
                metadata=f"flow {flow.id}",
            )


def _ends(flow: Flow) -> Iterator[Ends]:
    """The sources of a flow in groups that have the same targets, and these targets.

    A source that is a target of others counts as a target of its own: no packet goes from a NIC to
    itself, and then all VMs of a tier that talk to each other have the same targets and are one
    group.
    """
    targets: dict[str, set[str]] = {}
    texts = _addresses_of(flow)
    for path in flow.paths:
        targets.setdefault(texts[id(path.source)], set()).add(texts[id(path.target)])
    reached = set().union(*targets.values())
    sources: dict[frozenset[str], list[str]] = {}
    for source, ends in targets.items():
        sources.setdefault(frozenset(ends | {source} if source in reached else ends), []).append(
            source
        )
    yield from sorted(
        (tuple(sorted(starts)), tuple(sorted(ends))) for ends, starts in sources.items()
    )


def _addresses_of(flow: Flow) -> dict[int, str]:
    """The addresses of each end by its `id()`, each made once: a flow between large tiers has far
    more paths than ends.
    """
    nics = {id(nic): nic for path in flow.paths for nic in (path.source, path.target)}
    return {key: _address(nic) for key, nic in nics.items()}


def _address(nic: Nic | None) -> str:
    return NOT_VAPP if nic is None else f"{nic.address4},{nic.address6}"


def _in_rule(addresses: Addresses) -> str:
    """Addresses as they stand in a rule: themselves, or the name of their group."""
    if NOT_VAPP in addresses:
        return NOT_VAPP
    return f"${_group_name(addresses)}" if _is_long(addresses) else _list(addresses)


def _groups(lists: Iterable[Addresses]) -> Iterator[tuple[str, str]]:
    for addresses in filter(_is_long, lists):
        name = _group_name(addresses)
        parts = [
            addresses[start : start + LIST_LENGTH]
            for start in range(0, len(addresses), LIST_LENGTH)
        ]
        yield from ((f"{name}_{number}", _list(part)) for number, part in enumerate(parts))
        yield name, _list(tuple(f"${name}_{number}" for number in range(len(parts))))


def _is_long(addresses: Addresses) -> bool:
    return NOT_VAPP not in addresses and len(_list(addresses)) > LONGEST_LIST


def _group_name(addresses: Addresses) -> str:
    return f"NICS_{hashlib.sha256(_list(addresses).encode()).hexdigest()[:16].upper()}"


def _list(addresses: Addresses) -> str:
    return f"[{','.join(addresses)}]"


def _ports(service: Service) -> str:
    if service.protocol is Protocol.ICMP:
        return ANY
    return (
        str(service.first) if service.first == service.last else f"{service.first}:{service.last}"
    )
