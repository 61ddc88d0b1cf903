"""Values that the vApp file and the design share: protocols, services, actions, ends of flows,
names of interfaces.

A flow's end is written as the name of a VM or a zone, or as `internet`. The checks of the file, the
design, a guest's hosts file and the proof all ask this module what an end means and over which NICs
two VMs meet, so that all of them get the same answer.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

INTERNET: Final = "internet"
LONGEST_INTERFACE: Final = 15
"""Characters of an interface's name in Linux (IFNAMSIZ without the zero at the end)."""
CARD_NUMBER: Final = "card-number"
BUILT_IN_DETECTORS: Final = (CARD_NUMBER,)
"""Kinds of data that a leak detector may name in `detect` without a pattern; `vcloud.compile.leaks`
has a module for each.
"""


class Protocol(StrEnum):
    TCP = "tcp"
    UDP = "udp"
    ICMP = "icmp"
    """ICMP in IPv4 and ICMPv6 in IPv6, echo only."""


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
        return f"{self.protocol}/{self.first}" + (
            f"-{self.last}" if self.last != self.first else ""
        )


def zone_named(end: str, tiers: Container[str]) -> str:
    """The zone that an end (`app`, `zone:app`) means; empty for the VMs of a tier and for the
    internet.
    """
    kind, _, name = end.rpartition(":")
    return name if kind == "zone" or (name not in tiers and name != INTERNET) else ""


def tiers_at(end: str, zones: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The tiers whose VMs an end means, in the order of `zones`, which has the zones of each tier.
    None for the internet.
    """
    if zone := zone_named(end, zones):
        return tuple(tier for tier, its in zones.items() if zone in its)
    return () if end == INTERNET else (end.removeprefix("vm:"),)


def meeting_zones(ours: Sequence[str], theirs: Sequence[str], wanted: str = "") -> tuple[str, str]:
    """The zones of the two NICs over which a VM in the zones `ours` (none: the internet) reaches a
    VM in `theirs`.

    Their NIC is the one in the wanted zone if there is one, else in a common zone, else their
    first. Our NIC is the one in the same zone, else our first.
    """
    there = (
        wanted if wanted in theirs else next((zone for zone in theirs if zone in ours), theirs[0])
    )
    return (there if there in ours else next(iter(ours), "")), there


def guest_name(prefix: str, zone: str) -> str:
    """A readable name for an appliance's interface: `z-dmz`. A hash shortens it to Linux' 15
    characters.
    """
    name = prefix + zone
    if len(name) <= LONGEST_INTERFACE:
        return name
    from hashlib import sha256

    return f"{name[:10]}-{sha256(zone.encode()).hexdigest()[:4]}"
