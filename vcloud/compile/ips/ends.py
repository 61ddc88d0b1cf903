"""The ends of a flow as the rules of the IPS name them: the addresses themselves, or the name of a
list if the addresses are too long for a rule.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Final

from vcloud.compile.ips.rules import ANY, NOT_VAPP
from vcloud.design.model import Design, Flow, FlowPath, Nic
from vcloud.values import Network, Protocol, Service

LONGEST_LIST: Final = 2000
"""A list of addresses with at most so many characters is written into the rule itself. Suricata
accepts no line of more than 8192 characters.
"""
LIST_LENGTH: Final = 100
"""Entries of one group in `vars.yaml`. More entries become a group of groups, because Suricata
accepts no list of more than 8192 characters.
"""

Addresses = tuple[str, ...]
"""Addresses of NICs, each NIC in both versions of IP; or a prefix outside, or `NOT_VAPP`, alone."""
Ends = tuple[Addresses, Addresses]
"""Sources, and the targets that each of them may reach."""


def crosses(design: Design, path: FlowPath) -> bool:
    """Whether traffic on the path passes the IPS."""
    ends = path.source, path.target
    return not design.are_neighbours(*ends) and any(
        nic.zone in design.inspection.zones for nic in ends if nic is not None
    )


def ends_of(design: Design, flow: Flow) -> Iterator[Ends]:
    """The sources of a flow in groups that have the same targets, and these targets.

    If a source is a target of others, it is added to its own targets. No packet goes from a NIC to
    itself, so this allows nothing more. But then all VMs of a tier that talk to each other have the
    same targets and form one group.
    """
    targets: dict[str, set[str]] = {}
    texts = _addresses_of(design, flow)
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


def _addresses_of(design: Design, flow: Flow) -> dict[int, str]:
    """The addresses of each end, by the `id()` of its NIC. Each text is made only once, because a
    flow between large tiers has far more paths than ends.
    """
    nics = {id(nic): nic for path in flow.paths for nic in (path.source, path.target)}
    outside = _outside(design, flow.prefix) if flow.prefix else NOT_VAPP
    return {key: _address(nic) if nic else outside for key, nic in nics.items()}


def _outside(design: Design, prefix: Network) -> str:
    """A prefix without the zones of the vApp. Only zones of the same version of IP are named: if a
    list has only exceptions for one version, Suricata takes it for all other addresses of that
    version.
    """
    zones = [zone.prefix4 if prefix.version == 4 else zone.prefix6 for zone in design.zones]
    inner = sorted(f"!{zone}" for zone in zones if zone.overlaps(prefix))
    return f"[{','.join((str(prefix), *inner))}]" if inner else str(prefix)


def _address(nic: Nic) -> str:
    return f"{nic.address4},{nic.address6}"


def in_rule(addresses: Addresses) -> str:
    """Addresses as they stand in a rule: themselves, or the name of their group."""
    if NOT_VAPP in addresses:
        return NOT_VAPP
    return f"${_group_name(addresses)}" if _is_long(addresses) else _list(addresses)


def groups_of(lists: Iterable[Addresses]) -> Iterator[tuple[str, str]]:
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


def ports_of(service: Service) -> str:
    if service.protocol is Protocol.ICMP:
        return ANY
    return (
        str(service.first) if service.first == service.last else f"{service.first}:{service.last}"
    )
