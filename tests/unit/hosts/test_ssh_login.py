"""Logins to a real sshd on the loopback: by which keys, through which jumps, and whom they trust."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.unit.hosts.test_connection import free_port
from vcloud.errors import HostError
from vcloud.hosts.connection import open_host
from vcloud.hosts.inventory import HostRef
from vcloud.hosts.shell import Shell, open_shell

HERE = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Server:
    """A real sshd, and the files of who logs in."""

    folder: Path
    port: int

    @property
    def key(self) -> str:
        """Its public key."""
        return " ".join((self.folder / "host.pub").read_text().split()[:2])

    @property
    def name(self) -> str:
        """In known_hosts."""
        return f"[{HERE}]:{self.port}"

    def knows(self, *lines: str) -> None:
        (self.folder / "known").write_text("".join(f"{line}\n" for line in lines))

    def open(self, *settings: str, key: str = "user") -> Shell:
        """Logs in with these lines of the configuration."""
        return open_shell(self.ref(*settings, key=key))

    def ref(self, *settings: str, key: str = "user") -> HostRef:
        lines = (
            f"IdentityFile {self.folder}/{key}",
            f"UserKnownHostsFile {self.folder}/known",
            "GlobalKnownHostsFile none",
            *settings,
        )
        config = self.folder / "config"
        config.write_text("Host *\n" + "".join(f"  {line}\n" for line in lines))
        return HostRef("x", f"qemu+ssh://root@{HERE}:{self.port}/system", config)


def keygen(*argv: str) -> None:
    subprocess.run(["ssh-keygen", "-q", *argv], check=True, capture_output=True)


def new_key(path: Path, passphrase: str = "") -> None:
    keygen("-t", "ed25519", "-N", passphrase, "-f", str(path))


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """It has a key of its own, and a certificate of an authority for it."""
    folder = tmp_path_factory.mktemp("sshd")
    for name in ("host", "authority", "user", "other"):
        new_key(folder / name)
    new_key(folder / "locked", "a passphrase")
    keygen(
        "-s",
        f"{folder}/authority",
        "-I",
        "x",
        "-h",
        "-n",
        f"{HERE},localhost",
        f"{folder}/host.pub",
    )
    allowed = "".join((folder / f"{name}.pub").read_text() for name in ("user", "locked"))
    (folder / "allowed").write_text(allowed)
    Path("/run/sshd").mkdir(exist_ok=True)
    port = free_port()
    settings = {
        "ListenAddress": HERE,
        "HostKey": f"{folder}/host",
        "HostCertificate": f"{folder}/host-cert.pub",
        "AuthorizedKeysFile": f"{folder}/allowed",
        "PasswordAuthentication": "no",
        "StrictModes": "no",
        "AllowTcpForwarding": "yes",
    }
    (folder / "sshd_config").write_text(
        "".join(f"{key} {value}\n" for key, value in settings.items())
    )
    argv = ["/usr/sbin/sshd", "-D", "-e", "-f", str(folder / "sshd_config"), "-p", str(port)]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "listening" in process.stderr.readline()
        yield Server(folder, port)
        process.terminate()


@pytest.fixture
def server(sshd: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The host's own key is known, and no agent runs."""
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    sshd.knows(f"{sshd.name} {sshd.key}")
    return sshd


