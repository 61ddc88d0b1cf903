"""What demands ask of a vApp file: which zones hold or touch data, and where flows lead."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

from vcloud.profiles.model import Scope
from vcloud.spec.model import Flow, Vapp
from vcloud.spec.paths import Path, paths_of
from vcloud.values import is_outside


class Around:
    """A sound vApp, with what is computed of it once for all demands."""

    def __init__(self, vapp: Vapp) -> None:
        self.vapp = vapp
        self.tiers = {tier: vm.zones for tier, vm in vapp.vms.items()}

    @cached_property
    def flows(self) -> tuple[tuple[Flow, frozenset[Path]], ...]:
        """Each flow with its paths."""
        return tuple((flow, paths_of(self.vapp, flow, self.tiers)) for flow in self.vapp.flows)

    def holding(self, data: tuple[str, ...]) -> tuple[str, ...]:
        """The zones that hold such data; without `data`, any."""
        return tuple(
            name for name, zone in self.vapp.zones.items() if concerns(tuple(zone.holds), data)
        )

    def zones(self, scope: Scope, data: tuple[str, ...]) -> tuple[str, ...]:
        """The zones of a scope, in the order of the file."""
        if scope is Scope.EVERY:
            return tuple(self.vapp.zones)
        found = {*self.holding(data)}
        if scope is Scope.TOUCHING:
            for flow, paths in self.flows:
                if concerns(tuple(flow.carries), data):
                    found |= zones_at(paths)
        return tuple(name for name in self.vapp.zones if name in found)

    def touches(self, flow: Flow, paths: frozenset[Path], data: tuple[str, ...]) -> bool:
        """Whether such data is at an end of the flow, or on it."""
        return concerns(tuple(flow.carries), data) or not zones_at(paths).isdisjoint(
            self.holding(data)
        )

    def from_outside(self) -> Iterator[tuple[Flow, frozenset[Path]]]:
        yield from ((flow, paths) for flow, paths in self.flows if is_outside(flow.source))


def concerns(classes: tuple[str, ...], data: tuple[str, ...]) -> bool:
    """Whether one of the classes of data is meant; without `data`, each one is."""
    return bool({*classes} & {*data}) if data else bool(classes)


def zones_at(paths: frozenset[Path]) -> set[str]:
    """The zones at both ends of the paths."""
    return {nic.zone for path in paths for nic in path if nic.zone}
