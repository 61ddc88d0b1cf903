"""The storage pool `vcloud` of a host: volumes are uploaded, made, listed, read and deleted. Whose they are is `vcloud.hosts.volumes`'s.

libvirt cannot rename a volume, and a connection that breaks in the middle of an upload leaves a volume that looks like any other. So
every upload makes a volume of its own (`STEM.ID.SUFFIX`), and an empty volume of the same name with `.complete` behind it is made when,
and only when, the host has confirmed the last byte. What has no such marker is never used. Two operators who upload the same at once
upload it twice, and both are right.
"""

from __future__ import annotations

import io
import re
import secrets
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import libvirt

from vcloud.compile.libvirt.storage import PoolView, VolumeView, render_pool, render_volume
from vcloud.design.addressing import uuid_of
from vcloud.errors import HostError
from vcloud.hosts.connection import Host, found_or_none, is_absent, translated
from vcloud.hosts.metadata import parse
from vcloud.hosts.stream import receive

POOL = "vcloud"
FOLDER = "/var/lib/libvirt/images/vcloud"
COMPLETE = ".complete"
CHUNK = 262_120
"""Bytes per message: what libvirt's own clients send, and every libvirtd takes."""
ABANDONED = 3600
"""Seconds without a written byte after which an unfinished upload counts as abandoned."""
MARGIN = 64 << 20
"""Bytes that must stay free beside what is to be written."""
REFRESH_TRIES = 20

Progress = Callable[[int, int], None]
"""Called with the bytes done and the bytes there are."""


