"""Connections on which the data of a detector may leave: rules that mark them, and the lists of
addresses that these rules need.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from vcloud.compile.ips.ends import Ends, ends_of, groups_of, in_rule, ports_of
from vcloud.compile.ips.rules import Rule
from vcloud.design.addressing import spread
from vcloud.design.model import Design, Detector, Flow
from vcloud.values import covers, is_outside, share_a_port

FIRST_EXCEPTION, LAST_EXCEPTION = 1270000, 1299999
SID_BITS: Final = 32


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
    """The exceptions of these detectors. An exception keeps its sids when others are added or
    removed.
    """
    wanted = {name for detector in detectors for name in detector.excepted}
    flows = {flow.id: flow for flow in design.flows if flow.id in wanted}
    ends = {name: tuple(ends_of(design, flow)) for name, flow in flows.items()}
    bits: dict[str, str] = {}
    markers: dict[str, Rule] = {}
    for detector in detectors:
        plain = {
            name: tuple(_flow_rules(flows[name], ends[name], _others(design, detector, name)))
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
                    # noalert: the rule only marks the connection, and the log does not mention it.
                    rule,
                    options=f"flow:to_server; flowbits:set,{bit}; noalert;",
                )
    sids = spread(markers, SID_BITS, FIRST_EXCEPTION, LAST_EXCEPTION, "exception")
    rules = tuple(replace(rule, sid=sids[key]) for key, rule in markers.items())
    return Exceptions(
        rules,
        bits,
        dict(
            groups_of(addresses for pairs in ends.values() for pair in pairs for addresses in pair)
        ),
    )


def _bit(detector: Detector, rules: list[Rule]) -> str:
    """The name of the flowbit. It changes when other connections are excepted."""
    meant = "\n".join(rule.source + rule.target + rule.ports + rule.protocol for rule in rules)
    return f"free.{detector.id}.{hashlib.sha256(meant.encode()).hexdigest()[:8]}"


def _others(design: Design, detector: Detector, name: str) -> tuple[str, ...]:
    """The prefixes of flows that are not excepted, but whose connections the excepted flow `name`
    would allow, too. Connections to or from these prefixes are not excepted.
    """
    flow = next(flow for flow in design.flows if flow.id == name)
    outside = flow.prefix
    return tuple(
        sorted(
            {
                str(other.prefix)
                for other in design.flows
                if other.prefix and other.id not in detector.excepted and _may_share(flow, other)
                if outside is None or (other.prefix != outside and covers(outside, other.prefix))
            }
        )
    )


def _may_share(one: Flow, other: Flow) -> bool:
    """Whether both flows allow some connection of the same VM with the outside, in the same
    direction and on the same port.
    """
    if is_outside(one.target) != is_outside(other.target):
        return False
    nics = [
        {nic.mac for path in flow.paths for nic in (path.source, path.target) if nic}
        for flow in (one, other)
    ]
    return not nics[0].isdisjoint(nics[1]) and share_a_port(one.services, other.services)


def _without(addresses: str, others: tuple[str, ...]) -> str:
    return f"[{','.join((addresses, *(f'!{other}' for other in others)))}]"


def _flow_rules(flow: Flow, ends: tuple[Ends, ...], others: tuple[str, ...]) -> Iterator[Rule]:
    """Rules that match exactly the packets from the sources of a flow to its targets, without
    `others` of its addresses outside. They have neither sid nor options yet.
    """
    outgoing, incoming = is_outside(flow.target) and others, is_outside(flow.source) and others
    for service in sorted(flow.services):
        for sources, targets in ends:
            source, target = in_rule(sources), in_rule(targets)
            yield Rule(
                sid=0,
                message=f"data may leave on flow {flow.id}",
                protocol=service.protocol,
                source=_without(source, others) if incoming else source,
                target=_without(target, others) if outgoing else target,
                ports=ports_of(service),
                options="",
                kind="not-suspicious",
                metadata=f"flow {flow.id}",
            )
