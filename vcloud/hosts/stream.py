"""Byte streams through libvirt as sockets: what a program on this side and a guest on the other have in common.

libvirt's streams have neither a file number nor a timeout, and a thread that waits in one for ever can keep other calls of the same
connection from being sent. So a stream has a connection of its own, never blocks, and is carried by libvirt's event loop to and from one end
of a socket pair; the other end is an ordinary socket, for `select`, for paramiko, or to be carried to a terminal.
"""

from __future__ import annotations

import functools
import os
import selectors
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import libvirt

from vcloud.hosts.connection import Host, open_host

CHUNK = 64 << 10
AGAIN = -2
"""What a stream that does not block says instead of waiting."""


def receive(stream: libvirt.virStream) -> bytes:
    """What comes next on a stream that blocks and will end, as a download; empty at its end."""
    try:
        chunk: bytes | int = stream.recv(CHUNK)
    except libvirt.libvirtError:
        return b""
    return chunk if isinstance(chunk, bytes) else b""


@contextmanager
def stream_socket(host: Host, open_stream: Callable[[libvirt.virConnect, libvirt.virStream], object]) -> Iterator[socket.socket]:
    """A socket that is what `open_stream` opens, by another connection to the host. Either end ends the other.

    Raises what `open_stream` raises, and HostError where the host cannot be reached again.
    """
    _run_events()
    with open_host(host.ref) as own:
        stream = own.connection.newStream(libvirt.VIR_STREAM_NONBLOCK)
        open_stream(own.connection, stream)
        pump = _Pump(stream)
        try:
            yield pump.socket
        finally:
            pump.socket.close()
            pump.end()
            with suppress(libvirt.libvirtError):
                stream.abort()


@functools.cache
def _run_events() -> None:
    """libvirt's event loop, for the connections that are opened from now on."""
    libvirt.virEventRegisterDefaultImpl()

    def run() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    threading.Thread(target=run, daemon=True).start()


class _Pump:
    """Carries bytes between a stream and a socket. All but `end` happens in the thread of the event loop."""

    def __init__(self, stream: libvirt.virStream) -> None:
        self._stream = stream
        self._ended = threading.Lock()
        self._pending = b""
        self.socket, self._inner = socket.socketpair()
        self._stream.eventAddCallback(libvirt.VIR_STREAM_EVENT_READABLE | libvirt.VIR_STREAM_EVENT_HANGUP, self._on_stream, None)
        self._watch = libvirt.virEventAddHandle(self._inner.fileno(), libvirt.VIR_EVENT_HANDLE_READABLE, self._on_socket, None)

    def end(self) -> None:
        """Ends the socket; the stream is left to its owner."""
        if self._ended.acquire(blocking=False):
            with suppress(libvirt.libvirtError):
                libvirt.virEventRemoveHandle(self._watch)
            with suppress(libvirt.libvirtError):
                self._stream.eventRemoveCallback()
            with suppress(OSError):
                self._inner.shutdown(socket.SHUT_RDWR)

    def _on_stream(self, _stream: libvirt.virStream, events: int, _opaque: object) -> None:
        try:
            if events & libvirt.VIR_STREAM_EVENT_WRITABLE:
                self._flush()
            while (chunk := self._stream.recv(CHUNK)) != AGAIN:
                if not chunk:
                    return self.end()
                self._inner.sendall(chunk)
        except (libvirt.libvirtError, OSError):
            return self.end()
        if events & libvirt.VIR_STREAM_EVENT_HANGUP:
            return self.end()
        return None

    def _on_socket(self, _watch: int, _number: int, _events: int, _opaque: object) -> None:
        try:
            chunk = self._inner.recv(CHUNK)
            if not chunk:
                return self.end()
            self._pending += chunk
            self._flush()
        except (libvirt.libvirtError, OSError):
            return self.end()
        return None

    def _flush(self) -> None:
        """Sends what is pending, and reads no more from the socket until all of it is sent."""
        while self._pending and (sent := self._stream.send(self._pending)) != AGAIN:
            self._pending = self._pending[sent:]
        waiting = bool(self._pending)
        wanted = libvirt.VIR_STREAM_EVENT_READABLE | libvirt.VIR_STREAM_EVENT_HANGUP | (libvirt.VIR_STREAM_EVENT_WRITABLE if waiting else 0)
        self._stream.eventUpdateCallback(wanted)
        libvirt.virEventUpdateHandle(self._watch, 0 if waiting else libvirt.VIR_EVENT_HANDLE_READABLE)


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
