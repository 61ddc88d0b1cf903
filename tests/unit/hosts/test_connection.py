"""Opening hosts that are not there: real libvirt, real ssh, and what is said about each failure."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import libvirt
import pytest

from vcloud.errors import HostError
from vcloud.hosts.connection import Host, open_host, run_parallel, translated
from vcloud.hosts.inventory import HostRef
from vcloud.hosts.refusals import explain_refusal

TEST = HostRef("t", "test:///default")
REMOTE = HostRef("h1", "qemu+ssh://root@h1/system")


def test_a_host_opens_and_closes() -> None:
    with open_host(TEST) as host:
        assert host.connection.getType() == "TEST"
        assert host.name == "t"
    with pytest.raises(libvirt.libvirtError):
        host.connection.getType()


@pytest.mark.parametrize(
    ("uri", "what", "way_out"),
    [
        (
            "qemu+unix:///system?socket=/nowhere/sock",
            "libvirt does not run on x",
            "systemctl enable --now libvirtd",
        ),
        ("qemu+qqq:///system", "the URI of x does not lead to a libvirt", "qemu:///system"),
        ("qemu+ssh://nobody@name.invalid/system", "the name of x cannot be resolved", "HostName"),
        (
            "qemu+ssh://nobody@127.0.0.1:9/system",
            "x does not answer ssh",
            "ssh nobody@127.0.0.1 true",
        ),
    ],
)
def test_a_refusal_says_what_to_do(
    uri: str, what: str, way_out: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(HostError) as caught:
        open_host(HostRef("x", uri))
    assert caught.value.what.startswith(what)
    assert way_out in caught.value.hint
    assert capfd.readouterr().err == "", "libvirt's own messages must not reach the terminal"


@pytest.mark.parametrize(
    ("words", "what", "way_out"),
    [
        (
            "Cannot recv data: Host key verification failed.: Connection reset by peer",
            "host key of h1 is unknown",
            "fingerprint",
        ),
        (
            "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @ Host key verification failed.",
            "host key of h1 has changed",
            "ssh-keygen -R h1",
        ),
        (
            "Cannot recv data: root@h1: Permission denied (publickey).: Connection reset by peer",
            "refuses the SSH login root@h1",
            "ssh-add",
        ),
        (
            "End of file while reading data: sh: 1: virt-ssh-helper: not found: Input/output error",
            "libvirt is not installed on h1",
            "apt-get install",
        ),
        (
            "Failed to connect socket to '/var/run/libvirt/libvirt-sock': Permission denied",
            "does not allow you to connect",
            "usermod -aG libvirt",
        ),
        (
            "authentication unavailable: no polkit agent available to authenticate",
            "does not allow you to connect",
            "usermod -aG libvirt",
        ),
        (
            "ssh: connect to host h1 port 22: Connection timed out",
            "h1 does not answer ssh",
            "ssh root@h1 true",
        ),
        (
            "something that nobody has seen before",
            "something that nobody has seen before",
            "virsh --connect",
        ),
    ],
)
def test_the_words_of_libvirt_and_ssh_are_understood(words: str, what: str, way_out: str) -> None:
    error = explain_refusal(REMOTE, words)
    assert what in error.what
    assert way_out in error.hint


def test_an_unknown_host_key_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    """A real sshd whose key is in no known_hosts: no trust on first use, and the message says so."""
    with sshd(tmp_path) as port:
        (tmp_path / "config").write_text(
            f"Host *\n  UserKnownHostsFile {tmp_path}/none\n  StrictHostKeyChecking yes\n  BatchMode yes\n"
        )
        ref = HostRef("x", f"qemu+ssh://root@127.0.0.1:{port}/system", tmp_path / "config")
        with pytest.raises(HostError, match="the SSH host key of x is unknown"):
            open_host(ref)
        with pytest.raises(HostError, match="the SSH host key of x is unknown"):
            _ = Host(ref, None).shell


def test_another_host_key_than_the_known_one_is_refused(tmp_path: Path) -> None:
    with sshd(tmp_path) as port:
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "other")],
            check=True,
        )
        key = (tmp_path / "other.pub").read_text()
        (tmp_path / "known").write_text(f"[127.0.0.1]:{port} {key}")
        (tmp_path / "config").write_text(
            f"Host *\n  UserKnownHostsFile {tmp_path}/known\n  StrictHostKeyChecking yes\n  BatchMode yes\n"
        )
        ref = HostRef("x", f"qemu+ssh://root@127.0.0.1:{port}/system", tmp_path / "config")
        with pytest.raises(HostError, match="the SSH host key of x has changed"):
            open_host(ref)
        with pytest.raises(HostError, match="the SSH host key of x has changed"):
            _ = Host(ref, None).shell


def test_errors_of_libvirt_become_sentences() -> None:
    with (
        open_host(TEST) as host,
        pytest.raises(HostError) as caught,
        translated("the network 'x' could not be found"),
    ):
        host.connection.networkLookupByName("x")
    assert (
        str(caught.value)
        == "the network 'x' could not be found: Network not found: no network with matching name 'x'"
    )


def test_tasks_run_side_by_side_and_answer_in_order() -> None:
    barrier = threading.Barrier(3, timeout=10)
    assert run_parallel(
        [lambda number=number: (barrier.wait(), number)[1] for number in range(3)], 3
    ) == [0, 1, 2]


def test_no_more_than_so_many_run_at_once() -> None:
    running, most, guard = 0, 0, threading.Lock()

    def task() -> None:
        nonlocal running, most
        with guard:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with guard:
            running -= 1

    run_parallel([task] * 12, 3)
    assert most == 3


def test_after_an_error_nothing_is_begun() -> None:
    begun: list[int] = []

    def task(number: int) -> None:
        begun.append(number)
        if number == 0:
            raise HostError("zero")
        time.sleep(0.05)

    with pytest.raises(HostError, match="zero"):
        run_parallel([lambda number=number: task(number) for number in range(50)], 2)
    assert len(begun) < 10


def test_ctrl_c_is_heard_while_a_connection_hangs(tmp_path: Path) -> None:
    """An ssh that never answers does not keep Ctrl-C from ending the program at once."""
    hanging = tmp_path / "ssh"
    hanging.write_text("#!/bin/sh\nexec sleep 20\n")
    hanging.chmod(0o755)
    program = (
        "import os, sys; from vcloud.hosts.connection import open_host; from vcloud.hosts.inventory import HostRef\n"
        "try: print('opening', flush=True); open_host(HostRef('x', sys.argv[1]))\n"
        "except KeyboardInterrupt: print('heard', flush=True); os._exit(130)"
    )
    uri = f"qemu+ssh://root@127.0.0.1/system?command={hanging}"
    with subprocess.Popen(
        [sys.executable, "-c", program, uri], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "opening\n"
        time.sleep(0.5)
        begin = time.monotonic()
        process.send_signal(2)
        assert process.stdout.readline() == "heard\n"
        assert time.monotonic() - begin < 8
        assert process.wait(timeout=10) == 130


class sshd:  # noqa: N801 - used like a function
    """A real sshd on the loopback with a key of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> int:
        key = self.folder / "host_key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        Path("/run/sshd").mkdir(exist_ok=True)
        port = free_port()
        argv = [
            "/usr/sbin/sshd",
            "-D",
            "-e",
            "-f",
            "/dev/null",
            "-h",
            str(key),
            "-oListenAddress=127.0.0.1",
            "-p",
            str(port),
        ]
        self.process = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        assert "listening" in self.process.stderr.readline()
        return port

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.communicate(timeout=10)


def free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
