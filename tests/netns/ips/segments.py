"""A TCP client that chooses its segments itself: what an honest network stack does not send."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Iterator
from ipaddress import ip_address

from tests.netns.ips.lab import LONGEST, IpsLab

SOURCE = "203.0.113.77"
"""An address outside that no machine has, so that no kernel answers for it."""
FIRST = 1000
"""The sequence number of the client's SYN."""
SYN, PUSH, ACK = 0x02, 0x08, 0x10
FRAGMENT = 1480


class Segments:
    """One connection over IPv4 from outside to a VM. Offsets count from the first byte of data."""

    def __init__(self, lab: IpsLab, zone: str, port: int, target: str, target_port: int) -> None:
        self._open = contextlib.ExitStack()
        lab.firewall.run("ip", "route", "replace", "blackhole", SOURCE)
        self._out = self._open.enter_context(
            lab.firewall.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        )
        self._in = self._open.enter_context(
            lab.firewall.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
        )
        self._in.bind((lab.design.zone(zone).gateway.ifname, 0x0800))
        self._in.settimeout(LONGEST)
        self._port, self._target, self._target_port = port, target, target_port
        self._theirs = 0
        self._packets = 0

    def close(self) -> None:
        self._open.close()

    def ask(self, data: bytes = b"") -> None:
        """Asks for the connection, with data in the SYN if there is any."""
        self._send(FIRST, 0, SYN, data)

    def is_answered(self, seconds: float) -> bool:
        """Whether the VM has agreed to the connection within this time."""
        deadline = time.monotonic() + seconds
        ports = (self._target_port, self._port)
        while (left := deadline - time.monotonic()) > 0:
            self._in.settimeout(left)
            with contextlib.suppress(TimeoutError):
                packet = self._in.recv(2048)
                segment = packet[(packet[0] & 15) * 4 :]
                if packet[9] == 6 and struct.unpack("!HH", segment[:4]) == ports:
                    self._theirs = struct.unpack("!I", segment[4:8])[0]
                    return True
        return False

    def connect(self) -> None:
        self.ask()
        assert self.is_answered(LONGEST)
        self._send(FIRST + 1, self._theirs + 1, ACK)

    def send(self, offset: int, data: bytes) -> None:
        self._send(FIRST + 1 + offset, self._theirs + 1, PUSH | ACK, data)

    def _send(self, sequence: int, acknowledged: int, flags: int, data: bytes = b"") -> None:
        head = struct.pack(
            "!HHIIBBHHH", self._port, self._target_port, sequence, acknowledged, 5 << 4, flags, 64000, 0, 0
        )  # fmt: skip
        ends = ip_address(SOURCE).packed + ip_address(self._target).packed
        total = _checksum(ends + struct.pack("!HH", 6, len(head + data)) + head + data)
        segment = head[:16] + struct.pack("!H", total) + head[18:] + data
        self._packets += 1
        for at in range(0, len(segment), FRAGMENT):
            more = 0x2000 if at + FRAGMENT < len(segment) else 0
            piece = segment[at : at + FRAGMENT]
            # The kernel fills in the checksum of the IP header.
            header = struct.pack(
                "!BBHHHBBH",
                0x45,
                0,
                20 + len(piece),
                (self._port * 8 + self._packets) & 0xFFFF,
                more | at // 8,
                64,
                6,
                0,
            )
            self._out.sendto(header + ends + piece, (self._target, 0))


@contextlib.contextmanager
def segments(
    lab: IpsLab, zone: str, port: int, target: str, target_port: int
) -> Iterator[tuple[Segments, socket.socket]]:
    """A client that has not connected yet, and the socket on which the VM listens."""
    with lab.machine(target).socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((target, target_port))
        listener.listen()
        listener.settimeout(LONGEST)
        client = Segments(lab, zone, port, target, target_port)
        try:
            yield client, listener
        finally:
            client.close()


def _checksum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF
