"""What systemd says on its own socket, and one that stands for it: systemd runs in VMs only."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.netns.guest.machines import Machine

JOB, OTHER_JOB = "/org/freedesktop/systemd1/job/7", "/org/freedesktop/systemd1/job/8"
CALL, METHOD_RETURN, ERROR, SIGNAL = 1, 2, 3, 4


def dbus_string(text: str) -> bytes:
    content = text.encode() + b"\0"
    return struct.pack("<I", len(text)) + content + bytes(-len(content) % 4)


def dbus_message(kind: int, member: str, body: bytes) -> bytes:
    """A message whose one header field is its member."""
    fields = b"\3\1s\0" + dbus_string(member)
    return (
        struct.pack("<4sIII", bytes([ord("l"), kind, 0, 1]), len(body), 1, len(fields))
        + fields
        + bytes(-len(fields) % 8)
        + body
    )


def job_removed(job: str, result: str) -> bytes:
    body = struct.pack("<I", 7) + b"".join(map(dbus_string, (job, "multi-user.target", result)))
    return dbus_message(SIGNAL, "JobRemoved", body)


JOB_NEW = dbus_message(
    SIGNAL, "JobNew", struct.pack("<I", 7) + dbus_string(JOB) + dbus_string("multi-user.target")
)
UNIT_NEW = dbus_message(
    SIGNAL,
    "UnitNew",
    dbus_string("ssh.socket") + dbus_string("/org/freedesktop/systemd1/unit/ssh_2esocket"),
)


@contextmanager
def open_folder(path: Path) -> Iterator[int]:
    """A short way to a long path: the address of a unix socket has 107 bytes."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield folder
    finally:
        os.close(folder)


LOGIN = b"\0AUTH EXTERNAL 30\r\nBEGIN\r\n"
Answer = Callable[[str, tuple[str, ...]], list[bytes]]
"""Takes the name of a call and its arguments, and returns the messages that come back."""


def unit_list(*units: tuple[str, str]) -> bytes:
    """The body of an answer to ListUnitsFiltered: names of units with their states in detail."""
    body = b""
    for name, detail in units:
        body += bytes(-len(body) % 8)
        for text in (name, "A description", "loaded", "failed", detail, "", f"/unit/{name}"):
            body += dbus_string(text)
        body += struct.pack("<I", 0) + dbus_string("") + dbus_string("/")
    return struct.pack("<II", len(body), 0) + body


def moment(seconds_ago: float) -> bytes:
    """The body of an answer to Get: a variant with a time by the monotonic clock, in microseconds."""
    return b"\1t\0" + bytes(5) + struct.pack("<Q", int((time.monotonic() - seconds_ago) * 1e6))


def read_call(message: bytes) -> tuple[str, tuple[str, ...]]:
    """The name of a call, and its arguments: strings, or one list of strings."""
    _, body_size, _, fields_size = struct.unpack_from("<4sIII", message)
    fields = message[16 : 16 + fields_size]
    body = message[16 + fields_size + -fields_size % 8 :][:body_size]
    member = fields.partition(b"\3\1s\0")[2]
    name = member[4 : 4 + struct.unpack_from("<I", member)[0]].decode()
    at, arguments = 4 if b"as\0" in fields else 0, []
    while at < len(body):
        at += -at % 4
        (length,) = struct.unpack_from("<I", body, at)
        arguments.append(body[at + 4 : at + 4 + length].decode())
        at += 4 + length + 1
    return name, tuple(arguments)


@contextmanager
def systemd(guest: Machine, answer: Answer) -> Iterator[list[tuple[str, tuple[str, ...]]]]:
    """Answers every call in the machine until the end. Yields the calls as they come."""
    folder = guest.file("/run/systemd")
    folder.mkdir(exist_ok=True)
    calls: list[tuple[str, tuple[str, ...]]] = []
    with ExitStack() as stack:
        server = stack.enter_context(socket.socket(socket.AF_UNIX))
        server.bind(f"/proc/self/fd/{stack.enter_context(open_folder(folder))}/private")
        server.listen()

        def serve() -> None:
            while True:
                try:
                    peer, _ = server.accept()
                except OSError:
                    return
                with peer:
                    assert peer.recv(4096).startswith(LOGIN)
                    peer.send(b"OK 0123456789abcdef0123456789abcdef\r\n")
                    while message := peer.recv(4096):
                        calls.append(read_call(message))
                        for part in answer(*calls[-1]):
                            peer.send(part)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield calls
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(10)
            (folder / "private").unlink()