class StoragePool:
    """The pool of one host. It is made when it is first needed. Threads may share it."""

    def __init__(self, host: Host) -> None:
        self.host = host
        with translated(f"the storage pool '{POOL}' could not be made on {host.name}"):
            self._pool = _ensure_pool(host.connection)
            self.folder = parse(self._pool.XMLDesc()).findtext("target/path", FOLDER)

    def path(self, name: str) -> str:
        """Where the volume of that name is, or would be, on the host."""
        return f"{self.folder}/{name}"

    def names(self, *prefixes: str) -> tuple[str, ...]:
        """Volumes whose names begin with one of `prefixes`, also those that others than libvirt have made; in alphabetical order."""
        with translated(f"the volumes of {self.host.name} could not be listed"):
            self._refresh()
            return tuple(sorted(name for name in self._pool.listVolumes() if name.startswith(prefixes)))

    def exists(self, name: str) -> bool:
        with translated(f"the volume '{name}' could not be looked for on {self.host.name}"):
            return self._find(name) is not None

    def make_disk(self, name: str, size: int) -> str:
        """An empty qcow2 of `size` bytes, unless there is a volume of that name already, which is kept. Returns its path."""
        return self._make(VolumeView(name, size, "qcow2"))

    def grow(self, name: str, size: int) -> None:
        """Lets a volume that no running VM has be `size` bytes large.

        Raises:
            HostError: it is larger already: whoever cuts it loses what lies behind the cut.
        """
        with translated(f"the volume '{name}' could not grow on {self.host.name}"):
            volume = self._pool.storageVolLookupByName(name)
            capacity = volume.info()[1]
            if capacity < size:
                volume.resize(size)
        if capacity > size:
            raise HostError(
                f"the volume '{name}' on {self.host.name} has {_mib(capacity)} MiB, and a disk cannot become smaller",
                f"Give the disk {_mib(capacity)}M in the file, or a new name, which makes an empty one.",
            )

    def make_overlay(self, name: str, backing: str, size: int = 0) -> str:
        """A qcow2 over the qcow2 at the path `backing`; `size` 0: as large as that. A volume of that name is kept. Returns its path."""
        if not size:
            with translated(f"'{backing}' could not be looked at on {self.host.name}"):
                size = self.host.connection.storageVolLookupByPath(backing).info()[1]
        return self._make(VolumeView(name, size, "qcow2", backing))

    def put(self, name: str, content: bytes) -> None:
        """A volume with that content, in place of one of that name. Its owner may read it and nobody else."""
        self.delete([name])
        with translated(f"the volume '{name}' could not be written on {self.host.name}"):
            volume = self._pool.createXML(render_volume(VolumeView(name, len(content), "raw")))
            self._send(volume, io.BytesIO(content), len(content))

    def copy(self, source: str, name: str, beginning: bytes) -> None:
        """A volume with the content of another but for its beginning. The host copies; what was there of that name is gone."""
        self.delete([name])
        with translated(f"the volume '{source}' could not be copied on {self.host.name}"):
            volume = self._pool.createXMLFrom(render_volume(VolumeView(name, 0, "raw")), self._pool.storageVolLookupByName(source), 0)
            self._send(volume, io.BytesIO(beginning), len(beginning))

    def overwrite(self, name: str, beginning: bytes) -> None:
        """Writes over the beginning of a volume, which counts as used now."""
        with translated(f"the volume '{name}' could not be written on {self.host.name}"):
            self._send(self._pool.storageVolLookupByName(name), io.BytesIO(beginning), len(beginning))

    def head(self, name: str, limit: int) -> bytes:
        """The first bytes of a volume, at most `limit`."""
        with translated(f"'{name}' could not be read on {self.host.name}"):
            volume = self._pool.storageVolLookupByName(name)
            return _read(self.host, volume, 0, min(limit, volume.info()[1]))

    def usage(self, prefix: str) -> dict[str, tuple[int, float]]:
        """Volumes whose names begin so -> bytes on the disk, and when each was last written, by the host's clock."""
        found = {}
        for name in self.names(prefix):
            with translated(f"the volume '{name}' could not be looked at on {self.host.name}"):
                if (volume := self._find(name)) is not None:
                    found[name] = (int(volume.info()[2]), _modified(volume))
        return found

    def backings(self, prefix: str) -> set[str]:
        """Paths of what the volumes whose names begin so lie over."""
        found = set()
        for name in self.names(prefix):
            with translated(f"the volume '{name}' could not be looked at on {self.host.name}"):
                if (volume := self._find(name)) is not None:
                    found.add(parse(volume.XMLDesc()).findtext("backingStore/path", ""))
        return found

    def delete(self, names: Iterable[str]) -> None:
        """Deletes volumes; one that is not there is no error."""
        for name in names:
            with translated(f"the volume '{name}' could not be deleted on {self.host.name}"):
                volume = self._find(name)
                if volume is not None:
                    found_or_none(volume.delete)

    def tail(self, name: str, limit: int) -> bytes:
        """The last bytes of a volume, at most `limit`; empty where there is none of that name."""
        with translated(f"'{name}' could not be read on {self.host.name}"):
            volume = self._find(name)
            if volume is None:
                self._refresh()  # a log is made by virtlogd, of which the pool hears nothing
                volume = self._find(name)
            return b"" if volume is None else self._read_tail(volume, limit)

    @property
    def free(self) -> int:
        """Bytes that are free in the pool's folder."""
        with translated(f"the free space of {self.host.name} could not be read"):
            self._refresh()
            return int(self._pool.info()[3])

    def require_space(self, needed: int, what: str) -> None:
        """Raises HostError when fewer than `needed` bytes, and some to spare, are free."""
        free = self.free
        if free < needed + MARGIN:
            raise HostError(
                f"{what} needs {_mib(needed + MARGIN)} MiB on {self.host.name}, and {self.folder} has {_mib(free)} MiB free: "
                f"{_mib(needed + MARGIN - free)} MiB are missing",
                f"Free some space on the file system of {self.folder}, then run the command again.",
            )

    def uploaded(self, stem: str, suffix: str) -> str | None:
        """The path of a whole upload of `stem`, or None."""
        with translated(f"the volumes of {self.host.name} could not be listed"):
            names = set(self._pool.listVolumes())
        whole = sorted(name for name in names if _is_upload(name, stem, suffix) and name + COMPLETE in names)
        return self.path(whole[0]) if whole else None

    def any_upload(self, prefix: str, suffix: str) -> str | None:
        """The path of some whole upload whose stem begins with `prefix`, or None."""
        with translated(f"the volumes of {self.host.name} could not be listed"):
            names = set(self._pool.listVolumes())
        whole = [name for name in sorted(names) if name.startswith(prefix) and name.endswith(suffix) and name + COMPLETE in names]
        return self.path(whole[0]) if whole else None

    def upload(self, source: Path, stem: str, suffix: str, progress: Progress = lambda _done, _all: None) -> str:
        """Brings a file to the host, unless a whole upload of `stem` is there. Returns its path there.

        `stem` names the content (it holds a digest), so equal stems mean equal bytes.

        Raises:
            HostError: there is no room, or the connection broke. Nothing of the attempt will ever be used.
        """
        if found := self.uploaded(stem, suffix):
            return found
        size = source.stat().st_size
        self.require_space(size, f"the upload of {source.name}")
        name = f"{stem}.{secrets.token_hex(4)}{suffix}"
        with translated(f"{source.name} could not be brought to {self.host.name}"):
            volume = self._pool.createXML(render_volume(VolumeView(name, size, "raw")))
            try:
                self._sweep(stem, suffix, _modified(volume))
                with source.open("rb") as file:
                    self._send(volume, file, size, progress)
                self._pool.createXML(render_volume(VolumeView(name + COMPLETE, 0, "raw")))
            except BaseException:
                with suppress(libvirt.libvirtError):
                    volume.delete()
                raise
        return self.path(name)

    def _send(self, volume: libvirt.virStorageVol, source: BinaryIO, size: int, progress: Progress = lambda _done, _all: None) -> None:
        stream = self.host.connection.newStream()
        volume.upload(stream, 0, size)
        done = 0
        try:
            while chunk := source.read(CHUNK):
                sent = 0
                while sent < len(chunk):
                    sent += stream.send(chunk[sent:])
                done += sent
                progress(done, size)
            stream.finish()
        except BaseException:
            with suppress(libvirt.libvirtError):
                stream.abort()
            raise

    def _sweep(self, stem: str, suffix: str, now: float) -> None:
        """Deletes what abandoned uploads of the same left behind. `now` is the host's time: clocks differ."""
        names = set(self._pool.listVolumes())
        for name in names:
            if not _is_upload(name, stem, suffix) or name + COMPLETE in names:
                continue
            volume = self._find(name)
            if volume is not None and now - _modified(volume) > ABANDONED:
                found_or_none(volume.delete)

    def _read_tail(self, volume: libvirt.virStorageVol, limit: int) -> bytes:
        size = volume.info()[1]
        length = min(size, limit)
        return _read(self.host, volume, size - length, length)

    def _make(self, volume: VolumeView) -> str:
        with translated(f"the volume '{volume.name}' could not be made on {self.host.name}"):
            try:
                self._pool.createXML(render_volume(volume))
            except libvirt.libvirtError as error:
                if error.get_error_code() != libvirt.VIR_ERR_STORAGE_VOL_EXIST:
                    raise
        return self.path(volume.name)

    def _find(self, name: str) -> Any:
        return found_or_none(self._pool.storageVolLookupByName, name)

    def _refresh(self) -> None:
        """Lets libvirt look at the folder again. It refuses while a volume is being made or uploaded: what it knows is then good enough."""
        for _ in range(REFRESH_TRIES):
            try:
                self._pool.refresh()
                return
            except libvirt.libvirtError as error:
                if "asynchronous jobs" not in str(error):
                    raise
                time.sleep(0.05)


