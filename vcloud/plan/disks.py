"""Finds where the data of a vApp's disks is: which volume belongs to which VM, which VM gets the
data disks of an earlier one, and which disks of a domain are not the volumes that vcloud gave it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath

from vcloud.design.model import Design, Vm
from vcloud.design.names import (
    copy_and_original,
    data_disk_of,
    data_volume,
    domain_name,
    root_volume,
)
from vcloud.plan.manifest import Phase
from vcloud.plan.state import DomainState, VappState

ROOT_TARGET = "vda"
"""The target of every VM's root disk."""


def unfinished_copies(state: VappState) -> frozenset[str]:
    """The data volumes that a killed run began to copy. Their originals are still there."""
    volumes = state.volumes or frozenset()
    pairs = filter(None, map(copy_and_original, volumes))
    return frozenset(copy for copy, original in pairs if original in volumes)


def blank_volumes(vm: Vm, state: VappState) -> tuple[str, ...]:
    """The data disks of a VM that hold no data. The mark of a domain that an earlier run left
    incomplete names them.
    """
    domain = state.domain(vm.domain)
    if domain is None or domain.marks.digests is not None:
        return ()
    vapp = vm.domain.partition(".")[0]
    return tuple(data_volume(vapp, vm.name, disk) for disk in domain.marks.blank)


def data_disks(domain: str, state: VappState) -> Mapping[str, str]:
    """Name -> volume of the data disks of a VM that the host has, including disks that the file no
    longer names. If the volumes of the host are not known, these are the disks that the VM's domain
    uses.
    """
    return {
        disk: volume for volume, (owner, disk) in _data_volumes(state).items() if owner == domain
    }


def _data_volumes(state: VappState) -> Mapping[str, tuple[str, str]]:
    """Data volume -> its domain and the name of the disk."""
    names = state.volumes
    if names is None:
        names = frozenset(
            PurePath(file).name
            for domain in state.domains
            for files in domain.sources.values()
            for file in files
        )
    whole = sorted(names - unfinished_copies(state))
    return {name: found for name in whole if (found := data_disk_of(name))}


def heirs(design: Design, state: VappState) -> Mapping[str, Vm]:
    """Domain that the file no longer names -> the VM that has its data disks from now on.

    A VM is the heir if its `was` names the domain's VM, or if it had this name before its entry got
    or lost its `count`. The domain itself may be gone; its volumes are enough.
    """
    vapp = design.instance.name
    found: dict[str, Vm] = {}
    standing = {domain.name for domain in state.domains if domain.is_of(vapp)}
    others = {domain.name for domain in state.domains} - standing
    owners = {owner for owner, _ in _data_volumes(state).values()}
    free = (standing | owners) - others - {vm.domain for vm in design.vms}
    waiting = [vm for vm in design.workloads if _lacks_disks(vm, state)]
    # The likeliest name of every VM is tried before any second name.
    for rank in range(max((len(vm.was) for vm in waiting), default=0)):
        for vm in waiting:
            domain = domain_name(vapp, vm.was[rank]) if rank < len(vm.was) else ""
            if domain in free and vm not in found.values():
                found.setdefault(domain, vm)
    return found


def _lacks_disks(vm: Vm, state: VappState) -> bool:
    """Whether a VM may still get the disks of an earlier one. A VM that runs has its disks. So has
    a stopped VM if all volumes of its disks exist.
    """
    domain = state.domain(vm.domain)
    if domain is None:
        return True
    volumes = state.volumes
    return (
        not domain.running
        and volumes is not None
        and any(disk.volume not in volumes for disk in vm.disks)
    )


def moved_disks(domain: str, design: Design, state: VappState) -> Mapping[str, str]:
    """Volume of a VM that is removed -> the volume that its content is moved to. Empty if no VM
    gets its data disks.
    """
    heir = heirs(design, state).get(domain)
    return _moved_to(heir, domain, state) if heir else {}


def moves(design: Design, state: VappState) -> Mapping[str, str]:
    """All moved disks of a plan: volume that a VM gets -> the volume whose content it gets."""
    return {
        new: old
        for domain, heir in heirs(design, state).items()
        for old, new in _moved_to(heir, domain, state).items()
    }


