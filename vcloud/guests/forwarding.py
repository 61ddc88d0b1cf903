"""Which ports `vcloud ssh` and `vcloud port-forward` forward, and what they refuse. Pure.

A forwarded port listens on this machine's loopback only. If others could reach it, they would reach
the VM past its firewall. In the guest, sshd connects only to the guest's own addresses
(`vcloud.guests.ssh.Sshd`). What the guest itself reaches elsewhere leaves through its NIC, and the
firewall decides.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address

from vcloud.errors import UsageError

LOOPBACK = "127.0.0.1"
LARGEST_PORT = 65535
_PART = re.compile(r"\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<word>[A-Za-z0-9._-]+)")
_LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
OF_A_COMMAND = "Before a command for the VM that has options of its own, write --."
NOT_BACK = (
    "-R is refused: it would let the VM, which may be hostile, open connections from this machine"
)


@dataclass(frozen=True, slots=True)
class Forward:
    """A port of this machine's loopback that leads into a VM."""

    listen: str
    """The address on this machine."""
    port: int
    host: str = ""
    """The address in the guest; empty: each connection says itself where it goes (SOCKS)."""
    host_port: int = 0

    @property
    def argv(self) -> tuple[str, str]:
        """The options of ssh(1)."""
        here = f"{_bracketed(self.listen)}:{self.port}"
        if not self.host:
            return "-D", here
        return "-L", f"{here}:{_bracketed(self.host)}:{self.host_port}"


def local_forward(text: str) -> Forward:
    """What `-L` says: `[ADDRESS:]PORT:HOST:PORT`. Raises UsageError."""
    example = f"Write it like 8080:localhost:80. {OF_A_COMMAND}"
    parts = _parts(text, "-L", example)
    if len(parts) not in (3, 4):
        raise UsageError(f"-L {text} is not [ADDRESS:]PORT:HOST:PORT", example)
    listen = _listen(parts[0], "-L", text) if len(parts) == 4 else LOOPBACK
    port, host, host_port = parts[-3:]
    return Forward(listen, _port(port, text), host, _port(host_port, text))


def dynamic_forward(text: str) -> Forward:
    """What `-D` says: `[ADDRESS:]PORT`. Raises UsageError."""
    example = f"Write it like 1080. {OF_A_COMMAND}"
    parts = _parts(text, "-D", example)
    if len(parts) not in (1, 2):
        raise UsageError(f"-D {text} is not [ADDRESS:]PORT", example)
    listen = _listen(parts[0], "-D", text) if len(parts) == 2 else LOOPBACK
    return Forward(listen, _port(parts[-1], text))


def port_pair(text: str) -> Forward:
    """What `vcloud port-forward` takes: `8080:80`, or `80` for the same port here. Raises
    UsageError.
    """
    here, colon, there = text.partition(":")
    port = _port(here, text)
    return Forward(LOOPBACK, port, "localhost", _port(there, text) if colon else port)


def _parts(text: str, option: str, example: str) -> list[str]:
    """The parts between the colons; an IPv6 address stands in brackets."""
    parts, rest = [], text
    while True:
        found = _PART.match(rest)
        if found is None:
            raise UsageError(f"{option} {text} cannot be read", example)
        parts.append(found["six"] or found["word"])
        rest = rest[found.end() :]
        if not rest:
            return parts
        if rest[0] != ":":
            raise UsageError(f"{option} {text} cannot be read", example)
        rest = rest[1:]


def _listen(address: str, option: str, text: str) -> str:
    if address in _LOCAL_NAMES or _is_loopback(address):
        return address
    raise UsageError(
        f"{option} {text} would let other machines into the VM, past its firewall",
        "Only this machine's loopback may listen: leave the address away, or write localhost.",
    )


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False


def _port(text: str, whole: str) -> int:
    if text.isascii() and text.isdigit() and 0 < int(text[:6]) <= LARGEST_PORT:
        return int(text)
    raise UsageError(f"'{whole}' has no port from 1 to {LARGEST_PORT}", "For example: 8080:80.")


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address
