"""`vcloud migrate`: moves a vApp to another host while it is stopped. `vcloud.plan.moving` tells the
steps and their reasons.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from vcloud.apply.newest_terms import tell_newest
from vcloud.apply.planning import Planned, Request, planned_on, refuse_host
from vcloud.apply.settle import begun_move, finish, settle_move, undo
from vcloud.apply.target import proven_accelerator
from vcloud.apply.up import start_as_it_stands
from vcloud.apply.vm_images import VmImages, cache_name
from vcloud.errors import NoVappError, Problem, RefusedError, UsageError, VcloudError
from vcloud.fleet.fleet import Fleet, open_lab
from vcloud.hosts import machines
from vcloud.hosts.accelerator import stored_accelerator
from vcloud.hosts.connection import Host
from vcloud.hosts.copying import copy_image, copy_volume, missing_files
from vcloud.hosts.drained import refuse_drained
from vcloud.hosts.labels import labels_of
from vcloud.hosts.links import link_of
from vcloud.hosts.lock import Lock
from vcloud.hosts.manifests import write_manifest
from vcloud.hosts.observe import has_vapp, observe_domain
from vcloud.hosts.pool import StoragePool
from vcloud.hosts.uplink import choosing_uplink
from vcloud.hosts.volume_reading import backing_file_of, file_size, last_written
from vcloud.hosts.volumes import VappVolumes
from vcloud.placement.labels import preferred
from vcloud.placement.place import Offered
from vcloud.plan.host_images import MEMORY_IMAGE_PREFIX, volume_name, with_new_id
from vcloud.plan.manifest import Manifest, Move, Phase
from vcloud.plan.moving import (
    CopiedFile,
    MovePlan,
    addresses_outside,
    refuse_move,
    started_order,
    stop_order,
    volumes_to_copy,
)
from vcloud.plan.refusals import refuse_foreign_domains, refuse_renamed
from vcloud.plan.state import VappState
from vcloud.reporter import Reporter

MOST_LAYERS = 8
"""Files below a disk. vcloud makes two: the disk of a memory image, and that of an image."""


@dataclass(frozen=True, slots=True)
class _Below:
    """What the disks of a vApp's VMs are based on, on the source."""

    based_on: Mapping[str, str]
    """Volume -> the volume that it is directly based on."""
    memory_images: tuple[str, ...]
    """The disks of memory images."""
    images: frozenset[tuple[str, str]]
    """(name, content) of the images."""


@dataclass(frozen=True, slots=True)
class _Ready:
    """A move that may begin."""

    plan: MovePlan
    source: Host
    destination: Host
    manifest: Manifest
    """On the source."""
    state: VappState
    """On the source."""
    below: _Below
    request: Request
    """What the destination is asked for."""


def plan_move(vapp: str, to: str, connect: str | None) -> MovePlan:
    """What a move would do. Changes nothing. Raises as `move_vapp` does before its first change, and
    UsageError if a move has begun.
    """
    with open_lab(connect) as lab:
        return _ready(lab, vapp, to).plan


def could_move(lab: Fleet, vapp: str, to: str) -> tuple[MovePlan, Offered]:
    """The move to that host, and what the host offers. Changes nothing. Raises as `plan_move` does."""
    ready = _ready(lab, vapp, to)
    rules, destination = ready.manifest.design.placement, ready.destination
    known = stored_accelerator(destination)
    labels = labels_of(destination, known.name if known else "")
    liked = preferred(rules, labels) if rules.prefer else 0
    return ready.plan, Offered(lab.only(destination).capabilities().free_memory, liked)


def move_vapp(
    vapp: str,
    to: str,
    connect: str | None,
    agreed: Callable[[MovePlan], bool],
    reporter: Reporter,
) -> str:
    """Moves a vApp to the host `to`, and returns the name of the host that it left. A move that was
    interrupted is ended first; if it went to the same host and is finished by that, nothing is left to
    do.

    `agreed` is asked before the first change.

    Raises:
        NoVappError: no host has the vApp.
        UsageError: there is no such host, or the vApp is there.
        RefusedError: a rule, or the state of the vApp, forbids it.
        UnreachableError: a host cannot be reached that must be.
        VcloudError: somebody has changed the vApp meanwhile, or a step has failed. Before the switch,
            the vApp is then started again on the source.
    """
    with open_lab(connect) as lab:
        return move_in(lab, vapp, to, agreed, reporter)


