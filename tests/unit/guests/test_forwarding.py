"""Which ports are forwarded into a VM: what is read, what is refused, and what OpenSSH's own sshd does
with the options that vcloud gives it.
"""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator

import pytest

from vcloud.errors import UsageError
from vcloud.guests.access import forwarding_options, with_command
from vcloud.guests.forwarding import dynamic_forward, local_forward, port_pair


def test_what_can_be_written() -> None:
    assert local_forward("8080:localhost:80").argv == ("-L", "127.0.0.1:8080:localhost:80")
    assert local_forward("[::1]:1:[fd00::7]:2").argv == ("-L", "[::1]:1:[fd00::7]:2")
    assert local_forward("127.0.0.5:8080:10.0.0.1:80").argv[1] == "127.0.0.5:8080:10.0.0.1:80"
    assert dynamic_forward("1080").argv == ("-D", "127.0.0.1:1080")
    assert port_pair("8080:80").argv == ("-L", "127.0.0.1:8080:localhost:80")
    assert port_pair("80").argv == ("-L", "127.0.0.1:80:localhost:80")


@pytest.mark.parametrize(
    "text", ["0.0.0.0:8080:localhost:80", "[::]:8080:localhost:80", "box:1:x:2"]
)
def test_no_other_machine_gets_a_way_past_the_firewall(text: str) -> None:
    with pytest.raises(UsageError, match="past its firewall"):
        local_forward(text)


@pytest.mark.parametrize(
    "text",
    ["", "80", "a:b:c", "0:x:80", "70000:x:80", "80:x:80:", "/run/s:x:80", "80:;x:80", "²:x:1"],
)
def test_what_is_no_forward_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        local_forward(text)


@pytest.mark.parametrize("text", ["", ":80", "80:", "x", "0", "1:2:3", "8080:localhost:80"])
def test_what_is_no_pair_of_ports_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        port_pair(text)


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server on loopback that sends back what it gets."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(connection.recv(100))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def told_by(login: list[str], text: str, words: bytes) -> bytes:
    """What comes back through a forwarded port, when ssh says that it listens."""
    forward = local_forward(text)
    options = forwarding_options([forward], only=True, told="it listens, 100%")
    argv = [login[0], *options, *login[1:]]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as ssh:
        assert ssh.stdout
        try:
            assert ssh.stdout.readline() == b"it listens, 100%\n"
            with socket.create_connection(("127.0.0.1", forward.port)) as connection:
                connection.sendall(words)
                return connection.recv(100)
        except ConnectionResetError:
            return b""
        finally:
            ssh.kill()  # it can miss a SIGTERM that comes just before it waits for data


def test_a_port_of_the_guest_itself_is_reached_and_no_other_address(
    login: list[str], echo: int
) -> None:
    assert told_by(login, f"{free_port()}:localhost:{echo}", b"hello") == b"hello"
    # The same server, under an address that is not among the guest's own.
    assert told_by(login, f"{free_port()}:127.0.0.2:{echo}", b"hello") == b""


def test_nothing_leads_back_from_the_guest(login: list[str], echo: int) -> None:
    back = [login[0], "-N", "-R", f"{free_port()}:127.0.0.1:{echo}", *login[1:]]
    done = subprocess.run(back, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode != 0
    assert "remote port forwarding failed" in done.stderr


@pytest.mark.parametrize(("argv", "said"), [(["-V"], ""), (["echo", "-n", "x"], "x")])
def test_the_command_of_a_vm_is_no_option_of_ssh(
    login: list[str], argv: list[str], said: str
) -> None:
    """`ssh -V` prints its own version and ends with 0; no guest has a command -V."""
    done = subprocess.run(with_command(login, argv), capture_output=True, text=True)
    assert (done.returncode == 0, done.stdout) == (bool(said), said)
    assert "OpenSSH" not in done.stderr
