"""Joins the demands of several controls: of each parameter the strictest counts.

Demands are joined where they are of one kind and about the same zones and data. For each other
parameter an order says which of two values is stricter. Where a parameter has no order, two values
contradict each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from enum import Enum
from typing import Any, Final

from vcloud.profiles.model import (
    ControlRef,
    Demand,
    Encrypted,
    FewPorts,
    FlowsSay,
    HostHas,
    Insecure,
    Inspect,
    Leaks,
    Reach,
    Web,
)
from vcloud.values import Action, Mode


class Order(Enum):
    """Which of two values of a parameter is the stricter one."""

    LOWER = "the lower number"
    LATER = "the one that stands later in its list of values"
    ALL = "all that both name"
    COMMON = "only what both name"
    NONE = "neither: two different values contradict each other"


RANKS: Final = {
    Mode: (Mode.DETECT, Mode.PREVENT),
    Action: (Action.ALERT, Action.BLOCK),
    Reach: (Reach.OUTSIDE, Reach.ANYWHERE),
}
ORDERS: Final[Mapping[type[Demand], Mapping[str, Order]]] = {
    FlowsSay: {"keys": Order.ALL},
    Insecure: {"services": Order.ALL, "beside_data": Order.ALL},
    Encrypted: {"apps": Order.COMMON},
    FewPorts: {"to": Order.LATER, "most": Order.LOWER},
    Web: {"mode": Order.LATER},
    Inspect: {"mode": Order.LATER},
    Leaks: {
        "to": Order.LATER,
        "at_least": Order.LOWER,
        "action": Order.LATER,
        "regex": Order.NONE,
    },
    HostHas: {"values": Order.COMMON},
}
"""Kind of demand -> its parameters that have an order. Demands that differ in another one stand side
by side.
"""


@dataclass(frozen=True, slots=True)
class Joined:
    """A demand, and the controls that ask for it or for a part of it."""

    demand: Demand
    asked: tuple[tuple[ControlRef, Demand], ...]
    """Each control, and what it asks for by itself."""

    @property
    def controls(self) -> tuple[ControlRef, ...]:
        return tuple(dict.fromkeys(ref for ref, _ in self.asked))


def names(controls: Iterable[ControlRef]) -> str:
    """`pci-dss@4.0.1 1.2.5, 1.2.6; corp@3 7`."""
    by_profile: dict[str, list[str]] = {}
    for ref in controls:
        by_profile.setdefault(f"{ref.profile}@{ref.version}", []).append(ref.control)
    return "; ".join(f"{label} {', '.join(ids)}" for label, ids in by_profile.items())


class ConflictError(ValueError):
    """Two controls ask for what cannot both be."""

    def __init__(self, parameter: str, values: tuple[object, object], joined: Joined) -> None:
        super().__init__(parameter)
        self.parameter = parameter
        self.values = values
        self.joined = joined


def merged(
    demands: Iterable[tuple[ControlRef, Demand]],
) -> tuple[tuple[Joined, ...], tuple[ConflictError, ...]]:
    """The strictest of the demands, and what contradicts itself among them. The order of the demands
    changes nothing.
    """
    joined: dict[tuple[Any, ...], Joined] = {}
    conflicts = []
    for ref, demand in sorted(demands, key=_order):
        key = _key(demand)
        before = joined.get(key)
        one = Joined(demand, ((ref, demand),))
        try:
            joined[key] = one if before is None else _both(before, one)
        except ConflictError as error:
            conflicts.append(error)
    return tuple(joined[key] for key in sorted(joined, key=repr)), tuple(conflicts)


def _order(one: tuple[ControlRef, Demand]) -> tuple[ControlRef, str]:
    return one[0], repr(one[1])


def _key(demand: Demand) -> tuple[Any, ...]:
    ordered = ORDERS.get(type(demand), {})
    return (
        type(demand).__name__,
        *(getattr(demand, one.name) for one in fields(demand) if one.name not in ordered),
    )


def _both(one: Joined, other: Joined) -> Joined:
    asked = tuple(sorted({*one.asked, *other.asked}, key=_order))
    changes: dict[str, Any] = {}
    for name, order in ORDERS.get(type(one.demand), {}).items():
        ours, theirs = getattr(one.demand, name), getattr(other.demand, name)
        found = _stricter(order, ours, theirs)
        if found is None:
            raise ConflictError(name, (ours, theirs), Joined(one.demand, asked))
        changes[name] = found
    return Joined(replace(one.demand, **changes), asked)


def _stricter(order: Order, one: Any, other: Any) -> Any:
    """The stricter value; None where the two contradict each other."""
    if one == other:
        return one
    match order:
        case Order.LOWER:
            return min(one, other)
        case Order.LATER:
            return max(one, other, key=RANKS[type(one)].index)
        case Order.ALL:
            return tuple(sorted({*one, *other}))
        case Order.COMMON:
            return tuple(sorted({*one} & {*other})) or None
        case Order.NONE:
            return None
