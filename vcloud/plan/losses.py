"""The data that a plan takes away: disks that would be deleted, disks whose content is not where the
VM looks for it, and saved memory. Each is named in the plan, so that a person can agree to it or
not. Nothing else decides what is lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import PurePath

from vcloud.design.model import Design, Disk, Role, Vm
from vcloud.design.names import data_disk_of, root_volume
from vcloud.plan.disks import (
    ROOT_TARGET,
    Displaced,
    data_disks,
    displaced,
    dropped,
    left_behind,
    moved_disks,
    moves,
    unfinished_copies,
)
from vcloud.plan.manifest import Phase
from vcloud.plan.state import DomainState, VappState
from vcloud.plan.steps import FRESH, Loss, Verb

MEMORY = "(saved memory)"


def of_removal(name: str, design: Design, state: VappState) -> Iterator[Loss]:
    """What is deleted together with a VM that the file no longer names. `name` is that of its domain,
    which may be gone already.
    """
    domain, vm = state.domain(name), name.partition(".")[2]
    moved = moved_disks(name, design, state)
    blank = domain.marks.blank if domain else ()
    deleted = {
        disk: volume
        for disk, volume in data_disks(name, state).items()
        if volume not in moved and disk not in blank
    }
    for disk in deleted:
        yield Loss(f"{vm}.{disk}", "deleted with its VM")
    if state.volumes is None:
        yield Loss(
            f"{vm} (data disks)",
            "the storage pool 'vcloud' is not active, so nobody can tell which other disks are deleted with the VM; `virsh pool-start vcloud` lets `vcloud plan` tell",
        )
    if domain is None:
        return
    for found in displaced(domain, state):
        if found.target != ROOT_TARGET and found.disk not in (*deleted, *blank):
            yield _displaced_loss(vm, found, domain)
    yield from _with_domain(domain)
    if domain.saved:
        yield Loss(f"{vm} {MEMORY}", "deleted with its VM")


def of_start(vm: Vm, verb: Verb, design: Design, state: VappState) -> Iterator[Loss]:
    """What is lost in a step that starts the VM."""
    domain = state.domain(vm.domain)
    # A saved VM goes on with its disks, and one that runs already lacks only its links.
    if verb is Verb.RESTORE_VM or (verb is Verb.START_VM and domain is not None and domain.running):
        return
    if domain is not None and domain.saved:
        yield Loss(
            f"{vm.name} {MEMORY}",
            "given up, because the VM boots; `vcloud up` with the file as it was restores it",
        )
    if domain is not None and verb in FRESH:
        yield from _with_domain(domain)
    yield from at_next_start(vm, design, state, root=verb not in FRESH)


def at_next_start(vm: Vm, design: Design, state: VappState, *, root: bool = True) -> Iterator[Loss]:
    """The disks of a VM that would not find their content when the VM is defined and started again.
    `root` says whether the VM keeps its root disk then.
    """
    domain = state.domain(vm.domain)
    for found in displaced(domain, state, vm) if domain else ():
        blank = domain is not None and found.disk in domain.marks.blank
        if not blank and (root or found.target != ROOT_TARGET):
            yield _displaced_loss(vm.name, found, domain)
    if vm.role is Role.WORKLOAD:  # an appliance gets all that it has from vcloud
        yield from _root_loss(vm, domain, state)
    for disk in vm.disks:
        yield from _empty_disk(vm, disk, domain, design, state)


def of_down(vapp: str, volumes: Iterable[str], state: VappState) -> Iterator[Loss]:
    """What goes when `vcloud down` deletes these volumes and every VM of the vApp."""
    for volume in sorted(volumes):
        if found := data_disk_of(volume):
            yield Loss(f"{found[0].partition('.')[2]}.{found[1]}", f"'{volume}' is deleted")
    for domain in state.domains:
        if domain.saved and domain.is_of(vapp):
            yield Loss(f"{domain.vm} {MEMORY}", "deleted with its VM")


def root_is_gone(vm: Vm, state: VappState) -> bool:
    """Whether a standing VM has a root disk without a file, so that it cannot be started again."""
    return (
        state.domain(vm.domain) is not None
        and state.volumes is not None
        and root_volume(vm.domain) not in state.volumes
    )


def notes_on_disks(design: Design, state: VappState) -> tuple[str, ...]:
    """A sentence on each data disk on the host that no VM of the file has. They stay."""
    kept = (*left_behind(design, state), *dropped(design, state))
    return tuple(
        f"the data disk '{volume}' stays on the host, and no VM of the file has it"
        for volume in sorted(kept)
    )


def _with_domain(domain: DomainState) -> Iterator[Loss]:
    if domain.snapshots:
        told = f"deleted with its domain; `virsh snapshot-list {domain.name}` names them"
        yield Loss(f"{domain.vm} (snapshots)", told)


def _displaced_loss(vm: str, found: Displaced, domain: DomainState | None) -> Loss:
    told = vm if found.target == ROOT_TARGET else f"{vm}.{found.disk or found.target}"
    top = PurePath(found.top).name
    if found.base:
        name = domain.name if domain else ""
        # Without --base virsh would commit into the lowest file, which may be an image that other
        # VMs use.
        return Loss(
            told,
            f"everything written since the snapshot that began '{top}'; `virsh blockcommit {name} {found.target} --base {found.base} --active --pivot` keeps it",
        )
    where = f"'{found.top}'" if found.top else "something that is no file"
    way_out = (
        ""
        if domain is None or domain.running
        else f"; `virsh start {domain.name}`, then `vcloud plan`"
    )
    return Loss(
        told,
        f"it is written to {where}, a snapshot or a copy that somebody made, and the VM goes back to '{found.volume or 'the volume that vcloud gave it'}'{way_out}",
    )


def _root_loss(vm: Vm, domain: DomainState | None, state: VappState) -> Iterator[Loss]:
    volume, have = root_volume(vm.domain), state.manifest
    if root_is_gone(vm, state):
        yield Loss(
            vm.name,
            f"its file '{volume}' is gone from the host, and a new root disk takes its place",
        )
    # A run that was killed leaves a root disk without a domain, too, but of a VM that nobody has
    # connected since it was made.
    served = have is None or bool(have.token_of(vm.name))
    if domain is None and served and volume in (state.volumes or ()):
        yield Loss(
            vm.name,
            f"somebody removed its domain, and its root disk '{volume}' is made anew; `virsh define` with the XML of the domain brings it back",
        )


def _empty_disk(
    vm: Vm, disk: Disk, domain: DomainState | None, design: Design, state: VappState
) -> Iterator[Loss]:
    """The loss of a data disk that begins empty, and was made once or may stand under another name."""
    volumes = state.volumes
    if volumes is None or disk.volume in volumes - unfinished_copies(state):
        return
    if disk.volume in moves(design, state):
        return
    twins = {
        volume: owner
        for volume, (owner, name) in left_behind(design, state).items()
        if name == disk.name
    }
    way_out = "".join(
        f"; '{volume}' is the disk of a VM '{owner}' that is gone, and `was: {owner}` in the entry of '{vm.tier}' makes it this one"
        for volume, owner in twins.items()
    )
    if _was_made(vm, disk, domain, state):
        why = f"its file '{disk.volume}' is gone from the host, and an empty disk takes its place"
        yield Loss(f"{vm.name}.{disk.name}", f"{why}{way_out}")
    elif twins:
        yield Loss(f"{vm.name}.{disk.name}", f"it begins empty{way_out}")


def _was_made(vm: Vm, disk: Disk, domain: DomainState | None, state: VappState) -> bool:
    """Whether a data disk was made once. A disk that never held data, and one that the file names
    for the first time, does not count.
    """
    if domain is not None:
        used = {PurePath(file).name for files in domain.sources.values() for file in files}
        return disk.volume in used and disk.name not in domain.marks.blank
    have = state.manifest
    if have is None or not (have.phase is Phase.READY or have.token_of(vm.name)):
        return False
    old = have.vm(vm.name)
    return old is not None and disk.volume in {known.volume for known in old.disks}
