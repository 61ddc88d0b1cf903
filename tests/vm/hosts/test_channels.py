"""ssh into a VM without a network, and its serial console."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import termios
import time
from pathlib import Path

import paramiko
import pytest

from tests.vm.hosts.running import (
    NAME,
    Running,
    until,
)
from vcloud.compile.libvirt.domain import SSH_PORT_PREFIX
from vcloud.errors import UsageError
from vcloud.guests.console import attach
from vcloud.guests.ssh import Sshd, authorize, ssh_channel
from vcloud.hosts.connection import Host
from vcloud.hosts.inventory import HostRef

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3000)]


@pytest.fixture(scope="module")
def pinned(vm: Running) -> str:
    """A host key in the guest; its public half."""
    make = 'mkdir -p /etc/ssh && ssh-keygen -q -t ed25519 -N "" -f /etc/ssh/t_key && cat /etc/ssh/t_key.pub'
    return vm.agent.execute(["/bin/sh", "-c", make]).stdout.decode().split()[1]


def new_key(folder: Path) -> Path:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "key")], check=True
    )
    return folder / "key"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return new_key(tmp_path)


def ports(host: Host) -> int:
    return (
        host.connection.lookupByName(NAME)
        .XMLDesc()
        .count(f'name="{SSH_PORT_PREFIX}'.replace('"', "'"))
    )


def test_ssh_reaches_a_vm_that_has_no_network(
    host: Host, vm: Running, pinned: str, key: Path
) -> None:
    allowed = authorize(vm.agent, "/run/vcloud/ssh", key.with_suffix(".pub").read_text())
    with ssh_channel(host, NAME, Sshd(allowed, "/etc/ssh/t_key")) as connection:
        assert ports(host) == 1
        transport = paramiko.Transport(connection)
        transport.start_client(timeout=600)
        assert transport.get_remote_server_key().get_base64() == pinned
        transport.auth_publickey("root", paramiko.Ed25519Key.from_private_key_file(str(key)))
        session = transport.open_session()
        session.exec_command("head -c 1000000 /dev/zero; exit 5")
        received = b"".join(iter(lambda: session.recv(65536), b""))
        assert (len(received), session.recv_exit_status()) == (1_000_000, 5)
        transport.close()
    assert ports(host) == 0
    until("the end of its sshd", lambda: vm.agent.execute(["pgrep", "sshd"]).code == 1)


def test_a_key_that_was_not_authorized_does_not_get_in(
    host: Host, vm: Running, pinned: str, key: Path, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = new_key(tmp_path / "other")
    allowed = authorize(vm.agent, "/run/vcloud/ssh", key.with_suffix(".pub").read_text())
    with ssh_channel(host, NAME, Sshd(allowed, "/etc/ssh/t_key")) as connection:
        transport = paramiko.Transport(connection)
        transport.start_client(timeout=600)
        assert transport.get_remote_server_key().get_base64() == pinned
        with pytest.raises(paramiko.AuthenticationException):
            transport.auth_publickey("root", paramiko.Ed25519Key.from_private_key_file(str(other)))
        transport.close()
    assert ports(host) == 0


PROXY = """
import sys
from pathlib import Path
from vcloud.guests.ssh import Sshd, serve_proxy
from vcloud.hosts.connection import open_host
from vcloud.hosts.inventory import load_inventory
with open_host(load_inventory(Path(sys.argv[1]))[0]) as host:
    serve_proxy(host, sys.argv[2], Sshd(sys.argv[3], "/etc/ssh/t_key"))
"""


def test_it_is_a_proxy_command_for_ssh(
    host: Host, ref: HostRef, vm: Running, pinned: str, key: Path, tmp_path: Path
) -> None:
    allowed = authorize(vm.agent, "/run/vcloud/ssh", key.with_suffix(".pub").read_text())
    (tmp_path / "proxy.py").write_text(PROXY)
    (tmp_path / "known").write_text(f"guest ssh-ed25519 {pinned}\n")
    assert ref.ssh_config is not None
    proxy = (
        f"{sys.executable} {tmp_path}/proxy.py {ref.ssh_config.parent}/hosts.yaml {NAME} {allowed}"
    )
    options = [
        f"ProxyCommand={proxy}",
        f"UserKnownHostsFile={tmp_path}/known",
        "StrictHostKeyChecking=yes",
        f"IdentityFile={key}",
    ]
    flags = [
        part
        for option in (*options, "BatchMode=yes", "IdentitiesOnly=yes")
        for part in ("-o", option)
    ]
    argv = ["ssh", "-F", "/dev/null", *flags, "root@guest", "cat; exit 6"]
    environment = os.environ | {"PYTHONPATH": os.getcwd()}  # noqa: PTH109
    done = subprocess.run(
        argv, input=b"x" * 100_000, capture_output=True, env=environment, timeout=600, check=False
    )
    assert (done.returncode, len(done.stdout)) == (6, 100_000), done.stderr
    until(
        "the end of its port: ssh does not wait for its proxy, which cleans up all the same",
        lambda: ports(host) == 0,
    )


CONSOLE = """
import sys
from pathlib import Path
from vcloud.hosts.connection import open_host
from vcloud.guests.console import attach
from vcloud.hosts.inventory import load_inventory
with open_host(load_inventory(Path(sys.argv[1]))[0]) as host:
    attach(host, sys.argv[2])
"""


def test_a_console_shows_takes_keys_and_gives_the_terminal_back(ref: HostRef, vm: Running) -> None:
    assert ref.ssh_config is not None
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    argv = [sys.executable, "-c", CONSOLE, str(ref.ssh_config.parent / "hosts.yaml"), NAME]
    assert vm.agent.execute(["systemctl", "stop", "vcloud-console.service"]).code == 0, (
        "it would take the keys"
    )
    reader = vm.agent.start(
        ["/bin/sh", "-c", "read -r typed < /dev/ttyS0; echo got:$typed > /dev/ttyS0"]
    )
    assert reader > 0
    with subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        assert "Ctrl-] leaves" in shown(ours, "leaves")
        opened = ["/bin/sh", "-c", f"ls -l /proc/{reader}/fd/0 | grep -q ttyS0"]
        until("somebody in the VM reads the console", lambda: vm.agent.execute(opened).code == 0)
        os.write(ours, b"hello\r")
        assert "got:hello" in shown(ours, "got:hello")
        assert termios.tcgetattr(theirs) != before
        os.write(ours, b"\x1d")
        assert process.wait(timeout=600) == 0
    assert termios.tcgetattr(theirs) == before
    os.close(ours)
    os.close(theirs)


def test_a_console_needs_a_terminal(host: Host) -> None:
    with pytest.raises(UsageError, match="needs a terminal"):
        attach(host, NAME)


def shown(terminal: int, words: str) -> str:
    """What a terminal shows up to these words, within ten minutes."""
    text, deadline = "", time.monotonic() + 600
    while words not in text and time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.2)[0]:
            text += os.read(terminal, 4096).decode(errors="replace")
    return text
