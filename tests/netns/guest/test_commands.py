"""The small commands of the guest program."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.netns.guest.machines import (
    Machine,
)

pytestmark = pytest.mark.netns


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "10.8.0.2", "fd00:8::2", "0.0.0.0"])  # noqa: S104
@pytest.mark.usefixtures("lan")
def test_ready_finds_a_service_on_any_address(guest: Machine, address: str) -> None:
    assert guest.guest("ready", "tcp", "8080").returncode == 1
    with guest.listening(f"tcp {address} 8080"):
        assert guest.guest("ready", "tcp", "8080").returncode == 0
    assert guest.guest("ready", "tcp", "x").returncode == 1


def test_wait_tcp_waits_as_long_as_it_was_told(guest: Machine) -> None:
    assert guest.identity() == "ok"
    began = time.monotonic()
    assert guest.guest("wait-tcp", "80", "1").returncode == 1
    assert 1 <= time.monotonic() - began < 2
    with subprocess.Popen(guest.argv("wait-tcp", "80", "20")) as waiting:
        time.sleep(0.5)
        assert waiting.poll() is None
        with guest.listening("tcp 127.0.0.1 80"):
            assert waiting.wait(timeout=5) == 0


def test_random_bytes_differ(guest: Machine) -> None:
    one, other = (guest.guest("random", "32").stdout.strip() for _ in range(2))
    assert len(bytes.fromhex(one)) == 32
    assert one != other


def test_bad_usage_is_told_on_stderr(guest: Machine) -> None:
    result = guest.guest("reboot")
    assert (result.returncode, result.stdout) == (2, "")
    assert "usage:" in result.stderr


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        ('{"message": {"count": 1, "return": "NOK"}, "return": "OK"}\n', 0),
        ('{"return": "NOK", "message": "said \\"return\\": \\"OK\\""}', 1),
        ('{"return": "OK", "mess', 1),
    ],
)
def test_suricata_answers_are_read_whole_and_judged_by_their_own_return(guest: Machine, reply: str, status: int) -> None:
    """The wire protocol alone; against a real Suricata it is proved with the IPS image."""
    guest.file("/run/suricata").mkdir()
    with ExitStack() as stack:
        server = stack.enter_context(socket.socket(socket.AF_UNIX))
        server.bind(f"/proc/self/fd/{stack.enter_context(open_folder(guest.file('/run/suricata')))}/command.socket")
        server.listen()
        client = stack.enter_context(
            subprocess.Popen(guest.argv("suricata", "ruleset-reload-rules", '{"a":"}"}'), stdout=subprocess.PIPE, text=True)
        )
        peer = stack.enter_context(server.accept()[0])
        assert json.loads(peer.recv(4096)) == {"version": "0.2"}
        peer.send(b'{"return": "OK"}\n')
        question = peer.recv(4096)
        assert question.endswith(b"\n")
        assert json.loads(question) == {"command": "ruleset-reload-rules", "arguments": {"a": "}"}}
        for part in (reply[:12], reply[12:]):
            peer.send(part.encode())
            time.sleep(0.1)
        peer.shutdown(socket.SHUT_RDWR)
        output = client.communicate(timeout=10)[0]
    assert client.returncode == status
    assert output.strip() == reply.strip() if status == 0 or "NOK" in reply else output.startswith("error 0 ")


@contextmanager
def open_folder(path: Path) -> Iterator[int]:
    """A short way to a long path: the address of a unix socket has 107 bytes."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield folder
    finally:
        os.close(folder)


def test_suricata_that_does_not_run_is_an_error(guest: Machine) -> None:
    assert guest.guest("suricata", "uptime").stdout == "error 0 /run/suricata/command.socket: No such file or directory\n"
    assert guest.guest("suricata", "uptime", "[1]").stdout == "error 0 the arguments are no JSON object\n"
    assert guest.guest("suricata", 'x"}').returncode == 1
