"""Reading nft's listing in the dialects it comes in; tests/netns reads what the real program
prints.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from vcloud.proof.firewall_report import Card, parse_firewall_report
from vcloud.untrusted import UnreadableError


def rule(comment: str, packets: int, table: str = "vcloud") -> dict[str, object]:
    counter = {"counter": {"packets": packets, "bytes": 0}}
    return {
        "rule": {
            "family": "inet",
            "table": table,
            "chain": "c",
            "comment": comment,
            "expr": [counter, {"drop": None}],
        }
    }


def denied(name: str, packets: int, *key: object) -> dict[str, object]:
    element = {
        "elem": {
            "val": {"concat": list(key)},
            "expires": 599,
            "counter": {"packets": packets, "bytes": 0},
        }
    }
    return {"set": {"family": "inet", "table": "vcloud", "name": name, "elem": [element]}}


def report(*items: dict[str, object]) -> bytes:
    return json.dumps(
        {
            "digest": "abc",
            "kept": "def",
            "identity": "012",
            "network": ["link lo 00:00:00:00:00:00 -", "up lo"],
            "tables": {"nftables": [item for item in items if "table" in item]},
            "ruleset": {"nftables": list(items)},
        }
    ).encode()


def test_digests_and_the_kernels_network_are_those_of_the_report() -> None:
    read = parse_firewall_report(report(rule("ctl:antispoof", 2)))
    assert (read.digest, read.kept, read.identity) == ("abc", "def", "012")
    assert read.network == (("link", "lo", "00:00:00:00:00:00", "-"), ("up", "lo"))


def test_the_report_of_an_earlier_image_has_its_tables_in_the_listing_only() -> None:
    document = json.loads(report({"table": {"family": "inet", "name": "vcloud"}}))
    del document["tables"]
    assert parse_firewall_report(json.dumps(document).encode()).tables == ("inet vcloud",)


def test_forged_errors_are_those_of_vclouds_rule() -> None:
    rules = (
        rule("ctl:forged-error", 5),
        rule("ctl:invalid", 2),
        rule("ctl:forged-error", 9, "mine"),
    )
    assert parse_firewall_report(report(*rules)).forged_errors == 5


def test_a_foreign_table_is_named_and_its_sets_count_for_nothing() -> None:
    foreign = {
        "set": {
            "family": "ip",
            "table": "mine",
            "name": "dyn_denied4",
            "elem": denied("", 9, "10.0.0.1", "10.0.0.2", "tcp", 1),
        }
    }
    read = parse_firewall_report(report({"table": {"family": "ip", "name": "mine"}}, foreign))
    assert (read.tables, read.denied) == (("ip mine",), {})


@pytest.mark.parametrize(
    ("listed", "name"), [("tcp", "tcp"), (6, "tcp"), (17, "udp"), (132, "132")]
)
def test_protocols_have_names_also_where_the_guest_lists_numbers(listed: object, name: str) -> None:
    read = parse_firewall_report(
        report(denied("dyn_denied4", 4, "10.0.0.1", "10.0.0.2", listed, 80))
    )
    assert read.denied == {("10.0.0.1", "10.0.0.2", name, 80): 4}


@pytest.mark.parametrize("listed", ["icmp", 1, "ipv6-icmp", "icmpv6", 58])
def test_icmp_has_one_name_and_no_port(listed: object) -> None:
    read = parse_firewall_report(
        report(denied("dyn_denied_portless6", 1, "fd00::1", "fd00::2", listed))
    )
    assert read.denied == {("fd00::1", "fd00::2", "icmp", 0): 1}


def test_forged_sources_are_told_by_nic() -> None:
    read = parse_firewall_report(
        report(
            denied("dyn_spoofed4", 3, "front", "10.0.0.1"),
            denied("dyn_spoofed6", 2, "back", "fd00::1"),
        )
    )
    assert read.spoofed == {("front", "10.0.0.1"): 3, ("back", "fd00::1"): 2}
    assert read.denied == {}


def test_what_was_denied_to_one_end_is_told_by_sender() -> None:
    senders = (
        denied("dyn_denied4", packets, source, "10.0.0.2", "tcp", 80)
        for packets, source in ((4, "10.0.0.1"), (3, "10.0.0.3"))
    )
    assert parse_firewall_report(report(*senders)).denied == {
        ("10.0.0.1", "10.0.0.2", "tcp", 80): 4,
        ("10.0.0.3", "10.0.0.2", "tcp", 80): 3,
    }


@pytest.mark.parametrize(
    "output",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        b'{"digest": "a"}',
        report().replace(b'"up lo"', b'"down lo"'),
        report().replace(b'"def"', b"7"),
        b'{"digest": 7, "ruleset": {"nftables": []}}',
        b'{"digest": "a", "ruleset": {"nftables": [NaN]}}',
        report({"set": {"family": "inet", "table": "vcloud"}}),
        report({"table": {"family": "inet"}}),
        report(denied("dyn_denied4", 4, "10.0.0.1", "10.0.0.2")),
        report(denied("dyn_denied4", 4, "10.0.0.1", "10.0.0.2", ["tcp"], 80)),
        report(denied("dyn_denied4", -4, "10.0.0.1", "10.0.0.2", "tcp", 80)),
        report(denied("dyn_denied4", 1 << 70, "10.0.0.1", "10.0.0.2", "tcp", 80)),
        report(denied("dyn_spoofed4", 4, "front", 7)),
    ],
    ids=lambda output: repr(output[:40]),
)
def test_what_is_no_report_is_unreadable(output: bytes) -> None:
    with pytest.raises(UnreadableError):
        parse_firewall_report(output)


def test_refused_connections_are_those_of_vclouds_own_set() -> None:
    listed = {"nftables": [denied("dyn_refused", 7, "z-app", "52:54:00:00:00:01")]}
    assert refused_in(listed) == {("z-app", "52:54:00:00:00:01"): 7}
    nothing = {"family": "inet", "table": "vcloud", "name": "dyn_refused"}
    assert refused_in({"nftables": [{"set": nothing}]}) == {}
    assert refused_in(None) == {}
    for hostile in ("", [], {"nftables": [{"set": 1}]}, {"nftables": 7}):
        with pytest.raises(UnreadableError):
            refused_in(hostile)


def test_an_image_that_tells_nothing_of_refused_connections_has_a_readable_report() -> None:
    assert parse_firewall_report(report()).refused == {}


def refused_in(listing: object) -> Mapping[Card, int]:
    document = json.loads(report()) | {"refused": listing}
    return parse_firewall_report(json.dumps(document).encode()).refused
