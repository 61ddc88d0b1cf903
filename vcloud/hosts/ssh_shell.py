"""Runs commands on a remote host by ssh, with paramiko."""

from __future__ import annotations

import logging
import shlex
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import paramiko

from vcloud.errors import HostError
from vcloud.hosts.executed import Executed
from vcloud.hosts.host_keys import KnownKeys, known_keys, without_revoked
from vcloud.hosts.inventory import HostRef
from vcloud.hosts.openssh_shell import open_openssh
from vcloud.hosts.patience import patience
from vcloud.hosts.refusals import explain_refusal
from vcloud.hosts.ssh_config import SSH_PORT, Login, login_of
from vcloud.hosts.ssh_keys import OfferedKeys

if TYPE_CHECKING:
    from vcloud.hosts.shell import Shell

# paramiko also raises what it logs; vcloud reports it only once.
logging.getLogger("paramiko").addHandler(logging.NullHandler())

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


@dataclass(slots=True)
class SshShell:
    """A host that is reached by ssh.

    A connection can break while nobody uses it: its sshd is restarted, or this machine slept. Then
    the next command logs in again. A command that has begun is never sent a second time.
    """

    ref: HostRef
    client: paramiko.SSHClient
    _one_login: threading.Lock = field(default_factory=threading.Lock)

    @property
    def name(self) -> str:
        return self.ref.name

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
        client = self.client
        try:
            return _open_session(client)
        except (paramiko.SSHException, OSError, EOFError):
            if not _is_broken(client):
                raise
        with self._one_login:
            if self.client is client:
                client.close()
                self.client = _logged_in(self.ref, *_way_to(self.ref))
        return _open_session(self.client)

    def close(self) -> None:
        self.client.close()


def _is_broken(client: paramiko.SSHClient) -> bool:
    """Whether the connection has ended by itself. One that vcloud has closed has no transport."""
    transport = client.get_transport()
    return transport is not None and not transport.is_active()


def _open_session(client: paramiko.SSHClient) -> paramiko.Channel:
    transport = client.get_transport()
    if transport is None:
        raise paramiko.SSHException("the connection is closed")
    return transport.open_session(timeout=patience(CONNECT_TIMEOUT))


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


def open_ssh(ref: HostRef) -> Shell:
    """Logs in to a host. Raises HostError.

    paramiko cannot judge certificates of hosts. Where known_hosts names an authority for the host,
    OpenSSH's own client logs in.
    """
    login, known = _way_to(ref)
    if known.authorities:
        return open_openssh(ref)
    return SshShell(ref, _logged_in(ref, login, known))


def _way_to(ref: HostRef) -> tuple[Login, KnownKeys]:
    """How vcloud logs in to the host, and by which keys the host is known. Raises HostError."""
    login = login_of(ref)
    return login, _trusted(ref, login)


def _logged_in(ref: HostRef, login: Login, known: KnownKeys) -> paramiko.SSHClient:
    """Raises HostError."""
    client = paramiko.SSHClient()
    try:
        _connect(client, login, known)
    except paramiko.BadHostKeyException:
        client.close()
        # These are the words by which `refusals` recognises a changed host key.
        raise explain_refusal(ref, "does not match") from None
    except paramiko.AuthenticationException:
        client.close()
        raise explain_refusal(ref, "Authentication failed") from None
    except (paramiko.SSHException, OSError, EOFError) as error:
        client.close()
        raise explain_refusal(ref, str(error) or type(error).__name__) from None
    return client


def _trusted(ref: HostRef, login: Login) -> KnownKeys:
    """The keys by which the host may be known. Raises HostError where a file cannot be read."""
    try:
        known = known_keys(login.known_hosts, login.key_name)
        return without_revoked(known, login.revoked) if login.revoked else known
    except OSError as error:
        raise HostError(f"known_hosts cannot be read for {ref.name}: {error}") from None


def _connect(client: paramiko.SSHClient, login: Login, known: KnownKeys) -> None:
    # No trust on first use, see the package. paramiko looks for the key by the address.
    name = login.address if login.port == SSH_PORT else f"[{login.address}]:{login.port}"
    client.set_missing_host_key_policy(known)
    for kind, key in known.keys.items():
        client.get_host_keys().add(name, kind, key)
    proxy: Any = paramiko.ProxyCommand(shlex.join(login.proxy_argv)) if login.proxy_argv else None
    client.connect(
        login.address,
        port=login.port,
        username=login.user,
        sock=proxy,
        timeout=patience(CONNECT_TIMEOUT),
        banner_timeout=patience(CONNECT_TIMEOUT),
        auth_timeout=patience(CONNECT_TIMEOUT),
        auth_strategy=OfferedKeys(login),
    )
    transport = client.get_transport()
    if transport is not None:
        transport.set_keepalive(KEEPALIVE)
