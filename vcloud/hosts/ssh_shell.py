"""Runs commands on a remote host by ssh, with paramiko."""

from __future__ import annotations

import getpass
import logging
import os
import shlex
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import paramiko

from vcloud.errors import HostError
from vcloud.hosts.executed import Executed
from vcloud.hosts.host_keys import known_keys
from vcloud.hosts.inventory import HostRef
from vcloud.hosts.patience import patience
from vcloud.hosts.refusals import explain_refusal

# paramiko also raises what it logs; vcloud reports it only once.
logging.getLogger("paramiko").addHandler(logging.NullHandler())

SSH_PORT = 22
CONNECT_TIMEOUT = 15
"""Seconds for each step of an ssh login."""
KEEPALIVE = 15
"""Seconds between two keep-alive messages, so that a router in between does not drop an idle
connection.
"""
CHUNK = 64 << 10
NO_STATUS = -1
"""paramiko's exit status of a channel that was closed before the exit status of its command
arrived.
"""


@dataclass(frozen=True, slots=True)
class SshShell:
    """A host that is reached by ssh."""

    name: str
    client: paramiko.SSHClient

    def run(self, argv: Sequence[str], stdin: bytes = b"", timeout: float = 60) -> Executed:
        deadline = time.monotonic() + timeout
        try:
            channel = self._session()
            try:
                # sshd passes one text to the login shell of the user. So each word must be quoted.
                channel.exec_command(shlex.join(argv))
                return _communicate(channel, stdin, deadline)
            finally:
                channel.close()
        except TimeoutError:
            raise HostError(
                f"'{argv[0]}' did not end within {timeout:g} s on {self.name}"
            ) from None
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise HostError(
                f"'{argv[0]}' cannot be run on {self.name}: {error}", "Check that the host is up."
            ) from None

    def _session(self) -> paramiko.Channel:
        transport = self.client.get_transport()
        if transport is None:
            raise paramiko.SSHException("the connection is closed")
        return transport.open_session(timeout=patience(CONNECT_TIMEOUT))

    def close(self) -> None:
        self.client.close()


def _communicate(channel: paramiko.Channel, stdin: bytes, deadline: float) -> Executed:
    """Writes the input of a running command, reads its output and waits for its end. Raises
    TimeoutError.

    The input is written in a thread of its own. A command that writes output before it has read all
    its input would otherwise block for ever.
    """
    feeder = threading.Thread(target=_feed, args=(channel, stdin), daemon=True)
    feeder.start()
    out, err = bytearray(), bytearray()
    while True:
        # The exit status may arrive before the last output, so the end of the output counts, too.
        # Both are looked at before the output is read. In the other order, output that arrives in
        # between would be lost.
        ended = channel.closed or (channel.exit_status_ready() and channel.eof_received)
        while channel.recv_ready():
            out += channel.recv(CHUNK)
        while channel.recv_stderr_ready():
            err += channel.recv_stderr(CHUNK)
        if ended:
            break
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.01)
    code = channel.recv_exit_status()
    if code == NO_STATUS:
        raise paramiko.SSHException("the connection broke while the command ran")
    return Executed(code, bytes(out), bytes(err))


def _feed(channel: paramiko.Channel, stdin: bytes) -> None:
    """Sends the input and then its end. A command may stop reading before it has read all input."""
    try:
        channel.sendall(stdin)
        channel.shutdown_write()
    except (OSError, EOFError):
        return


def open_ssh(ref: HostRef) -> SshShell:
    """Logs in to a host. Raises HostError."""
    client = paramiko.SSHClient()
    try:
        _connect(client, _login(ref))
    except paramiko.BadHostKeyException:
        client.close()
        # These are the words by which `refusals` recognises a changed host key.
        raise explain_refusal(ref, "does not match") from None
    except (paramiko.SSHException, OSError, EOFError) as error:
        client.close()
        raise explain_refusal(ref, str(error) or type(error).__name__) from None
    return SshShell(ref.name, client)


