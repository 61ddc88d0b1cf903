"""Reads volumes of a host's storage pool: their content, size, time of the last write, and backing
file.
"""

from __future__ import annotations

import libvirt

from vcloud.hosts.connection import Host, found_or_none, is_absent, translated
from vcloud.hosts.metadata import parse
from vcloud.hosts.pool import POOL, StoragePool
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


def usage(pool: StoragePool, prefix: str) -> dict[str, tuple[int, float]]:
    """The volumes whose names begin with `prefix` -> (bytes on the disk, time of the last write by
    the host's clock).
    """
    found = {}
    for name in pool.names(prefix):
        with translated(
            f"the properties of the volume '{name}' could not be read on {pool.host.name}"
        ):
            if (volume := pool.volume(name)) is not None:
                found[name] = (int(volume.info()[2]), _last_written(volume))
    return found


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
        pool = found_or_none(host.connection.storagePoolLookupByName, POOL)
        volume = pool and pool.isActive() and found_or_none(pool.storageVolLookupByName, name)
        return _read(host, volume, 0, min(limit, volume.info()[1])) if volume else b""


def _read_end(pool: StoragePool, volume: libvirt.virStorageVol, limit: int) -> bytes:
    size = volume.info()[1]
    length = min(size, limit)
    return _read(pool.host, volume, size - length, length)


def _read(host: Host, volume: libvirt.virStorageVol, start: int, length: int) -> bytes:
    if not length:
        return b""
    stream = host.connection.newStream()
    volume.download(stream, start, length)
    return b"".join(iter(lambda: receive(stream), b""))


def _last_written(volume: libvirt.virStorageVol) -> float:
    """When the volume was last written, by the host's clock. Infinity if the volume no longer
    exists.
    """
    try:
        return float(parse(volume.XMLDesc()).findtext("target/timestamps/mtime", "inf"))
    except libvirt.libvirtError as error:
        if is_absent(error):
            return float("inf")
        raise
