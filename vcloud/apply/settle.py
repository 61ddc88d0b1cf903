"""Ends a move of a vApp that has begun: undoes it before its switch, and finishes it after (see
`vcloud.plan.moving`). `vcloud migrate` does the second half of its own work by this, and after a kill
the next `migrate` or `up` ends with it whatever was begun. `down` needs none of this: it removes both
copies.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial

from vcloud.apply.down import remove_here
from vcloud.apply.vm_images import VmImages
from vcloud.compile.libvirt.domain import render_domain
from vcloud.compile.libvirt.host import HostFacts
from vcloud.design.model import Vm
from vcloud.design.names import root_volume
from vcloud.errors import HostError, NoVappError, UnreachableError, VcloudError
from vcloud.fleet.fleet import Fleet
from vcloud.hosts import machines
from vcloud.hosts.connection import Host, run_parallel
from vcloud.hosts.lock import Lock
from vcloud.hosts.manifests import read_manifest, write_manifest
from vcloud.hosts.observe import has_vapp
from vcloud.hosts.sealing import sealing_of
from vcloud.hosts.volumes import VappVolumes
from vcloud.marks import VmMarks
from vcloud.plan.copies import has_switched
from vcloud.plan.manifest import Manifest, Move, Phase
from vcloud.plan.moving import WAKING
from vcloud.plan.state import DomainState
from vcloud.reporter import Reporter

Start = Callable[[Fleet, Manifest, Reporter, Lock], None]
"""Starts a vApp whose domains are defined on the one host of a fleet, under its lock."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A move that has begun and has not ended."""

    vapp: str
    move: Move
    """What the manifest says that decides."""
    hosts: Mapping[str, Host]
    """Those of the two hosts that can be reached."""
    copies: Mapping[str, Manifest]
    """Host -> its manifest, of those that could be read."""

    @property
    def has_switched(self) -> bool:
        return has_switched(self.move, self.copies)

    def is_of_this_move(self, host: str) -> bool:
        """Whether the copy on a host belongs to this move, and to no other one."""
        manifest = self.copies.get(host)
        return (
            manifest is not None and manifest.move is not None and manifest.move.id == self.move.id
        )

    @property
    def source(self) -> Host | None:
        return self.hosts.get(self.move.source)

    @property
    def destination(self) -> Host | None:
        return self.hosts.get(self.move.destination)


def begun_move(lab: Fleet, vapp: str) -> Begun | None:
    """The move of a vApp that has begun and has not ended; None if there is none. Raises HostError."""
    found = run_parallel([partial(read_manifest, host, vapp) for host in lab.hosts])
    copies = {
        host.name: manifest
        for host, manifest in zip(lab.hosts, found, strict=True)
        if isinstance(manifest, Manifest)
    }
    moves = [copies[name].move for name in sorted(copies)]
    # The source's word decides.
    move = next((one for name in copies if (one := copies[name].move) and one.source == name), None)
    move = move or next(filter(None, moves), None)
    if move is None:
        return None
    both = {move.source, move.destination}
    hosts = {host.name: host for host in lab.hosts if host.name in both}
    return Begun(vapp, move, hosts, {name: copies[name] for name in copies if name in both})


def settle_move(lab: Fleet, vapp: str, reporter: Reporter, start: Start) -> Begun | None:
    """Undoes or finishes the move of a vApp that has begun. Returns what it was; None if there was none.
    After an undone move the vApp is stopped on the source.

    Raises UnreachableError if a host cannot be reached that must be, LockedError while a process is at
    work, and what `start` raises.
    """
    home = lab.copies_of(vapp).home
    known = read_manifest(home, vapp) if home else None
    if not isinstance(known, Manifest) or known.move is None:
        return None
    begun = begun_move(lab, vapp)
    if begun is None:
        return None
    with Fleet([*begun.hosts.values()]).locked(vapp, "migrate") as locks:
        # Somebody may have ended it while this process waited for its locks.
        begun = begun_move(lab, vapp)
        if begun is None:
            return None
        way = f"the move of '{vapp}' from {begun.move.source} to {begun.move.destination}"
        if begun.has_switched:
            reporter.note(f"{way} was interrupted after its switch, and is finished now")
            finish(begun, locks, reporter, start)
        else:
            reporter.note(f"{way} was interrupted before its switch, and is undone now")
            undo(begun, reporter)
    return begun


def undo(begun: Begun, reporter: Reporter) -> None:
    """Deletes the copy on the destination, which does not count. The caller holds both locks.

    Raises UnreachableError if the source does not say that its own copy counts.
    """
    vapp, move, source, destination = begun.vapp, begun.move, begun.source, begun.destination
    manifest = begun.copies.get(move.source)
    if source is None or manifest is None:
        where = "cannot be reached" if source is None else "has no copy of it"
        raise UnreachableError(
            f"the move of '{vapp}' from {move.source} to {move.destination} has not ended, and the copy on {move.destination} may not be complete: {move.source} {where}",
            f"When {move.source} can be reached, run the command again. To give up the copy on {move.destination} with its data: vcloud down {vapp} -c {move.destination}.",
        )
    if destination is None:
        reporter.note(
            f"{move.destination} cannot be reached: the incomplete copy of '{vapp}' there does not count, and is removed by the next `vcloud up` that reaches it"
        )
        return
    if begun.is_of_this_move(destination.name):
        _remove_from(destination, vapp, reporter)
    write_manifest(source, replace(manifest, move=None))


