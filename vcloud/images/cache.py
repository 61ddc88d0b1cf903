"""The image cache: one folder per image. The folder's name contains the digests of the image's
recipe and of its bytes. A finished folder appears by a single rename.

An image is made in the folder `NAME-DIGEST.partial` under a lock on the file `.NAME-DIGEST.lock`.
The kernel releases the lock when its holder ends. So if the lock of a partial folder is free, a
build was killed, and the next build removes the folder.

The finished folder is `NAME-DIGEST+CONTENT`. So the bytes at a path of the cache never change: an
image that is built anew gets a new folder, and the old one is removed afterwards.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from vcloud.errors import ImageError
from vcloud.images.description import (
    BEFORE_CONTENT,
    DIGEST_DIGITS,
    Description,
    content_of,
    entry_of,
    now,
    packages_in,
    read_description,
    write_description,
)
from vcloud.images.jail import remove_leftovers
from vcloud.packages import packages_digest
from vcloud.plan.manifest import VmImage
from vcloud.untrusted import UnreadableError

PARTIAL = ".partial"
LONGEST_NAME = 100
"""Characters of an image's name. On hosts, names of volumes add more; a file's name has at most
255.
"""


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
    """Bytes of memory of a VM if the vApp file does not say how much. 0 if the image does not say
    it either.
    """
    disks: Mapping[str, str]
    """Name of a data disk -> the folder where the image mounts it."""
    packages: tuple[str, ...]
    """Installed packages as `name=version`, sorted. Empty for a user's qcow2."""
    content: str
    """SHA-256 in hex of the disk, the kernel, the initramfs and the kernel's command line. For a
    user's qcow2: of the file.
    """
    built: str
    """When the build began, or a user's qcow2 was copied, in UTC (ISO 8601)."""
    checked: str = ""
    """When a later build last gave the same packages. Empty if there was none."""
    source: str = ""
    """The folder of the recipe, or the path or address of the qcow2. Empty if an earlier release
    did not note it.
    """
    added: tuple[str, ...] = ()
    """The packages that were added to the recipe."""

    @property
    def build(self) -> VmImage:
        """The build as a manifest notes it."""
        return VmImage(self.digest, self.content, packages_digest(self.packages), self.built)

    @property
    def current(self) -> str:
        """The last time at which its packages were known to be the newest ones."""
        return max(self.built, self.checked)

    @property
    def entry(self) -> str:
        """The name of its folder in the cache: NAME-DIGEST."""
        return entry_of(self.name, self.digest)


