"""Commands on a host: this machine's shell; and what an ssh_config means."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from vcloud.errors import HostError
from vcloud.hosts.inventory import HostRef
from vcloud.hosts.shell import LocalShell, open_shell
from vcloud.hosts.ssh_shell import _login

HERE = LocalShell("here")


def test_arguments_arrive_as_they_are() -> None:
    done = HERE.run(["printf", "%s|", "a b", "$HOME", "'", "*"])
    assert (done.code, done.stdout) == (0, b"a b|$HOME|'|*|")


def test_stdin_output_and_code_are_passed_on() -> None:
    done = HERE.run(["sh", "-c", "cat; echo err >&2; exit 3"], stdin=b"in")
    assert (done.code, done.stdout, done.stderr) == (3, b"in", b"err\n")


def test_a_program_that_is_not_there_is_said() -> None:
    with pytest.raises(HostError, match="'no-such-program' cannot be run on here"):
        HERE.run(["no-such-program"])


def test_a_program_that_takes_too_long_is_ended() -> None:
    begin = time.monotonic()
    with pytest.raises(HostError, match="did not end within"):
        HERE.run(["sleep", "20"], timeout=0.2)
    assert time.monotonic() - begin < 18


def test_a_local_uri_means_this_machine() -> None:
    assert open_shell(HostRef("localhost", "qemu:///system")).run(["true"]).code == 0


def test_a_uri_without_a_login_has_no_shell() -> None:
    with pytest.raises(HostError, match="neither local nor ssh"):
        open_shell(HostRef("h1", "qemu+tls://h1/system"))


def test_an_ssh_config_is_honoured(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(
        f"Host h1\n  HostName 192.0.2.1\n  Port 2222\n  User admin\n  IdentityFile {tmp_path}/key\n  IdentitiesOnly yes\n"
        f"  UserKnownHostsFile {tmp_path}/known\n  GlobalKnownHostsFile none\n  ProxyCommand nc %h %p\n"
        "Host h2\n  ProxyJump first,second\n"
    )
    login = _login(HostRef("h1", "qemu+ssh://h1/system", config))
    assert (login.address, login.port, login.user) == ("192.0.2.1", 2222, "admin")
    assert (login.keys, login.only_keys) == ([f"{tmp_path}/key"], True)
    assert login.known_hosts == (tmp_path / "known",)
    assert login.proxy_argv == ("nc", "192.0.2.1", "2222")
    jump = _login(HostRef("h2", "qemu+ssh://h2/system", config))
    assert jump.proxy_argv == ("ssh", "-F", str(config), "-J", "first", "-W", "h2:22", "second")


def test_the_uri_wins_over_the_ssh_config(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("Host h1\n  Port 2222\n  User admin\n")
    login = _login(HostRef("h1", "qemu+ssh://root@h1:23/system?keyfile=/k", config))
    assert (login.port, login.user, login.keys, login.only_keys) == (23, "root", ["/k"], True)


@pytest.mark.parametrize(
    "written",
    [
        b"Host h1\n  Port many\n",
        b"Host h1\n  ProxyCommand nc '%h\n",
        b"Host h1\n  UserKnownHostsFile '/a\n",
        b"Host 'h1\n",
        b"nonsense\n",
        b"\xff\xfe\x00",
    ],
)
def test_an_ssh_config_that_cannot_be_used_is_said(tmp_path: Path, written: bytes) -> None:
    config = tmp_path / "config"
    config.write_bytes(written)
    with pytest.raises(HostError, match=r"the ssh_config .* cannot be used for h1") as caught:
        _login(HostRef("h1", "qemu+ssh://h1/system", config))
    assert str(config) in caught.value.what


def test_an_ssh_config_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="No such file"):
        _login(HostRef("h1", "qemu+ssh://h1/system", tmp_path / "none"))
