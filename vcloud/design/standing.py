"""A vApp that stands keeps its order.

The file's order of zones is the order of the appliances' NICs, and its order of disks gives them
their names (`vdb`, `vdc`). Whoever sorts the keys of a file means no change, and a changed order
would restart VMs. So what stands keeps its place, and what is new comes after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from vcloud.design.model import Design, Disk, GuestFile, Nic, Vm, Zone

T = TypeVar("T")


def in_standing_order(design: Design, standing: Design) -> Design:
    """The design, with everything of which the order means nothing in the order that stands."""
    zones = _as_before(design.zones, standing.zones, _zone_name)
    order = [*(zone.name for zone in zones)]
    return replace(
        design,
        zones=zones,
        firewall=_with_nics(design.firewall, order),
        ips=_with_nics(design.ips, order) if design.ips is not None else None,
        inspection=replace(
            design.inspection, zones=tuple(sorted(design.inspection.zones, key=order.index))
        ),
        workloads=tuple(_as_it_stands(vm, standing) for vm in design.workloads),
    )


def _with_nics(appliance: Vm, zones: Sequence[str]) -> Vm:
    """With the NICs in the order of the zones; the one on the uplink stays the last."""

    def place(nic: Nic) -> int:
        return zones.index(nic.zone) if nic.zone in zones else len(zones)

    return replace(appliance, nics=tuple(sorted(appliance.nics, key=place)))


def _as_it_stands(vm: Vm, standing: Design) -> Vm:
    before = next((other for other in standing.workloads if other.name == vm.name), None)
    if before is None:
        return vm
    return replace(
        vm,
        disks=_same_disks(vm.disks, before.disks),
        files=_as_before(vm.files, before.files, _path),
    )


def _same_disks(disks: tuple[Disk, ...], before: tuple[Disk, ...]) -> tuple[Disk, ...]:
    """Disks that only changed places keep their names in the guest. A disk more or less restarts
    the VM in any case.
    """
    targets = {disk.name: disk.target for disk in before}
    if {disk.name for disk in disks} != targets.keys():
        return disks
    # Where a disk is mounted may differ, and with it the order in which they are mounted.
    if [disk.mount for disk in _as_before(disks, before, _disk_name)] != [
        disk.mount for disk in before
    ]:
        return disks
    return tuple(
        replace(disk, target=targets[disk.name]) for disk in _as_before(disks, before, _disk_name)
    )


def _as_before(items: Iterable[T], before: Iterable[T], name: Callable[[T], str]) -> tuple[T, ...]:
    """The items in the order in which they were before, and after these the new ones."""
    places = {name(item): place for place, item in enumerate(before)}
    return tuple(sorted(items, key=lambda item: places.get(name(item), len(places))))


def _zone_name(zone: Zone) -> str:
    return zone.name


def _disk_name(disk: Disk) -> str:
    return disk.name


def _path(file: GuestFile) -> str:
    return file.path
