"""Reads what `firewall-report` prints in the firewall VM: nft's own JSON listing, in the dialects of nft 1.0.6 and later."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vcloud.errors import NONSENSE, GuestError

Denied = tuple[str, str, str, int]
"""Source, target, protocol (`icmp` also for ICMPv6; a number where it has no name here) and port, which is 0 for what has none."""
Spoofed = tuple[str, str]
"""The firewall's card that a packet came in by, and the source that it claimed."""

TABLE = "inet vcloud"
_PROTOCOLS = {"1": "icmp", "6": "tcp", "17": "udp", "58": "icmp", "icmpv6": "icmp", "ipv6-icmp": "icmp"}
"""A guest without /etc/protocols lists numbers."""


@dataclass(frozen=True, slots=True)
class FirewallReport:
    """What the firewall has counted since its ruleset was loaded, in packets."""

    digest: str
    """Of the ruleset in force; `firewall-load` printed the same when it was loaded."""
    connections: int
    connections_max: int
    tables: tuple[str, ...]
    """All tables, as `family name`: any but `TABLE` is somebody else's."""
    flows: Mapping[str, int]
    """Flow id -> packets in both directions; flows without traffic are there with 0."""
    controls: Mapping[str, int]
    """Name of a control, such as `antispoof` or `default-deny` -> packets."""
    denied: Mapping[Denied, int]
    """What was denied in the last ten minutes."""
    spoofed: Mapping[Spoofed, int]
    """What came with a false source in the last ten minutes."""

    def denied_to(self, target: str, protocol: str, port: int) -> int:
        """What was denied towards one end, whoever sent it."""
        return sum(packets for (_, *end), packets in self.denied.items() if end == [target, protocol, port])


NOTHING = FirewallReport("", 0, 0, (), {}, {}, {}, {})
"""What a firewall without our ruleset has to report."""


def parse_report(output: bytes) -> FirewallReport:
    """The report in what `firewall-report` printed. Raises GuestError when it is not one."""
    try:
        document = json.loads(output)
        listing = document["ruleset"]["nftables"]
        counted = Counter[str]()
        for comment, packets in _rules(listing):
            counted[comment] += packets
        return FirewallReport(
            digest=str(document["digest"]),
            connections=int(document["connections"]),
            connections_max=int(document["connections_max"]),
            tables=tuple(f"{item['table']['family']} {item['table']['name']}" for item in listing if "table" in item),
            flows={
                comment.split()[0].removeprefix("flow:"): packets for comment, packets in counted.items() if comment.startswith("flow:")
            },
            controls={comment.removeprefix("ctl:"): packets for comment, packets in counted.items() if comment.startswith("ctl:")},
            denied=dict(_denied(listing)),
            spoofed={(str(card), str(source)): packets for (card, source), packets in _elements(listing, "dyn_spoofed")},
        )
    except NONSENSE as error:
        raise GuestError(
            "the firewall's report cannot be read", "Its image may be older than this vcloud: build it again with 'vcloud image build'."
        ) from error


def _rules(listing: list[dict[str, Any]]) -> Iterator[tuple[str, int]]:
    """Comment and packets of every counting rule of ours."""
    for item in listing:
        rule = item.get("rule")
        if rule is None or f"{rule['family']} {rule['table']}" != TABLE or "comment" not in rule:
            continue
        yield from ((rule["comment"], int(part["counter"]["packets"])) for part in rule["expr"] if "counter" in part)


def _denied(listing: list[dict[str, Any]]) -> Iterator[tuple[Denied, int]]:
    for (source, target, protocol, *port), packets in _elements(listing, "dyn_denied"):
        name = _PROTOCOLS.get(str(protocol), str(protocol))
        yield (source, target, name, int(port[0]) if port else 0), packets


def _elements(listing: list[dict[str, Any]], prefix: str) -> Iterator[tuple[list[Any], int]]:
    """Fields and packets of every element of the sets with this beginning."""
    for item in listing:
        found = item.get("set")
        if found is None or f"{found['family']} {found['table']}" != TABLE or not found["name"].startswith(prefix):
            continue
        for element in found.get("elem", ()):
            yield element["elem"]["val"]["concat"], int(element["elem"]["counter"]["packets"])
