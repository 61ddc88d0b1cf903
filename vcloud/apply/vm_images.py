"""The images of a vApp's VMs: found or built on this machine, then uploaded to the host."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from vcloud.compile.libvirt.host import BootFiles
from vcloud.design.model import Design, ImageRef, Vm
from vcloud.design.origin import FromFile
from vcloud.errors import HostError, ImageError, Problem, RefusedError
from vcloud.hosts.connection import Host, run_parallel
from vcloud.images.build import CMDLINE, build
from vcloud.images.cache import Image, default_cache, plain_name
from vcloud.images.qcow2 import HEADER_BYTES, disk_size
from vcloud.images.recipe import digest, load_recipe
from vcloud.images.user import fetch, image_name, source_digest
from vcloud.plan.host_images import is_there
from vcloud.plan.images import age_notes, chosen_image, standing_image
from vcloud.plan.manifest import Manifest, VmImage
from vcloud.reporter import Reporter
from vcloud.spec.images import smaller_root

if TYPE_CHECKING:
    from vcloud.hosts.volumes import Base, VappVolumes

SIDE_BY_SIDE = 2
"""Builds that run at the same time. A build uses one processor, and waits for packages in between."""


@dataclass(frozen=True, slots=True)
class VmImages:
    """The build that is chosen for each VM. Until `build` is called, only recipes are read."""

    design: Design
    digests: Mapping[str, str]
    """VM -> digest of its recipe or qcow2."""
    chosen: Mapping[str, VmImage]
    """VM -> the chosen build (`vcloud.plan.images`)."""
    there: frozenset[str] = frozenset()
    """The contents of the images that the host has."""
    fresh: frozenset[str] = frozenset()
    """VMs that get new root disks, and so need a build that the host or this machine really has."""
    standing: Manifest | None = None
    """The host's manifest of the vApp."""
    only_there: bool = False
    """Only the host's own copies are used, because this machine does not know the recipes."""

    @classmethod
    def of(
        cls,
        design: Design,
        standing: Manifest | None = None,
        there: frozenset[str] = frozenset(),
        *,
        renew: bool = False,
        fresh: frozenset[str] = frozenset(),
        settled: VmImages | None = None,
    ) -> VmImages:
        """Reads the recipes of all VMs, and chooses a build for each.

        Args:
            design: the vApp.
            standing: the host's manifest of the vApp.
            there: the contents of the images that the host has.
            renew: as in `chosen_image`.
            fresh: VMs that get new root disks and, by `lost`, need another build.
            settled: the choice that was made earlier in this run. It is kept if the manifest is
                still the same, because a build that the run made for one VM must not cause other
                VMs to be made anew.

        Raises ImageError, SpecError for a recipe that cannot be read.
        """
        known = {reference: _digest(reference) for reference in {vm.image for vm in design.vms}}
        cached = {reference: _cached(reference, key) for reference, key in known.items()}
        kept = settled.chosen if settled and settled.standing == standing else {}

        def choice(vm: Vm) -> VmImage:
            key = known[vm.image]
            before = kept.get(vm.name) if vm.name not in fresh else None
            if before and before.recipe == key and before.content:
                return before
            image = cached[vm.image]
            return chosen_image(
                key,
                None if vm.name in fresh else standing_image(vm, key, standing),
                image.build if image else None,
                renew=renew,
            )

        digests = {vm.name: known[vm.image] for vm in design.vms}
        chosen = {vm.name: choice(vm) for vm in design.vms}
        return cls(design, digests, chosen, there, fresh, standing)

    @classmethod
    def kept(cls, manifest: Manifest, there: frozenset[str]) -> VmImages:
        """The builds that a manifest names, which the host must have. No recipe is read. A VM of which
        the manifest names no build has an empty one.
        """
        design = manifest.design
        chosen = {vm.name: manifest.image_of(vm.name) or VmImage("") for vm in design.vms}
        digests = {name: image.recipe for name, image in chosen.items()}
        return cls(design, digests, chosen, there, standing=manifest, only_there=True)

    def lost(self, fresh: Iterable[str]) -> frozenset[str]:
        """Those of the VMs `fresh`, which get new root disks, whose chosen build neither the host
        nor this machine has, or whose bytes are not known.
        """
        if self.only_there:
            return frozenset()
        vms = {vm.name: vm for vm in self.design.vms}
        return frozenset(
            name
            for name in {*fresh} - self.fresh
            if self.chosen[name].content not in self.there
            and self._cached(vms[name]) != self.chosen[name]
        )

    def _is_there(self, vm: Vm) -> bool:
        """Whether the host has the chosen build of a VM."""
        chosen = self.chosen[vm.name]
        return is_there(chosen, self.there) and (bool(chosen.content) or vm.name not in self.fresh)

    def _cached(self, vm: Vm) -> VmImage | None:
        if self.only_there:
            return None
        image = _cached(vm.image, self.digests[vm.name])
        return image.build if image else None

    def missing(self, vms: Iterable[Vm]) -> tuple[ImageRef, ...]:
        """The images of these VMs that neither the host nor this machine has, each once."""
        if self.only_there:
            return ()
        wanted = {vm.image: vm for vm in vms if not self._is_there(vm)}
        return tuple(image for image, vm in wanted.items() if self._cached(vm) is None)

    def to_upload(self, vms: Iterable[Vm]) -> tuple[Image, ...]:
        """The images of these VMs that this machine has but the host does not, each once."""
        if self.only_there:
            return ()
        wanted = {vm.image: vm for vm in vms if not self._is_there(vm)}
        found = (_cached(image, self.digests[vm.name]) for image, vm in wanted.items())
        return tuple(image for image in found if image is not None)

    def build(self, vms: Iterable[Vm], reporter: Reporter) -> None:
        """Builds or downloads the images of these VMs that are missing, several at a time. Raises
        ImageError.
        """
        missing = self.missing(vms)
        run_parallel([partial(_make, image, reporter) for image in missing], SIDE_BY_SIDE)

    def refuse_small_roots(self, vms: Iterable[Vm]) -> None:
        """Raises RefusedError where a VM's root disk would be smaller than its image, of the images
        whose size is known here only now: those from an address.
        """
        problems = []
        for vm in vms:
            image = _cached(vm.image, self.digests[vm.name]) if vm.root else None
            least = _disk_size(image) if image else 0
            if vm.root < least:
                line = vm.origin.line if isinstance(vm.origin, FromFile) else 0
                where = (self.design.file, line, f"vms.{vm.tier}.root")
                problems.append(Problem(*where, *smaller_root(least)))
        if problems:
            raise RefusedError(tuple(dict.fromkeys(problems)))

    def upload(
        self, volumes: VappVolumes, vms: tuple[Vm, ...], reporter: Reporter
    ) -> dict[str, BootFiles]:
        """Uploads the images of these VMs that the host does not have, and returns the files that
        each VM boots from. The VM's own disk is made later.
        """
        sources: dict[tuple[ImageRef, VmImage], tuple[Base, str]] = {}
        for vm in vms:
            key = (vm.image, self.chosen[vm.name])
            if key not in sources:
                sources[key] = self._found(volumes, vm) or self._uploaded(volumes, vm, reporter)
        return {
            vm.name: volumes.boot_files(vm.domain, *sources[vm.image, self.chosen[vm.name]])
            for vm in vms
        }

    def _found(self, volumes: VappVolumes, vm: Vm) -> tuple[Base, str] | None:
        """The files of a VM's image on the host, and its kernel's command line. None if the image
        must come from this machine. A build that only the host has is used there, so that the VM
        keeps it.
        """
        chosen, name = self.chosen[vm.name], cache_name(vm.image)
        if chosen.content:
            here = not self.only_there and self._cached(vm) == chosen
            return None if here else volumes.image_there(name, chosen.content)
        if vm.name in self.fresh:
            return None
        own = bool(vm.image.recipe)
        base = volumes.former_image_there(name, chosen.recipe, own_kernel=own)
        # The images of earlier releases all had this command line.
        return (base, CMDLINE if own else "") if base else None

    def _uploaded(self, volumes: VappVolumes, vm: Vm, reporter: Reporter) -> tuple[Base, str]:
        if self.only_there:
            raise HostError(
                f"the image of '{vm.name}' is not whole on {volumes.pool.host.name} any more",
                "`vcloud up` with the vApp's file uploads it again.",
            )
        image, chosen = _make(vm.image, reporter), self.chosen[vm.name]
        if chosen.content and image.build.content != chosen.content:
            raise ImageError(
                f"the image {image.name} in the cache is not the build that was chosen for '{vm.name}': it was built anew meanwhile, or the host lost a part of its copy",
                "Run the command again. If the error remains, `vcloud up --refresh` makes the VM anew from a build of today.",
            )
        try:
            base = volumes.upload_image(image, _coarse(reporter, f"image {image.name}"))
        except FileNotFoundError as error:
            raise ImageError(
                f"the image {image.name} was built anew or removed while it was uploaded",
                "Run the command again.",
            ) from error
        return base, image.cmdline

    def notes(self, now: str) -> Iterable[str]:
        """Notes about builds that are old, or whose age is not known."""
        if self.only_there:
            return ()
        checked = {
            image.build.packages: image.current
            for vm in self.design.vms
            if (image := _cached(vm.image, self.digests[vm.name])) and image.packages
        }
        return age_notes(self.design, self.chosen, self.standing, checked, now)

    def packages(self, host: Host) -> dict[str, tuple[str, ...]]:
        """The lists of packages, by their digests, of the present builds of VMs and of the builds
        that will replace them. The host knows the packages of its builds.
        """
        from vcloud.hosts.volumes import packages_there

        found: dict[str, tuple[str, ...]] = {}
        for vm in self.design.vms:
            old, new = self.standing and self.standing.image_of(vm.name), self.chosen[vm.name]
            if not old or old.recipe != new.recipe or old.packages == new.packages:
                continue
            if image := _cached(vm.image, new.recipe):
                found[image.build.packages] = image.packages
            if old.content and old.packages not in found:
                found[old.packages] = packages_there(host, cache_name(vm.image), old)
        return found


