"""Answers for every server of the simulated internet: `python -m vcloud.lab.responder PORT LOG`.
Uses only the standard library.

nft's `tproxy` passes packets for any address and port to this program without changing them. So the
local address of a socket is the address that the sender used. The program answers an HTTP request
with a JSON description of the request. It sends other TCP data and UDP datagrams back as they are.
It writes one JSON line to the log when a TCP connection opens, for every HTTP request, when a
connection whose data it sent back ends, and for every datagram.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TypeAlias

Address: TypeAlias = tuple[str, int]

METHODS = (b"GET ", b"HEAD ", b"POST ", b"PUT ", b"PATCH ", b"DELETE ", b"OPTIONS ")
"""A TCP connection that begins with one of these is HTTP."""
IDLE_TIMEOUT = 60.0
"""Seconds without data after which a connection is closed."""
CHUNK = 65536

IPV6_TRANSPARENT = 75
IP_RECVORIGDSTADDR = 20
IPV6_RECVORIGDSTADDR = 74
"""Linux's numbers of socket options that Python's socket module lacks.

With IP_RECVORIGDSTADDR, each datagram comes with the address that its sender used.
"""


class Log:
    """Writes JSON lines. Each line is one system call on a file that is opened anew, so that a test
    may read or delete the log at any time.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, event: str, source: Address, target: Address, **more: object) -> None:
        line = {"time": time.time(), "event": event, "from": source, "to": target, **more}
        with self._path.open("ab", buffering=0) as file:
            file.write(json.dumps(line).encode() + b"\n")


def main(port: int, log: Log) -> None:
    """Serves until the process is killed."""
    for family in (socket.AF_INET, socket.AF_INET6):
        for kind, serve in ((socket.SOCK_STREAM, serve_tcp), (socket.SOCK_DGRAM, serve_udp)):
            server = transparent_socket(family, kind)
            server.bind(("", port))
            if kind is socket.SOCK_STREAM:
                server.listen(1024)
            # Not daemon threads: the process lives as long as they do.
            threading.Thread(target=serve, args=(server, log)).start()
    # The same word as `outside.READY`. This program imports nothing of vcloud.
    print("ready", flush=True)


def transparent_socket(family: int, kind: int) -> socket.socket:
    """A socket that may use any address as its own (IP_TRANSPARENT, see ip(7))."""
    made = socket.socket(family, kind)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
    else:
        made.setsockopt(socket.SOL_IP, socket.IP_TRANSPARENT, 1)
    return made


def serve_tcp(server: socket.socket, log: Log) -> None:
    while True:
        connection, source = server.accept()
        threading.Thread(
            target=answer_connection, args=(connection, source[:2], log), daemon=True
        ).start()


def answer_connection(connection: socket.socket, source: Address, log: Log) -> None:
    """Answers one connection: as HTTP if its first segment begins with an HTTP method, otherwise by
    sending the data back.
    """
    with connection, contextlib.suppress(OSError):
        connection.settimeout(IDLE_TIMEOUT)
        target = connection.getsockname()[:2]
        log.write("open", source, target)
        # The longest method has 8 bytes with its space. MSG_PEEK leaves them in the socket.
        if connection.recv(8, socket.MSG_PEEK).startswith(METHODS):
            HttpAnswer(connection, source, target, log)
        else:
            echo(connection, source, target, log)


def echo(connection: socket.socket, source: Address, target: Address, log: Log) -> None:
    size, digest = 0, hashlib.sha256()
    try:
        while data := connection.recv(CHUNK):
            size += len(data)
            digest.update(data)
            connection.sendall(data)
    finally:
        log.write("tcp", source, target, size=size, sha256=digest.hexdigest())


class HttpAnswer(BaseHTTPRequestHandler):
    """Answers all requests of one connection. The constructor returns when the connection has
    ended.
    """

    protocol_version = "HTTP/1.1"
    timeout = IDLE_TIMEOUT

    def __init__(
        self, connection: socket.socket, source: Address, target: Address, log: Log
    ) -> None:
        self._source, self._target, self._log = source, target, log
        # The methods in use need no server object.
        super().__init__(connection, source, None)  # type: ignore[arg-type]

    def answer(self) -> None:
        size, digest, complete = 0, hashlib.sha256(), False
        try:
            for data in self._body():
                size += len(data)
                digest.update(data)
            complete = True
        finally:
            request = {
                "method": self.command,
                "path": self.path,
                "size": size,
                "sha256": digest.hexdigest(),
            }
            host = self.headers.get("Host", "")
            self._log.write(
                "http", self._source, self._target, **request, host=host, complete=complete
            )
        text = (
            json.dumps(
                {
                    **request,
                    "source": self._source[0],
                    "server": self._target[0],
                    "port": self._target[1],
                }
            ).encode()
            + b"\n"
        )
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    # The base class calls methods of these names.
    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = answer  # noqa: N815

    def _body(self) -> Iterator[bytes]:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            # A chunk begins with its size and may have extensions after a semicolon (RFC 9112,
            # 7.1).
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield from self._read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
        else:
            yield from self._read(int(self.headers.get("Content-Length", "0")))

    def _read(self, size: int) -> Iterator[bytes]:
        while size:
            data = self.rfile.read1(min(size, CHUNK))
            if not data:
                raise ConnectionResetError("the connection ended in the middle of a request body")
            size -= len(data)
            yield data

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the base class's name)
        """Does nothing, because `answer` writes the log."""


def serve_udp(server: socket.socket, log: Log) -> None:
    """Answers each datagram from the address and port that it was sent to. This needs a socket of
    its own for each answer.
    """
    if server.family == socket.AF_INET6:
        server.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVORIGDSTADDR, 1)
    else:
        server.setsockopt(socket.SOL_IP, IP_RECVORIGDSTADDR, 1)
    while True:
        # An answer that cannot be sent must not end the service.
        with contextlib.suppress(OSError):
            data, extra, _, source = server.recvmsg(CHUNK, 256)
            target = original_target(extra[0][2])
            log.write(
                "udp", source[:2], target, size=len(data), sha256=hashlib.sha256(data).hexdigest()
            )
            with transparent_socket(server.family, socket.SOCK_DGRAM) as answer:
                answer.bind(target)
                answer.sendto(data, source)


def original_target(sockaddr: bytes) -> Address:
    """Reads a `sockaddr_in` or `sockaddr_in6`: family, port and address. See ip(7) and ipv6(7)."""
    (family,) = struct.unpack_from("=H", sockaddr)
    (port,) = struct.unpack_from("!H", sockaddr, 2)
    address = sockaddr[8:24] if family == socket.AF_INET6 else sockaddr[4:8]
    return socket.inet_ntop(family, address), port


if __name__ == "__main__":
    main(int(sys.argv[1]), Log(Path(sys.argv[2])))
