"""Says whether a vApp that no host can run as the lab is would have a host if others stood elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

from vcloud.design.origin import FromFile
from vcloud.placement.needs import Needs, Room
from vcloud.placement.planner import moves, planned_homes
from vcloud.placement.solver import SECONDS, Reason, solved

MOST_MOVES = 5
"""Moves that are told one by one."""


def advice(newcomer: str, vapps: Sequence[Needs], rooms: Sequence[Room]) -> str:
    """A sentence for whoever wants to bring up the newcomer. `vapps` are all of the lab, it among them."""
    homes = planned_homes(vapps, rooms)
    if homes is None:
        verdict = solved(vapps, rooms)
        if verdict.reasons:
            told = "; ".join(map(_told, verdict.reasons))
            return f"It would not fit either if other vApps stood elsewhere: {told}."
        if verdict.homes is None:
            return f"Whether it would fit if other vApps stood elsewhere was not found out in {SECONDS:g} s."
        homes = verdict.homes
    moved = moves(vapps, homes)
    if not moved:
        return ""
    named = [f"'{vapp}' stood on {to}" for vapp, (_, to) in sorted(moved.items())[:MOST_MOVES]]
    if len(moved) > MOST_MOVES:
        named.append(f"{len(moved) - MOST_MOVES} more stood elsewhere")
    return f"It would fit on {homes[newcomer]} if {', '.join(named)}."


def _told(reason: Reason) -> str:
    rule = reason.rule
    if rule is None:
        return reason.what
    where = f" ({rule.origin})" if isinstance(rule.origin, FromFile) else ""
    return f"of '{reason.of}', {reason.what}{where}"
