"""A virtio-serial port of a running domain that exists only for one connection, with the host's end
as a socket.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import libvirt

from vcloud.compile.libvirt.domain import SSH_PORT_PREFIX, render_guest_port
from vcloud.hosts.connection import Host, translated
from vcloud.hosts.metadata import parse, to_text
from vcloud.hosts.stream import stream_socket


@contextmanager
def plugged_port(host: Host, name: str) -> Iterator[tuple[str, socket.socket]]:
    """Attaches a new port to a running domain. Gives the port's name and the host's end of it, and
    detaches the port afterwards.

    Raises:
        HostError: libvirt cannot attach or open the port.
    """
    # The stack keeps the connection open outside `translated`, which must not translate errors of
    # the caller.
    with _plugged(host, name) as port, ExitStack() as stack:
        with translated(f"the channel into '{name}' could not be opened on {host.name}"):
            opened = stream_socket(
                host,
                lambda connection, stream: connection.lookupByName(name).openChannel(
                    port, stream, 0
                ),
            )
            connection = stack.enter_context(opened)
        yield port, connection


@contextmanager
def _plugged(host: Host, name: str) -> Iterator[str]:
    # Each connection has a port of its own, so several people can use ssh in one VM at a time.
    port = SSH_PORT_PREFIX + secrets.token_hex(4)
    with translated(f"the channel into '{name}' could not be made on {host.name}"):
        domain = host.connection.lookupByName(name)
        domain.attachDeviceFlags(render_guest_port(port), libvirt.VIR_DOMAIN_AFFECT_LIVE)
    try:
        yield port
    finally:
        with suppress(libvirt.libvirtError):  # if the domain has ended, its ports are gone already
            _unplug(domain, port)


def _unplug(domain: libvirt.virDomain, port: str) -> None:
    """Detaches the port. libvirt finds the device only by the full XML that libvirt itself wrote
    for it.
    """
    for channel in parse(domain.XMLDesc()).iter("channel"):
        target = channel.find("target")
        if target is not None and target.get("name") == port:
            domain.detachDeviceFlags(to_text(channel), libvirt.VIR_DOMAIN_AFFECT_LIVE)
