"""A vApp that exists on a host keeps the order of its parts.

The order of the zones in the file decides the order of the appliances' NICs, and the order of the
disks decides their names (`vdb`, `vdc`). A changed order would restart VMs. But a user who only
sorts the keys of a file wants no change. So existing parts keep their place, and new parts come
after them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from vcloud.design.model import Design, Disk, GuestFile, Nic, Vm, Zone

T = TypeVar("T")


def in_standing_order(design: Design, standing: Design) -> Design:
    """The design with zones, disks and files in the order that the `standing` design has."""
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
    """The appliance with its NICs in the order of the zones. The NIC on the uplink stays the last
    one.
    """

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
    """Disks that only changed places in the file keep their names in the guest. A disk that is
    added or removed restarts the VM in any case.
    """
    targets = {disk.name: disk.target for disk in before}
    if {disk.name for disk in disks} != targets.keys():
        return disks
    # If a mount point changed, the order in which the disks are mounted may change, too.
    if [disk.mount for disk in _as_before(disks, before, _disk_name)] != [
        disk.mount for disk in before
    ]:
        return disks
    return tuple(
        replace(disk, target=targets[disk.name]) for disk in _as_before(disks, before, _disk_name)
    )


def _as_before(items: Iterable[T], before: Iterable[T], name: Callable[[T], str]) -> tuple[T, ...]:
    """The items in the order that they had before; new items come last."""
    places = {name(item): place for place, item in enumerate(before)}
    return tuple(sorted(items, key=lambda item: places.get(name(item), len(places))))


def _zone_name(zone: Zone) -> str:
    return zone.name


def _disk_name(disk: Disk) -> str:
    return disk.name


def _path(file: GuestFile) -> str:
    return file.path
