"""What is allowed in a vApp file, but is probably not what the user means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from vcloud.errors import Problem
from vcloud.spec.model import Flow, Vapp
from vcloud.values import INTERNET, meeting_zones, tiers_at, zone_named


class _Nic(NamedTuple):
    """A NIC of the replicas of a tier. Both are empty for the internet."""

    tier: str
    zone: str


class _Path(NamedTuple):
    """The NICs at both ends of a flow's connection."""

    source: _Nic
    target: _Nic


_INTERNET = _Nic("", "")


def notes(vapp: Vapp) -> tuple[Problem, ...]:
    """One note for each such thing."""
    return tuple(
        Problem(vapp.file, vapp.line_of(path), path, what, hint)
        for found in (_empty_zones(vapp), _unwatched_nics(vapp), _odd_exceptions(vapp))
        for path, what, hint in found
    )


def _empty_zones(vapp: Vapp) -> Iterator[tuple[str, str, str]]:
    used = {zone for vm in vapp.vms.values() for zone in vm.zones}
    yield from (
        (f"zones.{zone}", "this zone has no VM", "Remove it, or put a VM into it.")
        for zone in vapp.zones
        if zone not in used
    )


def _unwatched_nics(vapp: Vapp) -> Iterator[tuple[str, str, str]]:
    """VMs that a detector watches on some of their NICs only."""
    for detector in vapp.protection.dlp:
        for tier, vm in vapp.vms.items():
            others = [zone for zone in vm.zones if zone not in detector.leaving]
            if 0 < len(others) < len(vm.zones):
                listed = ", ".join(others)
                what = f"VM '{tier}' also has a NIC in {listed}, where this detector does not search what leaves"
                yield f"{detector.path}.leaving", what, f"Add {listed} to leaving."


def _odd_exceptions(vapp: Vapp) -> Iterator[tuple[str, str, str]]:
    """Exceptions of detectors that have no effect, or more effect than they say."""
    if not any(detector.excepted for detector in vapp.protection.dlp):
        return
    zones = {tier: vm.zones for tier, vm in vapp.vms.items()}
    paths = {flow.id: _paths(vapp, flow, zones) for flow in vapp.flows}
    by_path: dict[_Path, list[Flow]] = {}
    for flow in vapp.flows:
        for path in paths[flow.id]:
            by_path.setdefault(path, []).append(flow)
    flows = {flow.id: flow for flow in vapp.flows}
    for detector in vapp.protection.dlp:
        for flow in (flows[name] for name in detector.excepted):
            leaving = [path for path in paths[flow.id] if _leaves(path, detector.leaving)]
            alike = {
                other.id: other
                for path in leaving
                for other in by_path[path]
                if _share_a_service(flow, other)
            }
            also = [other for name, other in alike.items() if name not in detector.excepted]
            if not leaving:
                what = f"flow '{flow.id}' never leaves the zones of this detector, so the exception has no effect"
                yield f"{detector.path}.except", what, "Remove it."
            elif also:
                yield f"{detector.path}.except", _too_wide(flow, also), "Except both, or neither."


def _too_wide(flow: Flow, also: list[Flow]) -> str:
    more = f" and {len(also) - 1} more" if also[1:] else ""
    return (
        f"the exception for flow '{flow.id}' also applies to flow '{also[0].id}' in line {also[0].line}{more}: "
        "both have the same source, target and service"
    )


def _leaves(path: _Path, zones: tuple[str, ...]) -> bool:
    """Whether a path connects one of the zones with something outside them."""
    return (path.source.zone in zones) != (path.target.zone in zones)


def _paths(vapp: Vapp, flow: Flow, zones: Mapping[str, tuple[str, ...]]) -> frozenset[_Path]:
    wanted = zone_named(flow.target, zones)
    return frozenset(
        _path(one, other, zones, wanted)
        for one in _tiers(flow.source, zones)
        for other in _tiers(flow.target, zones)
        if one != other or vapp.vms[one].count not in (None, 1)
    )


def _tiers(end: str, zones: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """The tiers that an end means; for the internet one with an empty name."""
    return ("",) if end == INTERNET else tiers_at(end, zones)


def _path(one: str, other: str, zones: Mapping[str, tuple[str, ...]], wanted: str) -> _Path:
    if not other:
        return _Path(_Nic(one, zones[one][0]), _INTERNET)
    ours, theirs = meeting_zones(zones[one] if one else (), zones[other], wanted)
    return _Path(_Nic(one, ours), _Nic(other, theirs))


def _share_a_service(one: Flow, other: Flow) -> bool:
    return any(
        a.protocol is b.protocol and a.first <= b.last and b.first <= a.last
        for a in one.services
        for b in other.services
    )
