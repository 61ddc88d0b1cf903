"""The storage pool `vcloud` of a host: creates, lists, writes and deletes volumes.

`vcloud.hosts.volumes` knows which VM a volume belongs to. `vcloud.hosts.volume_reading` reads
volumes.
"""

from __future__ import annotations

import functools
import io
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Protocol, Self

import libvirt

from vcloud.compile.libvirt.storage import PoolView, VolumeView, render_pool, render_volume
from vcloud.design.addressing import uuid_of
from vcloud.errors import HostError
from vcloud.hosts.connection import Host, found_or_none, translated
from vcloud.hosts.metadata import parse
from vcloud.placement.capacity import SPARE
from vcloud.plan.preparation import POOL_FOLDER

POOL = "vcloud"
FOLDER = POOL_FOLDER
CHUNK = 262_120
"""Bytes in one stream message. libvirt's own clients send messages of this size, and every libvirtd
accepts them.
"""
REFRESH_ATTEMPTS = 20
"""How often `refresh` tries while libvirt is busy with a volume; about 1 s in all."""

Progress = Callable[[int, int], None]
"""A function that is called with the number of bytes done and the number of all bytes."""


class Readable(Protocol):
    """What gives bytes, such as an open file."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; empty at the end."""


class StoragePool:
    """The storage pool of one host. The constructor creates the pool if the host has none. Threads
    may share an object.
    """

    def __init__(self, host: Host, pool: libvirt.virStoragePool | None = None) -> None:
        self.host = host
        with translated(f"the storage pool '{POOL}' could not be made on {host.name}"):
            self._found = pool or _ensure_pool(host.connection)

    @functools.cached_property
    def folder(self) -> str:
        """The pool's folder on the host. It is read when somebody first asks for it."""
        with translated(
            f"the folder of the storage pool '{POOL}' could not be read on {self.host.name}"
        ):
            return parse(self._pool.XMLDesc()).findtext("target/path", FOLDER)

    @property
    def _pool(self) -> libvirt.virStoragePool:
        """libvirt's own object, for one call. Asks for the lock, as `Host.connection` does."""
        self.host.require_lock()
        return self._found

    @classmethod
    def existing(cls, host: Host) -> Self | None:
        """The storage pool of a host for a command that only reads: None if there is none, or if it
        is stopped.
        """
        with translated(f"the storage pool '{POOL}' of {host.name} could not be read"):
            pool = found_or_none(host.connection.storagePoolLookupByName, POOL)
            return cls(host, pool) if pool is not None and pool.isActive() else None

    def path(self, name: str) -> str:
        """The path on the host of the volume of that name, whether or not the volume exists."""
        return f"{self.folder}/{name}"

    def names(self, *prefixes: str) -> tuple[str, ...]:
        """The volumes whose names begin with one of `prefixes`, in alphabetical order.

        It includes files in the pool's folder that another program than libvirt has created.
        """
        with translated(f"the volumes of {self.host.name} could not be listed"):
            self.refresh()
            return tuple(
                sorted(name for name in self._pool.listVolumes() if name.startswith(prefixes))
            )

    def exists(self, name: str) -> bool:
        with translated(f"the volume '{name}' could not be searched for on {self.host.name}"):
            return self.volume(name) is not None

    def make_disk(self, name: str, size: int) -> bool:
        """Creates an empty qcow2 of `size` bytes. Returns False if there is a volume of that name,
        which is kept.
        """
        return self._make(VolumeView(name, size, "qcow2"))

    def clone(self, source: str, name: str) -> None:
        """Creates a qcow2 with the content of the qcow2 `source`. A volume of the name `name` is
        replaced. The host makes the copy. It takes the time and the room of the data in it.
        """
        self.delete([name])
        with translated(f"the volume '{source}' could not be copied on {self.host.name}"):
            volume = self._pool.storageVolLookupByName(source)
            view = VolumeView(name, volume.info()[1], "qcow2")
            self._pool.createXMLFrom(render_volume(view), volume, 0)

    def grow(self, name: str, size: int) -> None:
        """Makes a volume at least `size` bytes large. No running VM may use it.

        Raises:
            HostError: the volume is already larger. vcloud never shrinks a disk, because the data
                at its end would be lost.
        """
        with translated(f"the volume '{name}' could not grow on {self.host.name}"):
            volume = self._pool.storageVolLookupByName(name)
            capacity = volume.info()[1]
            if capacity < size:
                volume.resize(size)
        self._refuse_smaller(name, capacity, size)

    def refuse_smaller(self, name: str, size: int) -> None:
        """Raises HostError where `grow` would, so that nobody stops a VM in vain. A volume that does
        not exist yet is no error.
        """
        with translated(f"the size of '{name}' could not be read on {self.host.name}"):
            volume = self.volume(name)
            capacity = volume.info()[1] if volume is not None else 0
        self._refuse_smaller(name, capacity, size)

    def _refuse_smaller(self, name: str, capacity: int, size: int) -> None:
        if capacity > size:
            raise HostError(
                f"the volume '{name}' on {self.host.name} has {_mib(capacity)} MiB, and a disk cannot become smaller",
                f"Write {_mib(capacity)}M as the size of the disk in the file, or give the disk a new name to get an empty one.",
            )

    def make_overlay(self, name: str, backing: str, size: int = 0) -> str:
        """Creates a qcow2 over the qcow2 at the path `backing` and returns its path. A volume of
        that name that exists is kept.

        With `size` 0 the new volume is as large as its backing file.
        """
        if not size:
            with translated(f"the size of '{backing}' could not be read on {self.host.name}"):
                size = self.host.connection.storageVolLookupByPath(backing).info()[1]
        self._make(VolumeView(name, size, "qcow2", backing))
        return self.path(name)

    def put(self, name: str, content: bytes) -> None:
        """Creates a volume with that content and replaces a volume of the same name. Only the
        volume's owner may read it.
        """
        self.delete([name])
        with translated(f"the volume '{name}' could not be written on {self.host.name}"):
            volume = self._pool.createXML(render_volume(VolumeView(name, len(content), "raw")))
            self._send(volume, io.BytesIO(content), len(content))

    def copy(self, source: str, name: str, beginning: bytes) -> None:
        """Creates a volume with the content of the volume `source`, except that its first bytes are
        `beginning`.

        The host makes the copy, so the content does not cross the network. A volume of the name
        `name` is replaced.
        """
        self.delete([name])
        with translated(f"the volume '{source}' could not be copied on {self.host.name}"):
            volume = self._pool.createXMLFrom(
                # libvirt gives the copy the capacity of the source, because that is larger than 0.
                render_volume(VolumeView(name, 0, "raw")),
                self._pool.storageVolLookupByName(source),
                0,
            )
            self._send(volume, io.BytesIO(beginning), len(beginning))

    def overwrite(self, name: str, beginning: bytes) -> None:
        """Overwrites the first bytes of a volume. This also sets the time when the volume was last
        written.
        """
        with translated(f"the volume '{name}' could not be written on {self.host.name}"):
            self._send(
                self._pool.storageVolLookupByName(name), io.BytesIO(beginning), len(beginning)
            )

    def delete(self, names: Iterable[str]) -> None:
        """Deletes volumes. A volume that does not exist is no error."""
        for name in names:
            with translated(f"the volume '{name}' could not be deleted on {self.host.name}"):
                volume = self.volume(name)
                if volume is not None:
                    found_or_none(volume.delete)

    @property
    def free(self) -> int:
        """The number of free bytes in the pool's folder."""
        with translated(f"the free space of {self.host.name} could not be read"):
            self.refresh()
            return int(self._pool.info()[3])

    @property
    def size(self) -> int:
        """The number of bytes of the file system of the pool's folder."""
        with translated(f"the size of the storage of {self.host.name} could not be read"):
            return int(self._pool.info()[1])

    def require_space(self, needed: int, what: str) -> None:
        """Raises HostError if fewer than `needed` bytes plus `SPARE` are free. `what` is the action
        that needs them. Where nothing will be written, nothing need be free.
        """
        if not needed:
            return
        free = self.free
        if free < needed + SPARE:
            raise HostError(
                f"{what} needs {_mib(needed + SPARE)} MiB on {self.host.name}, and {self.folder} has {_mib(free)} MiB free: "
                f"{_mib(needed + SPARE - free)} MiB are missing",
                f"Free some space on the file system of {self.folder}, then run the command again.",
            )

    def names_without_refresh(self) -> set[str]:
        """The names of the volumes that libvirt knows of. It does not read the folder again, so it
        is cheaper than `names`.
        """
        with translated(f"the volumes of {self.host.name} could not be listed"):
            return set(self._pool.listVolumes())

    def fill(self, name: str, source: Readable, size: int, progress: Progress) -> None:
        """Creates a volume from the `size` bytes of a file. If the upload fails, the volume is
        deleted.
        """
        with translated(f"the volume '{name}' could not be written on {self.host.name}"):
            volume = self._pool.createXML(render_volume(VolumeView(name, size, "raw")))
            try:
                self._send(volume, source, size, progress)
            except BaseException:
                with suppress(libvirt.libvirtError):
                    volume.delete()
                raise

    def make_empty(self, name: str) -> None:
        """Creates an empty volume, whose name is a marker."""
        self._make(VolumeView(name, 0, "raw"))

    def _send(
        self,
        volume: libvirt.virStorageVol,
        source: Readable,
        size: int,
        progress: Progress = lambda _done, _all: None,
    ) -> None:
        stream = self.host.connection.newStream()
        volume.upload(stream, 0, size)
        done = 0
        try:
            # virStream.send may take fewer bytes than it was given.
            while chunk := source.read(CHUNK):
                sent = 0
                while sent < len(chunk):
                    sent += stream.send(chunk[sent:])
                done += sent
                progress(done, size)
            # `finish` waits for the host. Without it, an error such as a full disk would be lost.
            stream.finish()
        except BaseException:
            with suppress(libvirt.libvirtError):
                stream.abort()
            raise

    def _make(self, volume: VolumeView) -> bool:
        """Creates a volume. Returns False if there is one of that name already."""
        with translated(f"the volume '{volume.name}' could not be made on {self.host.name}"):
            try:
                self._pool.createXML(render_volume(volume))
            except libvirt.libvirtError as error:
                if error.get_error_code() != libvirt.VIR_ERR_STORAGE_VOL_EXIST:
                    raise
                return False
        return True

    def volume(self, name: str) -> Any:
        """libvirt's own object (virStorageVol) of a volume. None if there is no volume of that
        name.
        """
        return found_or_none(self._pool.storageVolLookupByName, name)

    def refresh(self) -> bool:
        """Makes libvirt read the pool's folder again. Returns whether it has.

        libvirt refuses this while it creates or uploads a volume. If that lasts too long, libvirt's
        list is used as it is.
        """
        for _ in range(REFRESH_ATTEMPTS):
            try:
                self._pool.refresh()
            except libvirt.libvirtError as error:
                if "asynchronous jobs" not in str(error):
                    raise
                time.sleep(0.05)
            else:
                return True
        return False


def _ensure_pool(connection: libvirt.virConnect) -> libvirt.virStoragePool:
    """The storage pool, created and started if need be."""
    pool = found_or_none(connection.storagePoolLookupByName, POOL)
    if pool is None:
        # Mode 0711: QEMU runs as another user. It must open volumes by their names, but need not
        # list the folder. The UUID is fixed, so two processes may define the pool at the same time.
        pool = connection.storagePoolDefineXML(
            render_pool(PoolView(POOL, FOLDER, "0711", uuid_of("pool", POOL)))
        )
        pool.setAutostart(1)
    if not pool.isActive():
        try:
            pool.create(libvirt.VIR_STORAGE_POOL_CREATE_WITH_BUILD)
        except libvirt.libvirtError:
            # If it is active, another process has started it at the same moment.
            if not pool.isActive():
                raise
    return pool


def _mib(size: int) -> int:
    """Bytes as MiB, rounded up."""
    return -(-size >> 20)