def _connect(client: paramiko.SSHClient, login: _Login) -> None:
    name = login.address if login.port == SSH_PORT else f"[{login.address}]:{login.port}"
    known = known_keys(login.known_hosts, name)
    # No trust on first use, see the package.
    client.set_missing_host_key_policy(known)
    for kind, key in known.keys.items():
        client.get_host_keys().add(name, kind, key)
    client.connect(
        login.address,
        port=login.port,
        username=login.user,
        key_filename=login.keys or None,
        allow_agent=not login.only_keys,
        look_for_keys=not login.only_keys and not login.keys,
        sock=login.proxy(),
        timeout=patience(CONNECT_TIMEOUT),
        banner_timeout=patience(CONNECT_TIMEOUT),
        auth_timeout=patience(CONNECT_TIMEOUT),
    )
    transport = client.get_transport()
    if transport is not None:
        transport.set_keepalive(KEEPALIVE)


@dataclass(frozen=True, slots=True)
class _Login:
    """How to log in. The URI of the host takes precedence over the ssh_config."""

    address: str
    port: int
    user: str
    keys: Any
    """A list of paths. paramiko accepts several, but its type hints allow only one."""
    only_keys: bool
    known_hosts: tuple[Path, ...]
    proxy_argv: tuple[str, ...]

    def proxy(self) -> Any:
        return paramiko.ProxyCommand(shlex.join(self.proxy_argv)) if self.proxy_argv else None


def _login(ref: HostRef) -> _Login:
    """Raises HostError for an ssh_config that cannot be understood."""
    path = ref.ssh_config or Path("~/.ssh/config").expanduser()
    try:
        return _configured_login(ref, path)
    # ValueError: not UTF-8, a port that is no number, or a quote that is not closed. ImportError:
    # for `Match exec`, paramiko wants a package that may be missing.
    except (paramiko.ConfigParseError, ValueError, ImportError, OSError) as error:
        raise HostError(
            f"the ssh_config {path} cannot be used for {ref.name}: {error}",
            "Correct it, or give this host one of its own in the inventory (ssh_config).",
        ) from None


def _configured_login(ref: HostRef, path: Path) -> _Login:
    parts = urlsplit(ref.uri)
    config = (
        paramiko.SSHConfig.from_path(str(path))
        # A file that the inventory names must exist. The user's own file may be missing.
        if path.is_file() or ref.ssh_config
        else paramiko.SSHConfig()
    )
    entry: dict[str, Any] = dict(config.lookup(parts.hostname or ""))
    address, port = str(entry["hostname"]), parts.port or int(entry.get("port", SSH_PORT))
    keyfile = parse_qs(parts.query).get("keyfile", [])
    return _Login(
        address=address,
        port=port,
        user=parts.username or str(entry.get("user") or getpass.getuser()),
        keys=[os.path.expanduser(key) for key in (keyfile or entry.get("identityfile", []))],  # noqa: PTH111 - ssh expands ~ in this way
        only_keys=bool(keyfile) or entry.get("identitiesonly", "no") == "yes",
        known_hosts=tuple(_known_hosts(entry)),
        proxy_argv=_proxy(entry, path, address, port),
    )


def _known_hosts(entry: dict[str, Any]) -> list[Path]:
    # These are the defaults of OpenSSH, see ssh_config(5).
    user = str(entry.get("userknownhostsfile", "~/.ssh/known_hosts ~/.ssh/known_hosts2"))
    everyone = str(
        entry.get("globalknownhostsfile", "/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2")
    )
    return [Path(name).expanduser() for name in shlex.split(f"{user} {everyone}") if name != "none"]


def _proxy(entry: dict[str, Any], config: Path, address: str, port: int) -> tuple[str, ...]:
    """The command that carries the ssh connection, or nothing. paramiko supports ProxyCommand but
    not ProxyJump, so a jump becomes the command `ssh -W`.
    """
    command = str(entry.get("proxycommand", "none"))
    if command != "none":
        return tuple(shlex.split(command))
    jump = str(entry.get("proxyjump", "none"))
    if jump == "none":
        return ()
    *before, last = jump.split(",")
    via = ("-J", ",".join(before)) if before else ()
    return (
        "ssh",
        *(("-F", str(config)) if config.is_file() else ()),
        *via,
        "-W",
        f"{address}:{port}",
        last,
    )
