"""The image cache: one folder per image. The folder's name contains the image's digest, and the
folder appears in one rename.

An image is made in the folder `NAME-DIGEST.partial` under a lock on the file `.NAME-DIGEST.lock`.
The kernel releases the lock when its holder ends. So if the lock of a partial folder is free, a
build was killed, and the next build removes the folder.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from vcloud.errors import ImageError

FORMAT = 1
"""The format of the cache. An image in another format counts as missing and is built again. Nothing
is lost, because a cache never holds the only copy of anything.
"""
PARTIAL = ".partial"
DIGEST_DIGITS = 12
"""How many digits of the digest the name of a folder has."""


@dataclass(frozen=True, slots=True)
class Image:
    """An image that a VM can start from."""

    folder: Path
    name: str
    digest: str
    """SHA-256 in hex: of a recipe and everything that it depends on, or of a user's qcow2."""
    disk: Path
    """A qcow2 without a backing file. The root disks of VMs are overlays over it."""
    kernel: Path | None
    """ELF kernel for direct kernel boot. None for a user's image, which boots with its own boot
    loader and is configured by cloud-init.
    """
    initrd: Path | None
    cmdline: str
    memory: int
    """Bytes of memory that a VM gets if the vApp file does not say it. 0: the image does not say
    it, either.
    """
    disks: Mapping[str, str]
    """Name of a data disk -> the folder where the image mounts it."""
    packages: tuple[str, ...]
    """Installed packages as `name=version`, sorted. Empty for a user's qcow2."""

    @property
    def entry(self) -> str:
        """The name of its folder in the cache: NAME-DIGEST."""
        return _entry(self.name, self.digest)


@dataclass(frozen=True, slots=True)
class Description:
    """The content of image.json: what cannot be seen from the other files in an image's folder."""

    name: str
    digest: str
    cmdline: str = ""
    memory: int = 0
    disks: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT


class Cache:
    """The images in one folder. Several processes may use the folder at the same time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, name: str, digest: str) -> Image | None:
        """The image of that name and digest. None if the cache does not have it."""
        return _image(self.folder / _entry(name, digest))

    def list(self) -> tuple[Image, ...]:
        """All images, sorted by name and digest."""
        folders = sorted(self.folder.iterdir()) if self.folder.is_dir() else []
        return tuple(
            image for folder in folders if folder.suffix != PARTIAL and (image := _image(folder))
        )

    def fill(
        self,
        name: str,
        digest: str,
        make: Callable[[Path], Description],
        progress: Callable[[str], None],
    ) -> Image:
        """The image of this digest. If the cache does not have it, `make` makes it in the folder
        that it is given.

        Raises what `make` raises, and then keeps nothing. Raises ImageError if the cache cannot be
        written.
        """
        if image := self.get(name, digest):
            return image
        self._make_folder()
        entry = _entry(name, digest)
        with self._locked(entry, progress):
            self._sweep()
            return self.get(name, digest) or self._make(entry, make)

    def remove(self, image: Image) -> None:
        """Removes an image from the cache. This does not affect VMs, because hosts have their own
        copies.
        """
        with self._locked(image.folder.name, lambda _: None):
            if image.folder.exists():  # otherwise another process has removed it meanwhile
                partial = image.folder.with_name(image.folder.name + PARTIAL)
                shutil.rmtree(partial, ignore_errors=True)
                image.folder.rename(partial)
                shutil.rmtree(partial)

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(
                mode=0o700, parents=True, exist_ok=True
            )  # a recipe's files may be secret
            writable = os.access(self.folder, os.W_OK)
        except OSError:
            writable = False
        if not writable:
            raise ImageError(
                f"the image cache {self.folder} cannot be written",
                "Set VCLOUD_CACHE_DIR to a folder that you can write.",
            )

    def _make(self, entry: str, make: Callable[[Path], Description]) -> Image:
        partial = self.folder / (entry + PARTIAL)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            description = make(partial)
            (partial / "image.json").write_text(
                json.dumps(asdict(description), indent=2, sort_keys=True) + "\n"
            )
            _flush(partial)
            # An image in the format of another release, which `get` ignored.
            shutil.rmtree(self.folder / entry, ignore_errors=True)
            partial.rename(self.folder / entry)
        except OSError as error:
            what = f"the image {entry} cannot be written: {error.strerror or error}"
            raise ImageError(
                what, "Free some space, or set VCLOUD_CACHE_DIR to a folder on a larger disk."
            ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        image = _image(self.folder / entry)
        if image is None:
            raise ImageError(
                f"the image {entry} is incomplete",
                f"Remove the folder {self.folder / entry}, then run the command again.",
            )
        return image

    def _sweep(self) -> None:
        """Removes the partial folders of builds that have ended."""
        for partial in self.folder.glob(f"*{PARTIAL}"):
            with self._try_lock(partial.name.removesuffix(PARTIAL)) as free:
                if free:
                    shutil.rmtree(partial, ignore_errors=True)

    @contextmanager
    def _locked(self, entry: str, progress: Callable[[str], None]) -> Iterator[None]:
        with (self.folder / f".{entry}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                progress(f"{entry}: waiting for another build of the same image")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _try_lock(self, entry: str) -> Iterator[bool]:
        with (self.folder / f".{entry}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True


def default_cache() -> Cache:
    """The cache in $VCLOUD_CACHE_DIR/images or, without this variable, in `vcloud/images` in the
    user's cache folder (XDG).
    """
    own = os.environ.get("VCLOUD_CACHE_DIR")
    base = (
        Path(own)
        if own
        else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vcloud"
    )
    return Cache(base.absolute() / "images")


def _entry(name: str, digest: str) -> str:
    return f"{name}-{digest[:DIGEST_DIGITS]}"


def _image(folder: Path) -> Image | None:
    """The image in a folder. None if there is none, or if it has another format."""
    try:
        description = Description(**json.loads((folder / "image.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None
    if description.format != FORMAT:
        return None
    kernel, initrd, manifest = folder / "vmlinux", folder / "initrd.cpio", folder / "manifest.txt"
    return Image(
        folder=folder,
        name=description.name,
        digest=description.digest,
        disk=folder / "disk.qcow2",
        kernel=kernel if kernel.exists() else None,
        initrd=initrd if initrd.exists() else None,
        cmdline=description.cmdline,
        memory=description.memory,
        disks=description.disks,
        packages=tuple(manifest.read_text().splitlines()) if manifest.exists() else (),
    )


def _flush(folder: Path) -> None:
    """Writes all files of a folder to the disk. Without this, a power cut after the rename could
    leave an image full of zeros.
    """
    for path in (*folder.iterdir(), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
