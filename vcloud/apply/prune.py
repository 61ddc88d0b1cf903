"""Frees what copies of images take: in this machine's cache, and on a host.

What is needed stays. In the cache that is the image of each recipe as it is now. On a host it is what
any VM or memory image uses (`vcloud.hosts.host_images`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from vcloud.errors import VcloudError
from vcloud.fleet.fleet import open_fleet
from vcloud.hosts.host_images import Copy, Freeable, HostImages
from vcloud.hosts.pool import StoragePool
from vcloud.images.cache import Cache, Image
from vcloud.images.refresh import outdated

NOTHING = Freeable({}, {})


@dataclass(frozen=True, slots=True)
class OnHost:
    """What was found, or done, on a host."""

    host: str
    """Its name; empty where no host was asked."""
    freeable: Freeable = NOTHING
    kept: tuple[str, ...] = ()
    """What stays, with the reasons."""
    unasked: str = ""
    """Why no host could be asked."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """What is to be freed, or was."""

    images: tuple[Image, ...]
    """Of the cache."""
    bytes_of_images: int
    there: OnHost


def choose_outdated(
    cache: Cache, connect: str | None, *, cache_only: bool = False, memory_images: bool = False
) -> Chosen:
    """What nobody needs any more. Changes nothing.

    Raises HostError where the host cannot tell what is used there. Where no host was named and none can
    be opened, only the cache is looked at.
    """
    images = outdated(cache.list())
    there = _look(None, connect, cache_only=cache_only, memory_images=memory_images)
    return Chosen(images, bytes_freed(images), there)


def choose_named(
    images: Sequence[Image],
    names: Collection[str] | None,
    connect: str | None,
    *,
    cache_only: bool = False,
) -> Chosen:
    """These images of the cache, and the copies of the images `names` on the host that nobody uses; None:
    all of them. Changes nothing. Raises as `choose_outdated` does.
    """
    there = _look(names, connect, cache_only=cache_only, memory_images=False)
    return Chosen(tuple(images), bytes_freed(images), there)


def free(cache: Cache, chosen: Chosen, connect: str | None) -> Chosen:
    """Deletes what was chosen. Returns what is gone. What somebody has begun to use meanwhile stays.

    Raises LockedError where a run is at work on the host, HostError where it cannot be told who uses
    what there. The cache is cleared before that.
    """
    for image in chosen.images:
        cache.remove(image)
    there = chosen.there
    if not there.freeable.number:
        return chosen
    with open_fleet(connect) as fleet:
        pool = StoragePool.existing(fleet.home)
        if pool is None:
            return chosen
        gone, taken = HostImages(fleet.home, pool).free(there.freeable)
    return Chosen(
        chosen.images, chosen.bytes_of_images, OnHost(there.host, gone, (*there.kept, *taken))
    )


def copies_on(connect: str | None) -> tuple[str, tuple[Copy, ...]]:
    """The name of the host, and its copies of images. Raises HostError."""
    with open_fleet(connect) as fleet:
        pool = StoragePool.existing(fleet.home)
        return fleet.home.name, HostImages(fleet.home, pool).list() if pool else ()


def _look(
    names: Collection[str] | None, connect: str | None, *, cache_only: bool, memory_images: bool
) -> OnHost:
    if cache_only:
        return OnHost("")
    with ExitStack() as stack:
        try:
            host = stack.enter_context(open_fleet(connect)).home
        except VcloudError as error:
            # A machine that only builds images has no host, and nobody has asked for one.
            if connect is not None:
                raise
            return OnHost("", unasked=error.what)
        pool = StoragePool.existing(host)
        if pool is None:
            return OnHost(host.name)
        images = HostImages(host, pool)
        seen = images.look()
        found = images.freeable(names, memory_images=memory_images, seen=seen)
        kept = _kept(images.list(seen), names) if names is not None else ()
        return OnHost(host.name, found, kept)


def _kept(copies: Iterable[Copy], names: Collection[str]) -> tuple[str, ...]:
    """The copies that were named and stay, with their users."""
    return tuple(
        f"{copy.name}-{copy.content[:12]}, which {copy.users[0]} uses"
        + f" and {len(copy.users) - 1} more" * (len(copy.users) > 1)
        for copy in copies
        if copy.users and copy.is_called(names)
    )


def bytes_freed(images: Iterable[Image]) -> int:
    """Bytes that these images of the cache take on the disk, without what other images share with
    them.
    """
    files = [path.stat() for image in images for path in image.folder.iterdir()]
    shared = Counter((found.st_dev, found.st_ino) for found in files)
    unique = {(found.st_dev, found.st_ino): found for found in files}
    return sum(
        found.st_blocks * 512 for inode, found in unique.items() if found.st_nlink <= shared[inode]
    )
