"""ICMP errors about the connections of flows: from where they may come, and what they may hold."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.design_builder import UPLINK
from tests.netns import frames
from tests.netns.fabric import LONG, Fabric
from tests.netns.firewall.traffic import DATAGRAM, DESIGN, both_versions, settled

pytestmark = pytest.mark.timeout(900)

OUTSIDE = ""
"""The name of the place outside the vApp."""
HONEST, FORGED = b"honest", b"forged"
NEAR = {4: str(UPLINK.gateway4), 6: str(UPLINK.gateway6)}
"""The address with which the place outside answers."""
ROUTER = {4: "203.0.113.77", 6: "2001:db8:203::77"}
"""A router on the internet: no end of any connection."""
LONGEST = {4: 576, 6: 1280}
"""Bytes of an IP packet that is an ICMP error."""
MTU = 1400
PORT = 14447
"""Of every client. No flow publishes it or a port above it, so SNAT keeps it."""
End = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Error:
    """An ICMP error to one end of a connection, about a packet that this end has sent."""

    to: str
    """The name of the VM that gets it."""
    at: str
    """The address that it is sent to. From outside, this is the firewall's."""
    quoted: bytes
    """The packet as its way to the error's sender shows it."""

    def packet(self, source: str, content: bytes, kind: tuple[int, int] | None = None) -> bytes:
        kind = kind or ((1, 4) if ":" in source else (3, 3))
        return frames.error(source, self.at, *kind, self.quoted + content)


@dataclass(frozen=True, slots=True)
class Connection:
    """A connection of a flow, and the two names of its ends."""

    names: tuple[str, str]
    inside: tuple[End, End]
    """Its client and its server for the VMs."""
    seen: tuple[End, End]
    """The same for the outside."""

    def error_to(self, side: int, *, from_outside: bool) -> Error:
        ends = self.seen if from_outside else self.inside
        quoted = frames.udp(*ends[side], *ends[1 - side], b"")
        return Error(self.names[side], ends[side][0], quoted)


@contextlib.contextmanager
def connected(net: Fabric, kind: str, version: int) -> Iterator[Connection]:
    """A connection that stands: both ends have sent a datagram."""
    uplink = net.uplink_address(version)
    source, target, port = {
        "between VMs": ("web-1", net.address("api", version), 53),
        "from outside": (OUTSIDE, uplink, 7000),
        "to the outside": ("api", NEAR[version], 123),
    }[kind]
    own = net.address(source, version) if source else NEAR[version]
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with (net.vms[source] if source else net.outside).socket(family, DATAGRAM) as client:
        client.settimeout(LONG)
        client.bind((own, PORT))
        client.sendto(b"question", (target, port))
        name = client.recv(100).split(b":")[0].decode()
        server = "" if name == "outside" else name
        served = net.address(server, version) if server else target
        shown = own if source == OUTSIDE else uplink
        yield Connection(
            (source, server), ((own, PORT), (served, port)), ((shown, PORT), (target, port))
        )


def send(net: Fabric, name: str, packet: bytes) -> None:
    """From a VM with its own MAC address, or from outside."""
    if name == OUTSIDE:
        macs, where = ("52:54:00:00:00:77", DESIGN.firewall.nics[-1].mac), net.outside
    else:
        card, where = net.card(name), net.vms[name]
        macs = card.mac, DESIGN.zone(card.zone).gateway.mac
    frames.send(where, "eth0", frames.ethernet(*macs, packet))


def address(net: Fabric, name: str, version: int) -> str:
    return net.address(name, version) if name else ROUTER[version]


KINDS = pytest.mark.parametrize("kind", ["between VMs", "from outside", "to the outside"])
TO_CLIENT = pytest.mark.parametrize("side", [0, 1], ids=["to its client", "to its server"])


@both_versions
@KINDS
@TO_CLIENT
def test_an_error_comes_from_where_the_packet_went_and_from_nobody_else(
    net: Fabric, version: int, kind: str, side: int
) -> None:
    """Neither a VM without a flow, nor another replica of an end, nor the outside."""
    with connected(net, kind, version) as connection:
        victim, other = connection.names[side], connection.names[1 - side]
        forgers = {"web-1", "web-2", "api", "db", "tool-1", OUTSIDE} - {victim, other}
        where = net.vms[victim] if victim else net.outside
        with frames.listening(where, "eth0") as until:
            for name in sorted(forgers):
                # An outsider who has a route to the VM tries its own address, too.
                error = connection.error_to(side, from_outside=False)
                send(net, name, error.packet(address(net, name, version), FORGED))
            honest = connection.error_to(side, from_outside=other == OUTSIDE)
            send(net, other, honest.packet(address(net, other, version), HONEST))
            heard = b"".join(until(HONEST))
    assert FORGED not in heard
    counted = net.counted()
    assert counted["ctl:icmp-error"] == 1
    dropped = counted["ctl:forged-error"] + counted["ctl:invalid"]
    assert dropped == len(forgers)
    if victim != OUTSIDE:
        denied = net.report().denied
        inside = connection.inside[side][0]
        assert all(
            denied[net.address(name, version), inside, "icmp", 0] == 1
            for name in forgers - {OUTSIDE}
        )


