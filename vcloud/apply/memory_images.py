"""Makes the memory images for the VMs of a vApp, without the vApp."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from vcloud.apply.target import proven_accelerator, target_of
from vcloud.apply.up import Request
from vcloud.apply.vm_images import VmImages
from vcloud.apply.wake import Waker
from vcloud.fleet.fleet import open_fleet
from vcloud.hosts.memory_images import MemoryImage
from vcloud.hosts.volumes import VappVolumes
from vcloud.placement.place import on_one
from vcloud.reporter import Reporter


def make_memory_images(
    request: Request, connect: str | None, reporter: Reporter
) -> tuple[MemoryImage, ...]:
    """Makes the memory images for all VMs of a vApp, but for those that the host has. Returns all
    of them.

    Raises VcloudError where one cannot be made.
    """
    design = request.design
    with open_fleet(connect) as fleet:
        host, state = fleet.home, fleet.state_of(design.instance.name)
        volumes, placement = VappVolumes(host), on_one(design, host.name)
        images = VmImages.of(design)
        images.build(reporter)
        accelerator = proven_accelerator(
            host, volumes, images, state, request.accelerator, reporter
        )
        target = target_of(host, design, placement, state, accelerator)
        boots = images.upload(volumes, design.vms, reporter)
        waker = Waker(
            host, volumes, target, reporter, volumes.image_digests()
        )  # after the upload, so that no image counts as new here
        chosen = waker.choose(design.vms, boots)
        with ThreadPoolExecutor(max(1, len(chosen))) as pool:
            list(pool.map(waker.make, [key for key, _ in chosen]))
        return waker.made()
