"""Runs commands on a host itself: directly if the host is this machine, and by ssh if it is remote."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

from vcloud.errors import HostError
from vcloud.hosts.executed import Executed
from vcloud.hosts.inventory import HostRef
from vcloud.programs import search_path


class Shell(Protocol):
    """Runs programs on one host."""

    def run(self, argv: Sequence[str], stdin: bytes = b"", timeout: float = 60) -> Executed:
        """Runs a program and waits until it has ended, at most `timeout` seconds.

        Raises:
            HostError: the program cannot be started, or takes longer. An exit code other than 0 is
                no error.
        """
        ...

    def close(self) -> None: ...


def open_shell(ref: HostRef) -> Shell:
    """The shell of a host.

    Raises:
        HostError: vcloud cannot log in to the host, or the host's URI is neither local nor ssh.
    """
    parts = urlsplit(ref.uri)
    if parts.scheme.endswith("+ssh"):
        # paramiko takes 0.1 s to import, and local hosts do not need it.
        from vcloud.hosts.ssh_shell import open_ssh

        return open_ssh(ref)
    if not parts.hostname:
        return LocalShell(ref.name)
    raise HostError(
        f"commands cannot be run on {ref.name}: its URI is neither local nor ssh",
        "Use qemu+ssh://USER@HOST/system.",
    )


@dataclass(frozen=True, slots=True)
class LocalShell:
    """This machine."""

    name: str

    def run(self, argv: Sequence[str], stdin: bytes = b"", timeout: float = 60) -> Executed:
        try:
            done = subprocess.run(
                list(argv),
                input=stdin,
                capture_output=True,
                timeout=timeout,
                check=False,
                env=os.environ | {"PATH": search_path()},
            )
        except OSError as error:
            raise HostError(f"'{argv[0]}' cannot be run on {self.name}: {error.strerror}") from None
        except subprocess.TimeoutExpired:
            raise HostError(
                f"'{argv[0]}' did not end within {timeout:g} s on {self.name}"
            ) from None
        # Python gives the negative number of a signal that ended the program.
        code = done.returncode if done.returncode >= 0 else 128 - done.returncode
        return Executed(code, done.stdout, done.stderr)

    def close(self) -> None:
        """Does nothing, because nothing is open."""
