"""Finds the data that a plan would destroy: disks that would be deleted, disks whose data is not
where the VM looks for it, and saved memory. The plan names each loss, so that the user can agree or
refuse.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from pathlib import PurePath

from vcloud.design.model import Design, Disk, Role, Vm
from vcloud.design.names import data_disk_of, is_vm_volume, root_volume
from vcloud.errors import VcloudError
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
NO_POOL = "the storage pool 'vcloud' is not active, so vcloud cannot tell"


def of_removal(name: str, design: Design, state: VappState) -> Iterator[Loss]:
    """The losses when a VM that the file no longer names is removed. `name` is the name of its
    domain, which may be gone already.
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
            f"{NO_POOL} which other disks are deleted with the VM; run `virsh pool-start vcloud` and `vcloud plan` again",
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
    """The losses in a step that starts the VM."""
    domain = state.domain(vm.domain)
    # A saved VM goes on with its disks. A VM that runs already only gets its links.
    if verb is Verb.RESTORE_VM or (verb is Verb.START_VM and domain is not None and domain.running):
        return
    if domain is not None and domain.saved:
        yield Loss(
            f"{vm.name} {MEMORY}",
            "deleted, because the VM boots; to use it, run `vcloud up` with the file as it was before",
        )
    if domain is not None and verb in FRESH:
        yield from _with_domain(domain)
    yield from at_next_start(vm, design, state, root=verb not in FRESH)


def at_next_start(vm: Vm, design: Design, state: VappState, *, root: bool = True) -> Iterator[Loss]:
    """The losses when a VM is defined and started again: disks whose data it would not find. `root`
    says whether the VM keeps its root disk.
    """
    domain = state.domain(vm.domain)
    for found in displaced(domain, state, vm) if domain else ():
        blank = domain is not None and found.disk in domain.marks.blank
        if not blank and (root or found.target != ROOT_TARGET):
            yield _displaced_loss(vm.name, found, domain)
    if vm.role is Role.WORKLOAD:  # an appliance holds no data of users
        yield from _root_loss(vm, domain, state)
    for disk in vm.disks:
        yield from _empty_disk(vm, disk, domain, design, state)


def told_of_next_start(vm: Vm, design: Design, state: VappState) -> Iterator[str]:
    """A sentence without an end for each loss when a VM that runs now is started again."""
    for loss in at_next_start(vm, design, state):
        yield f"data is lost when '{vm.name}' is started again: {loss}"


def told_of_restore(vm: Vm, state: VappState) -> Iterator[str]:
    """A sentence without an end for each volume that a VM's saved memory needs and that is gone."""
    domain = state.domain(vm.domain)
    if domain is None or not domain.saved or state.volumes is None:
        return
    used = {PurePath(file).name for files in domain.sources.values() for file in files}
    for volume in (root_volume(vm.domain), *(disk.volume for disk in vm.disks)):
        if volume in used and volume not in state.volumes:
            yield f"the memory of '{vm.name}' is saved, but its disk '{volume}' is gone from the host; `vcloud up` restores the VM when the disk is back"


def of_down(vapp: str, volumes: Iterable[str] | None, state: VappState) -> Iterator[Loss]:
    """The losses when `vcloud down` deletes these volumes and every VM of the vApp. None: nobody knows
    which volumes there are.
    """
    if volumes is None:
        yield unknown_disks(vapp)
    for volume in sorted(volumes or ()):
        if found := data_disk_of(volume):
            yield Loss(f"{found[0].partition('.')[2]}.{found[1]}", f"'{volume}' is deleted")
        elif not is_vm_volume(volume):
            yield Loss(f"'{volume}'", "a snapshot or a copy that a VM uses, and it is deleted")
    for domain in state.domains:
        if domain.is_of(vapp):
            yield from _with_domain(domain)
            if domain.saved:
                yield Loss(f"{domain.vm} {MEMORY}", "deleted with its VM")


def refuse_unnamed(vapp: str, losses: Iterable[Loss], agreed: Collection[Loss]) -> None:
    """Raises VcloudError where `vcloud down` would delete more than was `agreed` to, because somebody
    has been at work since. Whoever agreed to what nobody could tell has agreed to every disk.
    """
    if unknown_disks(vapp) in agreed:
        return
    if more := sorted(str(loss) for loss in losses if loss not in agreed):
        raise VcloudError(
            f"somebody has changed '{vapp}' meanwhile, and more data would be lost: {'; '.join(more)}",
            f"Nothing was deleted. Run `vcloud down {vapp}` again, which names all of it.",
        )


