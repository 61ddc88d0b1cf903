"""Whole Ethernet frames, for what an honest network stack does not send: forged sources, wrong
MACs, answers nobody asked for, headers that nobody needs.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import struct
from collections.abc import Callable, Iterator
from ipaddress import ip_address

from tests.netns.fabric import LONG, Namespace

SYN, PUSH, ACK, URGENT = 0x02, 0x08, 0x10, 0x20
TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58
HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION, MOBILITY, HOST_IDENTITY = (
    0,
    43,
    44,
    51,
    60,
    135,
    139,
)
"""Extension headers of IPv6."""
EXPERIMENT4, EXPERIMENT6, EXPERIMENTAL_ROUTING = 94, 0x1E, 253
"""An option of IPv4, one of IPv6 and a kind of routing header that receivers skip (RFC 4727)."""
ALL_ETHERNET = 3
_NUMBERS = itertools.count(1)
"""Of packets in fragments."""


def send(where: Namespace, ifname: str, frame: bytes) -> None:
    with where.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((ifname, 0))
        raw.send(frame)


@contextlib.contextmanager
def listening(where: Namespace, ifname: str) -> Iterator[Callable[[bytes], list[bytes]]]:
    """A function that waits for a frame that holds a text, and returns all frames that arrived up
    to it. Raises TimeoutError.
    """
    with where.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((ifname, ALL_ETHERNET))
        raw.settimeout(LONG)

        def until(text: bytes) -> list[bytes]:
            frames = [raw.recv(65536)]
            while text not in frames[-1]:
                frames.append(raw.recv(65536))
            return frames

        yield until


def ethernet(source: str, target: str, packet: bytes) -> bytes:
    kind = 0x86DD if packet[0] >> 4 == 6 else 0x0800
    return _mac(target) + _mac(source) + struct.pack("!H", kind) + packet


def udp(source: str, source_port: int, target: str, port: int, payload: bytes = b"forged") -> bytes:
    header = struct.pack("!HHHH", source_port, port, 8 + len(payload), 0)
    return _packet(source, target, UDP, header + payload, 6)


def tcp(
    source: str,
    source_port: int,
    target: str,
    port: int,
    flags: int,
    payload: bytes = b"",
    numbers: tuple[int, int] = (1000, 0),
    urgent: int = 0,
) -> bytes:
    """A segment, with its own sequence number, the one that it acknowledges, and the urgent
    pointer.
    """
    ports = struct.pack("!HHII", source_port, port, *numbers)
    header = ports + struct.pack("!BBHHH", 5 << 4, flags, 4096, 0, urgent)
    return _packet(source, target, TCP, header + payload, 16)


def error(source: str, target: str, kind: int, code: int, quoted: bytes, word: int = 0) -> bytes:
    """An ICMP error that quotes a packet. The word is what stands between the checksum and the
    quotation, such as an MTU.
    """
    body = struct.pack("!BBHI", kind, code, 0, word) + quoted
    if ":" in source:
        return _packet(source, target, ICMPV6, body, 2)
    body = body[:2] + struct.pack("!H", _checksum(body)) + body[4:]
    return _ipv4(source, target, ICMP, body)


def solicitation(source: str, target: str) -> bytes:
    """A packet that asks for the MAC address of the target (RFC 4861)."""
    packet = error(source, target, 135, 0, ip_address(target).packed)
    return packet[:7] + bytes([255]) + packet[8:]


def with_option(packet: bytes, content: bytes) -> bytes:
    """The IPv4 packet with an option that holds the content."""
    option = bytes([EXPERIMENT4, 2 + len(content)]) + content
    option += bytes(-len(option) % 4)
    length = len(packet) + len(option)
    header = bytes([0x45 + len(option) // 4]) + packet[1:2] + struct.pack("!H", length)
    return _summed(header + packet[4:20] + option) + packet[20:]


def with_header(packet: bytes, kind: int, content: bytes) -> bytes:
    """The IPv6 packet with an extension header that holds the content."""
    if kind in (HOP_BY_HOP, DESTINATION):
        content = bytes([EXPERIMENT6, len(content)]) + content
        padding = -(2 + len(content)) % 8
        content += bytes([1, padding - 2]) if padding > 1 else b""
    elif kind == ROUTING:
        content = bytes([EXPERIMENTAL_ROUTING, 0, 0, 0, 0, 0]) + content
    content += bytes(-(2 + len(content)) % 8)
    words = (2 + len(content)) // 4 - 2 if kind == AUTHENTICATION else len(content) // 8
    return _inserted(packet, kind, bytes([packet[6], words]) + content)


def fragments(packet: bytes, size: int) -> list[bytes]:
    """The fragments of a packet, of so many bytes of its content."""
    six = packet[0] >> 4 == 6
    start = 40 if six else 4 * (packet[0] & 15)
    head, content, number = packet[:start], packet[start:], next(_NUMBERS)
    made = []
    for at in range(0, len(content), size):
        piece, more = content[at : at + size], at + size < len(content)
        if six:
            offset = struct.pack("!BBHI", packet[6], 0, at | more, number)
            made.append(
                _inserted(
                    head[:4] + struct.pack("!H", len(piece)) + head[6:] + piece, FRAGMENT, offset
                )
            )
        else:
            fields = struct.pack("!HHH", start + len(piece), number, at // 8 | more << 13)
            made.append(_summed(head[:2] + fields + head[8:]) + piece)
    return made


def _inserted(packet: bytes, kind: int, header: bytes) -> bytes:
    """An IPv6 packet with a header before its content."""
    length = len(packet) - 40 + len(header)
    return packet[:4] + struct.pack("!HB", length, kind) + packet[7:40] + header + packet[40:]


def _packet(source: str, target: str, protocol: int, segment: bytes, checksum_at: int) -> bytes:
    ends = ip_address(source).packed + ip_address(target).packed
    pseudo = ends + struct.pack("!II", len(segment), protocol)
    checksum = struct.pack("!H", _checksum(pseudo + segment) or 0xFFFF)
    segment = segment[:checksum_at] + checksum + segment[checksum_at + 2 :]
    if ":" in source:
        return struct.pack("!IHBB", 6 << 28, len(segment), protocol, 64) + ends + segment
    return _ipv4(source, target, protocol, segment)


def _ipv4(source: str, target: str, protocol: int, body: bytes) -> bytes:
    ends = ip_address(source).packed + ip_address(target).packed
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 1, 0, 64, protocol, 0) + ends
    return _summed(header) + body


def _summed(header: bytes) -> bytes:
    """A header of IPv4 with its checksum."""
    header = header[:10] + bytes(2) + header[12:]
    return header[:10] + struct.pack("!H", _checksum(header)) + header[12:]


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))
