"""Values that the vApp file and the design share: protocols, services, actions, and the ends of flows.

A flow's end is written as the name of a VM or a zone, or as `internet`. The checks of the file, the design, a guest's hosts file and
the proof all ask this module what an end means and over which network cards two VMs meet, so that all of them get the same answer.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

INTERNET: Final = "internet"


class Protocol(StrEnum):
    TCP = "tcp"
    UDP = "udp"
    ICMP = "icmp"
    """Stands for ICMP in IPv4 and ICMPv6 in IPv6 (echo only)."""


class Mode(StrEnum):
    """What the IPS does with a match: `prevent` drops, `detect` only logs."""

    PREVENT = "prevent"
    DETECT = "detect"


class Action(StrEnum):
    """What a leak detector does with a match."""

    BLOCK = "block"
    ALERT = "alert"


@dataclass(frozen=True, slots=True, order=True)
class Service:
    """A protocol and an inclusive port range; ports are 0 for ICMP."""

    protocol: Protocol
    first: int
    last: int

    def __str__(self) -> str:
        if self.protocol is Protocol.ICMP:
            return "icmp"
        return f"{self.protocol}/{self.first}" + (f"-{self.last}" if self.last != self.first else "")


def zone_named(end: str, tiers: Container[str]) -> str:
    """The zone that an end (`app`, `zone:app`) means; empty where it means the VMs of a tier, or the internet."""
    kind, _, name = end.rpartition(":")
    return name if kind == "zone" or (name not in tiers and name != INTERNET) else ""


def meeting_zones(ours: Sequence[str], theirs: Sequence[str], wanted: str = "") -> tuple[str, str]:
    """The zones of the two cards over which a VM of the zones `ours` (none: the internet) really reaches one of `theirs`.

    Theirs is the wanted zone if they have it, else a common one, else their first; ours is the same or else our first.
    """
    there = wanted if wanted in theirs else next((zone for zone in theirs if zone in ours), theirs[0])
    return (there if there in ours else next(iter(ours), "")), there