def _cached(reference: ImageRef, key: str) -> Image | None:
    return default_cache().get(cache_name(reference), key)


def _disk_size(image: Image) -> int:
    """Bytes of an image's disk as the guest sees it; 0 if the image is gone."""
    try:
        with image.disk.open("rb") as opened:
            return disk_size(opened.read(HEADER_BYTES))
    except OSError:
        return 0


def _coarse(reporter: Reporter, subject: str) -> Callable[[str], None]:
    """Reports the progress of an upload without percentages, so that each file gives one line and
    not a hundred.
    """
    return lambda text: reporter.report(subject, text.partition(":")[0])


def _digest(reference: ImageRef) -> str:
    if reference.recipe:
        return digest(load_recipe(Path(reference.recipe)), reference.packages)
    return source_digest(reference.source, reference.sha256)


def cache_name(reference: ImageRef) -> str:
    """The name of an image in the cache and on hosts."""
    return (
        plain_name(Path(reference.recipe).name)
        if reference.recipe
        else image_name(reference.source)
    )


def _make(reference: ImageRef, reporter: Reporter) -> Image:
    def progress(text: str) -> None:
        reporter.report(f"image {Path(reference.name).name}", text)

    if reference.recipe:
        return build(load_recipe(Path(reference.recipe)), reference.packages, progress=progress)
    return fetch(reference.source, reference.sha256, progress=progress)
