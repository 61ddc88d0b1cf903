"""The firewall whose rules were taken away by hand, as a whole or in part: nothing passes that did
not pass before.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import select
import socket
from collections.abc import Callable, Iterator, Sequence

import pytest

from tests.design_builder import UPLINK, with_flows
from tests.netns import frames
from tests.netns.fabric import LONG, Fabric, Live, Namespace, datagram, greeting, unanswered
from tests.netns.firewall.traffic import DATAGRAM, DESIGN, UNDECLARED, both_versions, outside
from vcloud.compile.firewall.ruleset import render_firewall

pytestmark = pytest.mark.timeout(900)

VERSIONS = (4, 6)
PREROUTING, FLOWS, FORWARD, POSTROUTING, SNAT = (
    f"inet vcloud hook_{name}" for name in ("prerouting", "flows", "forward", "postrouting", "snat")
)
STOPPED = {
    "the ruleset": "flush ruleset",
    "the table": "delete table inet vcloud",
    "the rules of all chains": "flush table inet vcloud",
    "the look at sources": f"flush chain {PREROUTING}\ndelete chain {PREROUTING}",
    "the look at sources, for another": "flush ruleset\ntable inet open {\nchain prerouting {\n"
    "type filter hook prerouting priority raw; policy accept;\n}\n}",
    "the look at sources, by a rule before it": f"insert rule {PREROUTING} accept",
    "the look at flows": f"flush chain {FLOWS}\ndelete chain {FLOWS}",
    "the look at flows, by a policy": f"flush chain {FLOWS}\nchain {FLOWS} {{ policy accept; }}",
    "the look at flows, by a rule before it": f"insert rule {FLOWS} accept",
    "the look at routes": f"flush chain {FORWARD}\ndelete chain {FORWARD}",
    "the look at routes, by a policy": f"flush chain {FORWARD}\nchain {FORWARD} {{ policy accept; }}",
    "the look at routes, by a rule before it": f"insert rule {FORWARD} accept",
}
"""What was taken away, and how."""
FEW = "in: internet -> web tcp/80=8080\non: web -> api tcp/8000 icmp\nout: api -> internet tcp/443"
"""A flow of each kind."""
WAYS = ("between zones", "within a zone", "to an open zone", "to the outside", "from the outside")
"""Ways that no flow allows."""
PATIENCE = 0.3
"""Seconds after which nothing comes any more."""


@pytest.fixture
def routed(net: Fabric) -> Iterator[Fabric]:
    """A vApp whose outside has a route to a VM, by the firewall."""
    web = [(net.address("web-1", version), net.uplink_address(version)) for version in VERSIONS]
    net.outside.ip(f"route add {address} via {uplink} dev eth0" for address, uplink in web)
    try:
        yield net
    finally:
        net.outside.ip(f"route del {address} dev eth0" for address, _ in web)


def change(net: Fabric, commands: str) -> None:
    done = net.firewall.run("nft", "-f", "-", input=f"{commands}\n")
    assert done.returncode == 0, done.stderr


def arrived(net: Fabric, patience: float = PATIENCE) -> set[tuple[str, int]]:
    """The ways by which a single datagram arrives, and in which version of IP. Nobody answers it."""
    with every_way(net) as (ways, send):
        send(b"x")
        return {ways[inbox] for inbox in _ready(list(ways), patience)}


@contextlib.contextmanager
def every_way(
    net: Fabric,
) -> Iterator[tuple[dict[socket.socket, tuple[str, int]], Callable[[bytes], None]]]:
    """The sockets at the end of each way, and a function that sends a datagram along all ways."""
    ends = (("web-1", "db"), ("web-1", "web-2"), ("web-1", "tool-1"), ("db", ""), ("", "web-1"))
    with contextlib.ExitStack() as stack:
        ways, senders = {}, {}
        for version in VERSIONS:
            for way, (source, target) in zip(WAYS, ends, strict=True):
                address = net.address(target, version) if target else outside(version)
                inbox = stack.enter_context(_bound(_place(net, target), address))
                ways[inbox] = way, version
                senders[inbox] = stack.enter_context(
                    _place(net, source).socket(inbox.family, DATAGRAM)
                )

        def send(payload: bytes) -> None:
            for inbox, sender in senders.items():
                sender.sendto(payload, inbox.getsockname()[:2])

        yield ways, send


def _place(net: Fabric, name: str) -> Namespace:
    return net.vms[name] if name else net.outside


@contextlib.contextmanager
def _bound(where: Namespace, address: str) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with where.socket(family, DATAGRAM) as inbox:
        inbox.bind((address, 0))
        yield inbox


def _ready(sockets: Sequence[socket.socket], patience: float = PATIENCE) -> set[socket.socket]:
    """Those at which something has arrived, when nothing more comes or all have something."""
    silent = set(sockets)
    while silent and (ready := select.select(silent, [], [], patience)[0]):
        silent -= set(ready)
    return set(sockets) - silent


@pytest.mark.parametrize("gone", STOPPED)
def test_without_rules_nothing_is_forwarded(routed: Fabric, gone: str) -> None:
    assert arrived(routed) == set()
    with contextlib.ExitStack() as stack:
        lives = [
            stack.enter_context(Live(*ends))
            for version in VERSIONS
            for ends in (
                (routed.vms["web-1"], routed.address("api", version), 8000),
                (routed.outside, routed.uplink_address(version), 8080),
                (routed.vms["api"], outside(version), 443),
            )
        ]
        assert all(live.echoes("before") for live in lives)
        change(routed, STOPPED[gone])
        assert arrived(routed) == set()
        assert not _say_and_hear([live.socket for live in lives])


def _say_and_hear(ends: Sequence[socket.socket]) -> bytes:
    """What comes back. A firewall without rules itself refuses what comes to its own address."""
    said = b""
    for end in ends:
        with contextlib.suppress(ConnectionResetError):
            end.sendall(b"after\n")
    for end in _ready(ends):
        with contextlib.suppress(ConnectionResetError):
            said += end.recv(100)
    return said


def without(text: str, names: Sequence[str]) -> str:
    """The ruleset with these chains taken away. A chain that others jump to cannot be deleted, and
    without rules it does as much.
    """
    gone = [f"flush chain inet vcloud {name}" for name in names]
    gone += [f"delete chain inet vcloud {name}" for name in names if name.startswith("hook_")]
    return "\n".join(("flush ruleset", text, *gone))


@pytest.mark.parametrize(
    "whole",
    [False, pytest.param(True, marks=[pytest.mark.long, pytest.mark.timeout(1800)])],
    ids=["pairs of hooks", "all pairs and any hooks"],
)
def test_without_any_chain_or_any_two_no_undeclared_way_is_open(
    routed: Fabric, whole: bool
) -> None:
    text = render_firewall(with_flows(DESIGN, FEW), UPLINK)
    chains = re.findall(r"^\tchain (\S+) {$", text, re.MULTILINE)
    hooks = [name for name in chains if name.startswith("hook_")]
    cases = {*itertools.combinations(chains, 1), *itertools.combinations(hooks, 2)}
    assert ("hook_forward", "hook_postrouting") in cases
    if whole:
        cases |= {*itertools.combinations(chains, 2)}
        cases |= {case for size in range(3, 9) for case in itertools.combinations(hooks, size)}
    with every_way(routed) as (ways, send):
        for case in cases:
            change(routed, without(text, case))
            send(" ".join(case).encode())
        opened = {(*ways[inbox], inbox.recv(200)) for inbox in _ready(list(ways))}
    assert opened == set()


def test_without_the_last_look_the_others_still_decide(routed: Fabric) -> None:
    change(routed, f"flush chain {POSTROUTING}\ndelete chain {POSTROUTING}")
    assert arrived(routed) == set()
    assert unanswered(routed.vms["web-1"], routed.address("api", 4), UNDECLARED, wait=PATIENCE)
    assert greeting(routed.vms["web-1"], routed.address("api", 4), 8000)


@both_versions
def test_without_nat_no_address_of_a_vm_gets_outside(routed: Fabric, version: int) -> None:
    """Not even on a flow that may leave."""
    with (
        routed.vms["api"].socket(
            socket.AF_INET if version == 4 else socket.AF_INET6, DATAGRAM
        ) as client,
        frames.listening(routed.outside, "eth0") as until,
    ):
        client.sendto(b"with NAT", (outside(version), 123))
        assert len(until(b"with NAT")) >= 1
        change(routed, f"flush chain {SNAT}\ndelete chain {SNAT}")
        for port in (123, 443):
            with routed.vms["api"].socket(client.family, DATAGRAM) as other:
                other.sendto(b"without NAT", (outside(version), port))
        client.sendto(b"on the connection", (outside(version), 123))
        assert b"without NAT" not in b"".join(until(b"on the connection"))
    assert routed.counted()["ctl:route"] == 1


@both_versions
def test_a_packet_in_a_broadcast_is_not_forwarded(routed: Fabric, version: int) -> None:
    """The look at flows leaves broadcasts to the firewall itself."""
    web, api = routed.address("web-1", version), routed.address("api", version)
    macs = routed.card("web-1").mac, routed.design.zone("dmz").gateway.mac
    with frames.listening(routed.vms["api"], "eth0") as until:
        for port in (53, 54):
            packet = frames.udp(web, 4448, api, port, b"cast")
            for target in ("ff:ff:ff:ff:ff:ff", "33:33:00:00:00:01"):
                frames.send(routed.vms["web-1"], "eth0", frames.ethernet(macs[0], target, packet))
        packet = frames.udp(web, 4448, api, 53, b"ordinary")
        frames.send(routed.vms["web-1"], "eth0", frames.ethernet(*macs, packet))
        assert b"cast" not in b"".join(until(b"ordinary"))


@both_versions
def test_rules_that_are_loaded_again_open_their_flows(routed: Fabric, version: int) -> None:
    change(routed, "flush ruleset")
    routed.load(DESIGN)
    api = routed.address("api", version)
    assert greeting(routed.vms["web-1"], api, 8000)
    assert datagram(routed.vms["web-1"], api, 53)
    assert routed.vms["web-1"].pings(api)
    assert greeting(routed.outside, routed.uplink_address(version), 8080)
    assert greeting(routed.vms["api"], outside(version), 443)
    assert arrived(routed) == set()


def test_it_is_the_mark_without_which_nothing_is_forwarded(routed: Fabric) -> None:
    """The twin of the above: where the kernel routes without a mark, all these ways are open."""
    for version in VERSIONS:
        routed.firewall.ip(["rule del priority 1002"], f"-{version}")
    try:
        assert arrived(routed) == set()
        change(routed, "flush ruleset")
        assert arrived(routed, LONG) == {(way, version) for way in WAYS for version in VERSIONS}
    finally:
        for version in VERSIONS:
            routed.firewall.ip(["rule add blackhole priority 1002 protocol 86"], f"-{version}")


@both_versions
def test_the_firewall_still_says_that_a_packet_lived_too_long(net: Fabric, version: int) -> None:
    """What it sends itself bears no mark of a packet that came in."""
    said = net.vms["web-1"].run(
        "ping", "-n", "-c", "1", "-W", "60", "-t", "1", net.address("api", version)
    )
    gateway = net.design.zone("dmz").gateway
    assert f"From {gateway.address4 if version == 4 else gateway.address6}" in said.stdout
    assert "exceeded" in said.stdout
