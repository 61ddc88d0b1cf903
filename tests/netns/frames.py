"""Whole Ethernet frames, for what an honest network stack does not send: forged sources, wrong
MACs, answers nobody asked for.
"""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address

from tests.netns.fabric import Namespace

SYN, ACK = 0x02, 0x10


def send(where: Namespace, ifname: str, frame: bytes) -> None:
    with where.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((ifname, 0))
        raw.send(frame)


def ethernet(source: str, target: str, packet: bytes) -> bytes:
    kind = 0x86DD if packet[0] >> 4 == 6 else 0x0800
    return _mac(target) + _mac(source) + struct.pack("!H", kind) + packet


def udp(source: str, source_port: int, target: str, port: int, payload: bytes = b"forged") -> bytes:
    header = struct.pack("!HHHH", source_port, port, 8 + len(payload), 0)
    return _packet(source, target, 17, header + payload, 6)


def tcp(source: str, source_port: int, target: str, port: int, flags: int) -> bytes:
    return _packet(
        source,
        target,
        6,
        struct.pack("!HHIIBBHHH", source_port, port, 1000, 0, 5 << 4, flags, 4096, 0, 0),
        16,
    )


def unreachable(source: str, target: str, quoted: bytes) -> bytes:
    """ICMP: port unreachable, speaking of a packet."""
    body = struct.pack("!BBHI", 3, 3, 0, 0) + quoted[:28]
    body = body[:2] + struct.pack("!H", _checksum(body)) + body[4:]
    return _ipv4(source, target, 1, body)


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
    return header[:10] + struct.pack("!H", _checksum(header)) + header[12:] + body


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))
