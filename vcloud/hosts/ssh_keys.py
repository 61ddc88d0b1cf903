"""The keys that a login by paramiko offers, in the order of OpenSSH: those of ssh-agent that the
configuration names, the agent's others, then those in files.
"""

from __future__ import annotations

import base64
import binascii
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paramiko
from paramiko.agent import AgentKey, AgentSSH
from paramiko.auth_strategy import AuthStrategy, InMemoryPrivateKey

from vcloud.hosts.ssh_config import Login

SECONDS = 20
"""That ssh-agent may take for an answer; it may ask a person."""
LARGEST = 64 << 10
"""Bytes of a file with a key."""


class Agent(AgentSSH):
    """An ssh-agent at a socket. paramiko's own class knows only that of SSH_AUTH_SOCK."""

    def __init__(self, path: str) -> None:
        """Raises OSError, SSHException."""
        super().__init__()
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(SECONDS)
        try:
            connection.connect(path)
            self._connect(connection)  # type: ignore[attr-defined]
        except BaseException:
            connection.close()
            raise

    def close(self) -> None:
        self._close()  # type: ignore[attr-defined]


class OfferedKeys(AuthStrategy):
    """The keys of a login."""

    def __init__(self, login: Login) -> None:
        super().__init__(ssh_config=paramiko.SSHConfig())
        self._login = login

    def authenticate(self, transport: Any) -> Any:
        """Raises AuthenticationException where the host takes none of the keys."""
        self._agent = _opened(self._login.agent)
        try:
            return super().authenticate(transport)
        finally:
            if self._agent is not None:
                self._agent.close()

    def get_sources(self) -> Iterator[InMemoryPrivateKey]:
        """The keys, each of which is read when its turn comes."""
        held: tuple[AgentKey, ...] = self._agent.get_keys() if self._agent is not None else ()
        named = {public for path in self._login.keys if (public := _public_half(path))}
        configured = [key for key in held if key.asbytes() in named]
        others = [] if self._login.only_keys else [key for key in held if key not in configured]
        offered = {key.asbytes() for key in (*configured, *others)}
        for key in (*configured, *others):
            yield InMemoryPrivateKey(self._login.user, key)
        for path in self._login.keys:
            private = _private(path)
            if private is not None and private.asbytes() not in offered:
                yield InMemoryPrivateKey(self._login.user, private)


def _opened(path: str) -> Agent | None:
    """None where no agent answers: the files may be enough."""
    try:
        return Agent(path) if path else None
    except (OSError, paramiko.SSHException):
        return None


def _public_half(path: Path) -> bytes | None:
    """The public key beside a private one, or in the file itself; None where there is none."""
    for place in (path.with_name(f"{path.name}.pub"), path):
        try:
            with place.open("rb") as file:
                words = file.read(LARGEST).split()
            if len(words) > 1 and not words[0].startswith(b"-"):
                return base64.b64decode(words[1], validate=True)
        except (OSError, binascii.Error):
            continue
    return None


def _private(path: Path) -> paramiko.PKey | None:
    """None for a file that is not there, or that paramiko cannot read: one with a passphrase, or the
    public half of an agent's key.
    """
    try:
        return paramiko.PKey.from_path(path)
    # paramiko raises whatever its parsers meet in a damaged file.
    except Exception:
        return None
