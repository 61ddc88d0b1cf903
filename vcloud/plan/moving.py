"""The move of a vApp to another host while it is stopped: what is copied, what is in the way, and what a
person is shown first. Pure. `vcloud.plan.copies` says which of the two copies counts meanwhile.

1. Both manifests get a record of the move (`Manifest.move`). The VMs are stopped, and both hosts start
   none of them with terms of tenancy that were signed before.
2. The volumes are copied, and each copy is read back and compared. Until here, the move is undone by
   deleting the copies.
3. The manifest on the source says that the move has switched. From here on it is only finished.
4. The domains are removed from the source, and made and started on the destination, by the same steps
   as in `vcloud up`.
5. When the vApp is ready, the volumes are deleted on the source, and the records of the move.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address

from vcloud.design.model import Design, Vm
from vcloud.design.names import is_vm_volume, root_volume, seed_volume
from vcloud.errors import Problem, RefusedError
from vcloud.marks import VmDigests
from vcloud.plan import stopping
from vcloud.plan.disks import displaced, unfinished_copies
from vcloud.plan.manifest import Manifest, Move, Phase
from vcloud.plan.order import in_start_order
from vcloud.plan.state import DomainState, VappState

WAKING = "wake."
"""How the volumes begin that exist only while a VM is being started."""


@dataclass(frozen=True, slots=True)
class CopiedFile:
    """A volume that a move copies."""

    volume: str
    """Its name on the source."""
    size: int
    """Bytes of its file."""


@dataclass(frozen=True, slots=True)
class MovePlan:
    """What a move does, as a person is shown it and agrees to it."""

    vapp: str
    source: str
    destination: str
    stopped: tuple[str, ...]
    """The VMs that run and are stopped, in this order."""
    volumes: tuple[CopiedFile, ...]
    """Volumes of VMs. They are deleted on the source in the end."""
    shared: tuple[CopiedFile, ...]
    """What VMs are based on and the destination lacks. It stays on the source."""
    started: tuple[str, ...]
    """The VMs that the destination starts, in this order."""
    addresses: tuple[tuple[str, str], ...] = ()
    """(address outside on the source, address outside on the destination)."""
    notes: tuple[str, ...] = ()
    """Sentences without an end."""

    @property
    def bytes(self) -> int:
        return sum(file.size for file in (*self.volumes, *self.shared))

    @property
    def announced(self) -> str:
        """What the move costs those who use the vApp, as a sentence without an end."""
        outside = "; ".join(
            f"its address outside changes from {old} to {new}"
            for old, new in self.addresses
            if old != new
        )
        return (
            f"'{self.vapp}' is stopped for the move, because vcloud does not move running VMs: about "
            f"{_shown(self.bytes)} are copied from {self.source} to {self.destination}, and read back to be compared. "
            f"All connections end, those inside of the vApp and those with the outside{f'; {outside}' if outside else ''}"
        )

    def rows(self) -> Iterator[tuple[str, str, str, str]]:
        """(what, name, host, why) of each step, in order."""
        for file in self.shared:
            yield "copy image", file.volume, self.destination, f"{_shown(file.size)} that it lacks"
        for vm in self.stopped:
            yield "stop VM", vm, self.source, "its disks must not change while they are copied"
        for file in self.volumes:
            yield "copy volume", file.volume, self.destination, f"{_shown(file.size)}"
        yield (
            "switch",
            self.vapp,
            self.source,
            "from here on the copy on the destination counts",
        )
        for vm in self.started:
            yield "start VM", vm, self.destination, "in the order of `vcloud up`"
        for file in self.volumes:
            yield (
                "delete volume",
                file.volume,
                self.source,
                "when the vApp is ready on the destination",
            )

    def is_agreed_to_as(self, other: MovePlan) -> bool:
        """Whether a person who agreed to this has agreed to `other`."""
        return other.agrees_with(self)

    def agrees_with(self, other: MovePlan) -> bool:
        """Whether a person who agreed to `other` has agreed to this: it deletes the same volumes, and
        stops no other VM.
        """
        return (
            (self.vapp, self.source, self.destination)
            == (other.vapp, other.source, other.destination)
            and {file.volume for file in self.volumes} == {file.volume for file in other.volumes}
            and {*self.stopped} <= {*other.stopped}
        )


def told_of(move: Move, *, switched: bool) -> str:
    """What `vcloud up` does with a move that has not ended, as a sentence without an end."""
    then = "finished" if switched else "undone"
    return f"a move from {move.source} to {move.destination} has not ended; `vcloud up` first has it {then}, so the steps may be others then"


def _shown(size: int) -> str:
    """Bytes for people: `2.5 GiB`, `12 MiB`."""
    return f"{size / (1 << 30):.1f} GiB" if size >= 1 << 30 else f"{-(-size >> 20)} MiB"


def with_files_of(wanted: Manifest, kept: Manifest) -> Manifest:
    """The wanted manifest of a run that knows no vApp file, and whose guests keep their files. What was
    made from the file's contents is as the manifest `kept` says it.
    """
    before = dict(kept.vms)
    workloads = {vm.name for vm in kept.design.workloads}

    def digests(name: str, new: VmDigests) -> VmDigests:
        old = before.get(name, new)
        # The identity of an appliance has no contents of files, and its uplink may be another one.
        identity = old.identity if name in workloads else new.identity
        return VmDigests(old.root, new.hardware, identity)

    return replace(
        wanted,
        design=kept.design,
        # The digests that are kept cover it.
        salt=kept.salt,
        vms=tuple((name, digests(name, new)) for name, new in wanted.vms),
    )


def stop_order(design: Design, running: Collection[str]) -> tuple[Vm, ...]:
    """The running VMs in the order in which they are stopped: those that others start after come last,
    and the appliances after all workloads. `running` are names of domains.
    """
    return tuple(
        vm for group in stopping.stop_order(design.vms) for vm in group if vm.domain in running
    )


def volumes_to_copy(names: Iterable[str]) -> tuple[str, ...]:
    """Those of the volumes of a vApp's VMs that move with it, in alphabetical order. What somebody else
    made stays on the source.
    """
    return tuple(
        sorted(name for name in names if is_vm_volume(name) and not name.startswith(WAKING))
    )


def refuse_move(manifest: Manifest, state: VappState, host: str) -> None:
    """Raises RefusedError with all that is in the way of a move on the source, which is called `host`."""
    design = manifest.design
    if found := tuple(_in_the_way(manifest, state)):
        raise RefusedError(
            tuple(
                Problem(design.file, 0, "", f"'{design.instance.name}' on {host}: {what}", hint)
                for what, hint in found
            )
        )


def _in_the_way(manifest: Manifest, state: VappState) -> Iterator[tuple[str, str]]:
    """What is in the way, with the way out."""
    design = manifest.design
    if manifest.phase is not Phase.READY:
        yield "a run of `vcloud up` has not ended", "Run `vcloud up` to its end first."
    if state.volumes is None:
        yield (
            "its storage pool 'vcloud' is not active, so nobody knows its disks",
            "Start it: virsh pool-start vcloud.",
        )
    for copy in sorted(unfinished_copies(state)):
        yield f"the copy '{copy}' of a disk is not complete", "Run `vcloud up` to its end first."
    for vm in design.vms:
        domain = state.domain(vm.domain)
        if domain is None or root_volume(vm.domain) not in (state.volumes or ()):
            yield f"'{vm.name}' is not complete", "Run `vcloud up` first."
            continue
        yield from _of_domain(vm, domain, state)
        image = manifest.image_of(vm.name)
        if image is None or not image.content:
            yield (
                f"it is not known which build of its image '{vm.name}' was made from",
                "`vcloud up --refresh` makes the VM anew.",
            )
    for name in sorted({*(state.volumes or ())} - {*volumes_to_copy(state.volumes or ())}):
        if not name.startswith(WAKING):
            yield (
                f"the volume '{name}' has a name like those of its disks, and vcloud did not make it",
                f"Delete it, or give it another name: virsh vol-delete --pool vcloud {name}.",
            )
    names = {vm.domain for vm in design.vms}
    for domain in state.domains:
        if domain.is_of(design.instance.name) and domain.name not in names:
            yield f"'{domain.name}' is not in its file any more", "Run `vcloud up` first."


def _of_domain(vm: Vm, domain: DomainState, state: VappState) -> Iterator[tuple[str, str]]:
    if domain.paused:
        yield (
            f"'{vm.name}' is paused, so it cannot shut down",
            f"Resume it (virsh resume {vm.domain}), or end it (virsh destroy {vm.domain}).",
        )
    if not domain.persistent:
        yield (
            f"somebody has removed the definition of '{vm.name}', so nothing of it is left when it stops",
            "Run `vcloud up` first, which defines it again.",
        )
    if domain.saved:
        yield (
            f"the memory of '{vm.name}' is saved, and a move does not copy it",
            "Run `vcloud up` first, which resumes the VMs.",
        )
    if domain.snapshots:
        yield (
            f"'{vm.name}' has snapshots, and a move does not copy them",
            f"Delete them: `virsh snapshot-list {vm.domain}` names them.",
        )
    disks = (disk.volume for disk in vm.disks)
    own = {root_volume(vm.domain), seed_volume(vm.domain), *disks}
    strange = {found.top for found in displaced(domain, state, vm)}
    # What has a target of its own, somebody has plugged in, also where it is called like a disk of a VM.
    strange |= {
        files[0]
        for files in domain.sources.values()
        if files and not _is_one_of(own, files[0], state.folder)
    }
    for path in sorted(strange):
        yield (
            f"'{vm.name}' has the disk '{path}', which vcloud did not make",
            f"Unplug it (virsh detach-disk), or bring its data into the VM's own disk (virsh blockcommit {vm.domain}).",
        )


def _is_one_of(volumes: Collection[str], path: str, folder: str) -> bool:
    """Whether a file is one of these volumes of the pool in that folder; empty: it is not known."""
    above, _, name = path.rpartition("/")
    return name in volumes and folder in ("", above)


def addresses_outside(before: Manifest, after: Manifest) -> tuple[tuple[str, str], ...]:
    """The addresses outside of a vApp before and after a move, in pairs."""

    def shown(address: IPv4Address | IPv6Address | None) -> str:
        return str(address) if address else "none"

    one, other = before.uplink, after.uplink
    return (
        (shown(one.address4.ip), shown(other.address4.ip)),
        (
            shown(one.address6.ip if one.address6 else None),
            shown(other.address6.ip if other.address6 else None),
        ),
    )


def started_order(design: Design) -> tuple[str, ...]:
    """The VMs in the order in which a run without any of them starts them."""
    appliances = reversed(design.appliances)
    return tuple(vm.name for vm in (*appliances, *in_start_order(design.workloads)))
