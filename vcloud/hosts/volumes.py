"""The volumes of vApps in a host's storage pool: images, which VMs share, and the disks and the
console log of each VM.

image-NAME-CONTENT.ID.qcow2   an uploaded image; shared, and never changed (vcloud.plan.host_images)
kernel-..., initrd-...        the kernel and the initramfs of an image
root.VAPP.VM.qcow2            the root disk of a VM, an overlay over its image
vm.VAPP.VM.DISK.qcow2         a data disk of a VM
console.VAPP.VM.log           the output of a VM's serial console
wake.VAPP.VM.save             the saved memory that a VM is being started from; see vcloud.hosts.memory_images
seed.VAPP.VM.iso              the seed disk of a VM with a user's own image; it holds the VM's private SSH host key
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vcloud.compile.libvirt.host import BootFiles
from vcloud.design.names import (
    console_volume,
    copy_and_original,
    data_disk_of,
    root_volume,
    seed_volume,
    unfinished_copy,
)
from vcloud.errors import HostError
from vcloud.hosts.connection import Host
from vcloud.hosts.pool import StoragePool
from vcloud.hosts.uploads import upload, uploaded
from vcloud.hosts.volume_reading import read_end, read_start, sizes
from vcloud.plan.host_images import (
    ABOUT,
    FORMER_DIGITS,
    KINDS,
    PREFIXES,
    HostImage,
    contents,
    host_image,
    stem,
    suffix,
)
from vcloud.plan.manifest import VmImage
from vcloud.untrusted import UnreadableError

if TYPE_CHECKING:
    from vcloud.design.model import Vm
    from vcloud.images.cache import Image

VM_VOLUMES = ("root", "vm", "console", "seed", "wake")
"""The first parts of the names of volumes that belong to one VM."""
ABOUT_LIMIT = 4 << 20
"""Bytes that are read of what a host knows about an image. A thousand packages take 50 kB."""
LINE_BYTES = 400
"""Assumed length of a console line, to find out how much of the log must be read."""
SYNC_TIMEOUT = 600
"""Seconds that the host gets to write the copy of a data disk to its disk."""
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
        self.pool.require_space(bytes_to_upload(self.pool, image), f"the image '{image.name}'")
        return Base(
            **{kind: self._upload(kind, path, image, report) for kind, path in _parts(image)}
        )

    def image_there(self, name: str, content: str) -> tuple[Base, str] | None:
        """The files of the image `name` with that content, and its kernel's command line. None where
        the host does not have all of it, or does not know what it is.
        """
        disk = uploaded(self.pool, stem("disk", name, content), suffix("disk"))
        about = about_image(self.pool, Path(disk).name) if disk else None
        base = self._base_of(name, content, about.kinds) if about else None
        return (base, about.cmdline) if about and base else None

    def former_image_there(self, name: str, recipe: str, *, own_kernel: bool) -> Base | None:
        """The files of an image that an earlier release uploaded, which knew only the digest of its
        recipe. None where the host does not have all of it.
        """
        kinds = KINDS if own_kernel else KINDS[:1]
        return self._base_of(name, recipe[:FORMER_DIGITS], kinds)

    def _base_of(self, name: str, content: str, kinds: Iterable[str]) -> Base | None:
        found = {
            kind: uploaded(self.pool, stem(kind, name, content), suffix(kind)) for kind in kinds
        }
        paths = {kind: path for kind, path in found.items() if path is not None}
        return Base(**paths) if "disk" in paths and paths.keys() == found.keys() else None

    def _upload(self, kind: str, path: Path, image: Image, report: Callable[[str], None]) -> str:
        def progress(done: int, size: int) -> None:
            percent = 100 * done // size
            if percent != reported[-1]:
                reported.append(percent)
                report(f"uploading its {kind}: {percent} % of {size >> 20} MiB")

        reported = [-1]
        about = description_of(image) if kind == "disk" else b""
        return upload(self.pool, path, _stem(kind, image), suffix(kind), progress, about)

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

    def grow_root(self, vm: Vm) -> None:
        """Makes the root disk of a VM as large as its file says. The VM must not run. Raises HostError
        where the disk is larger already.
        """
        self.pool.grow(root_volume(vm.domain), vm.root)

    def base_of(self, vm: Vm) -> Base:
        """The image of a VM. `boot_files` must have been called for this VM."""
        return self._bases[vm.domain]

    def images(self) -> frozenset[str]:
        """The contents of all images that were completely uploaded to the host."""
        return contents(self.pool.names(*PREFIXES))

    def put_seed(self, domain: str, content: bytes) -> None:
        """Writes the seed disk of a VM, and replaces an older one."""
        self.pool.put(seed_volume(domain), content)

    def make_disk(self, volume: str, size: int, *, stands: bool = False) -> tuple[str, bool]:
        """Creates an empty data disk of `size` bytes. A data disk that exists keeps its content and
        grows. What a killed run began to copy from a disk that is still there is no such disk. A
        disk that `stands`, because it was there when the run began, is not made again.

        Returns its path, and whether it was created now.

        Raises:
            HostError: the host's disk is full, the data disk is already larger, or a disk that
                stood is gone.
        """
        self._end_copies(volume)
        missing = not self.pool.exists(volume)
        if missing and stands:
            raise HostError(
                f"the volume '{volume}' was there when this run began, and is gone from {self.pool.host.name}",
                "No empty disk was put in its place. `vcloud plan` says what is lost.",
            )
        created = missing and self.pool.make_disk(volume, size)
        if not created:
            self.pool.grow(volume, size)
        return self.pool.path(volume), created

    def move_disk(self, volume: str, name: str) -> None:
        """Gives a data disk that no VM uses another name. libvirt cannot rename a volume, so the
        host copies it.

        The old volume is deleted when the host has written the whole copy to its disk. A copy that
        was interrupted is made again.

        Raises HostError if there is a volume of the new name that is no such copy, or if the copy
        cannot be made or written out. The old volume is there then.
        """
        copying = unfinished_copy(name, volume)
        begun = self.pool.exists(copying)
        if self.pool.exists(name) and not begun:
            raise HostError(
                f"the volume '{name}' exists on {self.pool.host.name}, so '{volume}' cannot get its name",
                "Nothing was deleted. `vcloud plan` shows what can be done.",
            )
        if not begun:
            self.pool.make_empty(copying)
        self.pool.clone(volume, name)
        self.write_out(f"the copy '{name}'")
        self.pool.delete([volume])
        self.pool.delete([copying])

    def write_out(self, what: str) -> None:
        """Makes the host write to its disk what was copied. libvirt leaves it in the host's memory, where
        it ends with a power failure. `what` names it in an error. Raises HostError.
        """
        host = self.pool.host
        # An ordinary user may not open the folder, and has everything written out.
        for argv in (["sync", "--file-system", self.pool.folder], ["sync"]):
            if host.shell.run(argv, timeout=SYNC_TIMEOUT).code == 0:
                return
        raise HostError(
            f"{what} could not be written to the disk of {host.name}",
            "What was copied was not deleted. Run the command again, which makes the copy again.",
        )

    def _end_copies(self, volume: str) -> None:
        """Ends what killed runs began to copy to this data disk. Where the original of a copy is
        gone, the copy is whole, also when a disk of the name of the original is made again.
        """
        for marker in self.pool.names_without_refresh():
            copy, original = copy_and_original(marker) or ("", "")
            if volume not in (copy, original):
                continue
            whole = not self.pool.exists(original)
            if volume == copy and not whole:
                self.pool.delete([copy])
            if volume == copy or whole:
                self.pool.delete([marker])

    def delete_root(self, domain: str) -> None:
        self.pool.delete([root_volume(domain)])

    def delete(self, names: Iterable[str]) -> None:
        self.pool.delete(names)

    def volumes_of_domain(self, domain: str) -> tuple[str, ...]:
        """The names of all volumes of one VM, also of its data disks, and of what has such a name."""
        # The dot at the end keeps shop.web-1 apart from shop.web-10.
        return self.pool.names(*_prefixes(domain))

    def volumes_of_vapp(self, vapp: str) -> tuple[str, ...]:
        """The names of all volumes that belong to VMs of a vApp, in alphabetical order."""
        return self.pool.names(*_prefixes(vapp))

    def console_tail(self, domain: str, lines: int) -> list[str]:
        """The last lines of a VM's serial console, without characters that control a terminal."""
        text = TERMINAL_CONTROL.sub(
            "",
            read_end(self.pool, console_volume(domain), lines * LINE_BYTES).decode(
                errors="replace"
            ),
        )
        return [
            # Single control characters are left when the sequences are gone.
            "".join(char for char in line if char.isprintable() or char == "\t")
            for line in text.splitlines()[-lines:]
        ]