def unknown_disks(vapp: str) -> Loss:
    """What `vcloud down` tells in place of the data disks where the storage pool is not active."""
    return Loss(
        f"{vapp} (data disks)",
        f"{NO_POOL} which disks are deleted; `virsh pool-start vcloud` lets `vcloud down` tell",
    )


def root_is_gone(vm: Vm, state: VappState) -> bool:
    """Whether the volume of an existing VM's root disk is gone, so that the VM cannot be started
    again.
    """
    return (
        state.domain(vm.domain) is not None
        and state.volumes is not None
        and root_volume(vm.domain) not in state.volumes
    )


def notes_on_disks(design: Design, state: VappState) -> tuple[str, ...]:
    """A sentence for each data disk on the host that no VM of the file has. These disks are kept.

    There is none on a volume that another domain uses. libvirt does not tell all files below a
    snapshot, so there is none either on the volumes of a domain that has one.
    """
    kept = (*left_behind(design, state), *dropped(design, state))
    vms = {vm.domain: vm for vm in design.vms}
    above = {
        domain.name
        for domain in state.domains
        if any(displaced(domain, state, vms.get(domain.name)))
    }
    users = {
        (PurePath(file).name, domain.name)
        for domain in state.domains
        for files in domain.sources.values()
        for file in files
    }
    owners = {volume: found[0] for volume in kept if (found := data_disk_of(volume))}
    used = {volume for volume, domain in users if domain != owners.get(volume)}
    return tuple(
        f"the data disk '{volume}' stays on the host, but no VM of the file uses it"
        for volume in sorted(kept)
        if volume not in used and owners.get(volume) not in above
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
            f"everything written to '{top}', the file of a snapshot; to keep it, run `virsh blockcommit {name} {found.target} --base {found.base} --active --pivot`",
        )
    where = f"'{found.top}'" if found.top else "a network disk or another target without a file"
    way_out = (
        ""
        if domain is None or domain.running
        else f"; run `virsh start {domain.name}`, then `vcloud plan`"
    )
    return Loss(
        told,
        f"it writes to {where}, a snapshot or a copy that somebody made; the VM would write to '{found.volume or 'the volume that vcloud gave it'}' again{way_out}",
    )


def _root_loss(vm: Vm, domain: DomainState | None, state: VappState) -> Iterator[Loss]:
    volume, have = root_volume(vm.domain), state.manifest
    if root_is_gone(vm, state):
        yield Loss(
            vm.name,
            f"its file '{volume}' is gone from the host; the VM gets a new root disk",
        )
    # A killed run may also leave a root disk without a domain. But its VM was never connected, so
    # the disk holds no data.
    served = have is None or have.phase is Phase.READY or have.has_served(vm.name)
    if domain is None and served and volume in (state.volumes or ()):
        yield Loss(
            vm.name,
            f"somebody removed its domain, so its root disk '{volume}' is made anew; to keep the disk, define the domain again (`virsh define`)",
        )


def _empty_disk(
    vm: Vm, disk: Disk, domain: DomainState | None, design: Design, state: VappState
) -> Iterator[Loss]:
    """The loss if a data disk starts empty, although it was made before or may exist under another
    name.
    """
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
        f"; '{volume}' is the disk of a VM '{owner}' that is gone; to use it here, write `was: {owner}` in the entry of '{vm.tier}'"
        for volume, owner in twins.items()
    )
    if _was_made(vm, disk, domain, state):
        why = f"its file '{disk.volume}' is gone from the host; the VM gets an empty disk"
        yield Loss(f"{vm.name}.{disk.name}", f"{why}{way_out}")
    elif twins:
        yield Loss(f"{vm.name}.{disk.name}", f"it starts empty{way_out}")


def _was_made(vm: Vm, disk: Disk, domain: DomainState | None, state: VappState) -> bool:
    """Whether a data disk was made before, so that it may hold data. A disk that never held data
    does not count, nor one that the file names for the first time.
    """
    if domain is not None:
        used = {PurePath(file).name for files in domain.sources.values() for file in files}
        return disk.volume in used and disk.name not in domain.marks.blank
    have = state.manifest
    if have is None or not (have.phase is Phase.READY or have.has_served(vm.name)):
        return False
    old = have.vm(vm.name)
    return old is not None and disk.volume in {known.volume for known in old.disks}
