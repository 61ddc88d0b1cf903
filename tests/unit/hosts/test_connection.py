"""Opening hosts that are not there: real libvirt, real ssh, and what is said about each failure."""

from __future__ import annotations

import os
import socket
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
        (
            "qemu:///session",
            "qemu:///session is the libvirt of one user",
            "Use qemu:///system, which users of the group libvirt may open",
        ),
        (
            "qemu+ssh://ann@h1/session?socket=/x",
            "qemu+ssh://ann@h1/session?socket=/x is the libvirt of one user",
            "Use qemu+ssh://ann@h1/system?socket=/x",
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
            "Cannot recv data: ssh: connect to host h1 port 22: Connection refused: Connection reset by peer",
            "h1 does not answer ssh",
            "ssh root@h1 true",
        ),
        (
            "End of file while reading data: virt-ssh-helper: cannot connect to '/var/run/libvirt/libvirt-sock': "
            "Failed to connect socket to '/var/run/libvirt/libvirt-sock': Connection refused: Input/output error",
            "libvirt does not run on h1",
            "systemctl enable --now libvirtd",
        ),
        (
            "End of file while reading data: virt-ssh-helper: cannot connect to '/var/run/libvirt/libvirt-sock': "
            "Failed to connect socket to '/var/run/libvirt/libvirt-sock': Permission denied: Input/output error",
            "libvirt on h1 does not allow you to connect",
            "usermod -aG libvirt",
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


def test_a_dead_libvirt_behind_an_ssh_that_works_is_told_as_that(tmp_path: Path) -> None:
    """libvirt's own client runs its own netcat "on the host". The socket is there, and nobody
    listens: so a daemon leaves it that was killed.
    """
    ssh, left = tmp_path / "ssh", tmp_path / "libvirt-sock"
    ssh.write_text('#!/bin/sh\nfor command; do :; done\nexec sh -c "$command"\n')
    ssh.chmod(0o755)
    with socket.socket(socket.AF_UNIX) as daemon:
        daemon.bind(str(left))
    uri = f"qemu+ssh://root@h1/system?command={ssh}&proxy=netcat&socket={left}"
    with pytest.raises(HostError) as caught:
        open_host(HostRef("h1", uri))
    assert caught.value.what == "libvirt does not run on h1"
    assert "systemctl enable --now libvirtd" in caught.value.hint


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


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("@revoked * {key}\n[127.0.0.1]:{port} {key}", "is revoked in known_hosts"),
        ("@cert-authority * {key}", "of x is unknown"),
        ("@revoked *.example {key}\n[127.0.0.2]:{port} {key}", "of x is unknown"),
    ],
)
def test_what_the_markers_of_known_hosts_say_counts(tmp_path: Path, line: str, said: str) -> None:
    with sshd(tmp_path) as port:
        key = " ".join((tmp_path / "host_key.pub").read_text().split()[:2])
        (tmp_path / "known").write_text(line.format(port=port, key=key))
        (tmp_path / "config").write_text(
            f"Host *\n  UserKnownHostsFile {tmp_path}/known\n  GlobalKnownHostsFile none\n"
        )
        ref = HostRef("x", f"qemu+ssh://root@127.0.0.1:{port}/system", tmp_path / "config")
        with pytest.raises(HostError, match=said):
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


@pytest.mark.parametrize(
    ("part", "message", "broke"),
    [
        (libvirt.VIR_FROM_RPC, "End of file while reading data: Input/output error", True),
        (libvirt.VIR_FROM_RPC, "internal error: client socket is closed", True),
        (libvirt.VIR_FROM_QEMU, "internal error: End of file from qemu monitor", False),
        (libvirt.VIR_FROM_QEMU, "Unable to write to monitor: Broken pipe", False),
    ],
)
def test_a_vm_that_ended_is_not_taken_for_a_broken_connection(
    part: int, message: str, broke: bool
) -> None:
    error = libvirt.libvirtError(message)
    error.err = (libvirt.VIR_ERR_INTERNAL_ERROR, part, message, 2, None, None, None, 0, 0)
    with pytest.raises(HostError) as caught, translated("it failed"):
        raise error
    assert ("The connection broke" in caught.value.hint) == broke


def test_tasks_run_side_by_side_and_answer_in_order() -> None:
    barrier = threading.Barrier(3, timeout=60)
    assert run_parallel(
        [lambda number=number: (barrier.wait(), number)[1] for number in range(3)], 3
    ) == [0, 1, 2]


def test_no_more_than_so_many_run_at_once() -> None:
    """Three tasks run at a time: they meet at the barrier. A fourth would find three running."""
    running, most, guard = 0, 0, threading.Lock()
    barrier = threading.Barrier(3, timeout=60)

    def task() -> None:
        nonlocal running, most
        with guard:
            running += 1
            most = max(most, running)
        barrier.wait()
        with guard:
            running -= 1

    run_parallel([task] * 12, 3)
    assert most == 3


def test_after_an_error_nothing_is_begun() -> None:
    begun: list[int] = []

    def task(number: int) -> None:
        begun.append(number)
        if number == 2:
            raise HostError("two")

    with pytest.raises(HostError, match="two"):
        run_parallel([lambda number=number: task(number) for number in range(500)], 1)
    assert begun == [0, 1, 2]


def test_what_runs_beside_an_error_ends() -> None:
    barrier = threading.Barrier(2, timeout=60)
    ended: list[str] = []

    def fail() -> None:
        barrier.wait()
        raise HostError("one")

    def go_on() -> None:
        barrier.wait()
        ended.append("two")

    with pytest.raises(HostError, match="one"):
        run_parallel([fail, go_on], 2)
    assert ended == ["two"]


def test_ctrl_c_is_heard_while_a_connection_hangs(tmp_path: Path) -> None:
    """An ssh that never answers does not keep Ctrl-C from ending the program at once."""
    hanging = tmp_path / "ssh"
    begun = tmp_path / "begun"
    os.mkfifo(begun)
    hanging.write_text(f"#!/bin/sh\necho >{begun}\nexec sleep 20\n")
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
        assert begun.read_text() == "\n"  # from here on ssh hangs
        begin = time.monotonic()
        process.send_signal(2)
        assert process.stdout.readline() == "heard\n"
        assert time.monotonic() - begin < 18
        assert process.wait(timeout=60) == 130


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
            f"-oSetEnv=HOME={self.folder}",
            "-p",
            str(port),
        ]
        self.process = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        assert "listening" in self.process.stderr.readline()
        return port

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.communicate(timeout=60)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
