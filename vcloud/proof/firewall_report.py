"""Reads what `firewall-report` prints in the firewall VM.

It prints one JSON object: the digest of the loaded ruleset, and nft's own JSON listing of all
tables with their counters. nft 1.0.6 and later versions write some values in different ways.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from vcloud.untrusted import (
    UnreadableError,
    as_list,
    as_mapping,
    as_number,
    as_text,
    items,
    mapping,
    number,
    parse_json,
    text,
)

Denied = tuple[str, str, str, int]
"""Source, target, protocol (`icmp` also for ICMPv6; a number if it has no name here) and port. The
port is 0 if there is none.
"""
Spoofed = tuple[str, str]
"""The firewall's NIC at which a packet arrived, and the source address that the packet claimed."""

TABLE = "inet vcloud"
_PROTOCOLS = {
    "1": "icmp",
    "6": "tcp",
    "17": "udp",
    "58": "icmp",
    "icmpv6": "icmp",
    "ipv6-icmp": "icmp",
}
"""Other names of a protocol. A guest without /etc/protocols lists numbers."""


@dataclass(frozen=True, slots=True)
class FirewallReport:
    """What the firewall runs with, and how many packets it has dropped since that ruleset was
    loaded.
    """

    digest: str
    """The digest of the loaded ruleset. `firewall-load` printed the same digest when it loaded it.
    """
    tables: tuple[str, ...]
    """All nft tables, as `family name`. vcloud makes only `TABLE`."""
    denied: Mapping[Denied, int]
    """Packets that no flow allows, dropped in the last ten minutes."""
    spoofed: Mapping[Spoofed, int]
    """Packets with a forged source, dropped in the last ten minutes."""

    def denied_to(self, target: str, protocol: str, port: int) -> int:
        """How many packets to one target and port were denied, whoever sent them."""
        return sum(
            packets for (_, *end), packets in self.denied.items() if end == [target, protocol, port]
        )


NOTHING = FirewallReport("", (), {}, {})
"""The report of a firewall without vcloud's ruleset."""


def parse_firewall_report(output: bytes) -> FirewallReport:
    """The report that `firewall-report` printed. Raises UnreadableError."""
    document = parse_json(output)
    listing = [as_mapping(item) for item in items(mapping(document, "ruleset"), "nftables")]
    return FirewallReport(
        digest=text(document, "digest"),
        tables=tuple(
            f"{text(item['table'], 'family')} {text(item['table'], 'name')}"
            for item in listing
            if "table" in item
        ),
        denied=dict(_denied(listing)),
        spoofed=dict(_spoofed(listing)),
    )


def _denied(listing: Sequence[Mapping[str, object]]) -> Iterator[tuple[Denied, int]]:
    for fields, packets in _elements(listing, "dyn_denied", 3):
        source, target, protocol, *port = fields
        name = as_text(protocol) if isinstance(protocol, str) else str(as_number(protocol))
        yield (
            (
                as_text(source),
                as_text(target),
                _PROTOCOLS.get(name, name),
                as_number(port[0]) if port else 0,
            ),
            packets,
        )


def _spoofed(listing: Sequence[Mapping[str, object]]) -> Iterator[tuple[Spoofed, int]]:
    for (nic, source, *_), packets in _elements(listing, "dyn_spoofed", 2):
        yield (as_text(nic), as_text(source)), packets


def _elements(
    listing: Sequence[Mapping[str, object]], prefix: str, fewest: int
) -> Iterator[tuple[list[object], int]]:
    """Fields (at least `fewest`) and packets of every element of vcloud's sets whose names begin
    with `prefix`.
    """
    for item in listing:
        if "set" not in item:
            continue
        found = mapping(item, "set")
        if f"{text(found, 'family')} {text(found, 'table')}" != TABLE or not text(
            found, "name"
        ).startswith(prefix):
            continue
        for element in as_list(found.get("elem", [])):
            content = mapping(element, "elem")
            fields = items(mapping(content, "val"), "concat")
            if len(fields) < fewest:
                raise UnreadableError("a set element has too few fields")
            yield fields, number(mapping(content, "counter"), "packets")
