"""Which domains of a host use which files as disks.

A domain names a disk by its path, or by a pool and a volume. What a disk is based on, libvirt tells
of a running domain only. Of a stopped one its pools tell, and `qemu-img` on the host for a file that
is in no pool.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from xml.etree.ElementTree import Element

import libvirt

from vcloud.errors import HostError
from vcloud.hosts.connection import Host, translated
from vcloud.hosts.image_users import QEMU_IMG, WITHOUT_BACKING
from vcloud.hosts.machines import domains_of
from vcloud.hosts.metadata import parse

DEEPEST = 200
"""So many files below a disk are looked for."""

Chains = dict[str, tuple[str, ...]]
"""File -> the files below it, the nearest first."""


def disk_users(host: Host) -> dict[str, frozenset[str]]:
    """The path of every file that is a disk of a domain of the host, or that such a disk is based
    on -> the names of these domains. Counts both what runs and what is defined.

    What cannot be found out, such as the base of a file that this user may not read, is left out.
    """
    users: dict[str, set[str]] = {}
    chains: Chains = {}
    with translated(f"the disks of the domains of {host.name} could not be read"):
        for name, domain in domains_of(host):
            for disk in domain.iter("disk"):
                for path in _files_of(host, disk, chains):
                    users.setdefault(path, set()).add(name)
    return {path: frozenset(names) for path, names in users.items()}


def _files_of(host: Host, disk: Element, chains: Chains) -> tuple[str, ...]:
    """The files of a disk, the one that it writes to first."""
    paths = tuple(path for source in disk.iter("source") if (path := _path_of(host, source)))
    if not paths:
        return ()
    top, *below = paths
    if disk.find("backingStore") is not None:
        chains[top] = tuple(below)
    elif _may_have_base(disk) and top not in chains:
        chains[top] = tuple(_below(host, top))
    return (*paths, *chains.get(top, ()))


def _may_have_base(disk: Element) -> bool:
    """What QEMU opens as raw is based on nothing, although a guest may have written there what looks
    like the name of a base.
    """
    driver = disk.find("driver")
    raw = driver is not None and driver.get("type") == "raw"
    return not raw and disk.get("device") not in WITHOUT_BACKING


def _path_of(host: Host, source: Element) -> str:
    """The path of a file; empty for a disk on the network, and for a volume that is gone."""
    name, volume = source.get("pool"), source.get("volume")
    if not (name and volume):
        return source.get("file", "")
    # The pool may be stopped.
    with suppress(libvirt.libvirtError):
        pool = host.connection.storagePoolLookupByName(name)
        return str(pool.storageVolLookupByName(volume).path())
    return ""


def _below(host: Host, path: str) -> Iterator[str]:
    """The files that a file is based on, the nearest first."""
    for _ in range(DEEPEST):
        try:
            text = host.connection.storageVolLookupByPath(path).XMLDesc()
        except libvirt.libvirtError:
            yield from _below_by_program(host, path)
            return
        path = parse(text).findtext("backingStore/path", "")
        if not path:
            return
        yield path


def _below_by_program(host: Host, path: str) -> Iterator[str]:
    # qemu-img takes other words for options, or for the name of a protocol.
    if not path.startswith("/"):
        return
    with suppress(HostError, ValueError, TypeError, KeyError):
        done = host.shell.run([*QEMU_IMG, path])
        layers = json.loads(done.stdout) if done.code == 0 else []
        yield from [str(layer["filename"]) for layer in layers[1:]]