@both_versions
@KINDS
@TO_CLIENT
def test_an_end_sends_no_other_errors_and_no_longer_ones(
    net: Fabric, version: int, kind: str, side: int
) -> None:
    """Neither redirects and source quenches, nor what a router says if it is a VM, nor more than an
    error may quote.
    """
    with connected(net, kind, version) as connection:
        victim, other = connection.names[side], connection.names[1 - side]
        error = connection.error_to(side, from_outside=other == OUTSIDE)
        source = address(net, other, version)
        space = LONGEST[version] - len(error.packet(source, b""))
        others = ((5, 1), (4, 0)) if version == 4 else ((137, 0), (5, 0), (127, 0))
        of_routers = ((11, 0), (12, 0)) if version == 4 else ((3, 0), (4, 0))
        where = net.vms[victim] if victim else net.outside
        with frames.listening(where, "eth0") as until:
            for one in others:
                send(net, other, error.packet(source, FORGED, one))
            for one in of_routers:
                send(net, other, error.packet(source, b"router", one))
            send(net, other, error.packet(source, FORGED + bytes(space + 1 - len(FORGED))))
            send(net, other, error.packet(source, bytes(space - len(HONEST)) + HONEST))
            heard = b"".join(until(HONEST))
    assert FORGED not in heard
    from_routers = len(of_routers) if other == OUTSIDE else 0
    assert heard.count(b"router") == from_routers
    assert net.counted()["ctl:icmp-error"] == 1 + from_routers


@both_versions
@KINDS
def test_an_error_about_no_connection_does_not_pass(net: Fabric, version: int, kind: str) -> None:
    """Its own packet must have been allowed, also where a flow would allow it."""
    with connected(net, kind, version) as connection:
        other = connection.names[0]
        asker = connection.error_to(1, from_outside=other == OUTSIDE)
        ends = connection.seen if other == OUTSIDE else connection.inside
        quoted = frames.udp(*ends[1], ends[0][0], PORT + 1, b"")
        source = address(net, other, version)
        victim = connection.names[1]
        with frames.listening(net.vms[victim] if victim else net.outside, "eth0") as until:
            send(net, other, frames.error(source, asker.at, 3, 3, quoted + FORGED))
            send(net, other, asker.packet(source, HONEST))
            assert FORGED not in b"".join(until(HONEST))


# --- path MTU discovery


@contextlib.contextmanager
def sending(net: Fabric, name: str, to: tuple[str, int]) -> Iterator[socket.socket]:
    """A connected socket whose datagrams are never fragmented."""
    six = ":" in to[0]
    where = net.vms[name] if name else net.outside
    with where.socket(socket.AF_INET6 if six else socket.AF_INET, DATAGRAM) as client:
        if six:
            client.setsockopt(socket.IPPROTO_IPV6, 23, 2)  # IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DO
        else:
            client.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER, IP_PMTUDISC_DO
        client.settimeout(LONG)
        client.connect(to)
        client.send(b"question")
        assert client.recv(100)
        yield client


def mtu(client: socket.socket) -> int:
    six = client.family == socket.AF_INET6
    return client.getsockopt(*((socket.IPPROTO_IPV6, 24) if six else (socket.IPPROTO_IP, 14)))


def forget_routes(net: Fabric) -> None:
    """What the machines have learned of MTUs."""
    for where in (*net.vms.values(), net.outside, net.firewall):
        for version in ("-4", "-6"):
            where.run("ip", version, "route", "flush", "cache", check=True)


@both_versions
@pytest.mark.parametrize("kind", ["between VMs", "from outside", "to the outside"])
def test_the_firewall_says_which_packets_are_too_long(net: Fabric, version: int, kind: str) -> None:
    source, card, to = {
        "between VMs": ("web-1", "z-app", (net.address("api", version), 53)),
        "from outside": (OUTSIDE, "z-dmz", (net.uplink_address(version), 7000)),
        "to the outside": ("api", DESIGN.firewall.nics[-1].ifname, (NEAR[version], 123)),
    }[kind]
    net.firewall.ip([f"link set {card} mtu {MTU}"])
    try:
        with sending(net, source, to) as client:
            with contextlib.suppress(OSError):
                client.send(bytes(MTU + 20))
            assert settled(lambda: mtu(client) == MTU)
    finally:
        net.firewall.ip([f"link set {card} mtu 1500"])
        forget_routes(net)


@both_versions
def test_a_router_outside_says_which_packets_are_too_long(net: Fabric, version: int) -> None:
    with sending(net, "api", (NEAR[version], 123)) as client:
        port, uplink = client.getsockname()[1], net.uplink_address(version)
        quoted = frames.udp(uplink, port, NEAR[version], 123, bytes(MTU + 20))
        kind, word = ((3, 4), MTU) if version == 4 else ((2, 0), MTU)
        send(net, OUTSIDE, frames.error(ROUTER[version], uplink, *kind, quoted[:500], word))
        try:
            assert settled(lambda: mtu(client) == MTU)
        finally:
            forget_routes(net)


@both_versions
def test_a_client_outside_is_behind_a_shorter_way(net: Fabric, version: int) -> None:
    """The server behind a published port learns it."""
    with connected(net, "from outside", version) as connection:
        (client, server), uplink = connection.seen, net.uplink_address(version)
        quoted = frames.udp(*server, *client, bytes(MTU + 20))
        kind = (3, 4) if version == 4 else (2, 0)
        send(net, OUTSIDE, frames.error(ROUTER[version], uplink, *kind, quoted[:500], MTU))
        vm = net.vms[connection.names[1]]
        try:
            assert settled(lambda: f"mtu {MTU}" in vm.run("ip", "route", "get", client[0]).stdout)
        finally:
            forget_routes(net)


def test_no_helper_of_conntrack_relates_packets_by_itself(net: Fabric) -> None:
    """Neither the kernel nor the ruleset gives a connection a helper."""
    assigned = net.firewall.run("sh", "-c", "cat /proc/sys/net/netfilter/nf_conntrack_helper")
    assert assigned.stdout.strip() in {"", "0"}
    assert "ct helper" not in net.firewall.run("nft", "list", "ruleset", check=True).stdout
