"""Commands on a host: this machine's shell; and what an ssh_config means, as ssh itself reads it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from vcloud.errors import HostError
from vcloud.hosts.inventory import HostRef
from vcloud.hosts.shell import LocalShell, open_shell
from vcloud.hosts.ssh_config import login_of

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
    login = login_of(HostRef("h1", "qemu+ssh://h1/system", config))
    assert (login.address, login.port, login.user) == ("192.0.2.1", 2222, "admin")
    assert (login.keys, login.only_keys) == ((tmp_path / "key",), True)
    assert login.known_hosts == (tmp_path / "known",)
    assert login.proxy_argv == ("nc", "192.0.2.1", "2222")
    jump = login_of(HostRef("h2", "qemu+ssh://h2/system", config))
    assert jump.proxy_argv == (
        "ssh",
        "-F",
        str(config),
        "-J",
        "first",
        "-W",
        "h2:22",
        "--",
        "second",
    )


def test_the_uri_wins_over_the_ssh_config(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("Host h1\n  Port 2222\n  User admin\n")
    login = login_of(HostRef("h1", "qemu+ssh://root@h1:23/system?keyfile=/k", config))
    assert (login.port, login.user, login.keys, login.only_keys) == (
        23,
        "root",
        (Path("/k"),),
        True,
    )


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
        login_of(HostRef("h1", "qemu+ssh://h1/system", config))
    assert str(config) in caught.value.what


def test_an_ssh_config_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"No such file|Can't open user config file"):
        login_of(HostRef("h1", "qemu+ssh://h1/system", tmp_path / "none"))


def test_files_that_a_configuration_includes_count(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "h3").write_text("Host h3\n  User carl\n  Port 2203\n")
    config = tmp_path / "config"
    config.write_text(f"Include {tmp_path}/more/*\nHost *\n  User other\n")
    login = login_of(HostRef("h3", "qemu+ssh://h3/system", config))
    assert (login.user, login.port) == ("carl", 2203)
    assert login_of(HostRef("h4", "qemu+ssh://h4/system", config)).user == "other"


def test_what_a_match_asks_for_is_the_login_of_the_uri(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("Match originalhost h1 user root\n  Port 2201\nMatch user ann\n  Port 2202\n")
    for user, port in (("root", 2201), ("ann", 2202), ("bob", 22)):
        assert login_of(HostRef("h1", f"qemu+ssh://{user}@h1/system", config)).port == port


@pytest.mark.parametrize(
    ("line", "agent"),
    [
        ("", "/run/usual"),
        ("IdentityAgent none", ""),
        ("IdentityAgent SSH_AUTH_SOCK", "/run/usual"),
        ("IdentityAgent $OTHER_AGENT", "/run/other"),
        ("IdentityAgent /run/%r", "/run/root"),
    ],
)
def test_the_agent_is_the_one_that_the_configuration_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, agent: str
) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", "/run/usual")
    monkeypatch.setenv("OTHER_AGENT", "/run/other")
    config = tmp_path / "config"
    config.write_text(f"Host *\n  {line}\n")
    assert login_of(HostRef("h1", "qemu+ssh://root@h1/system", config)).agent == agent


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("", "[192.0.2.1]:23"),
        ("HostKeyAlias store", "store"),
    ],
)
def test_known_hosts_may_have_the_host_under_another_name(
    tmp_path: Path, line: str, name: str
) -> None:
    config = tmp_path / "config"
    config.write_text(f"Host *\n  HostName 192.0.2.1\n  {line}\n")
    assert login_of(HostRef("h1", "qemu+ssh://h1:23/system", config)).key_name == name


@pytest.mark.parametrize(
    ("jump", "words"),
    [
        ("ann@gate:2222", ("-p", "2222", "--", "ann@gate")),
        ("gate", ("--", "gate")),
        ("ann@[2001:db8::1]:7", ("-p", "7", "--", "ann@2001:db8::1")),
        ("one,ann@gate", ("-J", "one", "-W", "h1:22", "--", "ann@gate")),
    ],
)
def test_a_jump_has_a_user_and_a_port(tmp_path: Path, jump: str, words: tuple[str, ...]) -> None:
    config = tmp_path / "config"
    config.write_text(f"Host h1\n  ProxyJump {jump}\n")
    argv = login_of(HostRef("h1", "qemu+ssh://h1/system", config)).proxy_argv
    assert argv[-len(words) :] == words


def test_a_host_is_no_option_of_ssh(tmp_path: Path) -> None:
    made = tmp_path / "made"
    ref = HostRef("x", f"qemu+ssh://-oProxyCommand=touch {made}/system")
    with pytest.raises(HostError):
        open_shell(ref).run(["true"])
    assert not made.exists()
