"""Frames that a VM sends in the name of another machine. The firewall drops them, but the IPS is before
it: such a frame would be an answer of the VM's peer there, and could end the search of a connection.
"""

from __future__ import annotations

import socket
import struct

import pytest

from tests.netns import frames
from tests.netns.ips.lab import LONGEST, QUIET, IpsLab, receive
from tests.netns.ips.traffic import API, DESIGN, NOWHERE, UNION, VERSIONS, WEB

APP = DESIGN.zone("app").gateway
VM_MAC = "52:54:00:00:00:01"
MPLS = b"\x88\x47\x00\x01\x01\x40"
"""The type of the frame, and one label."""
UPGRADE = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
ATTACK = b"GET /?id=1+UNION+SELECT+1 HTTP/1.1\r\nHost: a\r\n\r\n"


def gateway(version: int) -> str:
    return str((APP.address4, APP.address6)[version])


def send(lab: IpsLab, packet: bytes, before: bytes = b"") -> None:
    """Sends a frame from the zone app. `before`: in place of the type of the frame."""
    frame = frames.ethernet(VM_MAC, APP.mac, packet)
    with lab.zones["app"].socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind(("eth0", 0))
        raw.send(frame[:12] + (before or frame[12:14]) + frame[14:])


@VERSIONS
def test_only_frames_of_the_zone_itself_pass_the_ips(shared: IpsLab, version: int) -> None:
    own, peer, outside = API[version], WEB[version], NOWHERE[version]
    with shared.firewall.socket(
        socket.AF_PACKET, socket.SOCK_RAW, socket.htons(frames.ALL_ETHERNET)
    ) as firewall:
        firewall.bind((APP.ifname, frames.ALL_ETHERNET))
        firewall.settimeout(LONGEST)
        send(shared, frames.udp(peer, 8000, own, 20000, b"forged peer"))
        send(shared, frames.udp(outside, 8000, own, 20000, b"forged outside"))
        send(shared, frames.udp(own, 20000, peer, 8000, b"forged label"), MPLS)
        send(shared, frames.udp(peer, 8000, gateway(version), 9, b"told to the firewall"))
        send(shared, frames.udp(own, 20000, outside, 9, b"last"))
        heard = [b""]
        while b"last" not in heard[-1]:
            heard.append(firewall.recv(2000))
    assert not any(b"forged" in frame for frame in heard)
    assert any(b"told to the firewall" in frame for frame in heard)


@VERSIONS
@pytest.mark.parametrize("forged", [True, False])
def test_a_forged_answer_does_not_end_the_search(
    shared: IpsLab, version: int, forged: bool
) -> None:
    """Where the server itself changes the protocol, the search ends: nothing is forged then."""
    own, peer = API[version], WEB[version]
    with (
        shared.zones["app"].socket(
            socket.AF_PACKET, socket.SOCK_RAW, socket.htons(frames.ALL_ETHERNET)
        ) as wire,
        shared.connection(own, peer, 8000) as (client, server),
    ):
        wire.bind(("eth0", frames.ALL_ETHERNET))
        wire.settimeout(LONGEST)
        port = client.getsockname()[1]
        client.sendall(UPGRADE)
        receive(server, len(UPGRADE))
        numbers = sent_numbers(wire, version, port)
        if forged:
            numbers = numbers[1], numbers[0] + len(UPGRADE)
            flags = frames.PUSH | frames.ACK
            send(shared, frames.tcp(peer, 8000, own, port, flags, SWITCHED, numbers))
        else:
            server.sendall(SWITCHED)
            receive(client, len(SWITCHED))
        client.sendall(ATTACK)
        server.settimeout(LONGEST if not forged else 10 * QUIET)
        if forged:
            with pytest.raises(TimeoutError):
                receive(server, len(ATTACK))
        else:
            assert receive(server, len(ATTACK)) == ATTACK
    assert (UNION in {sid for sid, _ in shared.alerts(port)}) is forged


def sent_numbers(wire: socket.socket, version: int, port: int) -> tuple[int, int]:
    """The sequence number of the request on the wire, and what it acknowledges."""
    start = 14 + (20, 40)[version]
    while True:
        frame = wire.recv(2000)
        if UPGRADE in frame and struct.unpack_from("!H", frame, start)[0] == port:
            sequence, acknowledged = struct.unpack_from("!II", frame, start + 4)
            return int(sequence), int(acknowledged)
