"""Whether a host has room for what a run starts there: for the devices of a VM, its processors, the
memory of all VMs, and the files that are written.

Memory that is promised to VMs counts as taken, whether a VM uses it already or not. A guest takes
its memory little by little, and when the host has no more, its kernel ends some process, perhaps an
appliance. So what is free on the host must suffice for all that running VMs have not taken yet, and
for the VMs that the run starts. An inventory that says `overcommit: 2` for a host counts half of
both. CPUs are shared in time, so VMs may have many for each processor (`cpu_overcommit`).

Disks are files that grow, so their sizes are no reason to refuse. What cannot even begin is
refused: images and copies of disks that have no room. What may fail later is told
(`capacity_notes`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vcloud.compile.libvirt.limits import hard_limit, most_nics
from vcloud.design.model import Design, Role, Vm
from vcloud.design.origin import FromFile
from vcloud.errors import Problem
from vcloud.placement.capabilities import (
    MOST_CPU_OVERCOMMIT,
    MOST_OVERCOMMIT,
    Capabilities,
    RunningVm,
)

QEMU_MEMORY = 64 << 20
"""Bytes that a QEMU process takes in addition to the memory of its guest, at least."""
SPARE = 64 << 20
"""Bytes that must stay free in a storage pool in addition to those that will be written."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What a run needs of its host."""

    starts: tuple[Vm, ...]
    """The VMs that the run starts."""
    ends: frozenset[str] = frozenset()
    """Running domains that the run stops before it starts VMs. Their memory is free then."""
    files: tuple[tuple[str, int], ...] = ()
    """(what is written into the storage pool, bytes): images that the host lacks, and copies of
    data disks that get another name. An image that is still to be built is not among them, because
    nobody knows its size.
    """
    growth: int = 0
    """Bytes by which the disks may grow of the VMs that the run makes, as the file gives their sizes."""


def capacity_problems(design: Design, demand: Demand, host: Capabilities) -> Iterator[Problem]:
    """What the host has no room for."""
    # The replicas of a tier are alike: one of them stands for all.
    for vm in {vm.tier: vm for vm in reversed(demand.starts)}.values():
        yield from _vm_problems(design, vm, host)
    if all(vm.memory <= host.memory for vm in demand.starts):
        yield from _memory_problems(design, demand, host)
    yield from _locking_problems(design, demand, host)
    yield from _cpu_problems(design, demand, host)
    yield from _storage_problems(design, demand, host)


def capacity_notes(demand: Demand, host: Capabilities) -> Iterator[str]:
    """What may run out later, though the run can begin."""
    needed, free = _needed_memory(demand, host), _free_memory(demand, host)
    if free < needed <= free * host.overcommit:
        yield (
            f"VMs on {host.host} may take {_mib(needed)} MiB of memory more than now, and "
            f"{_mib(free)} MiB are free: if they do, the kernel of {host.host} ends some of them"
        )
    written = sum(size for _, size in demand.files)
    if host.storage is not None and demand.growth > host.storage.free - written:
        yield (
            f"the new disks may grow to {_mib(demand.growth)} MiB, and {host.storage.folder} "
            f"on {host.host} has {_mib(max(0, host.storage.free - written))} MiB for them: "
            "if it is full, VMs that write are paused"
        )


def _vm_problems(design: Design, vm: Vm, host: Capabilities) -> Iterator[Problem]:
    """What no host of this kind could give a single VM, whatever else runs there."""
    if vm.memory > host.memory:
        yield _problem(
            design,
            vm,
            "memory",
            f"'{vm.name}' has {_mib(vm.memory)} MiB of memory, and {host.host} has {_mib(host.memory)} MiB in all",
            "Give the VM less memory, or choose a larger host with --connect.",
        )
    if vm.cpus > host.processors:
        yield _problem(
            design,
            vm,
            "cpus",
            f"'{vm.name}' has {vm.cpus} CPUs, and {host.host} has {host.processors}",
            f"Write at most {host.processors}, or choose a larger host with --connect.",
        )
    most = most_nics(vm)
    if len(vm.nics) > most:
        what, hint = _too_many_nics(vm, most)
        yield _problem(design, vm, "zone", what, hint)


def _too_many_nics(vm: Vm, most: int) -> tuple[str, str]:
    what = f"'{vm.name}' has {len(vm.nics)} NICs, and a VM with {vm.cpus} CPU{'s' * (vm.cpus > 1)} can have {most}"
    if vm.role is Role.FIREWALL:
        return (
            f"{what}: it has one for each zone, and one for the uplink",
            f"Write at most {most - 1} zones, or split the vApp.",
        )
    if vm.role is Role.IPS:
        return (
            f"{what}: it has two for each inspected zone",
            f"Inspect at most {most // 2} zones, or split the vApp. Zones that a leak detector watches count.",
        )
    return f"{what}: it has one for each of its zones", "Give it fewer zones, or more CPUs."


def _memory_problems(design: Design, demand: Demand, host: Capabilities) -> Iterator[Problem]:
    needed, free = _needed_memory(demand, host), _free_memory(demand, host)
    if not demand.starts or needed <= free * host.overcommit:
        return
    own = sum(map(memory_of, demand.starts))
    running = f", and {_mib(needed - own)} MiB for VMs that run" if needed > own else ""
    factor = f" x {host.overcommit:g}" if host.overcommit > 1 else ""
    yield Problem(
        design.file,
        0,
        "",
        f"{len(demand.starts)} VM{'s' * (len(demand.starts) > 1)} would be started, which may take {_mib(own)} MiB of memory{running}; "
        f"{host.host} has {_mib(free)} MiB free{factor}: {_mib(needed - int(free * host.overcommit))} MiB are missing",
        "Give VMs less memory, stop others, or choose a larger host with --connect."
        + _overcommit_hint(needed, free, host.host),
    )


