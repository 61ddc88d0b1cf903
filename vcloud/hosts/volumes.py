"""The volumes of vApps in a host's storage pool: images, which VMs share, and the disks and the
console log of each VM.

image-NAME-DIGEST.ID.qcow2    an uploaded image; shared, and never changed
kernel-..., initrd-...        the kernel and the initramfs of an image
root.VAPP.VM.qcow2            the root disk of a VM, an overlay over its image
vm.VAPP.VM.DISK.qcow2         a data disk of a VM
console.VAPP.VM.log           the output of a VM's serial console
wake.VAPP.VM.save             the saved memory that a VM is being started from; see vcloud.hosts.memory_images
seed.VAPP.VM.iso              the seed disk of a VM with a user's own image; it holds the VM's private SSH host key
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
from vcloud.hosts.volume_reading import read_end

if TYPE_CHECKING:
    from vcloud.design.model import Vm
    from vcloud.images.cache import Image

VM_VOLUMES = ("root", "vm", "console", "seed", "wake")
"""The first parts of the names of volumes that belong to one VM."""
DIGEST_DIGITS = 12
"""How many digits of an image's digest the names of its volumes contain."""
LINE_BYTES = 400
"""Assumed length of a console line, to find out how much of the log must be read."""
TERMINAL_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(\x07|\x1b\\)|\x1b.|\r")
"""Terminal control sequences (CSI, OSC and others) and carriage returns. A guest must not control
the operator's terminal.
"""


@dataclass(frozen=True, slots=True)
class Base:
    """The files of an image on the host, as absolute paths.

    `kernel` and `initrd` are empty for an image that boots with its own boot loader.
    """

    disk: str
    kernel: str = ""
    initrd: str = ""


class VappVolumes:
    """The volumes of vApps on one host. Threads may share an object."""

    def __init__(self, host: Host) -> None:
        self.pool = StoragePool(host)
        self._bases: dict[str, Base] = {}

    def upload_image(self, image: Image, report: Callable[[str], None] = lambda _: None) -> Base:
        """Uploads those files of an image that the host lacks. `report` is called with the
        progress.

        Raises:
            HostError: the pool has too little space, or the connection broke. The next attempt
                starts from the beginning.
        """
        missing = [
            path
            for kind, path in _parts(image)
            if not uploaded(self.pool, _stem(kind, image), path.suffix)
        ]
        self.pool.require_space(
            sum(path.stat().st_size for path in missing), f"the image '{image.name}'"
        )
        return Base(
            **{kind: self._upload(kind, path, image, report) for kind, path in _parts(image)}
        )

    def _upload(self, kind: str, path: Path, image: Image, report: Callable[[str], None]) -> str:
        def progress(done: int, size: int) -> None:
            percent = 100 * done // size
            if percent != reported[-1]:
                reported.append(percent)
                report(f"uploading its {kind}: {percent} % of {size >> 20} MiB")

        reported = [-1]
        return upload(self.pool, path, _stem(kind, image), path.suffix, progress)

    def boot_files(self, domain: str, base: Base, cmdline: str) -> BootFiles:
        """The files that the VM of that libvirt name boots from. The root disk among them is
        created by `make_root`.
        """
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
        """Creates the root disk of a VM and returns its path. A root disk that exists is kept.

        `boot` comes from `boot_files`. The disk is an overlay over the disk at the path `backing`
        or, without it, over the VM's image.
        """
        return self.pool.make_overlay(Path(boot.disk).name, backing or self.base_of(vm).disk)

    def base_of(self, vm: Vm) -> Base:
        """The image of a VM. `boot_files` must have been called for this VM."""
        return self._bases[vm.domain]

    def image_digests(self) -> frozenset[str]:
        """The first `DIGEST_DIGITS` digits of the digest of every image that was completely
        uploaded to the host.
        """
        names = [name for name in self.pool.names("image-") if name.endswith(COMPLETE)]
        # Cuts off .ID.qcow2.complete; the image's name may have dots, too.
        stems = (name.rsplit(".", 3)[0] for name in names)
        return frozenset(stem.rpartition("-")[2] for stem in stems)

    def put_seed(self, domain: str, content: bytes) -> None:
        """Writes the seed disk of a VM, and replaces an older one."""
        self.pool.put(seed_volume(domain), content)

    def make_disk(self, volume: str, size: int) -> str:
        """Creates an empty data disk of `size` bytes and returns its path. A data disk that exists
        keeps its content and grows.

        Raises:
            HostError: the host's disk is full, or the data disk is already larger.
        """
        path = self.pool.make_disk(volume, size)
        self.pool.grow(volume, size)
        return path

    def has_data(self, vm: Vm) -> bool:
        """Whether the host has a data disk of the VM, even one that the vApp file no longer names."""
        return bool(self.pool.names(f"vm.{vm.domain}."))

    def delete_root(self, domain: str) -> None:
        self.pool.delete([root_volume(domain)])

    def delete(self, names: Iterable[str]) -> None:
        self.pool.delete(names)

    def delete_of_domain(self, domain: str) -> None:
        """Deletes all volumes of one VM, also its data disks."""
        self.pool.delete(self.pool.names(*(f"{kind}.{domain}." for kind in VM_VOLUMES)))

    def volumes_of_vapp(self, vapp: str) -> tuple[str, ...]:
        """The names of all volumes that belong to VMs of a vApp, in alphabetical order."""
        return self.pool.names(*(f"{kind}.{vapp}." for kind in VM_VOLUMES))

    def console_tail(self, domain: str, lines: int) -> list[str]:
        """The last lines of a VM's serial console, without characters that control a terminal."""
        text = TERMINAL_CONTROL.sub(
            "",
            read_end(self.pool, console_volume(domain), lines * LINE_BYTES).decode(
                errors="replace"
            ),
        )
        return [
            "".join(char for char in line if char.isprintable() or char == "\t")
            for line in text.splitlines()[-lines:]
        ]


def _parts(image: Image) -> list[tuple[str, Path]]:
    """The files of an image with their kinds, which are the field names of `Base`."""
    parts = (("disk", image.disk), ("kernel", image.kernel), ("initrd", image.initrd))
    return [(kind, path) for kind, path in parts if path is not None]


def _stem(kind: str, image: Image) -> str:
    """The first part of the name of an uploaded file. It holds the image's digest."""
    return f"{'image' if kind == 'disk' else kind}-{image.name}-{image.digest[:DIGEST_DIGITS]}"
