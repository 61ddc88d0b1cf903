"""A VM's serial console on this terminal."""

from __future__ import annotations

import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager

from vcloud.design.names import path_of
from vcloud.errors import UsageError
from vcloud.guests.carry import carry
from vcloud.hosts.connection import Host
from vcloud.hosts.console import console_socket

ESCAPE = b"\x1d"
"""Ctrl-]"""


def attach(host: Host, name: str) -> None:
    """Connects this terminal with the serial console of a running domain, until Ctrl-] is pressed
    or the domain ends.

    Raises:
        UsageError: stdin is not a terminal.
        HostError: there is no such console, or somebody else is attached to it.
    """
    if not sys.stdin.isatty():
        raise UsageError(
            "a console needs a terminal",
            f"To see what the VM printed: vcloud logs {path_of(name)}.",
        )
    with console_socket(host, name) as console:
        print(f"Attached to {name}; Ctrl-] leaves.", file=sys.stderr)
        with _raw(sys.stdin.fileno()):
            carry(console, sys.stdin.fileno(), sys.stdout.fileno(), _until_escape)
    print(file=sys.stderr)


def _until_escape(typed: bytes) -> bytes | None:
    return None if ESCAPE in typed else typed


@contextmanager
def _raw(terminal: int) -> Iterator[None]:
    """Sends every key to the guest, also Ctrl-C. The terminal always gets its settings back."""
    settings = termios.tcgetattr(terminal)
    tty.setraw(terminal)
    try:
        yield
    finally:
        # FLUSH: keys that were typed for the guest must not reach the shell of the operator.
        termios.tcsetattr(terminal, termios.TCSAFLUSH, settings)
