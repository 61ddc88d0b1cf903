"""The capabilities of a host, as far as a vApp depends on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Version(NamedTuple):
    """A version of libvirt or QEMU. Of two versions the later one is greater."""

    major: int
    minor: int
    release: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.release}"


@dataclass(frozen=True, slots=True)
class Capabilities:
    """One host, as its libvirt describes it."""

    host: str
    """Its name in the inventory."""
    processors: int
    memory: int
    """Bytes."""
    libvirt: Version
    qemu: Version
    no_filters: str = ""
    """Why libvirt on this host has no network filters, which bind a VM to its own MAC address;
    empty where it has them.
    """
