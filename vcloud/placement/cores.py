"""Which cores of a host a vApp gets for itself. Pure: a function of the host's topology, of the VMs that
want cores, of what they have, and of what others have.

A core is given as a whole. If it runs two threads at a time, both processors are the vApp's, because
two threads of a core tell each other by timing what they do. Each virtual CPU is pinned to one
processor. The first core stays with the host.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vcloud.design.model import Design
from vcloud.design.origin import FromFile
from vcloud.errors import Problem, RefusedError
from vcloud.values import processors_shown


@dataclass(frozen=True, slots=True)
class Topology:
    """The cores of a host, in the order of their first processors."""

    cores: tuple[tuple[int, ...], ...]
    """To each core the numbers of its processors, by Linux."""

    @property
    def processors(self) -> frozenset[int]:
        return frozenset(number for core in self.cores for number in core)

    def whole(self, processors: frozenset[int]) -> frozenset[int]:
        """All processors of the cores that these are on."""
        return frozenset(number for core in self.cores if processors & {*core} for number in core)


@dataclass(frozen=True, slots=True)
class Cores:
    """The cores of a vApp."""

    pins: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """VM -> the processor of each of its virtual CPUs."""
    owned: frozenset[int] = frozenset()
    """All processors of these cores. VMs of no other vApp use them."""
    missing: int = 0
    """How many virtual CPUs have got no processor."""


NO_CORES = Cores()


def chosen_cores(
    topology: Topology,
    wanted: Sequence[tuple[str, int]],
    taken: frozenset[int],
    standing: Mapping[str, tuple[int, ...]],
) -> Cores:
    """The cores of a vApp. The same arguments always give the same cores.

    Args:
        topology: of the host.
        wanted: (VM, its number of virtual CPUs).
        taken: processors that are others'. No core with one of them is given.
        standing: the processors that the VMs have. They keep those that nobody else has.
    """
    free = [core for core in topology.cores[1:] if not taken & {*core}]
    usable = {number: place for place, core in enumerate(free) for number in core}
    pins: dict[str, list[int]] = {}
    used: set[int] = set()
    for vm, cpus in wanted:
        pins[vm] = []
        for number in standing.get(vm, ())[:cpus]:
            if number in usable and number not in used:
                pins[vm].append(number)
                used.add(number)
    # First what is left of cores that the vApp has already.
    begun = {usable[number] for number in used}
    left = sorted(
        usable.keys() - used,
        key=lambda number: (usable[number] not in begun, usable[number], number),
    )
    missing = 0
    for vm, cpus in wanted:
        short = cpus - len(pins[vm])
        pins[vm] += left[:short]
        missing += max(0, short - len(left))
        del left[:short]
    given = frozenset(number for numbers in pins.values() for number in numbers)
    found = {vm: tuple(numbers) for vm, numbers in pins.items()}
    return Cores(found, topology.whole(given), missing)


def wanting_cores(design: Design) -> tuple[tuple[str, int], ...]:
    """(VM, its number of virtual CPUs) of the VMs that demand cores of their own."""
    return tuple((vm.name, vm.cpus) for vm in design.vms if vm.isolation.own_cpus)


def refuse_without_cores(
    design: Design, host: str, topology: Topology, taken: frozenset[int], found: Cores
) -> None:
    """Raises RefusedError where a host has too few cores for a vApp."""
    if not found.missing:
        return
    origin = next(vm.isolation.origin for vm in design.vms if vm.isolation.own_cpus)
    line = origin.line if isinstance(origin, FromFile) else 0
    cpus = sum(count for _, count in wanting_cores(design))
    first = processors_shown(topology.cores[0]) if topology.cores else "none"
    others = f", and {processors_shown(taken)} are others'" if taken else ""
    what = (
        f"{cpus} virtual CPUs of the vApp demand cores of their own, and {found.missing} get none on {host}: "
        f"of its processors {processors_shown(topology.processors)}, {first} stay{'s' * (first.isdecimal())} with the host{others}"
    )
    hint = "Give cores to fewer VMs (isolation of single VMs), give VMs fewer CPUs, remove another vApp that has cores there, or choose another host."
    raise RefusedError((Problem(design.file, line, "isolation.cpus" if line else "", what, hint),))
