"""Servers and clients of real protocols on both sides of the IPS."""

from __future__ import annotations

import contextlib
import http.server
import smtplib
import socket
import threading
from collections.abc import Iterator

from tests.netns.ips.lab import OUTSIDE4, IpsLab, Machine


@contextlib.contextmanager
def http_server(where: Machine, address: str) -> Iterator[int]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            text = f"got {len(self.rfile.read(int(self.headers['Content-Length'])))}".encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.HTTPServer((address, 0), Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = where.socket(socket.AF_INET, socket.SOCK_STREAM)
    server.server_bind()
    server.server_activate()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


@contextlib.contextmanager
def mail_server(where: Machine, address: str, patience: float) -> Iterator[tuple[int, list[bytes]]]:
    """Takes one mail. Each line of it must come within so many seconds."""
    mails: list[bytes] = []
    with where.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind((address, 0))
        listener.listen()
        thread = threading.Thread(target=_take_mail, args=(listener, mails, patience))
        thread.start()
        yield listener.getsockname()[1], mails
        thread.join(timeout=60)


def _take_mail(listener: socket.socket, mails: list[bytes], patience: float) -> None:
    connection, _ = listener.accept()
    connection.settimeout(patience)
    with connection, connection.makefile("rwb") as stream, contextlib.suppress(OSError):
        stream.write(b"220 mail.example ESMTP\r\n")
        stream.flush()
        for line in stream:
            word = line.split()[0].upper()
            stream.write(
                b"354 go on\r\n"
                if word == b"DATA"
                else b"221 bye\r\n"
                if word == b"QUIT"
                else b"250 ok\r\n"
            )
            stream.flush()
            if word == b"DATA":
                mail = b"".join(iter(stream.readline, b".\r\n"))
                mails.append(mail)
                stream.write(b"250 taken\r\n")
                stream.flush()


def send_mail(lab: IpsLab, source: str, port: int, mail: bytes, patience: float) -> None:
    raw = lab.machine(source).socket(socket.AF_INET, socket.SOCK_STREAM)
    raw.settimeout(patience)
    raw.connect((OUTSIDE4, port))

    class Client(smtplib.SMTP):
        def _get_socket(
            self, *_: object
        ) -> socket.socket:  # the library offers no other way to bring a socket
            return raw

    with Client(OUTSIDE4, port, local_hostname="api.example") as client:
        client.sendmail("a@example", ["b@example"], mail)
