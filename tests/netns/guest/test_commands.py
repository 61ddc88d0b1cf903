"""The small commands of the guest program."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.netns.guest.dbus import (
    CALL,
    ERROR,
    JOB,
    JOB_NEW,
    METHOD_RETURN,
    OTHER_JOB,
    UNIT_NEW,
    dbus_message,
    dbus_string,
    job_removed,
    open_folder,
)
from tests.netns.guest.machines import (
    POLL,
    Machine,
    until,
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
    assert 1 <= time.monotonic() - began < 200, "not as long as the next one would"
    with subprocess.Popen(guest.argv("wait-tcp", "80", "600")) as waiting:
        until("it waits", lambda: guest.sleeps_in("guest", POLL))
        with guest.listening("tcp 127.0.0.1 80"):
            assert waiting.wait(timeout=500) == 0


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
def test_suricata_answers_are_read_whole_and_judged_by_their_own_return(
    guest: Machine, reply: str, status: int
) -> None:
    """The wire protocol alone; against a real Suricata it is proved with the IPS image."""
    guest.file("/run/suricata").mkdir()
    with ExitStack() as stack:
        server = stack.enter_context(socket.socket(socket.AF_UNIX))
        server.bind(
            f"/proc/self/fd/{stack.enter_context(open_folder(guest.file('/run/suricata')))}/command.socket"
        )
        server.listen()
        client = stack.enter_context(
            subprocess.Popen(
                guest.argv("suricata", "ruleset-reload-rules", '{"a":"}"}'),
                stdout=subprocess.PIPE,
                text=True,
            )
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
        output = client.communicate(timeout=120)[0]
    assert client.returncode == status
    assert (
        output.strip() == reply.strip()
        if status == 0 or "NOK" in reply
        else output.startswith("error 0 ")
    )


def start_services(guest: Machine, *messages: bytes) -> tuple[bytes, str]:
    """The call that systemd gets, and what the program prints when these messages come back."""
    guest.file("/run/systemd").mkdir()
    guest.file("/etc/systemd/system").mkdir(parents=True)
    with ExitStack() as stack:
        server = stack.enter_context(socket.socket(socket.AF_UNIX))
        server.bind(
            f"/proc/self/fd/{stack.enter_context(open_folder(guest.file('/run/systemd')))}/private"
        )
        server.listen()
        client = stack.enter_context(
            subprocess.Popen(guest.argv("start-services"), stdout=subprocess.PIPE, text=True)
        )
        peer = stack.enter_context(server.accept()[0])
        assert peer.recv(4096).startswith(b"\0AUTH EXTERNAL 30\r\nBEGIN\r\n")
        peer.send(b"OK 0123456789abcdef0123456789abcdef\r\n")
        call = peer.recv(4096)
        # The program hangs up as soon as it has read that something is no message.
        with suppress(BrokenPipeError, ConnectionResetError):
            for message in messages:
                peer.send(message[:20])
                peer.send(message[20:])
        peer.shutdown(socket.SHUT_RDWR)
        output = client.communicate(timeout=120)[0]
    assert client.returncode == (1 if output else 0)
    return call, output.strip()


def test_services_are_started_now_and_at_each_boot(guest: Machine) -> None:
    answer = dbus_message(METHOD_RETURN, "", dbus_string(JOB))
    call, output = start_services(
        guest,
        JOB_NEW,
        UNIT_NEW,
        answer,
        job_removed(OTHER_JOB, "failed"),
        UNIT_NEW,
        job_removed(JOB, "done"),
    )
    assert output == ""
    order, kind, _, version, body, _, fields = struct.unpack_from("<BBBBIII", call)
    assert (order, kind, version) == (ord("l"), CALL, 1)
    assert call[16 + fields + -fields % 8 :] == dbus_string("multi-user.target") + dbus_string(
        "replace"
    ).ljust(body - 24, b"\0")
    assert [
        name in call
        for name in (
            b"StartUnit",
            b"org.freedesktop.systemd1.Manager",
            b"/org/freedesktop/systemd1",
        )
    ] == [True] * 3
    assert guest.file("/etc/systemd/system/default.target").readlink() == Path(
        "/usr/lib/systemd/system/multi-user.target"
    )


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        (
            [dbus_message(METHOD_RETURN, "", dbus_string(JOB)), job_removed(JOB, "dependency")],
            "error 0 multi-user.target: dependency",
        ),
        (
            [dbus_message(ERROR, "", dbus_string("Unit is masked."))],
            "error 0 multi-user.target: Unit is masked.",
        ),
        (
            [dbus_message(METHOD_RETURN, "", dbus_string(JOB))],
            "error 0 /run/systemd/private: systemd has closed the connection",
        ),
        (
            [dbus_message(METHOD_RETURN, "", struct.pack("<I", 1 << 31) + b"x")],
            "error 0 multi-user.target: no reason",
        ),
        (
            [struct.pack("<4sIII", b"l\2\0\1", 1 << 31, 1, 1 << 31)],
            "error 0 /run/systemd/private: no message of D-Bus",
        ),
    ],
)
def test_services_that_do_not_start_are_told_and_the_next_boot_waits_again(
    guest: Machine, messages: list[bytes], said: str
) -> None:
    assert start_services(guest, *messages)[1] == said
    assert not guest.file("/etc/systemd/system/default.target").is_symlink()


def test_suricata_that_does_not_run_is_an_error(guest: Machine) -> None:
    assert (
        guest.guest("suricata", "uptime").stdout
        == "error 0 /run/suricata/command.socket: No such file or directory\n"
    )
    assert (
        guest.guest("suricata", "uptime", "[1]").stdout
        == "error 0 the arguments are no JSON object\n"
    )
    assert guest.guest("suricata", 'x"}').returncode == 1
