"""The capabilities of a host, as far as a vApp depends on them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Capabilities:
    """One host, as its libvirt describes it."""

    host: str
    """Its name in the inventory."""
    processors: int
    memory: int
    """Bytes."""
    libvirt: str
    """Version, such as 9.0.0."""
    qemu: str
    """Version of the emulator."""
    no_filters: str = ""
    """Why libvirt on this host has no network filters, which bind a VM to its own MAC address; empty where it has them."""