def _prefixes(owner: str) -> tuple[str, ...]:
    """How the names of the volumes begin that belong to a vApp's VMs, or to one domain."""
    return tuple(f"{kind}.{owner}." for kind in VM_VOLUMES)


@dataclass(frozen=True, slots=True)
class Found:
    """The volumes of a vApp's VMs on a host."""

    names: frozenset[str]
    sizes: Mapping[str, int]
    """Data volume -> bytes, as its guest sees it."""
    folder: str
    images: frozenset[str]
    """The contents of all images that were completely uploaded to the host."""


def volumes_of_vms(host: Host, vapp: str) -> Found | None:
    """The volumes of a vApp's VMs that are on the host, by a fresh look into the pool's folder.

    None where the pool does not exist or is not active: `VappVolumes` would create it, and a command
    that only looks must not.
    """
    pool = StoragePool.existing(host)
    if pool is None:
        return None
    both = pool.names(*_prefixes(vapp), *PREFIXES)
    names = [name for name in both if name.startswith(_prefixes(vapp))]
    return Found(
        frozenset(names), sizes(pool, filter(data_disk_of, names)), pool.folder, contents(both)
    )


def bytes_to_upload(pool: StoragePool | None, image: Image) -> int:
    """Bytes of those files of an image that the host lacks. A host without a pool lacks all."""
    return sum(
        path.stat().st_size
        for kind, path in _parts(image)
        if pool is None or not uploaded(pool, _stem(kind, image), suffix(kind))
    )


