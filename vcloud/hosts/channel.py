"""A byte pipe into a guest that has no network to us, and an sshd at its other end.

A second virtio-serial port is plugged into the running domain; libvirt hands us its host end as a stream, and the guest agent starts
`sshd -i` in the guest with the port as its connection. When either side ends, the port is unplugged.
"""

from __future__ import annotations

import secrets
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

import libvirt

from vcloud.compile.libvirt.domain import render_guest_port
from vcloud.errors import GuestError
from vcloud.hosts.agent import Agent
from vcloud.hosts.connection import Host, translated
from vcloud.hosts.metadata import parse, to_text
from vcloud.hosts.stream import carry, stream_socket

PREFIX = "org.vcloud.ssh."
SSHD = "/usr/sbin/sshd"
WAIT_FOR_PORT = 10
"""Seconds for the guest to see a port that was plugged in."""
# $1: the port's name; $2: seconds; the rest is a program that gets the port as stdin and stdout. The port's device is looked up in sysfs,
# since not every guest runs an udev that would make links by name.
ON_PORT = """\
name=$1 tries=$(($2 * 10)) && shift 2
while [ $tries -gt 0 ]; do
  for port in /sys/class/virtio-ports/*; do
    read -r found 2>/dev/null < "$port/name" || continue
    if [ "$found" = "$name" ]; then
      mkdir -p /run/sshd
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
    """The sshd that serves one connection: which keys may log in, and which key it shows."""

    authorized_keys: str
    """Path of a file in the guest."""
    host_key: str = "/etc/ssh/ssh_host_ed25519_key"
    """Path of a private key in the guest."""

    @property
    def argv(self) -> tuple[str, ...]:
        options = {
            "HostKey": self.host_key,
            "AuthorizedKeysFile": self.authorized_keys,
            "AuthenticationMethods": "publickey",
            "PermitRootLogin": "prohibit-password",
            "StrictModes": "yes",
            "UseDNS": "no",
        }
        return (SSHD, "-i", *(f"-o{name}={value}" for name, value in options.items()))


@contextmanager
def ssh_channel(host: Host, name: str, sshd: Sshd) -> Iterator[socket.socket]:
    """A connection to an sshd of its own in a running domain, as a socket for paramiko or `carry`.

    Raises:
        HostError: the port cannot be plugged in.
        GuestError: the agent does not answer.
    """
    with _port(host, name) as (domain, port), ExitStack() as stack:
        with translated(f"the channel into '{name}' could not be opened on {host.name}"):
            opened = stream_socket(host, lambda connection, stream: connection.lookupByName(name).openChannel(port, stream, 0))
            connection = stack.enter_context(opened)
        # Only now: a guest that reads from a port whose other end nobody holds is told that the connection has ended.
        Agent(domain).start(["/bin/sh", "-c", ON_PORT, "sh", port, str(WAIT_FOR_PORT), *sshd.argv])
        yield connection


def serve_proxy(host: Host, name: str, sshd: Sshd, source: int = 0, target: int = 1) -> None:
    """Is ssh's ProxyCommand: carries stdin and stdout to and from an sshd in the domain until one of them ends.

    ssh hangs up on its ProxyCommand when it ends; the end of stdin says the same and leaves time to unplug the port.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with ssh_channel(host, name, sshd) as connection, suppress(ConnectionError):
        carry(connection, source, target)


def authorize(agent: Agent, folder: str, public_key: str) -> str:
    """Lets a public key log in through channels that name the file which this returns. The file is the guest's root's own.

    Raises:
        GuestError: it cannot be written.
    """
    made = agent.execute(["mkdir", "-p", "-m", "0755", folder])
    if made.code != 0:
        raise GuestError(f"'{folder}' could not be made in '{agent.name}': {made.stderr.decode(errors='replace').strip()}")
    path = f"{folder}/{secrets.token_hex(8)}"
    agent.write_file(path, f"restrict,pty {public_key.strip()}\n".encode(), 0o644)
    return path


@contextmanager
def _port(host: Host, name: str) -> Iterator[tuple[libvirt.virDomain, str]]:
    """A port that is plugged into the running domain meanwhile."""
    port = PREFIX + secrets.token_hex(4)
    with translated(f"the channel into '{name}' could not be made on {host.name}"):
        domain = host.connection.lookupByName(name)
        domain.attachDeviceFlags(render_guest_port(port), libvirt.VIR_DOMAIN_AFFECT_LIVE)
    try:
        yield domain, port
    finally:
        with suppress(libvirt.libvirtError):  # the domain may have ended, and its ports with it
            _unplug(domain, port)


def _unplug(domain: libvirt.virDomain, port: str) -> None:
    """libvirt wants to hear its own description of the device."""
    for channel in parse(domain.XMLDesc()).iter("channel"):
        target = channel.find("target")
        if target is not None and target.get("name") == port:
            domain.detachDeviceFlags(to_text(channel), libvirt.VIR_DOMAIN_AFFECT_LIVE)