class Cache:
    """The images in one folder. Several processes may use the folder at the same time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, name: str, digest: str) -> Image | None:
        """The image of that name and digest. None if the cache does not have it."""
        found = filter(None, map(_image, self._folders(entry_of(name, digest))))
        # The folder's name has only a part of the digest, so another image may have the same name.
        same = [image for image in found if (image.name, image.digest) == (name, digest)]
        return max(same, key=lambda image: image.built, default=None)

    def _folders(self, entry: str) -> tuple[Path, ...]:
        """The folders of an image. While it is built anew, there may be two. In folders of earlier
        releases, the name has no content digest.
        """
        return tuple(
            path for path in self._finished() if path.name.partition(BEFORE_CONTENT)[0] == entry
        )

    def list(self) -> tuple[Image, ...]:
        """All images, sorted by name and digest. Raises ImageError if the cache cannot be read."""
        return tuple(image for folder in self._finished() if (image := _image(folder)))

    def _finished(self) -> tuple[Path, ...]:
        """All folders of the cache but those of unfinished builds, in alphabetical order."""
        try:
            paths = sorted(self.folder.iterdir()) if self.folder.is_dir() else []
        except OSError as error:
            raise self._unusable("read") from error
        return tuple(path for path in paths if path.suffix != PARTIAL)

    def fill(
        self,
        name: str,
        digest: str,
        make: Callable[[Path], Description],
        progress: Callable[[str], None],
    ) -> Image:
        """The image of this digest. If the cache does not have it, `make` makes it in the folder
        that it is given.

        Raises what `make` raises; then no part of the image is kept. Raises ImageError if the cache
        cannot be written.
        """
        if image := self.get(name, digest):
            return image
        self._make_folder()
        entry = entry_of(name, digest)
        with self._locked(entry, progress):
            self._sweep()
            # Another process may have made the image while this one waited for the lock.
            return self.get(name, digest) or self._make(entry, make)

    def renew(
        self,
        name: str,
        digest: str,
        make: Callable[[Path], Description],
        progress: Callable[[str], None],
    ) -> tuple[Image | None, Image]:
        """Makes an image anew, even if the cache has it. The earlier image is kept if that fails, or if
        the new image has the same packages, because then a VM would not gain anything from it.

        Returns the earlier image, and the image that the cache has now. Raises as `fill` does.
        """
        asked = now()
        self._make_folder()
        entry = entry_of(name, digest)
        with self._locked(entry, progress):
            self._sweep()
            before = self.get(name, digest)
            # Another process may have made the image anew while this one waited for the lock.
            if before and asked <= before.current <= now():
                return before, before
            after = self._make(entry, make, before)
            for folder in self._folders(entry):
                if folder != after.folder:
                    self._remove_folder(folder)
            return before, after

    def remove(self, image: Image) -> None:
        """Removes an image from the cache. This does not affect VMs, because hosts have their own
        copies.
        """
        with self._locked(image.entry, lambda _: None):
            for folder in self._folders(image.entry):
                self._remove_folder(folder)

    def _remove_folder(self, folder: Path) -> None:
        """Renames the folder before it removes it, so that no process sees an incomplete image."""
        partial = folder.with_name(folder.name + PARTIAL)
        shutil.rmtree(partial, ignore_errors=True)
        folder.rename(partial)
        shutil.rmtree(partial)

    def _make_folder(self) -> None:
        try:
            # Only the user may read the cache, because the files of a recipe may be secret.
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            writable = os.access(self.folder, os.W_OK)
        except OSError:
            writable = False
        if not writable:
            raise self._unusable("written")

    def _unusable(self, what: str) -> ImageError:
        return ImageError(
            f"the image cache {self.folder} cannot be {what}",
            "Set VCLOUD_CACHE_DIR to a folder that you can write.",
        )

    def _make(
        self, entry: str, make: Callable[[Path], Description], before: Image | None = None
    ) -> Image:
        """Makes an image. Returns `before` if the new image has the same packages."""
        partial = self.folder / (entry + PARTIAL)
        remove_leftovers(partial)
        partial.mkdir()
        try:
            built = now()
            made = replace(make(partial), built=built)
            made = replace(made, content=made.content or content_of(partial, made.cmdline))
            write_description(partial, made)
            if before and before.packages == packages_in(partial):
                write_description(before.folder, replace(_described(before), checked=built))
                return replace(before, checked=built)
            _flush(partial)
            place = self.folder / f"{entry}{BEFORE_CONTENT}{made.content[:DIGEST_DIGITS]}"
            # These are folders that `get` ignored: an image in the format of another release,
            # another image whose digest begins in the same way, or something that somebody else has
            # put there.
            for stale in (place, *self._folders(entry)):
                if stale == place or not _is_same(_image(stale), made):
                    _remove(stale)
            partial.rename(place)
        except OSError as error:
            what = f"the image {entry} cannot be written: {error.strerror or error}"
            raise ImageError(
                what, "Free some space, or set VCLOUD_CACHE_DIR to a folder on a larger disk."
            ) from error
        finally:
            remove_leftovers(partial)
        image = _image(place)
        if image is None:
            raise ImageError(
                f"the image {entry} is incomplete",
                f"Remove the folder {place}, then run the command again.",
            )
        return image

    def _sweep(self) -> None:
        """Removes the partial folders of builds that have ended."""
        for partial in self.folder.glob(f"*{PARTIAL}"):
            entry = partial.name.removesuffix(PARTIAL).partition(BEFORE_CONTENT)[0]
            with self._try_lock(entry) as free:
                if free:
                    remove_leftovers(partial)

    def _lock_file(self, entry: str) -> IO[str]:
        """Opens the lock file. It is never deleted, because two processes could then lock two
        different files of the same name.
        """
        try:
            return (self.folder / f".{entry}.lock").open("w")
        except OSError as error:
            raise self._unusable("written") from error

    @contextmanager
    def _locked(self, entry: str, progress: Callable[[str], None]) -> Iterator[None]:
        with self._lock_file(entry) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                progress(f"{entry}: waiting for another build of the same image")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _try_lock(self, entry: str) -> Iterator[bool]:
        with self._lock_file(entry) as lock:
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


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def plain_name(name: str) -> str:
    """The name with characters that are allowed in names of files, volumes and locks."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", name)[:LONGEST_NAME]


def _image(folder: Path) -> Image | None:
    """The image in a folder. None if there is none, if it has another format, or if its files are
    not those that vcloud wrote.
    """
    kernel, initrd = folder / "vmlinux", folder / "initrd.cpio"
    try:
        description = read_description(folder)
        packages = packages_in(folder)
        whole = (folder / "disk.qcow2").is_file()
    # ValueError: the list of packages is not UTF-8.
    except (OSError, UnreadableError, ValueError):
        return None
    entry = folder.name.partition(BEFORE_CONTENT)[0]
    if not whole or entry != entry_of(description.name, description.digest):
        return None
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
        packages=packages,
        content=description.content,
        built=description.built,
        checked=description.checked,
        source=description.source,
        added=description.added,
    )


def _is_same(image: Image | None, made: Description) -> bool:
    return image is not None and (image.name, image.digest) == (made.name, made.digest)


def _described(image: Image) -> Description:
    return Description(
        image.name,
        image.digest,
        image.cmdline,
        image.memory,
        dict(image.disks),
        image.content,
        image.built,
        image.checked,
        image.source,
        image.added,
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