def _parts(image: Image) -> list[tuple[str, Path]]:
    """The files of an image with their kinds, which are the field names of `Base`. The disk comes
    last: where its upload is complete, that of the others is.
    """
    parts = (("kernel", image.kernel), ("initrd", image.initrd), ("disk", image.disk))
    return [(kind, path) for kind, path in parts if path is not None]


def _stem(kind: str, image: Image) -> str:
    """The first part of the name of an uploaded file. It holds the image's content."""
    return stem(kind, image.name, image.content)


def about_image(pool: StoragePool, disk: str) -> HostImage | None:
    """What a host knows about the image whose disk is the volume of that name. None where it is nothing
    that can be understood.
    """
    try:
        return host_image(read_start(pool, disk + ABOUT, ABOUT_LIMIT))
    except UnreadableError:
        return None


def packages_there(host: Host, name: str, image: VmImage) -> tuple[str, ...]:
    """The packages of an image that is on the host, as lines NAME=VERSION. Empty where nobody knows
    them. Changes nothing there.
    """
    pool = StoragePool.existing(host)
    disk = pool and uploaded(pool, stem("disk", name, image.content), suffix("disk"))
    about = about_image(pool, Path(disk).name) if pool and disk else None
    return about.packages if about and about.image.packages == image.packages else ()


def description_of(image: Image) -> bytes:
    """What a host is told about an image."""
    return HostImage(
        image.name,
        image.build,
        image.cmdline,
        tuple(kind for kind, _ in _parts(image)),
        image.packages,
    ).to_bytes()
