"""Packets that no ordinary socket would send: ICMP echo requests, and packets with a forged source."""

from __future__ import annotations

import socket
import struct


def checksum(data: bytes) -> int:
    """The internet checksum (RFC 1071)."""
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def echo_request(ipv6: bool, identity: int, sequence: int, payload: bytes) -> bytes:
    """An ICMP echo request. The kernel sets the checksum of ICMPv6, because it covers the
    addresses.
    """
    if ipv6:
        return struct.pack("!BBHHH", 128, 0, 0, identity, sequence) + payload
    total = checksum(struct.pack("!BBHHH", 8, 0, 0, identity, sequence) + payload)
    return struct.pack("!BBHHH", 8, 0, total, identity, sequence) + payload


def is_echo(message: bytes, kind: int, identity: int, sequence: int) -> bool:
    """Whether an ICMP message is an echo of this type, identity and sequence number."""
    return (
        len(message) >= 8
        and message[0] == kind
        and message[4:8] == struct.pack("!HH", identity, sequence)
    )


def forged_packet(
    source: str, target: str, source_port: int, port: int, payload: bytes | None
) -> bytes:
    """An IP packet that claims to come from `source`: a datagram with the payload or, if that is
    None, a TCP SYN.

    The kernel sets the checksum of the IPv4 header.
    """
    six = ":" in target
    ends = b"".join(
        socket.inet_pton(socket.AF_INET6 if six else socket.AF_INET, address)
        for address in (source, target)
    )
    protocol = socket.IPPROTO_TCP if payload is None else socket.IPPROTO_UDP
    segment = (
        _syn(source_port, port, ends)
        if payload is None
        else _datagram(source_port, port, payload, ends)
    )
    if six:
        return struct.pack("!IHBB", 6 << 28, len(segment), protocol, 64) + ends + segment
    # 0x45: version 4, and a header of five words.
    return (
        struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(segment), 0, 0, 64, protocol, 0) + ends + segment
    )


def _syn(source_port: int, port: int, ends: bytes) -> bytes:
    # The source port is also the sequence number, because any number will do. 5 << 4: a header of
    # five words. 2: the flag SYN.
    fields = (source_port, port, source_port, 0, 5 << 4, 2, 64240)
    total = _transport_checksum(ends, socket.IPPROTO_TCP, struct.pack("!HHIIBBHHH", *fields, 0, 0))
    return struct.pack("!HHIIBBHHH", *fields, total, 0)


def _datagram(source_port: int, port: int, payload: bytes, ends: bytes) -> bytes:
    fields = (source_port, port, 8 + len(payload))
    total = _transport_checksum(
        ends, socket.IPPROTO_UDP, struct.pack("!HHHH", *fields, 0) + payload
    )
    # In UDP, 0 means that there is no checksum.
    return struct.pack("!HHHH", *fields, total or 0xFFFF) + payload


def _transport_checksum(ends: bytes, protocol: int, segment: bytes) -> int:
    return checksum(ends + struct.pack("!II", len(segment), protocol) + segment)
