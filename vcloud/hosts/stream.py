"""Byte streams through libvirt as sockets: what a program on this side and a guest on the other have in common.

libvirt's streams have neither a file number nor a timeout. Two threads carry their bytes to and from one end of a socket pair; the other
end is an ordinary socket, for `select`, for paramiko, or to be carried to a terminal.
"""

from __future__ import annotations

import os
import selectors
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

import libvirt

CHUNK = 64 << 10
ABORT_SECONDS = 1
"""That libvirt gets to answer that a stream is aborted."""


def receive(stream: libvirt.virStream) -> bytes:
    """What comes next; empty at the end of the stream, also when it was aborted or the domain went."""
    try:
        chunk: bytes | int = stream.recv(CHUNK)
    except libvirt.libvirtError:
        return b""
    return chunk if isinstance(chunk, bytes) else b""


class SocketOfStream:
    """An open stream as the socket `.socket`, which ends when the stream does."""

    def __init__(self, stream: libvirt.virStream) -> None:
        self._stream = stream
        self.socket, self._inner = socket.socketpair()
        for carry in (self._carry_out, self._carry_in):
            threading.Thread(target=carry, daemon=True).start()

    def close(self) -> None:
        """Ends the socket. The stream itself ends when its other end does, as a port that is unplugged."""
        self.socket.close()
        self._end()

    def abort(self) -> None:
        """Ends both, where the other end stays. libvirt does so at once, but may give its answer to the thread that reads the stream."""
        self.close()
        aborting = threading.Thread(target=self._abort, daemon=True)
        aborting.start()
        aborting.join(ABORT_SECONDS)

    def _carry_out(self) -> None:
        """From the guest to the socket."""
        with suppress(OSError):
            while chunk := receive(self._stream):
                self._inner.sendall(chunk)
        self._end()

    def _carry_in(self) -> None:
        """From the socket to the guest."""
        with suppress(OSError, libvirt.libvirtError):
            while chunk := self._inner.recv(CHUNK):
                while chunk:
                    chunk = chunk[self._stream.send(chunk) :]
        self._end()

    def _end(self) -> None:
        with suppress(OSError):
            self._inner.shutdown(socket.SHUT_RDWR)

    def _abort(self) -> None:
        with suppress(libvirt.libvirtError):
            self._stream.abort()


def carry(connection: socket.socket, source: int, target: int, outgoing: Callable[[bytes], bytes | None] = lambda chunk: chunk) -> None:
    """Carries bytes between a socket and two open files until the socket or `source` ends.

    Args:
        connection: the socket.
        source: file number that is read.
        target: file number that is written.
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
        chunk = chunk[os.write(target, chunk) :]