def finish(begun: Begun, locks: Mapping[str, Lock], reporter: Reporter, start: Start) -> None:
    """Starts the vApp on the destination, and then deletes what was moved from the source. The caller
    holds the locks.

    Raises UnreachableError if the destination cannot be reached, VcloudError if VMs run on the source,
    and what `start` raises.
    """
    vapp, source, destination = begun.vapp, begun.source, begun.destination
    if destination is None or not begun.is_of_this_move(destination.name):
        where = (
            "cannot be reached" if destination is None else "does not have the copy of this move"
        )
        raise UnreachableError(
            f"'{vapp}' was moved from {begun.move.source} to {begun.move.destination}, which {where}",
            f"The copy on {begun.move.source} does not count any more, and is not started. When {begun.move.destination} can be reached, run `vcloud up` again.",
        )
    if source is not None and begun.is_of_this_move(source.name):
        left = [one for one in Fleet([source]).state_of(vapp).domains if one.is_of(vapp)]
        _refuse_started(vapp, begun.move, left)
        # Where nobody signs terms of tenancy, this is what keeps the old copy from being started.
        for domain in left:
            machines.remove_domain(source, domain.name)
    manifest = begun.copies[begun.move.destination]
    move = replace(begun.move, switched=True)
    if not _was_ready(manifest, move):
        manifest = replace(manifest, move=move)
        write_manifest(destination, manifest)
        _define(destination, manifest, move)
        start(Fleet([destination]), manifest, reporter, locks[destination.name])
    _clear(begun, move, reporter)


def _refuse_started(vapp: str, move: Move, left: Collection[DomainState]) -> None:
    """Raises VcloudError if somebody has started VMs of the copy that was left behind: what they have
    written is nowhere else.
    """
    started = [domain.name for domain in left if domain.running or domain.saved]
    if started:
        raise VcloudError(
            f"'{vapp}' was moved from {move.source} to {move.destination}, and somebody has started it on {move.source} since: {', '.join(started)}",
            f"Nothing was started or deleted. Bring what it has written since to a safe place. Then remove it there (virsh destroy {started[0]}, virsh undefine --managed-save {started[0]}), and run `vcloud up` again, which goes on with the copy on {move.destination}.",
        )


def _was_ready(manifest: Manifest, move: Move) -> bool:
    """Whether the vApp was ready on the destination since the move. A later run of `up` may have failed
    there, perhaps with another file: only `up` with that file ends it. Until the vApp is ready for the
    first time, no VM counts as connected.
    """
    return manifest.move == move and (manifest.phase is Phase.READY or bool(manifest.connected))


def _clear(begun: Begun, move: Move, reporter: Reporter) -> None:
    """Deletes what was moved from the source, and then the last record of the move."""
    vapp, source, destination = begun.vapp, begun.source, begun.destination
    if source is None:
        reporter.note(
            f"{move.source} cannot be reached: what is left of '{vapp}' there is removed by the next `vcloud up` that reaches it"
        )
        return
    if begun.is_of_this_move(source.name):
        reporter.report(source.name, f"deleting what was moved to {move.destination}")
        left = VappVolumes(source).volumes_of_vapp(vapp)
        moved = {name for name, _ in move.volumes}
        _remove_from(
            source, vapp, reporter, moved | {one for one in left if one.startswith(WAKING)}
        )
    if destination is not None:
        ready = read_manifest(destination, vapp)
        if isinstance(ready, Manifest):
            write_manifest(destination, replace(ready, move=None))


def _remove_from(host: Host, vapp: str, reporter: Reporter, only: set[str] | None = None) -> None:
    if not has_vapp(host, vapp):
        return
    try:
        gone = remove_here(Fleet([host]), vapp, reporter, only)
    except NoVappError:
        return
    for left in gone.left:
        reporter.note(f"left on {host.name}: {left}")


def _define(host: Host, manifest: Manifest, move: Move) -> None:
    """Defines the VMs on the destination, over the disks that were copied. The run that starts them
    defines each once more.
    """
    volumes, keys = VappVolumes(host), dict(move.host_keys)
    images = VmImages.kept(manifest, volumes.images())
    facts = HostFacts(manifest.accelerator)
    for vm in manifest.design.vms:
        if machines.is_running(host, vm.domain):
            continue
        boots = images.upload(volumes, (vm,), _SILENT)
        disks = {disk.volume: volumes.pool.path(disk.volume) for disk in vm.disks}
        _refuse_missing(volumes, vm, disks)
        marks = VmMarks(
            manifest.design.instance.name,
            vm.name,
            vm.role.value,
            keys.get(vm.name, ""),
            manifest.digests_of(vm.name),
        )
        xml = render_domain(
            vm,
            manifest.uplink,
            facts,
            boots[vm.name],
            disks,
            sealing_of(host).sealed_marks(marks),
            manifest.design.terms,
            manifest.generation if host.is_signed_on else 0,
        )
        machines.redefine_domain(host, vm.domain, xml)


def _refuse_missing(volumes: VappVolumes, vm: Vm, disks: Mapping[str, str]) -> None:
    """Raises HostError if a disk is gone, so that no empty one takes its place."""
    there = {*volumes.volumes_of_domain(vm.domain)}
    if gone := sorted({root_volume(vm.domain), *disks} - there):
        host = volumes.pool.host.name
        raise HostError(
            f"the disk '{gone[0]}' was copied to {host}, and is gone from there",
            "Nothing was started or deleted. Bring it back, then run the command again.",
        )


class _Silent:
    """A reporter that tells nothing."""

    def report(self, subject: str, stage: str) -> None:
        """Nothing is uploaded that somebody would wait for."""

    def note(self, text: str) -> None:
        """Nothing to say."""

    def part(self, name: str) -> None:
        """It is no part of its own."""


_SILENT = _Silent()
