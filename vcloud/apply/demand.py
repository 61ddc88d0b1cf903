"""Computes what a run needs of its host: the VMs that it starts, and the bytes that it writes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from vcloud.apply.vm_images import VmImages
from vcloud.design.model import Design
from vcloud.hosts.connection import Host
from vcloud.hosts.pool import StoragePool
from vcloud.hosts.volume_reading import usage
from vcloud.hosts.volumes import bytes_to_upload
from vcloud.placement.capacity import Demand
from vcloud.plan.disks import moved_disks
from vcloud.plan.state import VappState
from vcloud.plan.steps import FRESH, STARTED, Plan, Verb

if TYPE_CHECKING:
    from vcloud.images.cache import Image


def demand_of(host: Host, design: Design, images: VmImages, plan: Plan, state: VappState) -> Demand:
    """The demand of a plan. Changes nothing on the host. Raises HostError.

    A running VM that only gets its links needs no more memory or processors.
    """
    running = {domain.name for domain in state.domains if domain.running}
    verbs = {vm.name: plan.verb_of(vm.name) for vm in design.vms}
    touched = tuple(vm for vm in design.vms if verbs[vm.name])
    starts = tuple(
        vm
        for vm in touched
        if verbs[vm.name] in STARTED
        and not (verbs[vm.name] is Verb.START_VM and vm.domain in running)
    )
    removed = {*plan.subjects(Verb.REMOVE_VM)}
    return Demand(
        starts=starts,
        ends=frozenset(running & ({vm.domain for vm in starts} | removed)),
        files=tuple(_files(host, images.to_upload(touched), _moved(design, plan, state))),
        growth=sum(
            vm.root + sum(disk.size for disk in vm.disks)
            for vm in starts
            if verbs[vm.name] in FRESH
        ),
    )


def _files(host: Host, images: Iterable[Image], moved: Iterable[str]) -> Iterator[tuple[str, int]]:
    """The files that are written into the storage pool, with their bytes."""
    pool = StoragePool.existing(host)
    for image in images:
        if size := bytes_to_upload(pool, image):
            yield f"the image '{image.name}'", size
    if pool is not None:
        for volume in moved:
            taken, _ = usage(pool, volume).get(volume, (0, 0))
            yield f"a copy of '{volume}'", taken


def _moved(design: Design, plan: Plan, state: VappState) -> Iterator[str]:
    """The data disks that move to a VM with another name. libvirt copies them."""
    for name in plan.subjects(Verb.REMOVE_VM):
        yield from moved_disks(name, design, state)
