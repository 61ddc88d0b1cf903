"""Reads volumes of a host's storage pool: their content, their size, when they were written and what they lie over."""

from __future__ import annotations

import libvirt

from vcloud.hosts.connection import Host, found_or_none, is_absent, translated
from vcloud.hosts.metadata import parse
from vcloud.hosts.pool import POOL, StoragePool
from vcloud.hosts.stream import receive


def head(pool: StoragePool, name: str, limit: int) -> bytes:
    """The first bytes of a volume, at most `limit`; empty where there is none of that name."""
    with translated(f"'{name}' could not be read on {pool.host.name}"):
        volume = pool.volume(name)
        return b"" if volume is None else _read(pool.host, volume, 0, min(limit, volume.info()[1]))


def tail(pool: StoragePool, name: str, limit: int) -> bytes:
    """The last bytes of a volume, at most `limit`; empty where there is none of that name."""
    with translated(f"'{name}' could not be read on {pool.host.name}"):
        volume = pool.volume(name)
        if volume is None:
            pool.refresh()  # a log is made by virtlogd, of which the pool hears nothing
            volume = pool.volume(name)
        return b"" if volume is None else _read_tail(pool, volume, limit)


def usage(pool: StoragePool, prefix: str) -> dict[str, tuple[int, float]]:
    """Volumes whose names begin so -> bytes on the disk, and when each was last written, by the host's clock."""
    found = {}
    for name in pool.names(prefix):
        with translated(f"the volume '{name}' could not be looked at on {pool.host.name}"):
            if (volume := pool.volume(name)) is not None:
                found[name] = (int(volume.info()[2]), _modified(volume))
    return found


def backings(pool: StoragePool, prefix: str) -> set[str]:
    """Paths of what the volumes whose names begin so lie over."""
    found = set()
    for name in pool.names(prefix):
        with translated(f"the volume '{name}' could not be looked at on {pool.host.name}"):
            if (volume := pool.volume(name)) is not None:
                found.add(parse(volume.XMLDesc()).findtext("backingStore/path", ""))
    return found


def modified(pool: StoragePool, name: str) -> float:
    """When a volume was last written, in seconds since 1970 by the host's clock; infinity where there is none of that name."""
    with translated(f"the volume '{name}' could not be looked at on {pool.host.name}"):
        volume = pool.volume(name)
        return float("inf") if volume is None else _modified(volume)


def peek(host: Host, name: str, limit: int) -> bytes:
    """The first bytes of a volume, at most `limit`; empty where there is none. Makes no pool."""
    with translated(f"'{name}' could not be looked for on {host.name}"):
        pool = found_or_none(host.connection.storagePoolLookupByName, POOL)
        volume = pool and pool.isActive() and found_or_none(pool.storageVolLookupByName, name)
        return _read(host, volume, 0, min(limit, volume.info()[1])) if volume else b""


def _read_tail(pool: StoragePool, volume: libvirt.virStorageVol, limit: int) -> bytes:
    size = volume.info()[1]
    length = min(size, limit)
    return _read(pool.host, volume, size - length, length)


def _read(host: Host, volume: libvirt.virStorageVol, start: int, length: int) -> bytes:
    if not length:
        return b""
    stream = host.connection.newStream()
    volume.download(stream, start, length)
    return b"".join(iter(lambda: receive(stream), b""))


def _modified(volume: libvirt.virStorageVol) -> float:
    """When the volume was last written, by the host's clock; infinity when it is gone."""
    try:
        return float(parse(volume.XMLDesc()).findtext("target/timestamps/mtime", "inf"))
    except libvirt.libvirtError as error:
        if is_absent(error):
            return float("inf")
        raise