def move_in(
    lab: Fleet, vapp: str, to: str, agreed: Callable[[MovePlan], bool], reporter: Reporter
) -> str:
    """Like `move_vapp`, for hosts that are open."""
    begun = settle_move(lab, vapp, reporter, start_as_it_stands)
    if begun and begun.has_switched and begun.move.destination == to:
        return begun.move.source
    plan = _ready(lab, vapp, to).plan
    if not agreed(plan):
        raise VcloudError("stopped before the first change")
    both = Fleet([host for host in lab.hosts if host.name in (plan.source, plan.destination)])
    with both.locked(vapp, "migrate") as locks:
        ready = _ready(lab, vapp, to)
        if not ready.plan.agrees_with(plan):
            raise VcloudError(
                f"somebody has changed '{vapp}' since the move was shown to you",
                "Nothing was done. Run the command again.",
            )
        _Mover(lab, ready, locks, reporter).move()
    return plan.source


def _ready(lab: Fleet, vapp: str, to: str) -> _Ready:
    copies = lab.copies_of(vapp)
    home, older = copies.home, copies.older
    if home is None:
        raise NoVappError(vapp, ", ".join(host.name for host in lab.hosts))
    destination = _destination(lab, vapp, to, home)
    source = lab.only(home)
    state, manifest = source.standing(vapp)
    design = manifest.design
    if manifest.move is not None:
        raise UsageError(
            f"the move of '{vapp}' from {manifest.move.source} to {manifest.move.destination} has not ended",
            "`vcloud migrate` and `vcloud up` end it first.",
        )
    if older or has_vapp(destination, vapp):
        where = older[0].name if older else destination.name
        raise UsageError(
            f"{where} has something of '{vapp}', too",
            f"Remove it first, with its data disks: vcloud down {vapp} -c {where}.",
        )
    refuse_renamed(design, state)
    refuse_foreign_domains(design, state)
    refuse_move(manifest, state, home.name)
    _refuse_open_links(design.file, home, destination)
    refuse_drained(destination, design.file)
    pool = StoragePool(home)
    names = volumes_to_copy(state.volumes or ())
    below = _below(pool, names, manifest)
    shared = _shared(pool, destination, below)
    volumes = tuple(CopiedFile(name, file_size(pool, name)) for name in names)
    request = Request(
        design,
        cold=True,
        kept=manifest,
        change_uplink=True,
        copied=tuple((f"a copy of '{file.volume}'", file.size) for file in (*volumes, *shared)),
    )
    planned = planned_on(lab.only(destination), request)
    plan = MovePlan(
        vapp,
        home.name,
        destination.name,
        tuple(
            vm.name for vm in stop_order(design, {one.name for one in state.domains if one.running})
        ),
        volumes,
        shared,
        started_order(design),
        addresses_outside(manifest, planned.target.wanted),
        (*_notes(manifest, planned), *planned.plan.notes),
    )
    return _Ready(plan, home, destination, manifest, state, below, request)


def _destination(lab: Fleet, vapp: str, to: str, home: Host) -> Host:
    found = lab.named(to)
    if found is home:
        raise UsageError(f"'{vapp}' is on {to} already", "Name another host.")
    return found


def _notes(manifest: Manifest, planned: Planned) -> tuple[str, ...]:
    known = planned.target.wanted.accelerator
    if known == manifest.accelerator:
        return ()
    return (f"the VMs run under {known} there, and now under {manifest.accelerator}",)


def _refuse_open_links(file: str, *hosts: Host) -> None:
    """Raises RefusedError if the disks would cross a network that others can read."""
    problems = tuple(
        Problem(
            file,
            0,
            "",
            f"the disks would reach {host.name} by {link}",
            "Write a qemu+ssh or qemu+tls URI in the inventory, and let the host's key be checked.",
        )
        for host in hosts
        for link, encrypted in (link_of(host.ref),)
        if encrypted is False
    )
    if problems:
        raise RefusedError(problems)


def _below(pool: StoragePool, names: tuple[str, ...], manifest: Manifest) -> _Below:
    """What these volumes are based on, and the images that the VMs boot from.

    Raises RefusedError if a disk is based on a file that vcloud does not know.
    """
    based_on: dict[str, str] = {}
    memory_images: dict[str, None] = {}
    images = {
        (cache_name(vm.image), image.content)
        for vm in manifest.design.vms
        if (image := manifest.image_of(vm.name))
    }
    for name in names:
        layer = name
        for _ in range(MOST_LAYERS):
            path = backing_file_of(pool, layer)
            if not path:
                break
            below = based_on[layer] = PurePosixPath(path).name
            if part := volume_name(below):
                images.add((part.image, part.content))
            elif below.startswith(MEMORY_IMAGE_PREFIX):
                memory_images[below] = None
            else:
                raise _unknown(pool, layer, path)
            layer = below
        else:
            raise _unknown(pool, name, "too many files")
    return _Below(based_on, tuple(memory_images), frozenset(images))


