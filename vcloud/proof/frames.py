"""Ethernet frames that no ordinary socket would send. Pure."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from vcloud.proof.world import Address

PORT: Final = 9
"""UDP's discard service."""
_HOP_LIMIT: Final = 64
_IPV4: Final = 0x0800
_IPV6: Final = 0x86DD
_ICMP, _TCP, _UDP, _ICMPV6 = 1, 6, 17, 58
ANY_MAC: Final = "00:00:00:00:00:00"
"""Stands for the sender's MAC address if the card that will send the frame is not known yet."""
PORT_UNREACHABLE: Final = {4: (3, 3), 6: (1, 4)}
"""Version of IP -> type and code of the ICMP error that the end of a connection may send
(RFC 792, RFC 4443).
"""


@dataclass(frozen=True, slots=True)
class End:
    """One end of a TCP connection."""

    address: Address
    port: int


def frame(source_mac: str, target_mac: str, source: IPv4Address, target: IPv4Address) -> bytes:
    """A UDP datagram over IPv4, with these addresses. It has no UDP checksum, which IPv4 allows."""
    payload = b"vcloud"
    datagram = struct.pack("!HHHH", PORT, PORT, 8 + len(payload), 0) + payload
    return _ethernet(source_mac, target_mac, _packet(source, target, _UDP, datagram))


def icmp_error(source_mac: str, target_mac: str, source: Address, sender: End, other: End) -> bytes:
    """An ICMP error to `sender`, which says that the packet from `sender` to `other` found no open
    port. Its source address is `source`, which need not be the address of `other`.
    """
    # Of the quoted packet's TCP header, the error has the ports and the sequence number.
    quoted = _packet(
        sender.address, other.address, _TCP, struct.pack("!HHI", sender.port, other.port, 0)
    )
    kind, code = PORT_UNREACHABLE[source.version]
    message = struct.pack("!BBHI", kind, code, 0, 0) + quoted
    covered = message
    if source.version == 6:
        ends = source.packed + sender.address.packed
        covered = ends + struct.pack("!II", len(message), _ICMPV6) + message
    message = message[:2] + struct.pack("!H", _checksum(covered)) + message[4:]
    protocol = _ICMP if source.version == 4 else _ICMPV6
    return _ethernet(source_mac, target_mac, _packet(source, sender.address, protocol, message))


def unused_mac(mac: str) -> str:
    """A MAC address that no card of any vApp has: it differs in a bit that all of vcloud's share."""
    return f"{int(mac[:2], 16) ^ 4:02x}{mac[2:]}"


def _ethernet(source_mac: str, target_mac: str, packet: bytes) -> bytes:
    kind = _IPV4 if packet[0] >> 4 == 4 else _IPV6
    return _mac(target_mac) + _mac(source_mac) + struct.pack("!H", kind) + packet


def _packet(source: Address, target: Address, protocol: int, content: bytes) -> bytes:
    addresses = source.packed + target.packed
    if source.version == 6:
        return (
            struct.pack("!IHBB", 6 << 28, len(content), protocol, _HOP_LIMIT) + addresses + content
        )
    fields = (0x45, 0, 20 + len(content), 0, 0, _HOP_LIMIT, protocol)
    checksum = _checksum(struct.pack("!BBHHHBBH", *fields, 0) + addresses)
    return struct.pack("!BBHHHBBH", *fields, checksum) + addresses + content


def _checksum(data: bytes) -> int:
    """The internet checksum (RFC 1071)."""
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))
