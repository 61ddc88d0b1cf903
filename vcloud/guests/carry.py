"""Carries bytes between a guest's port and this side's files, such as a terminal or the pipes of
ssh.
"""

from __future__ import annotations

import os
import selectors
import socket
from collections.abc import Callable

CHUNK = 64 << 10


def carry(
    connection: socket.socket,
    source: int,
    target: int,
    outgoing: Callable[[bytes], bytes | None] = lambda chunk: chunk,
) -> None:
    """Carries bytes between a socket and two open files until the socket or `source` ends.

    Args:
        connection: the socket.
        source: number of the file that is read.
        target: number of the file that is written.
        outgoing: what to send for a chunk that was read; None ends it.
    """
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ)
        selector.register(source, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is connection:
                    chunk = connection.recv(CHUNK)
                    if not chunk:
                        return
                    _write(target, chunk)
                else:
                    answer = outgoing(os.read(source, CHUNK)) or b""
                    if not answer:
                        return
                    connection.sendall(answer)


def _write(target: int, chunk: bytes) -> None:
    while chunk:
        # os.write may take fewer bytes than it was given.
        chunk = chunk[os.write(target, chunk) :]
