"""Makes the memory images for the VMs of a vApp, without creating the vApp."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from vcloud.apply.planning import Request
from vcloud.apply.target import proven_accelerator, target_of
from vcloud.apply.vm_images import VmImages
from vcloud.apply.wake import Waker
from vcloud.design.model import Design
from vcloud.fleet.fleet import open_fleet
from vcloud.hosts.connection import Host
from vcloud.hosts.lock import using_images
from vcloud.hosts.memory_images import MemoryImage
from vcloud.hosts.volumes import VappVolumes
from vcloud.placement.place import on_one
from vcloud.plan.state import VappState
from vcloud.reporter import Reporter


def make_memory_images(
    request: Request, connect: str | None, reporter: Reporter
) -> tuple[MemoryImage, ...]:
    """Makes the memory images for all VMs of a vApp that the host does not have yet. Returns all of
    them.

    Raises VcloudError if one cannot be made.
    """
    design = request.design
    with open_fleet(connect) as fleet:
        host, state = fleet.home, fleet.state_of(design.instance.name)
        with using_images(host, "image memory make"):
            return _make(host, design, state, request, reporter)


def _make(
    host: Host, design: Design, state: VappState, request: Request, reporter: Reporter
) -> tuple[MemoryImage, ...]:
    volumes, placement = VappVolumes(host), on_one(design, host.name)
    # Memory images serve VMs that are made anew, so all VMs are treated as such.
    names = [vm.name for vm in design.vms]
    images = VmImages.of(design, state.manifest, state.images)
    if lost := images.lost(names):
        images = VmImages.of(design, state.manifest, state.images, fresh=lost)
        images.build(design.vms, reporter)
        images = VmImages.of(design, state.manifest, state.images, fresh=lost)
    accelerator = proven_accelerator(host, volumes, images, state, request.accelerator, reporter)
    target = target_of(host, design, placement, state, accelerator).with_images(images)
    boots = images.upload(volumes, design.vms, reporter)
    # The images of the host are listed after the upload. So no image counts as new, and each one
    # gets its memory image now.
    waker = Waker(host, volumes, target, reporter, volumes.images())
    chosen = waker.choose(design.vms, boots)
    # A booting VM keeps a processor busy. More of them than processors would only be slower.
    with ThreadPoolExecutor(host.processors) as pool:
        # `list` waits for all of them, and raises an error of any.
        list(pool.map(waker.make, [key for key, _ in chosen]))
    return waker.made()
