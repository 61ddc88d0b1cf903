"""Downloads over https that end in limited time, even if the server is hostile.

A server could send single bytes for ever, also in its headers. urllib's timeouts count only from one
byte to the next. So a thread watches each download, and closes its connection if it is too slow, or
takes too long in all.
"""

from __future__ import annotations

import http.client
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, Any, Final

BLOCK_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Pace:
    """The minimum speed and the maximum time of a download."""

    window: float = 60
    """Seconds."""
    least: int = 480 << 10
    """Bytes in each window. The first window also includes the time for the connection and the
    headers.
    """
    overall: float = 12 * 3600
    """Seconds of the whole download."""


PACE: Final = Pace()


class TooSlowError(OSError):
    """The server was too slow. The message completes "the image ... cannot be read:"."""


def blocks(url: str, pace: Pace = PACE) -> Generator[bytes]:
    """The content at an https address, a block at a time.

    Raises:
        TooSlowError: the server is too slow.
        OSError, http.client.HTTPException: the download is not possible, or ended early.
    """
    with _watched(pace) as watch:
        try:
            opener = urllib.request.build_opener(_HttpsRedirects, _Handler(watch))
            response: http.client.HTTPResponse
            # The watch ends a slow download long before this timeout of a single call.
            with opener.open(url, timeout=3 * pace.window) as response:
                # `read` would wait for a whole block; `read1` returns what has arrived.
                while block := response.read1(BLOCK_BYTES):
                    watch.received += len(block)
                    yield block
                left = response.length
        except (OSError, http.client.HTTPException):
            # If the watch closed the connection, many different errors are possible.
            watch.check()
            raise
        watch.check()
    if left:
        raise http.client.IncompleteRead(b"", left)


class _Watch:
    """Closes the connections of a download that is too slow."""

    def __init__(self, pace: Pace) -> None:
        self.received = 0
        self.ended = threading.Event()
        self._pace = pace
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._reason = ""

    def connect(self, *args: Any, **kwargs: Any) -> socket.socket:
        """As socket.create_connection. TLS takes over the descriptor of the socket that it gets, so
        the watch keeps another one of the same connection.
        """
        made = socket.create_connection(*args, **kwargs)
        with self._lock:
            self._sockets.append(made.dup())
        self.check()
        return made

    def check(self) -> None:
        """Raises TooSlowError if the watch has ended the download."""
        if self._reason:
            raise TooSlowError(self._reason)

    def run(self) -> None:
        began, before, pace = time.monotonic(), 0, self._pace
        while not self.ended.wait(min(pace.window, began + pace.overall - time.monotonic())):
            if time.monotonic() - began >= pace.overall:
                self._end(f"it took longer than {pace.overall / 3600:g} hours")
                break
            if self.received - before < pace.least:
                self._end(f"less than {pace.least >> 10} KiB came within {pace.window:g} seconds")
                break
            before = self.received

    def _end(self, reason: str) -> None:
        with self._lock:
            self._reason = reason
            for kept in self._sockets:
                # The server may have closed the connection already.
                with suppress(OSError):
                    kept.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for kept in self._sockets:
            kept.close()


@contextmanager
def _watched(pace: Pace) -> Iterator[_Watch]:
    watch = _Watch(pace)
    thread = threading.Thread(target=watch.run, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        watch.ended.set()
        thread.join()
        watch.close()


class _Handler(urllib.request.HTTPSHandler):
    """Opens connections through the watch, so that the watch can close them."""

    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self._watch = watch

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connection, req)

    def _connection(self, host: str, **options: Any) -> http.client.HTTPSConnection:
        made = http.client.HTTPSConnection(host, **options)
        # http.client keeps the function with which it connects in this attribute, as a hook.
        made._create_connection = self._watch.connect  # type: ignore[attr-defined]
        return made


class _HttpsRedirects(urllib.request.HTTPRedirectHandler):
    """Follows only redirects to https addresses."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if not newurl.startswith("https://"):
            raise urllib.error.URLError(f"the server redirects to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)
