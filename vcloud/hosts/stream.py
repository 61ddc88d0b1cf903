"""Byte streams through libvirt, as sockets.

A blocking libvirt stream has no file number and no timeout, and a thread that waits in it can keep
other calls of the same connection from being sent. So each stream here has a connection of its own
and never blocks. libvirt's event loop carries the bytes between the stream and one end of a socket
pair. The other end is an ordinary socket, which works with `select`, paramiko or a terminal.
"""

from __future__ import annotations

import functools
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import libvirt

from vcloud.hosts.connection import Host, open_host

CHUNK = 64 << 10
"""Bytes that are read at once."""
WOULD_BLOCK = -2
"""A stream that does not block returns this number when it would have to wait."""


def receive(stream: libvirt.virStream) -> bytes:
    """The next bytes of a blocking stream, such as a download. Empty at the end of the stream.

    Raises libvirt.libvirtError where the connection breaks: half a file must not look like a whole
    one.
    """
    chunk: bytes | int = stream.recv(CHUNK)
    return chunk if isinstance(chunk, bytes) else b""


@contextmanager
def stream_socket(
    host: Host, open_stream: Callable[[libvirt.virConnect, libvirt.virStream], object]
) -> Iterator[socket.socket]:
    """The stream that `open_stream` opens, as a socket. If one side ends, the other side ends, too.

    The stream uses a second connection to the host.

    Raises what `open_stream` raises, and HostError if the second connection fails.
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
    """Starts libvirt's event loop. It serves only connections that are opened after this."""
    libvirt.virEventRegisterDefaultImpl()

    def run() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    threading.Thread(target=run, daemon=True).start()


class _Pump:
    """Carries bytes between a stream and a socket. All methods except `end` run in the thread of
    the event loop.
    """

    def __init__(self, stream: libvirt.virStream) -> None:
        self._stream = stream
        self._ended = threading.Lock()
        self._pending = b""
        self.socket, self._inner = socket.socketpair()
        self._stream.eventAddCallback(
            libvirt.VIR_STREAM_EVENT_READABLE | libvirt.VIR_STREAM_EVENT_HANGUP,
            self._on_stream,
            None,
        )
        self._watch = libvirt.virEventAddHandle(
            self._inner.fileno(), libvirt.VIR_EVENT_HANDLE_READABLE, self._on_socket, None
        )

    def end(self) -> None:
        """Ends the socket. The owner of the stream ends the stream."""
        # The lock is never released: only the first call ends the socket. It may come from either
        # thread.
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
            while (chunk := self._stream.recv(CHUNK)) != WOULD_BLOCK:
                if not chunk:
                    return self.end()
                self._inner.sendall(chunk)
        except (libvirt.libvirtError, OSError):
            return self.end()
        # After the reading: a stream whose other side has ended may still hold bytes.
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
        """Sends the pending bytes. The socket is read again only when all of them are sent."""
        while self._pending and (sent := self._stream.send(self._pending)) != WOULD_BLOCK:
            self._pending = self._pending[sent:]
        waiting = bool(self._pending)
        wanted = (
            libvirt.VIR_STREAM_EVENT_READABLE
            | libvirt.VIR_STREAM_EVENT_HANGUP
            | (libvirt.VIR_STREAM_EVENT_WRITABLE if waiting else 0)
        )
        self._stream.eventUpdateCallback(wanted)
        libvirt.virEventUpdateHandle(
            # With 0 the loop does not read the socket. So a guest that is slow to read slows down
            # the sender, and nothing piles up here.
            self._watch,
            0 if waiting else libvirt.VIR_EVENT_HANDLE_READABLE,
        )