def _locking_problems(design: Design, demand: Demand, host: Capabilities) -> Iterator[Problem]:
    """What the host cannot lock. Locked memory is taken at once, so it counts wholly, whatever the
    host's `overcommit`.
    """
    locked = [vm for vm in demand.starts if vm.isolation.locked_memory]
    if not locked:
        return
    free, needed = _free_memory(demand, host), sum(map(memory_of, locked))
    if needed > free:
        yield _isolation_problem(
            design,
            locked[0],
            f"{_mib(needed)} MiB of memory would be locked, and {host.host} has {_mib(free)} MiB free, of which locked memory takes all of its own, also with overcommit",
            "Lock the memory of fewer VMs, give them less, or choose a larger host.",
        )
    if host.locking is None:
        return
    if not host.locking.limits_memory:
        yield _isolation_problem(
            design,
            locked[0],
            f"libvirt starts no VM with locked memory on {host.host}: it demands a limit of memory, and the host has no memory controller of cgroups",
            "On that host, switch it on (the kernel's cgroup_disable=, or the container in which libvirt runs), or choose another host.",
        )
    largest = max(locked, key=hard_limit)
    if hard_limit(largest) > host.locking.most:
        yield _isolation_problem(
            design,
            largest,
            f"'{largest.name}' would lock up to {_mib(hard_limit(largest))} MiB, and libvirt's daemon on {host.host} may let a process lock {_mib(host.locking.most)} MiB",
            "On that host, give the daemon LimitMEMLOCK=infinity in its systemd unit and restart it, or let it run as root with all capabilities.",
        )


def _isolation_problem(design: Design, vm: Vm, what: str, hint: str) -> Problem:
    """A problem at the line of the section that demands it."""
    origin = vm.isolation.origin
    line = origin.line if isinstance(origin, FromFile) else 0
    return Problem(design.file, line, "isolation.memory" if line else "", what, hint)


def _cpu_problems(design: Design, demand: Demand, host: Capabilities) -> Iterator[Problem]:
    own = sum(vm.cpus for vm in demand.starts)
    others = sum(vm.cpus for vm in host.running if vm.domain not in demand.ends)
    most = int(host.processors * host.cpu_overcommit)
    if not demand.starts or own + others <= most:
        return
    running = f", beside {others} of VMs that run" if others else ""
    yield Problem(
        design.file,
        0,
        "",
        f"{len(demand.starts)} VM{'s' * (len(demand.starts) > 1)} with {own} CPUs in all would be started{running}; "
        f"{host.host} has {host.processors} processors, on each of which VMs may have {host.cpu_overcommit:g} CPUs: "
        f"{own + others - most} too many",
        "Give VMs fewer CPUs, stop others, or choose another host." + _cpu_hint(own + others, host),
    )


def _cpu_hint(needed: int, host: Capabilities) -> str:
    """The smallest `cpu_overcommit`, a whole number, with which the run can begin."""
    factor = -(-needed // max(1, host.processors))
    return (
        f" If they are idle most of the time, write `cpu_overcommit: {factor}` for {host.host} in the inventory."
        if factor <= MOST_CPU_OVERCOMMIT
        else ""
    )


def _storage_problems(design: Design, demand: Demand, host: Capabilities) -> Iterator[Problem]:
    needed = sum(size for _, size in demand.files)
    if host.storage is None or not needed or host.storage.free >= needed + SPARE:
        return
    yield Problem(
        design.file,
        0,
        "",
        f"{', '.join(what for what, _ in demand.files)} would take {_mib(needed + SPARE)} MiB on {host.host}, and "
        f"{host.storage.folder} has {_mib(host.storage.free)} MiB free: {_mib(needed + SPARE - host.storage.free)} MiB are missing",
        f"Free some space on the file system of {host.storage.folder}.",
    )


def _needed_memory(demand: Demand, host: Capabilities) -> int:
    """Bytes that the VMs of the run may take, and that the VMs that go on have not taken yet."""
    going_on = (vm for vm in host.running if vm.domain not in demand.ends)
    return sum(map(memory_of, demand.starts)) + sum(map(not_taken, going_on))


def _free_memory(demand: Demand, host: Capabilities) -> int:
    """Bytes that are free once the run has stopped what it stops."""
    return host.free_memory + sum(vm.held for vm in host.running if vm.domain in demand.ends)


def memory_of(vm: Vm) -> int:
    """Bytes that a VM and its QEMU process may take."""
    return vm.memory + QEMU_MEMORY


def not_taken(vm: RunningVm) -> int:
    """Bytes that a running VM may still take."""
    return max(0, vm.promised - vm.held)


def _overcommit_hint(needed: int, free: int, host: str) -> str:
    """The smallest `overcommit`, with one digit after the point, that lets the run begin."""
    factor = -(-10 * needed // max(1, free)) / 10
    return (
        f" If VMs there never use all of their memory, write `overcommit: {factor:g}` for {host} in the inventory."
        if factor <= MOST_OVERCOMMIT
        else ""
    )


def _problem(design: Design, vm: Vm, field: str, what: str, hint: str) -> Problem:
    """A problem at the line of a VM. An appliance has none in the file."""
    if isinstance(vm.origin, FromFile):
        return Problem(design.file, vm.origin.line, f"vms.{vm.tier}.{field}", what, hint)
    return Problem(design.file, 0, "zones" if field == "zone" else "", what, hint)


def _mib(size: int) -> int:
    """Bytes as MiB, rounded up."""
    return -(-size >> 20)
