"""TCP's urgent data. A receiver takes a byte out of the stream for it, and receivers do not agree
which byte. So the rules would read another text than the receiver.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Callable

import pytest

from tests.netns import frames
from tests.netns.ips.lab import LONGEST, IpsLab, receive
from tests.netns.ips.traffic import API, CARD, NO_CARD, NOWHERE, VERSIONS, WEB, search, upload

SQL, HARMLESS_SQL = search("1' union select 1--"), search("1' onion select 1--")
TCP_REPAIR, TCP_REPAIR_QUEUE, TCP_QUEUE_SEQ = 19, 20, 21
RECEIVED, SENT = 1, 2
"""Queues of a socket in repair."""
DATA = b"forged"


@VERSIONS
@pytest.mark.parametrize(
    ("outwards", "payload", "harmless", "word"),
    [
        (False, SQL, HARMLESS_SQL, b"union"),
        (True, upload(CARD.encode()), upload(NO_CARD.encode()), CARD.encode()),
    ],
    ids=["an attack from outside", "a leak to the outside"],
)
def test_an_urgent_byte_hides_nothing(
    shared: IpsLab, version: int, outwards: bool, payload: bytes, harmless: bytes, word: bytes
) -> None:
    """The receiver does not read the byte, so it would read the word as a whole."""
    source, target = (API, NOWHERE) if outwards else (NOWHERE, WEB)
    assert shared.tcp(source[version], target[version], 8000, harmless).arrived
    middle = payload.index(word) + len(word) // 2
    with shared.connection(source[version], target[version], 8000) as (client, server):
        client.sendall(b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n")
        receive(server, 30)
        client.sendall(payload[:middle])
        client.send(b"x", socket.MSG_OOB)
        client.sendall(payload[middle:])
        assert word not in until(lambda: repeats(client), server)


def until(happened: Callable[[], bool], server: socket.socket) -> bytes:
    """What the server gets until something has happened."""
    got = b""
    server.settimeout(0.1)
    deadline = time.monotonic() + LONGEST
    done = False
    while not done:
        assert time.monotonic() < deadline, got
        done = happened()
        with contextlib.suppress(TimeoutError):
            got += server.recv(4096)
    return got


def repeats(client: socket.socket) -> bool:
    """Whether a socket has sent something again, because nothing said that it had arrived."""
    info = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    (repeated,) = struct.unpack_from("=I", info, 100)
    return bool(repeated)


def numbers(end: socket.socket) -> tuple[int, int]:
    """The sequence number of the next byte that a socket sends, and of the next that it awaits."""
    end.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
    found = []
    for queue in (SENT, RECEIVED):
        end.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_QUEUE, queue)
        found.append(end.getsockopt(socket.IPPROTO_TCP, TCP_QUEUE_SEQ) & 0xFFFFFFFF)
    end.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 0)
    return found[0], found[1]


class Forger:
    """Sends segments of its own on an open connection, from the client's machine."""

    def __init__(self, lab: IpsLab, client: socket.socket, version: int) -> None:
        self._ends = (*client.getsockname()[:2], *client.getpeername()[:2])
        self._numbers = numbers(client)
        self._raw = lab.machine(self._ends[0]).socket(
            (socket.AF_INET, socket.AF_INET6)[version], socket.SOCK_RAW, socket.IPPROTO_RAW
        )

    def __enter__(self) -> Forger:
        return self

    def __exit__(self, *_: object) -> None:
        self._raw.close()

    def send(self, payload: bytes, pointer: int, flags: int = 0) -> None:
        flags |= frames.ACK | frames.PUSH
        segment = frames.tcp(*self._ends, flags, payload, self._numbers, pointer)
        self._raw.sendto(segment, (self._ends[2], 0))


@VERSIONS
def test_no_urgent_data_passes_wherever_its_pointer_points(shared: IpsLab, version: int) -> None:
    """The segment after it, of the same place in the stream, is the one that arrives."""
    with (
        shared.connection(API[version], NOWHERE[version], 8000) as (client, server),
        Forger(shared, client, version) as forger,
    ):
        server.settimeout(LONGEST)
        for pointer in (0, 1, 3, len(DATA), len(DATA) + 1, 1000, 65535):
            forger.send(DATA, pointer, frames.URGENT)
        forger.send(b"honest", 0)
        assert receive(server, 6) == b"honest"


@VERSIONS
def test_a_pointer_without_the_flag_takes_nothing_out_of_the_stream(
    shared: IpsLab, version: int
) -> None:
    """Neither for the receiver nor for the rules."""
    with (
        shared.connection(API[version], NOWHERE[version], 8000) as (client, server),
        Forger(shared, client, version) as forger,
    ):
        server.settimeout(LONGEST)
        forger.send(DATA, 3)
        assert receive(server, len(DATA)) == DATA
    with (
        shared.connection(API[version], NOWHERE[version], 8000) as (client, server),
        Forger(shared, client, version) as forger,
    ):
        forger.send(upload(CARD.encode()), 170)
        port = client.getsockname()[1]
        assert CARD.encode() not in until(lambda: bool(shared.alerts(port)), server)
        assert all(dropped for _, dropped in shared.alerts(port))
