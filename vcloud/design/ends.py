"""The ends of a flow as the file names them, and the zones in which two VMs meet. Everybody who asks gets the same answer from here: the
checks of the file, the design, a guest's hosts file, and the proof."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Final

INTERNET: Final = "internet"


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