def _moved_to(heir: Vm, domain: str, state: VappState) -> Mapping[str, str]:
    own = data_disks(domain, state)
    return {own[disk.name]: disk.volume for disk in heir.disks if disk.name in own}


def left_behind(design: Design, state: VappState) -> Mapping[str, tuple[str, str]]:
    """Data volume -> its VM and the name of the disk, of VMs that neither the file names nor libvirt
    has. No VM gets them.
    """
    known = {
        *(domain.name for domain in state.domains),
        *(vm.domain for vm in design.vms),
        *heirs(design, state),
    }
    return {
        volume: (owner.partition(".")[2], disk)
        for volume, (owner, disk) in _data_volumes(state).items()
        if owner not in known
    }


def dropped(design: Design, state: VappState) -> tuple[str, ...]:
    """The data volumes of VMs that are in the file, if the file no longer names these disks."""
    wanted = {disk.volume for vm in design.vms for disk in vm.disks}
    vms = {vm.domain for vm in design.vms}
    return tuple(
        volume
        for volume, (owner, _) in _data_volumes(state).items()
        if owner in vms and volume not in wanted
    )


@dataclass(frozen=True, slots=True)
class Displaced:
    """A disk of a domain that writes to another file than the volume that vcloud gave the VM: a
    snapshot or a copy that somebody made.
    """

    target: str
    disk: str
    """The name of the data disk; empty for the root disk, and if it is not known."""
    volume: str
    """The volume that the VM would use again; empty if it is not known."""
    top: str
    """The file that the disk writes to."""
    base: str
    """The path of `volume` if it is a backing file of `top`; empty if it is not, or if libvirt does
    not show it.
    """


def displaced(domain: DomainState, state: VappState, vm: Vm | None = None) -> Iterator[Displaced]:
    """The disks of a domain that write to a file that is no volume of their VM. `vm` is the VM as
    the file has it.

    The volume decides, not the target (`vdb`). If the file changes the order of the disks, another
    volume of the same VM has the target, and nothing is lost. A name that a data disk could have is not enough:
    somebody may have given it to a snapshot or a copy.
    """
    have = state.manifest
    old = have.vm(domain.vm) if have is not None else None
    disks = [disk for known in (old, vm) if known for disk in known.disks]
    places = {disk.target: "" for disk in disks}
    settled = have is not None and have.phase is Phase.READY and old is not None
    if settled and old is not None:
        places |= {disk.target: disk.volume for disk in old.disks}
    places[ROOT_TARGET] = root_volume(domain.name)
    tops = {
        target: _volume_of(files[0], domain, state)
        for target, files in domain.sources.items()
        if files
    }
    given = {root_volume(domain.name), *(disk.volume for disk in disks)}
    # After a run that was killed, the VM may still have a disk that the file dropped. It is no copy of
    # another disk if the VM has all others.
    unused = (given & (state.volumes or frozenset())) - {*tops.values()}
    for target, top in tops.items():
        files = domain.sources[target]
        # The lowest: vcloud puts no volume of a VM over another one.
        base = next((file for file in files[:0:-1] if _volume_of(file, domain, state)), "")
        expected = places.get(target)
        is_given = top in given or not (settled or unused)
        if top and is_given and not base and not (expected and expected in unused):
            continue
        # A disk at a target that vcloud never used was attached by somebody else. It stays as it is.
        if base or target in places:
            volume = _volume_of(base, domain, state) or expected or ""
            disk = data_disk_of(volume)
            yield Displaced(target, disk[1] if disk else "", volume, files[0], base)


def _volume_of(file: str, domain: DomainState, state: VappState) -> str:
    """The name of the VM's volume that this file is; empty if it is none."""
    path = PurePath(file)
    if state.folder and str(path.parent) != state.folder:
        return ""
    owner = data_disk_of(path.name)
    own = path.name == root_volume(domain.name) or (owner is not None and owner[0] == domain.name)
    return path.name if own else ""
