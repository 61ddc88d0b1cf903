"""Reads what `firewall-report` prints in the firewall VM.

It prints one JSON object. The object has digests of the loaded ruleset and of the files for the
next boot, a list of everything in the kernel's network (`vcloud.proof.guest_network`), and nft's
own JSON listings of the names of all tables and of the set `REFUSED`. If asked for, it also has
nft's listing of the content of all tables with counters. nft 1.0.6 and later versions write some values in different ways.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from vcloud.proof.guest_network import Words, parse_network
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

Card = tuple[str, str]
"""The firewall's NIC at which a packet arrived, and the MAC address of its sender."""

TABLE = "inet vcloud"
REFUSED = "dyn_refused"
"""The set of those whose new connections exceeded a limit in the last ten minutes."""
FORGED_ERROR = "ctl:forged-error"
"""The comment of the rule that drops forged ICMP errors."""
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
    """The firewall's configuration, and the packets that it has dropped since its ruleset was
    loaded.
    """

    digest: str
    """The digest of the loaded ruleset. `firewall-load` printed the same digest when it loaded it.
    Empty if vcloud's ruleset is not loaded.
    """
    tables: tuple[str, ...]
    """All nft tables, as `family name`. vcloud makes only `TABLE`."""
    denied: Mapping[Denied, int]
    """Packets that no flow allows, dropped in the last ten minutes. Empty if counts were not asked
    for.
    """
    spoofed: Mapping[Spoofed, int]
    """Packets with a forged source, dropped in the last ten minutes."""
    forged_errors: int = 0
    """ICMP errors about existing connections that were dropped as forged. Errors about no
    connection are not counted here.
    """
    kept: str = ""
    """The sha256 of the ruleset for the next boot; empty if `firewall-load` has stored none."""
    identity: str = ""
    """The sha256 of the identity for the next boot; empty if there is none."""
    network: tuple[Words, ...] = ()
    """Everything in the kernel's network, one item each."""
    refused: Mapping[Card, int] = field(default_factory=dict)
    """Packets that were refused in the last ten minutes because their senders had begun too many
    connections. Empty if the firewall's image or rules are of an earlier release, which did not
    report them.
    """


NOTHING = FirewallReport("", (), {}, {})
"""In place of a report that could not be read."""


def parse_firewall_report(output: bytes) -> FirewallReport:
    """The report that `firewall-report` printed. Raises UnreadableError."""
    document = as_mapping(parse_json(output))
    # Images of earlier releases list the tables with all their content only.
    tables = _listing(document, "tables" if "tables" in document else "ruleset")
    listing = _listing(document, "ruleset") if document.get("ruleset") is not None else []
    return FirewallReport(
        digest=text(document, "digest"),
        tables=tuple(
            f"{text(item['table'], 'family')} {text(item['table'], 'name')}"
            for item in tables
            if "table" in item
        ),
        denied=dict(_denied(listing)),
        spoofed=dict(_spoofed(listing)),
        forged_errors=sum(_dropped_by(listing, FORGED_ERROR)),
        kept=text(document, "kept"),
        identity=text(document, "identity"),
        network=parse_network(document),
        refused=dict(_refused(_listing(document, "refused")))
        if document.get("refused") is not None
        else {},
    )


def _listing(document: Mapping[str, object], key: str) -> list[Mapping[str, object]]:
    return [as_mapping(item) for item in items(mapping(document, key), "nftables")]


def _denied(listing: Sequence[Mapping[str, object]]) -> Iterator[tuple[Denied, int]]:
    for fields, packets in _elements(listing, "dyn_denied", 3):
        # The sets `dyn_denied_portless*` have no port.
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


def _refused(listing: Sequence[Mapping[str, object]]) -> Iterator[tuple[Card, int]]:
    for (nic, mac, *_), packets in _elements(listing, REFUSED, 2):
        yield (as_text(nic), as_text(mac)), packets


def _dropped_by(listing: Sequence[Mapping[str, object]], comment: str) -> Iterator[int]:
    """The packets that vcloud's rules with this comment have counted."""
    for item in listing:
        if "rule" not in item:
            continue
        rule = mapping(item, "rule")
        if (
            f"{text(rule, 'family')} {text(rule, 'table')}" != TABLE
            or rule.get("comment") != comment
        ):
            continue
        for statement in map(as_mapping, items(rule, "expr")):
            if "counter" in statement:
                yield number(mapping(statement, "counter"), "packets")


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
        # nft leaves out `elem` if the set is empty.
        for element in as_list(found.get("elem", [])):
            content = mapping(element, "elem")
            fields = items(mapping(content, "val"), "concat")
            if len(fields) < fewest:
                raise UnreadableError("a set element has too few fields")
            yield fields, number(mapping(content, "counter"), "packets")
