"""A VM's serial console on this terminal."""

from __future__ import annotations

import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import libvirt

from vcloud.errors import HostError, UsageError
from vcloud.hosts.connection import Host, translated
from vcloud.hosts.stream import carry, stream_socket

ESCAPE = b"\x1d"
"""Ctrl-]"""


def attach(host: Host, name: str) -> None:
    """Joins this terminal to the serial console of a running domain until Ctrl-] is pressed or the domain ends.

    Raises:
        UsageError: stdin is no terminal.
        HostError: there is no such console, or somebody else has it.
    """
    if not sys.stdin.isatty():
        raise UsageError("a console needs a terminal", f"To look at what it said: vcloud logs {name.replace('.', '/', 1)}.")
    with ExitStack() as stack:
        with translated(f"the console of '{name}' could not be opened on {host.name}"):
            console = stack.enter_context(stream_socket(host, lambda connection, stream: _open(connection, stream, name)))
        print(f"Attached to {name}; Ctrl-] leaves.", file=sys.stderr)
        with _raw(sys.stdin.fileno()):
            carry(console, sys.stdin.fileno(), sys.stdout.fileno(), _until_escape)
    print(file=sys.stderr)


def _open(connection: libvirt.virConnect, stream: libvirt.virStream, name: str) -> None:
    try:
        connection.lookupByName(name).openConsole(None, stream, libvirt.VIR_DOMAIN_CONSOLE_SAFE)
    except libvirt.libvirtError as error:
        if "Active console session exists" not in str(error):
            raise
        raise HostError(f"somebody else is attached to the console of '{name}'", "Let them leave it first (Ctrl-]).") from None


def _until_escape(typed: bytes) -> bytes | None:
    return None if ESCAPE in typed else typed


@contextmanager
def _raw(terminal: int) -> Iterator[None]:
    """Every key goes to the guest, Ctrl-C too. The terminal gets its settings back whatever happens."""
    settings = termios.tcgetattr(terminal)
    tty.setraw(terminal)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSAFLUSH, settings)
