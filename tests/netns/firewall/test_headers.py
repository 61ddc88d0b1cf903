"""What may stand between the header of IP and that of TCP, UDP or ICMP: options of IPv4 and extension
headers of IPv6. They could carry data that no flow and no rule of the IPS names.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.netns import frames
from tests.netns.fabric import Fabric, Namespace, greeting
from tests.netns.firewall.traffic import DESIGN, both_versions, bound, outside, settled

pytestmark = pytest.mark.timeout(900)

CARRIED, ORDINARY = b"smuggled", b"ordinary"
HEADERS = (
    frames.HOP_BY_HOP,
    frames.ROUTING,
    frames.DESTINATION,
    frames.AUTHENTICATION,
    frames.MOBILITY,
    frames.HOST_IDENTITY,
)
WAYS = ("along a flow", "back on a flow", "outwards", "to a published port")
WHOLE = 1600
"""Bytes of a datagram that is sent in two fragments."""
FIRST = 1280
"""Bytes in its first fragment. Linux takes no shorter one for IPv6."""


@dataclass(frozen=True, slots=True)
class Way:
    """A way that a flow allows: where a frame is sent, from which MAC address to which, and where
    it arrives.
    """

    sender: Namespace
    macs: tuple[str, str]
    ends: tuple[str, int, str, int]
    receiver: Namespace

    def send(self, packet: bytes) -> None:
        frames.send(self.sender, "eth0", frames.ethernet(*self.macs, packet))

    def packet(self, payload: bytes) -> bytes:
        return frames.udp(*self.ends, payload)


@contextlib.contextmanager
def opened(net: Fabric, way: str, version: int) -> Iterator[Way]:
    web, api = net.address("web-1", version), net.address("api", version)
    port = 4446
    gateways = {name: net.design.zone(name).gateway.mac for name in ("dmz", "app")}
    if way == "along a flow":
        macs = net.card("web-1").mac, gateways["dmz"]
        yield Way(net.vms["web-1"], macs, (web, port, api, 53), net.vms["api"])
    elif way == "back on a flow":
        with bound(net.vms["web-1"], version, port) as client:
            client.sendto(b"question", (api, 53))
            assert client.recv(100)
            macs = net.card("api").mac, gateways["app"]
            yield Way(net.vms["api"], macs, (api, 53, web, port), net.vms["web-1"])
    elif way == "outwards":
        macs = net.card("api").mac, gateways["app"]
        yield Way(net.vms["api"], macs, (api, port, outside(version), 123), net.outside)
    else:
        macs = "52:54:00:00:00:77", DESIGN.firewall.nics[-1].mac
        gateway = net.uplink.gateway4 if version == 4 else net.uplink.gateway6
        ends = str(gateway), port, net.uplink_address(version), 7000
        # The flow leads to two VMs in turn, and this connection to one of them.
        with bound(net.outside, version, port) as client:
            client.sendto(b"question", (net.uplink_address(version), 7000))
            name = client.recv(100).split(b":")[0].decode()
            yield Way(net.outside, macs, ends, net.vms[name])


def carriers(packet: bytes) -> list[bytes]:
    """The packet with something that its receiver skips."""
    if packet[0] >> 4 == 4:
        return [frames.with_option(packet, CARRIED)]
    return [frames.with_header(packet, kind, CARRIED) for kind in HEADERS]


@both_versions
@pytest.mark.parametrize("way", WAYS)
def test_no_packet_carries_anything_beside_its_content(net: Fabric, version: int, way: str) -> None:
    """In whole packets and in the first fragment; the same packets without it pass."""
    with opened(net, way, version) as road, frames.listening(road.receiver, "eth0") as until:
        large = road.packet(bytes(WHOLE))
        for packet in carriers(road.packet(b"x")):
            road.send(packet)
        for packet in carriers(large):
            for fragment in frames.fragments(packet, FIRST):
                road.send(fragment)
        for fragment in frames.fragments(road.packet(bytes(WHOLE) + b"whole"), FIRST):
            road.send(fragment)
        road.send(road.packet(ORDINARY))
        heard = b"".join(until(ORDINARY))
    assert CARRIED not in heard
    assert b"whole" in heard
    source, _, target, _ = road.ends
    assert denied(net, source, target) == 2 * len(carriers(large))
    assert net.counted()["ctl:headers"] >= denied(net, source, target)


@both_versions
def test_tcp_of_a_vm_does_not_pass_in_fragments(net: Fabric, version: int) -> None:
    """The IPS sees each fragment, and also those that the firewall's kernel never takes: of the rest
    they could make different segments. UDP in fragments passes, and so does TCP from outside, which
    the firewall puts together before the IPS sees it.
    """
    refused = net.counted()["ctl:fragments"]
    with (
        opened(net, "along a flow", version) as road,
        frames.listening(net.vms["api"], "eth0") as until,
    ):
        source, port, target, _ = road.ends
        segment = frames.tcp(source, port, target, 8000, frames.SYN, bytes(WHOLE) + CARRIED)
        for fragment in frames.fragments(segment, FIRST):
            road.send(fragment)
        for fragment in frames.fragments(road.packet(bytes(WHOLE) + b"whole"), FIRST):
            road.send(fragment)
        assert CARRIED not in b"".join(until(b"whole"))
    assert net.counted()["ctl:fragments"] == refused + 2
    with opened(net, "to a published port", version) as road:
        source, port, target, _ = road.ends
        segment = frames.tcp(source, port, target, 9100, frames.SYN, bytes(WHOLE) + ORDINARY)
        with frames.listening(net.vms["api"], "eth0") as until:
            for fragment in frames.fragments(segment, FIRST):
                road.send(fragment)
            assert until(ORDINARY)


def denied(net: Fabric, source: str, target: str) -> int:
    return sum(
        packets for key, packets in net.report().denied.items() if key[:2] == (source, target)
    )


@both_versions
def test_the_firewall_itself_takes_none_of_them(net: Fabric, version: int) -> None:
    gateway = net.design.zone("dmz").gateway
    web, own = net.address("web-1", version), gateway.address4 if version == 4 else gateway.address6
    assert net.vms["web-1"].pings(str(own))
    echo = frames.error(web, str(own), 8 if version == 4 else 128, 0, b"")
    for packet in carriers(echo):
        frames.send(
            net.vms["web-1"],
            "eth0",
            frames.ethernet(net.card("web-1").mac, gateway.mac, packet),
        )
    assert settled(lambda: denied(net, web, str(own)) == len(carriers(echo)))
    assert net.counted()["ctl:gateway-echo"] == 2, "the ping came in and was answered"


def solicit(net: Fabric, name: str, numbers: range) -> None:
    """Asks for the gateway from link-local addresses that the VM makes up."""
    card = net.card(name)
    gateway = DESIGN.zone(card.zone).gateway
    with net.vms[name].socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind(("eth0", 0))
        for number in numbers:
            question = frames.solicitation(f"fe80::5:{number:x}", str(gateway.address6))
            raw.send(frames.ethernet(card.mac, gateway.mac, question))


def made_up(net: Fabric) -> set[str]:
    """The made-up neighbours that the firewall remembers."""
    told = net.firewall.run("ip", "-6", "neigh", "show", check=True).stdout
    return {line.split()[0] for line in told.splitlines() if line.startswith("fe80::5:")}


def test_a_vm_that_makes_up_neighbours_does_not_fill_the_firewalls_table(net: Fabric) -> None:
    dropped = net.counted()["ctl:link-local"]
    solicit(net, "api", range(0x100, 0x300))
    assert settled(lambda: net.counted()["ctl:link-local"] >= dropped + 400)
    assert 1 <= len(made_up(net)) <= 112
    solicit(net, "web-1", range(1, 2))
    assert settled(lambda: "fe80::5:1" in made_up(net)), "another VM has a rate of its own"
    assert greeting(net.vms["api"], outside(6), 443), "its flows go on"
