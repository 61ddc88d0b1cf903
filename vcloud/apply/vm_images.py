"""The images of a vApp's VMs: found or built on this machine, then uploaded to the host."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from vcloud.compile.libvirt.host import BootFiles
from vcloud.design.model import Design, ImageRef, Vm
from vcloud.hosts.connection import run_parallel
from vcloud.images.build import build
from vcloud.images.cache import Image, default_cache
from vcloud.images.recipe import digest, load_recipe
from vcloud.images.user import fetch, image_name, source_digest
from vcloud.reporter import Reporter

if TYPE_CHECKING:
    from vcloud.hosts.volumes import VappVolumes

SIDE_BY_SIDE = 2
"""Builds at a time. A build keeps one processor busy, and waits for packages."""


@dataclass(frozen=True, slots=True)
class VmImages:
    """The image that each VM needs. Before `build` is called, only recipes are read."""

    design: Design
    digests: Mapping[str, str]
    """VM -> image digest."""

    @classmethod
    def of(cls, design: Design) -> VmImages:
        """Reads the recipes of all VMs. Raises ImageError, SpecError for a recipe that cannot be
        read.
        """
        known = {reference: _digest(reference) for reference in {vm.image for vm in design.vms}}
        return cls(design, {vm.name: known[vm.image] for vm in design.vms})

    def missing(self) -> tuple[ImageRef, ...]:
        """The images that this machine's cache lacks, each once, in the order of the design."""
        cache = default_cache()
        wanted = {self.digests[vm.name]: vm.image for vm in self.design.vms}
        return tuple(
            image for key, image in wanted.items() if cache.get(cache_name(image), key) is None
        )

    def build(self, reporter: Reporter) -> None:
        """Builds or downloads the missing images, several at a time. Raises ImageError."""
        run_parallel([partial(_make, image, reporter) for image in self.missing()], SIDE_BY_SIDE)

    def image_of(self, vm: Vm, reporter: Reporter) -> Image:
        return _make(vm.image, reporter)

    def upload(
        self, volumes: VappVolumes, vms: tuple[Vm, ...], reporter: Reporter
    ) -> dict[str, BootFiles]:
        """Uploads the images of these VMs to the host, and returns the files that each VM boots
        from. The VM's own disk is made later.
        """
        images = {vm.image: self.image_of(vm, reporter) for vm in vms}
        bases = {
            reference: volumes.upload_image(image, _coarse(reporter, f"image {image.name}"))
            for reference, image in images.items()
        }
        return {
            vm.name: volumes.boot_files(vm.domain, bases[vm.image], images[vm.image].cmdline)
            for vm in vms
        }


def _coarse(reporter: Reporter, subject: str) -> Callable[[str], None]:
    """Passes on what the host's storage says without its percents."""
    return lambda text: reporter.report(subject, text.partition(":")[0])


def _digest(reference: ImageRef) -> str:
    if reference.recipe:
        return digest(load_recipe(Path(reference.recipe)), reference.packages)
    return source_digest(reference.source, reference.sha256)


def cache_name(reference: ImageRef) -> str:
    """The name of an image in the cache and on hosts."""
    return Path(reference.recipe).name if reference.recipe else image_name(reference.source)


def _make(reference: ImageRef, reporter: Reporter) -> Image:
    def progress(text: str) -> None:
        reporter.report(f"image {Path(reference.name).name}", text)

    if reference.recipe:
        return build(load_recipe(Path(reference.recipe)), reference.packages, progress=progress)
    return fetch(reference.source, reference.sha256, progress=progress)
