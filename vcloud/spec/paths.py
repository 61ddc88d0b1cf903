"""The connections that a flow allows, as the NICs at both ends of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from vcloud.spec.model import Flow, Vapp
from vcloud.values import is_outside, meeting_zones, tiers_at, zone_named


class Nic(NamedTuple):
    """The NIC that all replicas of a tier have in one zone. Both fields are empty for the outside,
    whatever addresses a flow names there.
    """

    tier: str
    zone: str


class Path(NamedTuple):
    """The NICs at both ends of a flow's connection."""

    source: Nic
    target: Nic


_OUTSIDE = Nic("", "")


def paths_of(vapp: Vapp, flow: Flow, zones: Mapping[str, tuple[str, ...]]) -> frozenset[Path]:
    wanted = zone_named(flow.target, zones)
    return frozenset(
        _path(one, other, zones, wanted)
        for one in _tiers(flow.source, zones)
        for other in _tiers(flow.target, zones)
        if one != other or vapp.vms[one].count not in (None, 1)
    )


def _tiers(end: str, zones: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """The tiers that the end of a flow means; for the outside, one tier with an empty name."""
    return ("",) if is_outside(end) else tiers_at(end, zones)


def _path(one: str, other: str, zones: Mapping[str, tuple[str, ...]], wanted: str) -> Path:
    if not other:
        return Path(Nic(one, zones[one][0]), _OUTSIDE)
    ours, theirs = meeting_zones(zones[one] if one else (), zones[other], wanted)
    return Path(Nic(one, ours), Nic(other, theirs))
