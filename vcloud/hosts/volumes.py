"""What a vApp keeps in a host's pool: images that all VMs of a kind share, and each VM's own disks and console log.

image-NAME-DIGEST.ID.qcow2   kernel-..., initrd-...     an uploaded image; shared, never written again
root.VAPP.VM.qcow2                                      a VM's root disk: what it wrote over its image
vm.VAPP.VM.DISK.qcow2                                   a VM's data disk
console.VAPP.VM.log                                     what a VM said on its serial console
wake.VAPP.VM.save                                       the memory that a VM is about to wake with; see vcloud.hosts.memory_images
seed.VAPP.VM.iso                                        what cloud-init makes of a user's own image; holds the host's private key
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vcloud.compile.libvirt.host import BootFiles
from vcloud.design.names import console_volume, root_volume, seed_volume
from vcloud.hosts.connection import Host
from vcloud.hosts.pool import StoragePool
from vcloud.hosts.uploads import COMPLETE, upload, uploaded
from vcloud.hosts.volume_reading import tail

if TYPE_CHECKING:
    from vcloud.design.model import Vm
    from vcloud.images.cache import Image

KINDS = ("root", "vm", "console", "seed", "wake")
DIGITS = 12
"""Digits of a digest in a volume's name."""
LINE = 400
"""Bytes that a line of a console is taken to have."""
FOR_TERMINALS = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(\x07|\x1b\\)|\x1b.|\r")
"""Control sequences (CSI, OSC and others) and carriage returns."""


@dataclass(frozen=True, slots=True)
class Base:
    """An image on the host: absolute paths there. `kernel` and `initrd` are empty for an image that boots by its own loader."""

    disk: str
    kernel: str = ""
    initrd: str = ""


class VappVolumes:
    """The volumes of vApps on one host. Threads may share it."""

    def __init__(self, host: Host) -> None:
        self.pool = StoragePool(host)
        self._bases: dict[str, Base] = {}

    def upload_image(self, image: Image, report: Callable[[str], None] = lambda _: None) -> Base:
        """Brings what is missing of an image to the host. `report` is told how far it is.

        Raises:
            HostError: there is no room, or the connection broke; the next attempt begins anew.
        """
        missing = [path for kind, path in _parts(image) if not uploaded(self.pool, _stem(kind, image), path.suffix)]
        self.pool.require_space(sum(path.stat().st_size for path in missing), f"the image '{image.name}'")
        return Base(**{kind: self._upload(kind, path, image, report) for kind, path in _parts(image)})

    def _upload(self, kind: str, path: Path, image: Image, report: Callable[[str], None]) -> str:
        def progress(done: int, size: int) -> None:
            percent = 100 * done // size
            if percent != reported[-1]:
                reported.append(percent)
                report(f"uploading its {kind}: {percent} % of {size >> 20} MiB")

        reported = [-1]
        return upload(self.pool, path, _stem(kind, image), path.suffix, progress)

    def boot_files(self, domain: str, base: Base, cmdline: str) -> BootFiles:
        """What a VM of that libvirt name boots from. `make_root` makes its disk."""
        self._bases[domain] = base
        return BootFiles(
            disk=self.pool.path(root_volume(domain)),
            console=self.pool.path(console_volume(domain)),
            kernel=base.kernel,
            initrd=base.initrd,
            cmdline=cmdline,
            seed="" if base.kernel else self.pool.path(seed_volume(domain)),
        )

    def make_root(self, vm: Vm, boot: BootFiles, backing: str = "") -> str:
        """The root disk of a VM, unless it has one, over its image or over the disk at the path `backing`. Returns its path.

        `boot` is what `boot_files` gave.
        """
        return self.pool.make_overlay(Path(boot.disk).name, backing or self.base_of(vm).disk)

    def base_of(self, vm: Vm) -> Base:
        """The image of a VM whose `boot_files` were asked for."""
        return self._bases[vm.domain]

    def image_digests(self) -> frozenset[str]:
        """The first `DIGITS` digits of the digest of every image that the host has."""
        names = [name for name in self.pool.names("image-") if name.endswith(COMPLETE)]
        stems = (name.rsplit(".", 3)[0] for name in names)  # before ID.qcow2.complete; the image's own name may have dots
        return frozenset(stem.rpartition("-")[2] for stem in stems)

    def put_seed(self, domain: str, content: bytes) -> None:
        """What a VM is told by cloud-init, in place of what it was told before."""
        self.pool.put(seed_volume(domain), content)

    def make_disk(self, volume: str, size: int) -> str:
        """A data disk of `size` bytes, empty; one that is there already keeps its content and grows. Returns its path.

        Raises:
            HostError: the host's disk is full, or the data disk is larger already.
        """
        path = self.pool.make_disk(volume, size)
        self.pool.grow(volume, size)
        return path

    def has_data(self, vm: Vm) -> bool:
        """Whether a data disk of the VM is there, be it one that the file names no more."""
        return bool(self.pool.names(f"vm.{vm.domain}."))

    def delete_root(self, domain: str) -> None:
        self.pool.delete([root_volume(domain)])

    def delete(self, names: Iterable[str]) -> None:
        self.pool.delete(names)

    def delete_of_domain(self, domain: str) -> None:
        """Everything of one VM, its data too."""
        self.pool.delete(self.pool.names(*(f"{kind}.{domain}." for kind in KINDS)))

    def volumes_of_vapp(self, vapp: str) -> tuple[str, ...]:
        """Names of the volumes of all of a vApp's VMs, in alphabetical order."""
        return self.pool.names(*(f"{kind}.{vapp}." for kind in KINDS))

    def console_tail(self, domain: str, lines: int) -> list[str]:
        """The last lines that a VM said on its serial console, without what would act on a terminal."""
        text = FOR_TERMINALS.sub("", tail(self.pool, console_volume(domain), lines * LINE).decode(errors="replace"))
        return ["".join(char for char in line if char.isprintable() or char == "\t") for line in text.splitlines()[-lines:]]


def _parts(image: Image) -> list[tuple[str, Path]]:
    parts = (("disk", image.disk), ("kernel", image.kernel), ("initrd", image.initrd))
    return [(kind, path) for kind, path in parts if path is not None]


def _stem(kind: str, image: Image) -> str:
    return f"{'image' if kind == 'disk' else kind}-{image.name}-{image.digest[:DIGITS]}"
