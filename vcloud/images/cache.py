"""The image cache: one folder per image, named after its digest, that appears whole in one rename.

A folder is made as `NAME-DIGEST.partial` while a lock on `.NAME-DIGEST.lock` is held. The lock dies with its holder, so a partial folder
whose lock can be taken is the rest of a build that was killed, and the next build removes it.
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
"""Format of the cache. An image of another format counts as missing and is built again: nothing in a cache is the only copy."""
PARTIAL = ".partial"
SHORT = 12
"""Digits of the digest in a folder's name."""


@dataclass(frozen=True, slots=True)
class Image:
    """What a VM can start from."""

    folder: Path
    name: str
    digest: str
    """SHA-256 in hex: of a recipe and all that goes into it, or of a user's qcow2."""
    disk: Path
    """A qcow2 without backing file; VMs run on overlays over it."""
    kernel: Path | None
    """ELF kernel for direct kernel boot; None for an image that boots by its own loader and is configured by cloud-init."""
    initrd: Path | None
    cmdline: str
    memory: int
    """Bytes that a VM gets that does not say it; 0: no opinion."""
    disks: Mapping[str, str]
    """Data disk -> where the image mounts it."""
    packages: tuple[str, ...]
    """`name=version`, sorted; empty for a user's qcow2."""


@dataclass(frozen=True, slots=True)
class Description:
    """image.json: what an image's folder does not say by its files."""

    name: str
    digest: str
    cmdline: str = ""
    memory: int = 0
    disks: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT


class Cache:
    """The images of one folder; safe to use from several processes at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, name: str, digest: str) -> Image | None:
        return _image(self.folder / _entry(name, digest))

    def list(self) -> tuple[Image, ...]:
        """Every image, sorted by name and digest."""
        folders = sorted(self.folder.iterdir()) if self.folder.is_dir() else []
        return tuple(image for folder in folders if folder.suffix != PARTIAL and (image := _image(folder)))

    def fill(self, name: str, digest: str, make: Callable[[Path], Description], progress: Callable[[str], None]) -> Image:
        """The image of this digest, made by `make` in a folder of its own unless it is there.

        Raises what `make` raises, and then keeps nothing; ImageError where the cache cannot be written.
        """
        if image := self.get(name, digest):
            return image
        self._make_folder()
        entry = _entry(name, digest)
        with self._locked(entry, progress):
            self._sweep()
            return self.get(name, digest) or self._make(entry, make)

    def remove(self, image: Image) -> None:
        """Forget an image. VMs that run on it are not touched: hosts have copies of their own."""
        with self._locked(image.folder.name, lambda _: None):
            if image.folder.exists():  # not removed by somebody else meanwhile
                partial = image.folder.with_name(image.folder.name + PARTIAL)
                shutil.rmtree(partial, ignore_errors=True)
                image.folder.rename(partial)
                shutil.rmtree(partial)

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # a recipe's files may be secret
            writable = os.access(self.folder, os.W_OK)
        except OSError:
            writable = False
        if not writable:
            raise ImageError(f"the image cache {self.folder} cannot be written", "Set VCLOUD_CACHE_DIR to another folder.")

    def _make(self, entry: str, make: Callable[[Path], Description]) -> Image:
        partial = self.folder / (entry + PARTIAL)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            description = make(partial)
            (partial / "image.json").write_text(json.dumps(asdict(description), indent=2, sort_keys=True) + "\n")
            _flush(partial)
            shutil.rmtree(self.folder / entry, ignore_errors=True)  # of another release, or this would not be asked for
            partial.rename(self.folder / entry)
        except OSError as error:
            what = f"the image {entry} cannot be written: {error.strerror or error}"
            raise ImageError(what, "Free some space, or set VCLOUD_CACHE_DIR to a larger disk.") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        image = _image(self.folder / entry)
        if image is None:
            raise ImageError(f"the image {entry} is incomplete", f"Remove {self.folder / entry} and build it again.")
        return image

    def _sweep(self) -> None:
        """Remove the partial folders that nobody works on."""
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
    """$VCLOUD_CACHE_DIR/images, or `vcloud/images` in the user's cache folder (XDG)."""
    own = os.environ.get("VCLOUD_CACHE_DIR")
    base = Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vcloud"
    return Cache(base.absolute() / "images")


def _entry(name: str, digest: str) -> str:
    return f"{name}-{digest[:SHORT]}"


def _image(folder: Path) -> Image | None:
    """None where there is no image, or not one of this release's format."""
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
    """Data must be on the disk before the rename is: a power cut must not leave an image of zeros."""
    for path in (*folder.iterdir(), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
