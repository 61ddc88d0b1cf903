"""What the firewall reports about itself, and each change by hand that its report makes visible."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import subprocess
import sys
from dataclasses import replace

import pytest

from tests.netns import programs
from tests.netns.fabric import LONG, Fabric
from tests.netns.firewall.traffic import DESIGN, STREAM
from vcloud.compile.firewall.ruleset import render_firewall
from vcloud.proof.firewall_report import TABLE
from vcloud.proof.guest_network import Claim

pytestmark = pytest.mark.timeout(900)

HANDS = {
    "a bridge": (
        "ip link add br0 type bridge; ip link set z-app master br0; ip link set z-cde master br0",
        "ip link del br0",
        Claim.LINKS,
        {"foreign: link z-app {app} - master br0", "missing: link z-app {app} -"},
    ),
    "a tunnel": (
        "ip link add vx0 address {app} type vxlan id 7 dev z-app dstport 4789",
        "ip link del vx0",
        Claim.LINKS,
        {"foreign: link vx0 {app} vxlan"},
    ),
    "another MAC address": (
        "ip link set z-app address 52:54:00:00:00:99",
        "ip link set z-app address {app}",
        Claim.LINKS,
        {"foreign: link z-app 52:54:00:00:00:99 -", "missing: link z-app {app} -"},
    ),
    "a proxy": (
        "ip neigh add proxy 10.9.9.9 dev z-app",
        "ip neigh del proxy 10.9.9.9 dev z-app",
        Claim.LINKS,
        {"foreign: proxy z-app 10.9.9.9"},
    ),
    "traffic control": (
        "tc qdisc add dev z-app clsact",
        "tc qdisc del dev z-app clsact",
        Claim.QUEUES,
        {"foreign: qdisc z-app clsact ffff"},
    ),
    "a NIC that is down": ("ip link set z-plain down", "", Claim.ROUTING, {"missing: up z-plain"}),
    "an address": (
        "ip addr add 10.9.9.9/32 dev z-app",
        "",
        Claim.ROUTING,
        {"foreign: addr z-app 10.9.9.9/32"},
    ),
    "an address of the loopback": (
        "ip addr add fd99::1/128 dev lo",
        "",
        Claim.ROUTING,
        {"foreign: addr lo fd99::1/128"},
    ),
    "a route": (
        "ip route add 10.9.9.0/24 dev z-app",
        "",
        Claim.ROUTING,
        {"foreign: route z-app 10.9.9.0/24"},
    ),
    "a route of another table": (
        "ip -6 route add default dev z-app table 7",
        "",
        Claim.ROUTING,
        {"foreign: route z-app ::/0 table 7"},
    ),
    "a route that claims to be the kernel's": (
        "ip route add 10.9.9.0/24 dev z-app proto kernel",
        "",
        Claim.ROUTING,
        {"foreign: route z-app 10.9.9.0/24 kernel"},
    ),
    "a route to nowhere": (
        "ip route add blackhole 10.9.9.0/24",
        "",
        Claim.ROUTING,
        {"foreign: route - 10.9.9.0/24 type6"},
    ),
    "a policy rule": (
        "ip rule add from 10.9.9.9 table main priority 5",
        "",
        Claim.ROUTING,
        {"foreign: rule 4 5 from 10.9.9.9/32 table 254"},
    ),
    "a policy rule that is gone": (
        "ip -6 rule del priority 1002",
        "",
        Claim.ROUTING,
        {"missing: rule 6 1002 blackhole"},
    ),
    "a policy rule for a mask": (
        "ip rule del priority 1000; ip rule add fwmark 0/1 table main priority 1000",
        "",
        Claim.ROUTING,
        {"foreign: rule 4 1000 mark 0 mask 1 table 254", "missing: rule 4 1000 mark 1 table 254"},
    ),
    "a neighbour": (
        "ip neigh replace 10.9.9.9 lladdr 52:54:00:00:00:99 dev z-app nud permanent",
        "",
        Claim.ROUTING,
        {"foreign: neigh z-app 10.9.9.9 52:54:00:00:00:99"},
    ),
    "a neighbour that is never asked for": (
        "ip neigh replace 10.9.9.9 lladdr 52:54:00:00:00:99 dev z-app nud noarp",
        "",
        Claim.ROUTING,
        {"foreign: neigh z-app 10.9.9.9 52:54:00:00:00:99 noarp"},
    ),
    "a neighbour that another program has learnt": (
        "ip -6 neigh replace fd99::9 lladdr 52:54:00:00:00:99 dev z-app nud reachable extern_learn",
        "",
        Claim.ROUTING,
        {"foreign: neigh z-app fd99::9 52:54:00:00:00:99 extern"},
    ),
    "a setting": (
        "echo 1 > /proc/sys/net/ipv4/conf/z-app/proxy_arp",
        "",
        Claim.SETTINGS,
        {"net/ipv4/conf/z-app/proxy_arp is 1, not 0"},
    ),
    "the check of sources": (
        "echo 2 > /proc/sys/net/ipv4/conf/z-app/rp_filter",
        "",
        Claim.SETTINGS,
        {"net/ipv4/conf/z-app/rp_filter is 2, not 1"},
    ),
}
"""Change by hand: how it is made, what undoes it if its identity does not, which claim it breaks, and
what is named.
"""


def by_hand(net: Fabric, script: str) -> None:
    mac = DESIGN.zone("app").gateway.mac
    done = net.firewall.run("sh", "-ec", script.format(app=mac))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("hand", HANDS)
def test_what_was_changed_by_hand_is_named_and_the_identity_mends_it(
    net: Fabric, hand: str
) -> None:
    do, undo, claim, named = HANDS[hand]
    mac = DESIGN.zone("app").gateway.mac
    by_hand(net, do)
    try:
        found = net.differences()
    finally:
        by_hand(net, undo)
        net.give_identity()
    assert {text.format(app=mac) for text in named} <= {*found[claim]}
    assert found.keys() <= {claim, Claim.ROUTING}, "the kernel forgets neighbours and routes itself"
    assert net.differences() == {}


def test_what_is_as_it_was_delivered_differs_in_nothing(net: Fabric) -> None:
    """After all that, too; and the report tells what there is to compare."""
    assert net.differences() == {}
    report = net.report()
    kinds = {words[0] for words in report.network}
    assert kinds >= {"link", "up", "qdisc", "addr", "neigh", "route", "rule", "sysctl"}
    assert report.tables == (TABLE,)


def test_a_program_that_reads_and_sends_frames_is_named(net: Fabric) -> None:
    with net.firewall.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind(("z-app", 3))
        assert net.differences() == {Claim.FRAMES: ("foreign: frames z-app",)}
    assert net.differences() == {}


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("xdp", {"foreign: link z-app {app} - xdp", "missing: link z-app {app} -"}),
        ("tcx", {"foreign: program z-app"}),
    ],
)
def test_a_program_that_sees_packets_before_the_rules_is_named(
    net: Fabric, kind: str, named: set[str]
) -> None:
    enter = ["ip", "netns", "exec", net.firewall.name]
    with subprocess.Popen(
        [*enter, sys.executable, programs.__file__, kind, "z-app"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"attached\n"
        mac = DESIGN.zone("app").gateway.mac
        found = net.differences()
        assert {*found[Claim.LINKS]} == {text.format(app=mac) for text in named}
        assert found.keys() == {Claim.LINKS}
    assert net.differences() == {}


def test_the_ruleset_of_the_next_boot_is_told_apart(net: Fabric) -> None:
    """Opened, cut off and removed; the ruleset in force is as it was."""
    text = render_firewall(DESIGN, net.uplink)
    delivered, kept = hashlib.sha256(text.encode()).hexdigest(), net.etc / "vcloud/firewall.nft"
    whole, digest = kept.read_text(), net.report().digest
    assert net.report().kept == delivered
    for other in (whole.replace("policy drop", "policy accept"), whole[:-1], text, ""):
        kept.write_text(other)
        assert net.report().kept != delivered
        assert net.report().digest == digest
    kept.unlink()
    assert net.report().kept == ""
    net.load(DESIGN)
    assert net.report().kept == delivered


def test_foreign_tables_are_named(net: Fabric) -> None:
    for table in ("ip mine", "netdev mine", "bridge mine", "arp mine"):
        by_hand(net, f"nft add table {table}")
        assert net.report().tables == (TABLE, table)
        by_hand(net, f"nft delete table {table}")


def test_connections_leave_the_report_as_it_is(net: Fabric) -> None:
    """What the kernel learns while packets pass is no difference."""
    with contextlib.ExitStack() as stack:
        for vm in ("web-1", "api"):
            client = stack.enter_context(net.vms[vm].socket(socket.AF_INET, STREAM))
            client.settimeout(LONG)
            client.connect(
                (net.address("api", 4), 8000) if vm == "web-1" else (net.address("db", 4), 5432)
            )
        assert net.outside.pings_in_vain(net.uplink_address(4))
        assert net.differences() == {}


def test_a_firewall_without_vclouds_ruleset_reports_that_and_all_else(net: Fabric) -> None:
    network = net.report().network
    by_hand(net, "nft delete table inet vcloud; nft add table ip mine")
    try:
        report = net.report()
        again = net.report("counts", "room")
    finally:
        by_hand(net, "nft delete table ip mine")
        net.load(DESIGN)
    assert (report.digest, report.tables) == ("", ("ip mine",))
    assert again == report
    assert {words[0] for words in report.network} == {words[0] for words in network}


def test_a_report_without_counts_tells_all_else(net: Fabric) -> None:
    assert net.outside.pings_in_vain(net.uplink_address(4))
    full, short = net.report(), net.report("")
    assert full.denied
    assert short == replace(full, denied={}, spoofed={})


def test_a_flood_is_counted_out_only_where_it_fills_what_is_counted(net: Fabric) -> None:
    """Sets of clients outside that are full leave the counts as they are. The twin fills a set of what
    was denied.
    """
    many = [f"198.18.{number >> 8}.{number & 255}" for number in range(1024)]
    known = [f"add element inet vcloud dyn_known4 {{ {address} }}" for address in many]
    known += [f"add element inet vcloud dyn_known6 {{ fd77::{n:x} }}" for n in range(1024)]
    known += [
        f'add element inet vcloud dyn_neighbours {{ "z-app" . 52:54:00:00:{n >> 8:02x}:{n & 255:02x} }}'
        for n in range(4096)
    ]
    denied = [
        f"add element inet vcloud dyn_denied4 {{ {address} . {address} . tcp . {port} }}"
        for address in many
        for port in (1, 2, 3)
    ]
    assert net.outside.pings_in_vain(net.uplink_address(4))
    assert net.report().denied
    try:
        for rules, kept in ((known, True), (denied, False)):
            net.firewall.run("nft", "-f", "-", input="\n".join(rules), check=True)
            assert net.report("").digest
            assert bool(net.report("counts", "room").denied) == kept
    finally:
        net.load(DESIGN)


def test_a_report_that_fails_is_not_one_of_a_firewall_without_rules(net: Fabric) -> None:
    """Such as one for which there is no memory."""
    done = net.report_within(6_000_000)
    assert done.returncode != 0
    assert "digest" not in done.stdout
