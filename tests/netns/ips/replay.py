"""Messages as a capture of packets, and what the IPS's Suricata finds in one.

It is the same program with the same configuration and rules as in the path, without its cards. So
many megabytes take seconds.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

from tests.netns.ips.lab import IpsLab

SEGMENT = 1448
"""Bytes of data in a packet."""
FIRST_PORT = 20_000
MOST_CONNECTIONS = 40_000
FOLDER = "/var/log/replay"
FIN, SYN, PUSH, ACK = 1, 2, 8, 16


@dataclass(frozen=True, slots=True)
class Exchange:
    """A connection on which a client sends, and then the server."""

    source: str
    target: str
    sent: bytes
    port: int = 8000
    answer: bytes = b""


def capture(exchanges: Sequence[Exchange]) -> bytes:
    """A file of packets, for tcpdump's readers. The client of each exchange has a port of its own,
    from FIRST_PORT on.
    """
    assert len(exchanges) <= MOST_CONNECTIONS
    parts = [struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)]
    for number, exchange in enumerate(exchanges):
        for index, packet in enumerate(_packets(exchange, FIRST_PORT + number)):
            frame = bytes(12) + b"\x08\x00" + packet
            parts += [struct.pack("<IIII", 1_700_000_000 + number, index, *[len(frame)] * 2), frame]
    return b"".join(parts)


def _packets(exchange: Exchange, port: int) -> Iterator[bytes]:
    client, server = (IPv4Address(end).packed for end in (exchange.source, exchange.target))
    here, there = 1000, 5000

    def packet(forth: bool, flags: int, data: bytes = b"") -> bytes:
        ends = (client, server) if forth else (server, client)
        ports = (port, exchange.port) if forth else (exchange.port, port)
        numbers = (here, there) if forth else (there, here)
        ip = struct.pack("!BBHHHBBH", 0x45, 0, 40 + len(data), 0, 0, 64, 6, 0) + b"".join(ends)
        ack = numbers[1] if flags & ACK else 0
        return (
            ip + struct.pack("!HHIIBBHHH", *ports, numbers[0], ack, 0x50, flags, 65535, 0, 0) + data
        )

    yield packet(True, SYN)
    here += 1
    yield packet(False, SYN | ACK)
    there += 1
    yield packet(True, ACK)
    for at in range(0, len(exchange.sent), SEGMENT):
        data = exchange.sent[at : at + SEGMENT]
        yield packet(True, PUSH | ACK, data)
        here += len(data)
        yield packet(False, ACK)
    for at in range(0, len(exchange.answer), SEGMENT):
        data = exchange.answer[at : at + SEGMENT]
        yield packet(False, PUSH | ACK, data)
        there += len(data)
        yield packet(True, ACK)
    yield packet(True, FIN | ACK)
    here += 1
    yield packet(False, FIN | ACK)
    there += 1
    yield packet(True, ACK)


def found(lab: IpsLab, files: Mapping[str, bytes], exchanges: Sequence[Exchange]) -> list[set[int]]:
    """The sids of the rules that match each exchange, if the IPS has these files."""
    for name, content in (*files.items(), (f"{FOLDER}/packets", capture(exchanges))):
        file = lab.path(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    lab.path(f"{FOLDER}/eve.json").unlink(missing_ok=True)
    lab.path("/run/suricata").mkdir(exist_ok=True)
    config = ("-c", "/etc/vcloud/ips/suricata.yaml", "--runmode", "single", "--simulate-ips")
    done = lab.chroot("suricata", *config, "-k", "none", "-r", f"{FOLDER}/packets", "-l", FOLDER)
    assert done.returncode == 0, done.stderr.decode()
    sids: list[set[int]] = [set() for _ in exchanges]
    for line in lab.path(f"{FOLDER}/eve.json").read_text().splitlines():
        event = json.loads(line)
        if event["event_type"] == "alert":
            port = max(event["src_port"], event["dest_port"])
            sids[port - FIRST_PORT].add(event["alert"]["signature_id"])
    return sids
