"""Runs commands on a remote host by OpenSSH's own client, over one connection. It knows certificates
of hosts (`@cert-authority` in known_hosts), which paramiko does not.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from vcloud.errors import HostError
from vcloud.hosts.executed import Executed
from vcloud.hosts.inventory import HostRef
from vcloud.hosts.patience import patience
from vcloud.hosts.refusals import explain_refusal
from vcloud.hosts.ssh_config import keyfiles_of, options_for
from vcloud.programs import search_path

CONNECT_SECONDS = 15
LOGIN_SECONDS = 60
"""That a login may take in all."""
ALIVE_INTERVAL = 15
IDLE_SECONDS = 600
"""After this time without a command the connection ends, also where vcloud was killed. The next command
makes one of its own.
"""
BROKEN = 255
"""ssh's exit code where the connection is at fault (ssh(1))."""


@dataclass(frozen=True, slots=True)
class OpenSshShell:
    """A host to which a connection of OpenSSH's is open."""

    ref: HostRef
    folder: tempfile.TemporaryDirectory[str]
    """Holds the socket of the connection."""

    @property
    def name(self) -> str:
        return self.ref.name

    def run(self, argv: Sequence[str], stdin: bytes = b"", timeout: float = 60) -> Executed:
        # sshd passes one text to the login shell of the user. So each word must be quoted.
        words = [*_ssh(self.ref, self.folder.name), "--", _host(self.ref), shlex.join(argv)]
        try:
            done = _run(words, stdin, timeout)
        except subprocess.TimeoutExpired:
            raise HostError(
                f"'{argv[0]}' did not end within {timeout:g} s on {self.name}"
            ) from None
        if done.returncode == BROKEN:
            said = " ".join(done.stderr.decode(errors="replace").split())
            raise HostError(
                f"'{argv[0]}' cannot be run on {self.name}: {said}", "Check that the host is up."
            )
        return Executed(done.returncode, done.stdout, done.stderr)

    def close(self) -> None:
        _run([*_ssh(self.ref, self.folder.name), "-O", "exit", "--", _host(self.ref)], b"", 60)
        self.folder.cleanup()


def open_openssh(ref: HostRef) -> OpenSshShell:
    """Logs in to a host. Raises HostError."""
    folder = tempfile.TemporaryDirectory(prefix="vcloud-")
    log = Path(folder.name, "log")
    # It goes on in the background once it has logged in, and would keep a pipe open.
    ends = f"-oControlPersist={IDLE_SECONDS}"
    argv = [*_ssh(ref, folder.name), "-M", "-N", "-f", ends, "-E", str(log), "--", _host(ref)]
    try:
        done = _run(argv, b"", patience(LOGIN_SECONDS), output=subprocess.DEVNULL)
        if done.returncode == 0:
            return OpenSshShell(ref, folder)
        said = log.read_text(errors="replace") if log.exists() else ""
    except subprocess.TimeoutExpired:
        said = "timed out"
    except BaseException:
        folder.cleanup()
        raise
    folder.cleanup()
    raise explain_refusal(ref, said)


def _ssh(ref: HostRef, folder: str) -> list[str]:
    keys = keyfiles_of(ref)
    return [
        "ssh",
        *options_for(ref),
        *(word for key in keys for word in ("-i", key)),
        *(("-oIdentitiesOnly=yes",) if keys else ()),
        "-T",
        "-oBatchMode=yes",
        "-oStrictHostKeyChecking=yes",
        "-oControlMaster=no",
        f"-oControlPath={folder}/socket",
        "-oClearAllForwardings=yes",
        f"-oConnectTimeout={patience(CONNECT_SECONDS)}",
        f"-oServerAliveInterval={ALIVE_INTERVAL}",
    ]


def _host(ref: HostRef) -> str:
    return urlsplit(ref.uri).hostname or ""


def _run(
    argv: list[str], stdin: bytes, seconds: float, output: int = subprocess.PIPE
) -> subprocess.CompletedProcess[bytes]:
    """Raises HostError where ssh is not installed, TimeoutExpired."""
    try:
        return subprocess.run(
            argv,
            input=stdin,
            stdout=output,
            stderr=output,
            timeout=seconds,
            check=False,
            env=os.environ | {"PATH": search_path()},
        )
    except OSError as error:
        raise HostError(
            f"ssh cannot be run: {error.strerror}", "apt-get install openssh-client."
        ) from None
