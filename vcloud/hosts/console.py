"""The serial console of a domain, as a socket."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import libvirt

from vcloud.errors import HostError
from vcloud.hosts.connection import Host, translated
from vcloud.hosts.stream import stream_socket


@contextmanager
def console_socket(host: Host, name: str) -> Iterator[socket.socket]:
    """The serial console of a running domain, as a socket.

    Raises:
        HostError: the domain has no serial console, or another person is attached to it.
    """
    # As in `channel`: `translated` covers the opening, and not what the caller does with the
    # socket.
    with ExitStack() as stack:
        with translated(f"the console of '{name}' could not be opened on {host.name}"):
            console = stack.enter_context(
                stream_socket(host, lambda connection, stream: _open(connection, stream, name))
            )
        yield console


def _open(connection: libvirt.virConnect, stream: libvirt.virStream, name: str) -> None:
    try:
        # SAFE: libvirt refuses the call if it cannot keep a second session away. Two sessions would
        # each read a part of the output.
        connection.lookupByName(name).openConsole(None, stream, libvirt.VIR_DOMAIN_CONSOLE_SAFE)
    except libvirt.libvirtError as error:
        # libvirt has no error code for this case.
        if "Active console session exists" not in str(error):
            raise
        raise HostError(
            f"somebody else is attached to the console of '{name}'",
            "That person can leave the console with Ctrl-]. Then try again.",
        ) from None
