"""An sshd in a guest that has no network to this side.

A virtio-serial port is plugged into the running VM, and the guest agent starts `sshd -i` in the
guest with that port as its connection. When either side ends, the port is unplugged.
"""

from __future__ import annotations

import secrets
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from vcloud.errors import GuestError
from vcloud.guests.carry import carry
from vcloud.hosts.agent import Agent
from vcloud.hosts.channel import plugged_port
from vcloud.hosts.connection import Host
from vcloud.hosts.machines import agent_of

SSHD = "/usr/sbin/sshd"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
WAIT_FOR_PORT = 10
"""Seconds for the guest to see a port that was plugged in."""
# $1: the port's name; $2: seconds; the rest is a program that gets the port as stdin and stdout.
# The port's device is looked up in sysfs, because not every guest runs a udev that makes links by
# name. `<>` opens the device once, for both directions.
ON_PORT = """\
name=$1 tries=$(($2 * 10)) && shift 2
while [ $tries -gt 0 ]; do
  for port in /sys/class/virtio-ports/*; do
    read -r found 2>/dev/null < "$port/name" || continue
    if [ "$found" = "$name" ]; then
      mkdir -p /run/sshd
      umask 022
      exec "$@" <> "/dev/${port##*/}" >&0 2>/dev/null
    fi
  done
  tries=$((tries - 1))
  sleep 0.1
done
exit 1
"""


@dataclass(frozen=True, slots=True)
class Sshd:
    """The sshd that serves one connection: the keys that may log in, and its own host key."""

    authorized_keys: str
    """Path of a file in the guest."""
    host_key: str = "/etc/ssh/ssh_host_ed25519_key"
    """Path of a private key in the guest."""
    addresses: tuple[str, ...] = ()
    """The guest's own addresses and names, beside loopback. Forwarded ports may lead to these."""

    @property
    def argv(self) -> tuple[str, ...]:
        """The command that serves one connection on its stdin and stdout (sshd_config(5))."""
        options = {
            "HostKey": self.host_key,
            "AuthorizedKeysFile": self.authorized_keys,
            "AuthenticationMethods": "publickey",
            "PermitRootLogin": "prohibit-password",
            "StrictModes": "yes",
            "UseDNS": "no",
            # Only from the operator to the guest itself. Nothing leads back to the operator.
            "AllowTcpForwarding": "local",
            "PermitOpen": " ".join(f"{_bracketed(end)}:*" for end in (*LOOPBACK, *self.addresses)),
            "AllowStreamLocalForwarding": "no",
            "AllowAgentForwarding": "no",
            "PermitTunnel": "no",
            "GatewayPorts": "no",
        }
        return (SSHD, "-i", *(f"-o{name}={value}" for name, value in options.items()))


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


@contextmanager
def ssh_channel(host: Host, name: str, sshd: Sshd) -> Iterator[socket.socket]:
    """A connection to a new sshd in a running domain, as a socket.

    Raises:
        HostError: the port cannot be plugged in.
        GuestError: the agent does not answer.
    """
    with plugged_port(host, name) as (port, connection):
        # sshd starts only now. If it read from the port before the host opened it, it would see the
        # end of the connection.
        agent_of(host, name).start(
            ["/bin/sh", "-c", ON_PORT, "sh", port, str(WAIT_FOR_PORT), *sshd.argv]
        )
        yield connection


def serve_proxy(host: Host, name: str, sshd: Sshd, source: int = 0, target: int = 1) -> None:
    """Acts as the ProxyCommand of ssh: carries stdin and stdout to and from an sshd in the domain
    until one of them ends.

    ssh sends SIGHUP to its ProxyCommand when it ends. This is ignored, because the end of stdin
    says the same and leaves time to unplug the port.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with ssh_channel(host, name, sshd) as connection, suppress(ConnectionError):
        carry(connection, source, target)


def authorize(agent: Agent, folder: str, public_key: str) -> str:
    """Writes a file in the guest that lets a public key log in. Returns its path, for
    `Sshd.authorized_keys`.

    Raises:
        GuestError: it cannot be written.
    """
    made = agent.execute(["mkdir", "-p", "-m", "0755", folder])
    if made.code != 0:
        raise GuestError(
            f"'{folder}' could not be made in '{agent.name}': {made.stderr.decode(errors='replace').strip()}"
        )
    path = f"{folder}/{secrets.token_hex(8)}"
    # A session with a terminal, and forwarding as far as `Sshd` allows it (sshd(8)).
    line = f"restrict,pty,port-forwarding {public_key.strip()}\n"
    agent.write_file(path, line.encode(), 0o644)
    return path
