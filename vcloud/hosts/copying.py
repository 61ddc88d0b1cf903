"""Copies volumes and images from one host to another, through libvirt's streams.

The bytes come from one host and go to the other in small parts, so that a large disk needs no memory
here. They travel over the two connections that are open already, with the host keys that these have
checked. A copy counts only when it was read back from the host, and has the digest of what was sent.
"""

from __future__ import annotations

import functools
import hashlib
import secrets
from collections.abc import Callable, Iterable
from pathlib import PurePosixPath

import libvirt

from vcloud.errors import HostError
from vcloud.hosts.connection import translated
from vcloud.hosts.pool import Progress, StoragePool
from vcloud.hosts.stream import receive
from vcloud.hosts.uploads import uploaded
from vcloud.hosts.volume_reading import file_size, read_start
from vcloud.hosts.volumes import ABOUT_LIMIT, about_image
from vcloud.plan.backing import HEAD, with_backing_file
from vcloud.plan.host_images import ABOUT, COMPLETE, KINDS, stem, suffix
from vcloud.untrusted import UnreadableError


class _Download:
    """The bytes of a volume, as a file that can only be read once."""

    def __init__(self, pool: StoragePool, name: str, change: Callable[[bytes], bytes]) -> None:
        """`change` gets the first `HEAD` bytes, and returns as many to send in their place."""
        self._pool, self._name = pool, name
        self._change = change
        self._rest = b""
        self._began = False
        self._digest = hashlib.sha256()
        self._stream = self._opened()
        self.bytes = 0
        """The number of bytes that were read."""

    @property
    def digest(self) -> str:
        """SHA-256 in hex of the bytes that were read."""
        return self._digest.hexdigest()

    def read(self, size: int) -> bytes:
        """At most `size` bytes; empty at the end. Raises HostError, UnreadableError."""
        if not self._began:
            self._began = True
            while len(self._rest) < HEAD and (more := self._received()):
                self._rest += more
            self._rest = self._change(self._rest[:HEAD]) + self._rest[HEAD:]
        if not self._rest:
            self._rest = self._received()
        part, self._rest = self._rest[:size], self._rest[size:]
        self._digest.update(part)
        self.bytes += len(part)
        return part

    def _opened(self) -> libvirt.virStream:
        with translated(f"'{self._name}' could not be read on {self._pool.host.name}"):
            volume = self._pool.volume(self._name)
            if volume is None:
                raise HostError(f"the volume '{self._name}' is gone from {self._pool.host.name}")
            stream = self._pool.host.connection.newStream()
            # Length 0: to the end of the file.
            volume.download(stream, 0, 0)
            return stream

    def _received(self) -> bytes:
        with translated(f"'{self._name}' could not be read to its end on {self._pool.host.name}"):
            return receive(self._stream)


def digest_of_volume(pool: StoragePool, name: str) -> str:
    """SHA-256 in hex of a volume's file. Raises HostError."""
    download = _Download(pool, name, lambda head: head)
    while download.read(HEAD):
        pass
    return download.digest


def copy_volume(
    source: StoragePool,
    destination: StoragePool,
    name: str,
    target: str,
    backing: str = "",
    progress: Progress = lambda _done, _all: None,
) -> str:
    """Copies the volume `name` to the volume `target` on another host, which replaces one of that name.
    Returns SHA-256 in hex of the copy.

    With `backing`, the copy is a qcow2 that is based on the file of that path there. No VM may write
    to the volume meanwhile.

    Raises HostError if a host fails, or if the copy has not the bytes that were sent.
    """
    size = file_size(source, name)
    destination.require_space(size, f"a copy of '{name}'")
    destination.delete([target])
    change = functools.partial(with_backing_file, path=backing) if backing else lambda head: head
    download = _Download(source, name, change)
    try:
        destination.fill(target, download, size, progress)
    except UnreadableError as error:
        raise HostError(
            f"'{name}' on {source.host.name} cannot be copied: {error}",
            "Nothing was deleted there.",
        ) from None
    if download.bytes != size or digest_of_volume(destination, target) != download.digest:
        destination.delete([target])
        raise HostError(
            f"the copy of '{name}' on {destination.host.name} is not what was read on {source.host.name}",
            "The copy was deleted. Nothing was deleted on the source. Run the command again.",
        )
    return download.digest


def missing_files(
    source: StoragePool, destination: StoragePool | None, image: str, content: str
) -> dict[str, int]:
    """The files of an image that the destination lacks -> their bytes. `destination` is None for a host
    without a pool, which lacks all.

    Raises HostError if the source does not have the whole image.
    """
    return {
        name: file_size(source, name)
        for kind, name in _files(source, image, content).items()
        if destination is None
        or not uploaded(destination, stem(kind, image, content), suffix(kind))
    }


def copy_image(
    source: StoragePool,
    destination: StoragePool,
    image: str,
    content: str,
    progress: Progress = lambda _done, _all: None,
) -> str:
    """Copies those files of an image that the destination lacks. Returns the path of the image's disk
    there. Raises as `copy_volume` and `missing_files` do.
    """
    for kind, name in _files(source, image, content).items():
        if uploaded(destination, stem(kind, image, content), suffix(kind)):
            continue
        # A name of its own, like every upload: what a killed run left is never taken for complete.
        target = f"{stem(kind, image, content)}.{secrets.token_hex(4)}{suffix(kind)}"
        copy_volume(source, destination, name, target, progress=progress)
        if kind == "disk":
            destination.put(target + ABOUT, read_start(source, name + ABOUT, ABOUT_LIMIT))
        destination.make_empty(target + COMPLETE)
    disk = uploaded(destination, stem("disk", image, content), suffix("disk"))
    if disk is None:
        raise HostError(
            f"the image '{image}' is not on {destination.host.name} after it was copied"
        )
    return disk


def _files(source: StoragePool, image: str, content: str) -> dict[str, str]:
    """Kind -> volume, of all files of an image on a host; the disk comes last. Raises HostError."""
    disk = uploaded(source, stem("disk", image, content), suffix("disk"))
    about = about_image(source, PurePosixPath(disk).name) if disk else None
    kinds: Iterable[str] = [kind for kind in reversed(KINDS) if about and kind in about.kinds]
    found = {kind: uploaded(source, stem(kind, image, content), suffix(kind)) for kind in kinds}
    names = {kind: PurePosixPath(path).name for kind, path in found.items() if path}
    if "disk" not in names or names.keys() != found.keys():
        raise HostError(
            f"{source.host.name} does not have the whole image '{image}' ({content[:12]}) from which the VM was made",
            "`vcloud up --refresh` makes the VM anew from an image of today.",
        )
    return names