def _unknown(pool: StoragePool, volume: str, path: str) -> RefusedError:
    what = f"'{volume}' on {pool.host.name} is based on '{path}', which a move cannot copy"
    return RefusedError((Problem(volume, 0, "", what, "Nothing was changed."),))


def _shared(source: StoragePool, destination: Host, below: _Below) -> tuple[CopiedFile, ...]:
    there = StoragePool.existing(destination)
    missing: dict[str, int] = {}
    for image, content in sorted(below.images):
        missing |= missing_files(source, there, image, content)
    missing |= {name: file_size(source, name) for name in below.memory_images}
    return tuple(CopiedFile(name, size) for name, size in missing.items())


class _Mover:
    """One move, under the locks of both hosts."""

    def __init__(
        self, lab: Fleet, ready: _Ready, locks: Mapping[str, Lock], reporter: Reporter
    ) -> None:
        self.lab = lab
        self.ready = ready
        self.vapp = ready.plan.vapp
        self.source, self.destination = ready.source, ready.destination
        self.locks = locks
        self.reporter = reporter
        self.move_record = Move(secrets.token_hex(8), self.source.name, self.destination.name)
        self.generation = 0
        """Number of this move, like that of a run (`Manifest.generation`)."""
        self.written: dict[str, float] = {}
        """Volume -> when it was last written, before it was copied."""

    def move(self) -> None:
        """Does all of it. If a step before the switch fails, starts the vApp again on the source."""
        try:
            there = self._begin()
            # While the VMs still run, because images do not change.
            images = self._copy_images()
            there = replace(there, accelerator=self._accelerator(there))
            self._stop()
            record = self._copy(images)
            self._refuse_changes()
            self.reporter.part("switch")
            self.locks[self.destination.name].require()
            write_manifest(self.destination, replace(there, move=record))
        except VcloudError as error:
            self._give_up(error)
            raise
        here = replace(self._here(), move=replace(record, switched=True))
        self.locks[self.source.name].require()
        write_manifest(self.source, here)
        self.reporter.note(
            f"the copy of '{self.vapp}' on {self.destination.name} counts from now on"
        )
        begun = begun_move(self.lab, self.vapp)
        if begun is not None:
            self.reporter.part("start")
            finish(begun, self.locks, self.reporter, start_as_it_stands)

    def _here(self) -> Manifest:
        """The manifest on the source during the move. As after `vcloud save`, no VM counts as connected,
        so that an undone move lets `vcloud up` connect all of them, and their disks may hold data.
        """
        noted = self.ready.manifest.saved(self.locks[self.source.name].uuid)
        return replace(noted, generation=self.generation, move=self.move_record)

    def _begin(self) -> Manifest:
        """Writes the records of the move, first on the source. Returns the manifest of the
        destination.
        """
        design = self.ready.manifest.design
        known = [tell_newest(host, design, {}) for host in (self.source, self.destination)]
        generation = max(
            int(time.time()),
            self.ready.manifest.generation + 1,
            self.ready.state.newest_signed() + 1,
            *(newest + 1 for newest in known),
        )
        self.generation = generation
        write_manifest(self.source, self._here())
        # Held until the manifest is written, so that no other vApp chooses the same address.
        with choosing_uplink(self.destination) as choosing:
            planned = planned_on(self.lab.only(self.destination), self.ready.request)
            there = replace(
                planned.target.wanted,
                phase=Phase.APPLYING,
                generation=generation,
                lock=self.locks[self.destination.name].uuid,
                replaced=self.ready.manifest.replaced,
                move=self.move_record,
            )
            choosing.require()
            write_manifest(self.destination, there)
        # So nobody starts a VM there with the terms that it has on the source.
        tell_newest(self.destination, design, dict.fromkeys(_names(there), generation))
        return there

    def _stop(self) -> None:
        design = self.ready.manifest.design
        running = {one.name for one in self.ready.state.domains if one.running}
        self.reporter.part("stopping")
        for vm in stop_order(design, running):
            self.reporter.report(vm.name, "shutting down")
            if machines.stop_domain(self.source, vm.domain, graceful=True):
                self.reporter.note(f"{vm.name} did not shut down in time, and was powered off")
            self.reporter.report(vm.name, "stopped")
        newest = dict.fromkeys(_names(self.ready.manifest), self.generation)
        tell_newest(self.source, design, newest)

    def _copy_images(self) -> dict[tuple[str, str], str]:
        """Copies the images that the destination lacks. (name, content) -> path of the disk there."""
        self.reporter.part("images")
        here, there = StoragePool(self.source), StoragePool(self.destination)
        return {
            one: copy_image(here, there, *one, self._progress(f"image {one[0]}"))
            for one in sorted(self.ready.below.images)
        }

    def _copy(self, images: Mapping[tuple[str, str], str]) -> Move:
        """Copies the disks of the stopped VMs. `images` are as `_copy_images` returns them. Returns the
        record of the move with the digests.
        """
        self.reporter.part("copying")
        here, there = StoragePool(self.source), StoragePool(self.destination)
        below, names = self.ready.below, [file.volume for file in self.ready.plan.volumes]
        copies = {name: with_new_id(name, secrets.token_hex(4)) for name in below.memory_images}

        def backing(name: str) -> str:
            layer = below.based_on.get(name)
            if layer is None:
                return ""
            part = volume_name(layer)
            return images[part.image, part.content] if part else there.path(copies[layer])

        self.written = {name: last_written(here, name) for name in names}
        digests = {
            name: copy_volume(here, there, name, name, backing(name), self._progress(name))
            for name in names
        }
        # After the disks that are based on them: what nothing is based on may be swept away.
        for name, copy in copies.items():
            copy_volume(here, there, name, copy, backing(name), self._progress(name))
        there.names()
        # Before the source's disks may go: what is only in the host's memory ends with a power failure.
        VappVolumes(self.destination).write_out("the copied disks")
        return replace(
            self.move_record,
            volumes=tuple(sorted(digests.items())),
            host_keys=tuple(self._host_keys()),
        )

    def _host_keys(self) -> list[tuple[str, str]]:
        found = []
        for vm in self.ready.manifest.design.vms:
            domain = observe_domain(self.source, vm.domain)
            if domain is not None and domain.marks.host_key:
                found.append((vm.name, domain.marks.host_key))
        return found

    def _accelerator(self, manifest: Manifest) -> str:
        """The accelerator of the destination, by a test boot if nobody has tried it there."""
        volumes = VappVolumes(self.destination)
        state = replace(self.lab.only(self.destination).state_of(self.vapp), manifest=None)
        images = VmImages.kept(manifest, volumes.images())
        found = proven_accelerator(self.destination, volumes, images, state, "auto", self.reporter)
        refuse_host(self.destination, manifest.design, found, stands=False)
        return found

    def _refuse_changes(self) -> None:
        """Raises VcloudError if the source's disks may have changed while they were copied, RefusedError
        if something has come to the source that a move cannot take along, or the destination does not
        take the vApp any more.
        """
        planned_on(
            self.lab.only(self.destination),
            replace(self.ready.request, kept=self.ready.manifest, copied=()),
        )
        # The source comes last: nothing takes long between this look and the switch.
        pool, state = StoragePool(self.source), self.lab.only(self.source).state_of(self.vapp)
        # Somebody may have saved a VM's memory, or put a snapshot over a disk, before its VM stopped.
        refuse_move(self.ready.manifest, state, self.source.name)
        running = [one.name for one in state.domains if one.running]
        pool.refresh()
        changed = [
            name for name, before in self.written.items() if last_written(pool, name) != before
        ]
        if running or changed:
            raise VcloudError(
                f"somebody has started '{self.vapp}' on {self.source.name}, or written to its disks, while they were copied: {', '.join(sorted((*running, *changed)))}",
                "The copy is given up. Run the command again.",
            )

    def _give_up(self, error: VcloudError) -> None:
        """Undoes what was done, and starts the vApp again where it was. Where that fails, the next `up`
        does it.
        """
        self.reporter.note(f"error: {error.what}")
        try:
            begun = begun_move(self.lab, self.vapp)
            if begun is None:
                return
            self.reporter.note(
                f"the move is undone, and '{self.vapp}' is started again on {self.source.name}"
            )
            undo(begun, self.reporter)
            fleet = self.lab.only(self.source)
            _, manifest = fleet.standing(self.vapp)
            start_as_it_stands(fleet, manifest, self.reporter, self.locks[self.source.name])
        except VcloudError as second:
            self.reporter.note(
                f"the move was not undone to its end: {second.what}. `vcloud up` tries it again"
            )

    def _progress(self, subject: str) -> Callable[[int, int], None]:
        """Reports each tenth of a copy."""
        told = [-1]

        def progress(done: int, size: int) -> None:
            tenth = 10 * done // size if size else 10
            if tenth != told[0]:
                told[0] = tenth
                self.reporter.report(subject, f"copying: {tenth * 10} % of {size >> 20} MiB")

        return progress


def _names(manifest: Manifest) -> tuple[str, ...]:
    return tuple(vm.name for vm in manifest.design.vms)
