"""What the ruleset says, as text and as values. That it does what it says is shown with packets in
tests/netns.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import UndefinedError

from tests.design_builder import UPLINK, build_design, with_flows
from vcloud.compile.environment import render
from vcloud.compile.firewall.maps import disjoint
from vcloud.compile.firewall.model import flow_comment
from vcloud.compile.firewall.rules import build_ruleset
from vcloud.compile.firewall.ruleset import FIREWALL_SYSCTLS, render_firewall
from vcloud.design.model import Flow
from vcloud.design.origin import FromFile

FLOWS = """
    checkout: internet -> web tcp/80=8080
    orders: web -> api tcp/8000 icmp
    updates: api -> internet tcp/443
"""
SHOP = build_design("dmz app", {"web": "dmz x2", "api": "app"}, FLOWS)
NFT_COMMENT_LIMIT = 128
RANGES = st.lists(
    st.tuples(st.integers(1, 60), st.integers(0, 20)).map(
        lambda pair: (pair[0], pair[0] + pair[1])
    ),
    max_size=8,
)


def flow_named(text: str) -> Flow:
    return replace(SHOP.flows[0], id=text)


def elements(text: str, name: str) -> list[str]:
    """The elements of one map or set in a rendered ruleset."""
    match = re.search(rf"\t(?:map|set) {name} {{.*?elements = {{\n(.*?)\n\t\t}}", text, re.DOTALL)
    return [line.strip().rstrip(",") for line in match[1].splitlines()] if match else []


def test_the_same_design_gives_the_same_bytes() -> None:
    again = build_design("dmz app", {"web": "dmz x2", "api": "app"}, FLOWS)
    assert render_firewall(SHOP, UPLINK) == render_firewall(again, UPLINK)


def test_the_tables_comment_holds_the_digest_of_the_text_with_zeros_in_its_place() -> None:
    text = render_firewall(SHOP, UPLINK)
    match = re.search(r'comment "vapp=shop sha256=([0-9a-f]{64})"', text)
    assert match
    assert hashlib.sha256(text.replace(match[1], "0" * 64).encode()).hexdigest() == match[1]


def test_a_load_replaces_the_whole_table_in_one_transaction() -> None:
    assert render_firewall(SHOP, UPLINK).startswith(
        "table inet vcloud {\n}\ndelete table inet vcloud\ntable inet vcloud {\n"
    )


def test_every_flow_counts_in_a_chain_of_its_own_under_its_id() -> None:
    text = render_firewall(SHOP, UPLINK)
    for flow in ("checkout", "orders", "updates"):
        assert (
            len(
                re.findall(
                    rf'chain flow_{flow} {{\n\t\tct mark set \S+ meta mark set 0x1 counter accept comment "flow:{flow}"\n',
                    text,
                )
            )
            == 1
        )


def test_nothing_is_accepted_in_the_forward_hook_but_by_a_flow() -> None:
    text = render_firewall(SHOP, UPLINK)
    accepting = [line.strip() for line in text.splitlines() if re.search(r"\baccept\b", line)]
    forwarding = [line for line in accepting if line.startswith("ct mark set")]
    assert len(forwarding) == len(SHOP.flows)
    # It is a state of TCP in the times of strangers, and nowhere what a packet is asked for.
    assert not re.search(r"established(?! : \d)", text)


def test_all_base_chains_of_filters_drop_by_policy() -> None:
    hooks = re.findall(
        r"type filter hook (\w+) priority ([^;]+); policy (\w+);", render_firewall(SHOP, UPLINK)
    )
    assert hooks == [
        ("prerouting", "-450", "drop"),
        ("prerouting", "raw", "drop"),
        ("input", "filter", "drop"),
        ("output", "filter", "drop"),
        ("prerouting", "dstnat + 10", "drop"),
        ("forward", "filter", "drop"),
        ("postrouting", "srcnat + 10", "drop"),
    ]


def test_exact_ports_need_no_interval_maps_and_ranges_get_them() -> None:
    assert "_ranges" not in render_firewall(SHOP, UPLINK)
    ranged = render_firewall(with_flows(SHOP, "metrics: api -> web tcp/9000-9010"), UPLINK)
    assert len(elements(ranged, "inside_ranges4")) == len(elements(ranged, "inside_ranges6")) == 2
    assert "inside_ports" not in ranged


def test_of_flows_that_share_packets_the_one_of_the_first_id_counts_wherever_it_stands() -> None:
    flows = ["b: zone:dmz -> api tcp/80", "a: web -> api tcp/80", "c: web -> api tcp/80-90"]
    for order in (flows, flows[::-1]):
        text = render_firewall(with_flows(SHOP, "\n".join(order)), UPLINK)
        assert [element.rpartition("_")[2] for element in elements(text, "inside_ports4")] == [
            "a",
            "a",
        ]
        assert [element.rpartition("_")[2] for element in elements(text, "inside_ranges4")] == [
            "c",
            "c",
        ]


def test_both_versions_of_ip_say_the_same() -> None:
    text = render_firewall(SHOP, UPLINK)
    for name in (
        "inside_ports",
        "inside_echo",
        "egress_ports",
        "ingress_ports",
        "nics",
        "gateways",
    ):
        assert len(elements(text, f"{name}4")) == len(elements(text, f"{name}6")) > 0


def test_an_uplink_without_ipv6_has_no_ipv6_flows_with_the_outside() -> None:
    text = render_firewall(SHOP, replace(UPLINK, address6=None, gateway6=None))
    assert not any(elements(text, name) for name in ("egress_ports6", "ingress_ports6"))
    assert "snat ip6" not in text
    assert "dnat ip6" not in text
    assert elements(text, "inside_ports6")


def test_shifted_ranges_are_published_port_by_port() -> None:
    text = render_firewall(with_flows(SHOP, "bulk: internet -> api tcp/5000-5002=6000"), UPLINK)
    assert "tcp dport map { 6000 : 5000, 6001 : 5001, 6002 : 5002 }" in text


def test_the_firewalls_uplink_counts_as_inside_even_between_zone_prefixes() -> None:
    """The set of prefixes is merged: nft refuses overlapping elements."""
    inside = replace(UPLINK, address4=type(UPLINK.address4)(f"{SHOP.zones[0].prefix4[9]}/20"))
    assert str(SHOP.zones[0].prefix4[9]) + "/32" not in elements(
        render_firewall(SHOP, inside), "inside4"
    )
    assert "198.18.1.10/32" in elements(render_firewall(SHOP, UPLINK), "inside4")


@pytest.mark.parametrize("name", ["fwd", "ether", "drop", "accept", "vmap"])
def test_words_that_nft_reserves_can_be_flow_ids(name: str) -> None:
    assert f"chain flow_{name} {{" in render_firewall(
        with_flows(SHOP, f"{name}: web -> api tcp/80"), UPLINK
    )


@given(st.text(min_size=1, max_size=300))
def test_no_users_text_becomes_syntax(flow_id: str) -> None:
    design = replace(SHOP, flows=(flow_named(flow_id),))
    (chain,) = build_ruleset(design, UPLINK).flows
    assert re.fullmatch(r"flow_[a-z0-9_-]{1,64}", chain.name)
    assert not set(chain.comment) & set('"\\\n')
    assert chain.comment.isascii()
    assert len(chain.comment) < NFT_COMMENT_LIMIT


def test_different_odd_ids_get_different_chains() -> None:
    ids = ["A", "a", "ä", "a b", "a_b", "_a"]
    design = replace(SHOP, flows=tuple(map(flow_named, ids)))
    assert len({chain.name for chain in build_ruleset(design, UPLINK).flows}) == len(ids)


def test_two_flows_of_one_id_are_refused_because_nft_would_merge_their_chains() -> None:
    with pytest.raises(ValueError, match="same id"):
        render_firewall(replace(SHOP, flows=(flow_named("a"), flow_named("a"))), UPLINK)


def test_icmp_cannot_be_published() -> None:
    with pytest.raises(ValueError, match="ICMP"):
        render_firewall(with_flows(SHOP, "ping: internet -> web icmp"), UPLINK)


@pytest.mark.parametrize("name", ["", "a" * 16, 'x"', "a b", "eth*"])
def test_what_cannot_name_an_interface_is_refused(name: str) -> None:
    *others, uplink = SHOP.firewall.nics
    firewall = replace(SHOP.firewall, nics=(*others, replace(uplink, ifname=name)))
    with pytest.raises(ValueError, match="interface"):
        render_firewall(replace(SHOP, firewall=firewall), UPLINK)


def test_a_comment_is_the_stable_id_of_its_flow_and_nothing_else() -> None:
    """Neither the line nor the reason: they change without a change of the traffic."""
    flow = flow_named("checkout")
    other = replace(flow, why="another reason", origin=FromFile("other.yaml", 1234))
    assert flow_comment(flow) == flow_comment(other) == "flow:checkout"


def test_a_flows_mark_changes_with_its_services_and_not_with_its_neighbours() -> None:
    def marks(flows: str) -> dict[str, str]:
        return {
            chain.name: chain.mark for chain in build_ruleset(with_flows(SHOP, flows), UPLINK).flows
        }

    before = marks("a: web -> api tcp/80\nb: web -> api tcp/81")
    assert before["flow_a"] == marks("z: api -> web tcp/1\na: web -> api tcp/80")["flow_a"]
    assert before["flow_a"] != marks("a: web -> api tcp/82")["flow_a"]
    assert len(set(before.values())) == 2


@given(RANGES)
def test_disjoint_ranges_hold_the_same_ports_and_each_belongs_to_its_first_declarer(
    ranges: list[tuple[int, int]],
) -> None:
    declared = [(first, last, str(number)) for number, (first, last) in enumerate(ranges)]
    wanted: dict[int, str] = {}
    for first, last, owner in declared:
        for port in range(first, last + 1):
            wanted.setdefault(port, owner)
    got = [
        (port, owner)
        for first, last, owner in disjoint(declared)
        for port in range(first, last + 1)
    ]
    assert Counter(got) == Counter(wanted.items())


def test_forwarding_is_switched_on_before_what_it_would_reset() -> None:
    keys = [key for key, _ in FIREWALL_SYSCTLS]
    assert keys[0] == "net/ipv4/ip_forward"
    assert len(keys) == len(set(keys))


def test_a_template_never_prints_what_is_missing_or_none() -> None:
    rules = build_ruleset(SHOP, UPLINK)
    with pytest.raises(UndefinedError):
        render("nftables/firewall.nft.j2", rules=rules)
    with pytest.raises(TypeError, match="None"):
        render("nftables/firewall.nft.j2", rules=rules, digest=None)


@pytest.mark.parametrize(
    ("published", "shown"),
    [
        ("tcp/22", [("tcp", "23-1023"), ("tcp", "1024-65535")]),
        ("udp/60000-65535", [("udp", "1-1023"), ("udp", "1024-59999")]),
        ("tcp/500-2000 udp/1-1023", [("tcp", "1-499"), ("tcp", "2001-65535")]),
        ("udp/1-65535", []),
    ],
)
def test_no_vm_is_seen_to_send_from_a_published_port(
    published: str, shown: list[tuple[str, str]]
) -> None:
    ruleset = build_ruleset(with_flows(SHOP, f"a: internet -> web {published}"), UPLINK)
    assert [(one.protocol, one.shown) for one in ruleset.source_ports][:2] == shown


def test_where_all_low_ports_are_published_high_ones_are_shown() -> None:
    ruleset = build_ruleset(with_flows(SHOP, "a: internet -> web udp/1-1023"), UPLINK)
    assert {(one.original, one.shown) for one in ruleset.source_ports} == {
        ("0-1023", "1024-65535"),
        ("1024-65535", "1024-65535"),
    }
    assert build_ruleset(with_flows(SHOP, "a: api -> internet udp/1"), UPLINK).source_ports == ()
