"""Reads volumes of a host's storage pool: their content, size, time of the last write, and backing
file.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

import libvirt

from vcloud.errors import HostError
from vcloud.hosts.connection import Host, found_or_none, run_parallel, translated
from vcloud.hosts.metadata import parse
from vcloud.hosts.pool import StoragePool
from vcloud.hosts.stream import receive


def read_start(pool: StoragePool, name: str, limit: int) -> bytes:
    """The first bytes of a volume, at most `limit`. Empty if there is no volume of that name."""
    with translated(f"'{name}' could not be read on {pool.host.name}"):
        volume = pool.volume(name)
        return b"" if volume is None else _read(pool.host, volume, 0, min(limit, volume.info()[1]))


def read_end(pool: StoragePool, name: str, limit: int) -> bytes:
    """The last bytes of a volume, at most `limit`. Empty if there is no volume of that name."""
    with translated(f"'{name}' could not be read on {pool.host.name}"):
        volume = pool.volume(name)
        if volume is None:
            # virtlogd creates console logs, and the pool notices new files only when it is
            # refreshed.
            pool.refresh()
            volume = pool.volume(name)
        return b"" if volume is None else _read_end(pool, volume, limit)


def usage(pool: StoragePool, *prefixes: str) -> dict[str, tuple[int, float]]:
    """The volumes whose names begin with one of `prefixes` -> (bytes on the disk, time of the last
    write by the host's clock).
    """
    found = {}
    for name in pool.names(*prefixes):
        with translated(
            f"the properties of the volume '{name}' could not be read on {pool.host.name}"
        ):
            if (volume := pool.volume(name)) is not None:
                found[name] = (int(volume.info()[2]), _last_written(volume))
    return found


def sizes(pool: StoragePool, names: Iterable[str]) -> dict[str, int]:
    """Volume -> bytes, as a guest sees it, of those of these volumes that exist."""

    def size_of(name: str) -> tuple[str, int] | None:
        with translated(f"the size of the volume '{name}' could not be read on {pool.host.name}"):
            volume = pool.volume(name)
            found = volume and found_or_none(volume.info)
            return (name, int(found[1])) if found else None

    return dict(filter(None, run_parallel([functools.partial(size_of, name) for name in names])))


def file_size(pool: StoragePool, name: str) -> int:
    """Bytes of a volume's file, with its holes. Raises HostError, also if there is no such volume."""
    with translated(f"the size of the volume '{name}' could not be read on {pool.host.name}"):
        volume = pool.volume(name)
        if volume is None:
            raise HostError(f"there is no volume '{name}' on {pool.host.name}")
        # A libvirt that does not tell it has raw volumes only, whose capacity it is.
        return int(parse(volume.XMLDesc()).findtext("physical") or volume.info()[1])


def backing_file_of(pool: StoragePool, name: str) -> str:
    """The path of the file that a volume is based on; empty if there is none. Raises HostError."""
    with translated(f"the properties of the volume '{name}' could not be read on {pool.host.name}"):
        volume = pool.volume(name)
        return parse(volume.XMLDesc()).findtext("backingStore/path", "") if volume else ""


def backing_files(pool: StoragePool, prefix: str) -> set[str]:
    """The paths of the backing files of all volumes whose names begin with `prefix`."""
    found = set()
    for name in pool.names(prefix):
        with translated(
            f"the properties of the volume '{name}' could not be read on {pool.host.name}"
        ):
            if (volume := pool.volume(name)) is not None:
                found.add(parse(volume.XMLDesc()).findtext("backingStore/path", ""))
    return found


def last_written(pool: StoragePool, name: str) -> float:
    """When a volume was last written, in seconds since 1970 by the host's clock. Infinity if there
    is no volume of that name.
    """
    with translated(f"the properties of the volume '{name}' could not be read on {pool.host.name}"):
        volume = pool.volume(name)
        return float("inf") if volume is None else _last_written(volume)


def read_start_without_pool(host: Host, name: str, limit: int) -> bytes:
    """The first bytes of a volume, at most `limit`. Empty if there is none.

    Unlike `read_start` it does not create the storage pool, so that a command that only reads
    changes nothing on the host.
    """
    with translated(f"'{name}' could not be searched for on {host.name}"):
        pool = StoragePool.existing(host)
        volume = pool and pool.volume(name)
        return _read(host, volume, 0, min(limit, volume.info()[1])) if volume else b""


def _read_end(pool: StoragePool, volume: libvirt.virStorageVol, limit: int) -> bytes:
    size = volume.info()[1]
    length = min(size, limit)
    return _read(pool.host, volume, size - length, length)


def _read(host: Host, volume: libvirt.virStorageVol, start: int, length: int) -> bytes:
    if not length:
        return b""
    with translated(f"a volume could not be read to its end on {host.name}"):
        stream = host.connection.newStream()
        volume.download(stream, start, length)
        return b"".join(iter(lambda: receive(stream), b""))


def _last_written(volume: libvirt.virStorageVol) -> float:
    """When the volume was last written, by the host's clock. Infinity if the volume no longer
    exists.
    """
    # A volume without a time then looks new, so nobody deletes it as abandoned.
    xml = found_or_none(volume.XMLDesc)
    return float(parse(xml).findtext("target/timestamps/mtime", "inf") if xml else "inf")
