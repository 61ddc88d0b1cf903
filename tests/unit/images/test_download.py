"""A server that is too slow, in whichever part of its answer, holds nobody for long."""

from __future__ import annotations

import itertools
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.unit.images.certificates import certificate
from vcloud.errors import ImageError
from vcloud.images.cache import Cache
from vcloud.images.download import Pace, TooSlowError, blocks
from vcloud.images.user import fetch

HASTY = Pace(window=0.5, least=1024, overall=60)
DRIP = 0.02
"""Seconds between two bytes of a server that drips. So a window has far less than `least` bytes."""
START = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
UNTIL_THE_OTHER_SIDE_ENDS = b""
Part = Iterator[bytes]


class Server:
    """Answers each connection with the parts that `answer` yields, until the other side ends it."""

    def __init__(self, pem: Path) -> None:
        self.answer: Callable[[], Part] = lambda: iter(())
        self.encrypted = True
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(pem)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._serve)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._listener.getsockname()[1]}/disk.qcow2"

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._threads.append(threading.Thread(target=self._handle, args=[connection]))
                self._threads[-1].start()

    def _handle(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            if not self.encrypted:
                while connection.recv(4096):
                    pass
                return
            with self._context.wrap_socket(connection, server_side=True) as tls:
                tls.recv(4096)
                for part in self.answer():
                    if part == UNTIL_THE_OTHER_SIDE_ENDS:
                        tls.recv(1)
                    tls.sendall(part)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    pem = tmp_path / "server.pem"
    pem.write_bytes(certificate())
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server(pem)
    yield server
    server.close()


def dripping(*whole: bytes) -> Part:
    for part in itertools.chain(*whole, itertools.repeat(ord("x"))):
        yield bytes([part])
        time.sleep(DRIP)


def test_a_server_that_keeps_up_is_read_to_the_end(server: Server) -> None:
    part, parts = b"x" * 8192, 60

    def answer() -> Part:
        yield START % (len(part) * parts)
        for _ in range(parts):
            yield part
            time.sleep(DRIP)

    server.answer = answer
    began = time.monotonic()
    assert b"".join(blocks(server.url, Pace(window=1, least=1024, overall=60))) == part * parts
    # Several windows have passed.
    assert time.monotonic() - began > 1


SLOW: dict[str, Callable[[], Part]] = {
    "headers": lambda: dripping(b"HTTP/1.1 200 OK\r\nX: "),
    "status": lambda: dripping(b""),
    "body": lambda: itertools.chain([START % (1 << 30)], dripping()),
    "chunks": lambda: dripping_chunks(),
    "stops": lambda: itertools.chain([START % (1 << 30), b"x" * 4096], silence()),
    "silent": lambda: silence(),
}


def dripping_chunks() -> Part:
    yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    while True:
        yield b"1\r\nx\r\n"
        time.sleep(DRIP)


def silence() -> Part:
    yield UNTIL_THE_OTHER_SIDE_ENDS


@pytest.mark.parametrize("part", SLOW)
@pytest.mark.timeout(60)
def test_a_server_that_drips_is_given_up(server: Server, part: str) -> None:
    server.answer = SLOW[part]
    with pytest.raises(TooSlowError, match=r"less than 1 KiB came within 0\.5 seconds"):
        list(blocks(server.url, HASTY))


@pytest.mark.timeout(60)
def test_a_server_that_never_shakes_hands_is_given_up(server: Server) -> None:
    server.encrypted = False
    with pytest.raises(TooSlowError):
        list(blocks(server.url, HASTY))


@pytest.mark.timeout(60)
def test_a_download_that_never_ends_is_given_up(server: Server) -> None:
    def answer() -> Part:
        yield START % (1 << 40)
        while True:
            yield b"x" * 4096
            time.sleep(DRIP)

    server.answer = answer
    with pytest.raises(TooSlowError, match="took longer"):
        list(blocks(server.url, Pace(window=0.5, least=1, overall=1)))


def test_a_body_that_ends_early_is_told(server: Server) -> None:
    server.answer = lambda: iter([START % 4096, b"x" * 1024])
    with pytest.raises(Exception, match=r"IncompleteRead\(0 bytes read, 3072 more expected\)"):
        list(blocks(server.url))


@pytest.mark.timeout(60)
def test_of_a_download_that_was_given_up_nothing_is_kept(server: Server, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    server.answer = SLOW["body"]
    with pytest.raises(ImageError, match="within") as failure:
        fetch(server.url, "0" * 64, cache=cache, pace=HASTY)
    assert failure.value.hint == "Download it with another program, and name the file."
    assert cache.list() == ()
    assert not [path for path in cache.folder.iterdir() if path.is_dir()]
