"""The vApp whose firewall is tested, and what passes through it."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.design_builder import build_design
from tests.netns.fabric import LONG, OUTSIDE4, OUTSIDE6, Fabric, Namespace

FLOWS = """
    checkout: internet -> web tcp/80=8080 tcp/5000-5003=6000 udp/7000-7003
    admin: internet -> api tcp/9100
    orders: web -> api tcp/8000 udp/53
    alive: web -> api icmp
    stock: api -> db tcp/9000-9010
    store: api -> db tcp/5432
    updates: api -> internet tcp/443 udp/123 icmp
"""
WITHOUT_STORE = FLOWS.replace("    store: api -> db tcp/5432\n", "")
WITHOUT_STOCK = FLOWS.replace("    stock: api -> db tcp/9000-9010\n", "")
DESIGN = build_design(
    "dmz app cde plain:open",
    {"web": "dmz x2", "api": "app", "db": "cde", "tool": "plain x2"},
    FLOWS,
)
UNDECLARED = 8001
PUSHED = 9007
STREAM, DATAGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM


both_versions = pytest.mark.parametrize("version", [4, 6], ids=["IPv4", "IPv6"])


def outside(version: int) -> str:
    return OUTSIDE4 if version == 4 else OUTSIDE6


def settled(happened: Callable[[], bool], seconds: float = LONG) -> bool:
    """Whether it becomes true in time: packets need a moment."""
    deadline = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def noting(task: Callable[[], None], failures: list[str]) -> Callable[[], None]:
    def run() -> None:
        try:
            task()
        except Exception as error:
            failures.append(repr(error))

    return run


@contextlib.contextmanager
def bound(where: Namespace, version: int, port: int) -> Iterator[socket.socket]:
    with where.socket(socket.AF_INET if version == 4 else socket.AF_INET6, DATAGRAM) as client:
        client.settimeout(LONG)
        client.bind(("" if version == 4 else "::", port))
        yield client


@contextlib.contextmanager
def pushed(net: Fabric) -> Iterator[tuple[list[int], Callable[[], int]]]:
    """What a server sends of its own accord, one number every 5 ms: the numbers that came in so
    far, and how many were sent.
    """
    numbers: list[int] = []
    number = 0

    def read() -> None:
        with contextlib.suppress(OSError), client.makefile("r") as lines:
            numbers.extend(map(int, lines))

    with (
        net.vms["db"].socket(socket.AF_INET, STREAM) as server,
        net.vms["api"].socket(socket.AF_INET, STREAM) as client,
    ):
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((net.address("db", 4), PUSHED))
        server.listen()
        client.connect(server.getsockname())
        pushing, _ = server.accept()
        stop = threading.Event()

        def push() -> None:
            nonlocal number
            while not stop.wait(0.005):
                pushing.sendall(f"{number}\n".encode())
                number += 1

        threads = [threading.Thread(target=push), threading.Thread(target=read)]
        for thread in threads:
            thread.start()
        try:
            yield numbers, lambda: number
        finally:
            stop.set()
            client.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join()
            pushing.close()