def peek(host: Host, name: str, limit: int) -> bytes:
    """The first bytes of a volume, at most `limit`; empty where there is none. Makes no pool."""
    with translated(f"'{name}' could not be looked for on {host.name}"):
        pool = found_or_none(host.connection.storagePoolLookupByName, POOL)
        volume = pool and pool.isActive() and found_or_none(pool.storageVolLookupByName, name)
        return _read(host, volume, 0, min(limit, volume.info()[1])) if volume else b""


def _read(host: Host, volume: libvirt.virStorageVol, start: int, length: int) -> bytes:
    if not length:
        return b""
    stream = host.connection.newStream()
    volume.download(stream, start, length)
    return b"".join(iter(lambda: receive(stream), b""))


def _ensure_pool(connection: libvirt.virConnect) -> libvirt.virStoragePool:
    pool = found_or_none(connection.storagePoolLookupByName, POOL)
    if pool is None:
        pool = connection.storagePoolDefineXML(render_pool(PoolView(POOL, FOLDER, "0711", uuid_of("pool", POOL))))
        pool.setAutostart(1)
    if not pool.isActive():
        try:
            pool.create(libvirt.VIR_STORAGE_POOL_CREATE_WITH_BUILD)
        except libvirt.libvirtError:
            if not pool.isActive():  # somebody else may have been faster
                raise
    return pool


def _is_upload(name: str, stem: str, suffix: str) -> bool:
    return re.fullmatch(rf"{re.escape(stem)}\.[0-9a-f]{{8}}{re.escape(suffix)}", name) is not None


def _modified(volume: libvirt.virStorageVol) -> float:
    """When the volume was last written, by the host's clock; infinity when it is gone."""
    try:
        return float(parse(volume.XMLDesc()).findtext("target/timestamps/mtime", "inf"))
    except libvirt.libvirtError as error:
        if is_absent(error):
            return float("inf")
        raise


def _mib(size: int) -> int:
    return -(-size >> 20)