@pytest.fixture
def agent(server: Server, tmp_path: Path) -> Iterator[Path]:
    """A real ssh-agent that holds the key with a passphrase."""
    path, ask = tmp_path / "agent", tmp_path / "ask"
    ask.write_text("#!/bin/sh\necho a passphrase\n")
    ask.chmod(0o700)
    with subprocess.Popen(["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        held = {"SSH_AUTH_SOCK": str(path), "SSH_ASKPASS": str(ask), "SSH_ASKPASS_REQUIRE": "force"}
        subprocess.run(
            ["ssh-add", "-q", str(server.folder / "locked")],
            env=os.environ | held,
            stdin=subprocess.DEVNULL,
            check=True,
            capture_output=True,
        )
        yield path
        process.terminate()


def works(shell: Shell) -> bool:
    try:
        done = shell.run(["sh", "-c", "cat; exit 7"], stdin=b"in it")
        return (done.code, done.stdout) == (7, b"in it")
    finally:
        shell.close()


def test_a_key_in_a_file_logs_in_and_another_does_not(server: Server) -> None:
    assert works(server.open())
    with pytest.raises(HostError, match=r"refuses the SSH login root@127\.0\.0\.1"):
        server.open(key="other")


def test_a_connection_that_broke_is_made_again_for_the_next_command(server: Server) -> None:
    shell = server.open()
    with pytest.raises(HostError, match="broke while the command ran"):
        shell.run(["sh", "-c", "kill -9 $PPID"])  # the sshd of this connection
    assert works(shell)
    with pytest.raises(HostError, match="closed"):  # `works` has closed it on purpose
        shell.run(["true"])


def test_a_key_with_a_passphrase_comes_from_the_agent(server: Server, agent: Path) -> None:
    with pytest.raises(HostError, match="refuses the SSH login"):
        server.open(key="locked")
    assert works(server.open(f"IdentityAgent {agent}", key="locked"))
    assert works(server.open(f"IdentityAgent {agent}", "IdentitiesOnly yes", key="locked"))
    assert works(server.open(f"IdentityAgent {agent}", "IdentitiesOnly yes", key="locked.pub"))


def test_of_the_agent_only_named_keys_are_offered_where_the_configuration_says_so(
    server: Server, agent: Path
) -> None:
    assert works(server.open(f"IdentityAgent {agent}", key="other"))
    with pytest.raises(HostError, match="refuses the SSH login"):
        server.open(f"IdentityAgent {agent}", "IdentitiesOnly yes", key="other")


def test_the_usual_agent_is_asked(
    server: Server, agent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", str(agent))
    assert works(server.open(key="other"))
    with pytest.raises(HostError, match="refuses the SSH login"):
        server.open("IdentityAgent none", key="other")


def test_a_host_behind_another_is_reached_through_it(server: Server) -> None:
    jump = f"Match originalhost {HERE}\n  ProxyJump root@localhost:{server.port}"
    server.knows(f"[localhost]:{server.port} {server.key}", f"{server.name} {server.key}")
    assert works(server.open(jump))
    server.knows(f"{server.name} {server.key}")
    with pytest.raises(HostError):
        server.open(jump, "StrictHostKeyChecking yes", "BatchMode yes")


def test_a_certificate_of_an_authority_is_enough(server: Server) -> None:
    """And one of another authority is not."""
    authority = (server.folder / "authority.pub").read_text().strip()
    server.knows(f"@cert-authority * {authority}")
    assert works(server.open())
    other = (server.folder / "other.pub").read_text().strip()
    server.knows(f"@cert-authority * {other}")
    with pytest.raises(HostError, match="the SSH host key of x is unknown"):
        server.open()
    server.knows(f"@cert-authority *.example {authority}")
    with pytest.raises(HostError, match="the SSH host key of x is unknown"):
        server.open()


def test_a_revoked_authority_or_key_is_trusted_no_more(server: Server) -> None:
    authority = (server.folder / "authority.pub").read_text().strip()
    server.knows(f"@cert-authority * {authority}", f"@revoked * {authority}")
    with pytest.raises(HostError, match=r"host key of x is (revoked|unknown)"):
        server.open()
    server.knows(f"{server.name} {server.key}", f"@revoked * {server.key}")
    with pytest.raises(HostError, match="host key of x is revoked"):
        server.open()


@pytest.mark.parametrize("form", ["text", "krl"])
def test_a_list_of_revoked_keys_counts(server: Server, form: str) -> None:
    listed = server.folder / f"revoked-{form}"
    other = server.folder / f"fine-{form}"
    for path, key in ((listed, "host"), (other, "other")):
        path.unlink(missing_ok=True)
        if form == "krl":
            keygen("-k", "-f", str(path), str(server.folder / f"{key}.pub"))
        else:
            path.write_text((server.folder / f"{key}.pub").read_text())
    assert works(server.open(f"RevokedHostKeys {other}"))
    with pytest.raises(HostError, match="host key of x is revoked"):
        server.open(f"RevokedHostKeys {listed}")


def test_a_host_may_have_another_name_in_known_hosts(server: Server) -> None:
    server.knows(f"store {server.key}")
    assert works(server.open("HostKeyAlias store"))
    with pytest.raises(HostError, match="the SSH host key of x is unknown"):
        server.open("HostKeyAlias elsewhere")


def test_an_unknown_and_a_changed_key_are_told_with_the_line_to_type(server: Server) -> None:
    login = f"ssh -F {server.folder}/config -l root -p {server.port} {HERE}"
    server.knows()
    with pytest.raises(HostError, match="the SSH host key of x is unknown") as unknown:
        server.open("StrictHostKeyChecking no")
    assert f"Log in once by `{login}`" in unknown.value.hint
    assert "fingerprint" in unknown.value.hint
    with pytest.raises(HostError, match="the SSH host key of x is unknown"):
        open_host(server.ref("StrictHostKeyChecking accept-new"))
    assert (server.folder / "known").read_text() == "", "nobody is trusted on first use"
    server.knows(f"{server.name} {(server.folder / 'other.pub').read_text()}")
    with pytest.raises(HostError, match="the SSH host key of x has changed") as changed:
        server.open()
    assert f"ssh-keygen -R '{server.name}'" in changed.value.hint
