"""The storage pool `vcloud` of a host: makes, lists, reads and deletes volumes. `vcloud.hosts.volumes` knows which VM each one belongs to."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, BinaryIO

import libvirt

from vcloud.compile.libvirt.storage import PoolView, VolumeView, render_pool, render_volume
from vcloud.design.addressing import uuid_of
from vcloud.errors import HostError
from vcloud.hosts.connection import Host, found_or_none, translated
from vcloud.hosts.metadata import parse

POOL = "vcloud"
FOLDER = "/var/lib/libvirt/images/vcloud"
CHUNK = 262_120
"""Bytes per message: what libvirt's own clients send, and every libvirtd takes."""
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
            self.refresh()
            return tuple(sorted(name for name in self._pool.listVolumes() if name.startswith(prefixes)))

    def exists(self, name: str) -> bool:
        with translated(f"the volume '{name}' could not be looked for on {self.host.name}"):
            return self.volume(name) is not None

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

    def delete(self, names: Iterable[str]) -> None:
        """Deletes volumes; one that is not there is no error."""
        for name in names:
            with translated(f"the volume '{name}' could not be deleted on {self.host.name}"):
                volume = self.volume(name)
                if volume is not None:
                    found_or_none(volume.delete)

    @property
    def free(self) -> int:
        """Bytes that are free in the pool's folder."""
        with translated(f"the free space of {self.host.name} could not be read"):
            self.refresh()
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

    def known(self) -> set[str]:
        """Names of the volumes that libvirt knows of, without a new look at the folder."""
        with translated(f"the volumes of {self.host.name} could not be listed"):
            return set(self._pool.listVolumes())

    def fill(self, name: str, source: BinaryIO, size: int, progress: Progress) -> None:
        """A new volume with the `size` bytes of a file. Of an attempt that fails nothing stays."""
        with translated(f"the volume '{name}' could not be written on {self.host.name}"):
            volume = self._pool.createXML(render_volume(VolumeView(name, size, "raw")))
            try:
                self._send(volume, source, size, progress)
            except BaseException:
                with suppress(libvirt.libvirtError):
                    volume.delete()
                raise

    def make_empty(self, name: str) -> None:
        """A volume without content, whose name alone says something."""
        self._make(VolumeView(name, 0, "raw"))

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

    def _make(self, volume: VolumeView) -> str:
        with translated(f"the volume '{volume.name}' could not be made on {self.host.name}"):
            try:
                self._pool.createXML(render_volume(volume))
            except libvirt.libvirtError as error:
                if error.get_error_code() != libvirt.VIR_ERR_STORAGE_VOL_EXIST:
                    raise
        return self.path(volume.name)

    def volume(self, name: str) -> Any:
        """libvirt's own object (virStorageVol) of a volume; None where there is none of that name."""
        return found_or_none(self._pool.storageVolLookupByName, name)

    def refresh(self) -> None:
        """Lets libvirt look at the folder again. It refuses while a volume is being made or uploaded: what it knows is then good enough."""
        for _ in range(REFRESH_TRIES):
            try:
                self._pool.refresh()
                return
            except libvirt.libvirtError as error:
                if "asynchronous jobs" not in str(error):
                    raise
                time.sleep(0.05)


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


def _mib(size: int) -> int:
    return -(-size >> 20)
