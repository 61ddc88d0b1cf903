"""Who on a host may need a copy of an image.

A VM needs its image as long as its disk is based on it, whether it runs or not, whoever made it, and
wherever its disk lies. So every text that libvirt has about domains counts: what runs, what is
defined, what is saved, and what a snapshot goes back to. So does every disk that libvirt sees in a
pool, with the one file that it is directly based on. Of a disk or such a file that lies elsewhere,
`qemu-img` on the host tells what it is based on. Where anything of that cannot be found out, nobody
knows which images are needed, and an error says so.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from xml.etree.ElementTree import Element

import libvirt

from vcloud.errors import HostError
from vcloud.hosts.connection import Host, found_or_none, run_parallel, translated
from vcloud.hosts.metadata import parse
from vcloud.hosts.pool import POOL, StoragePool
from vcloud.hosts.saveimage import HEAD_LIMIT, NotASaveImageError, read_head
from vcloud.hosts.volume_reading import read_start
from vcloud.plan.host_images import (
    DOMAIN,
    MEMORY_IMAGE,
    MEMORY_IMAGE_PREFIX,
    SAVED_DISK,
    SAVED_MEMORY,
    VOLUME,
    User,
    volume_name,
)

QEMU_IMG = ("qemu-img", "info", "--force-share", "--backing-chain", "--output=json")
WITHOUT_BACKING = frozenset({"cdrom", "floppy"})
"""Devices whose media are read as they are, and may be missing."""
GONE = frozenset(
    {
        libvirt.VIR_ERR_NO_DOMAIN,
        libvirt.VIR_ERR_NO_DOMAIN_SNAPSHOT,
        # There is no saved memory any more.
        libvirt.VIR_ERR_OPERATION_INVALID,
    }
)
NO_FILE = "No such file or directory"


def users_on(host: Host, pool: StoragePool) -> dict[User, str]:
    """Everybody who may need a volume of an image -> all that is known of what they need: a text in
    which the names of these volumes occur. Changes nothing on the host.

    Raises HostError where something of it cannot be found out.
    """
    with translated(f"who uses images on {host.name} could not be found out"):
        # The domains before the volumes: a VM whose memory is saved in between is a domain in the
        # first list. In the other order it would be in neither.
        domains = host.connection.listAllDomains()
        volumes = {pool.path(name) for name in _all_names(pool)}
        texts = run_parallel(
            [functools.partial(_domain_text, pool, volumes, one) for one in domains]
        )
        found = {User(DOMAIN, name): text for name, text in texts}
        others = _volumes_elsewhere(host)
        seen = volumes | {one.path for one in others}
        return (
            found
            | _volumes_of_pool(pool, seen)
            | {
                User(VOLUME, one.key): one.xml + _beyond(pool, one.key, one.xml, seen)
                for one in others
            }
        )


def _all_names(pool: StoragePool) -> tuple[str, ...]:
    """The names of all volumes of vcloud's pool, also of those that libvirt did not make."""
    if not pool.refresh():
        raise HostError(
            f"{pool.host.name} is busy with volumes of the pool '{POOL}', so nobody can tell what they are based on",
            "Nothing was deleted. Wait until uploads have ended, then run the command again.",
        )
    return tuple(sorted(pool.names_without_refresh()))


def _domain_text(
    pool: StoragePool, volumes: Collection[str], domain: libvirt.virDomain
) -> tuple[str, str]:
    """The name of a domain, and all that libvirt and qemu-img tell of its files."""
    host, name = pool.host, domain.name()
    current, snapshots = [*_definitions(domain)], [*_snapshots(domain)]
    disks = {path for xml in current for path in _disks_elsewhere(host, volumes, xml)}
    former = {path for xml in snapshots for path in _disks_elsewhere(host, volumes, xml)} - disks
    # Nobody can go back to a snapshot whose disk is gone, and what is gone from vcloud's pool is gone
    # for good. Elsewhere, a folder may just not be mounted.
    gone = former | {path for path in disks if str(PurePosixPath(path).parent) == pool.folder}
    chains = [
        _backing_chain(host, f"the domain '{name}'", path, or_gone=path in gone)
        for path in sorted(disks | former)
    ]
    return name, "\n".join((*current, *snapshots, *chains))


def _definitions(domain: libvirt.virDomain) -> Iterator[str]:
    """What a domain runs as, how it is defined, and how its memory was saved. Empty texts for one that
    has been removed meanwhile.
    """
    for flags in (0, libvirt.VIR_DOMAIN_XML_INACTIVE):
        yield found_or_none(domain.XMLDesc, flags) or ""
    if found_or_none(domain.hasManagedSaveImage):
        yield _told(domain.managedSaveGetXMLDesc)


def _snapshots(domain: libvirt.virDomain) -> Iterator[str]:
    for snapshot in found_or_none(domain.listAllSnapshots) or ():
        yield _told(snapshot.getXMLDesc)


def _told(call: Callable[[], str]) -> str:
    """Empty where what is asked for has gone meanwhile."""
    try:
        return call()
    except libvirt.libvirtError as error:
        if error.get_error_code() not in GONE:
            raise
        return ""


def _disks_elsewhere(host: Host, volumes: Collection[str], xml: str) -> Iterator[str]:
    """The paths of the disks in a text that may be based on others. Those that are among `volumes`,
    the paths of all volumes of vcloud's pool, are left out: libvirt tells what these are based on.
    """
    for disk in parse(xml).iter("disk") if xml else ():
        driver, source = disk.find("driver"), disk.find("source")
        if source is None or disk.get("device") in WITHOUT_BACKING:
            continue
        # What QEMU opens as raw is based on nothing.
        if driver is not None and driver.get("type") == "raw":
            continue
        path = source.get("file") or source.get("dev") or _path_in_pool(host, source)
        if path and path not in volumes:
            yield path


def _path_in_pool(host: Host, source: Element) -> str:
    """The path of a disk that a domain names by a pool and a volume. Empty for one on the network."""
    name, volume = source.get("pool"), source.get("volume")
    if not name or not volume:
        return ""
    pool = found_or_none(host.connection.storagePoolLookupByName, name)
    found = pool and found_or_none(pool.storageVolLookupByName, volume)
    if not found:
        raise HostError(
            f"the volume '{volume}' of the pool '{name}' is not there, so nobody can tell which images on {host.name} it needs",
            "Nothing was deleted. Bring it back, or undefine the domain that names it.",
        )
    return str(found.path())


def _backing_chain(host: Host, owner: str, path: str, *, or_gone: bool = False) -> str:
    """All that a disk is based on, as qemu-img on the host tells it. With `or_gone`, a disk that does
    not exist needs nothing.
    """
    done = host.shell.run([*QEMU_IMG, path])
    if done.code == 0:
        return done.stdout.decode(errors="replace")
    said = done.stderr.decode(errors="replace").strip()
    # Of a file that the disk is based on, the message names that file.
    if or_gone and said.endswith(f"Could not open '{path}': {NO_FILE}"):
        return ""
    raise HostError(
        f"nobody can tell which images on {host.name} the disk '{path}' of {owner} needs: {said or done.code}",
        "Nothing was deleted. Bring the disk back, undefine the domain or delete the volume that needs it, or run this as a user who may read the disk. The host needs qemu-img (qemu-utils).",
    )


def _volumes_of_pool(pool: StoragePool, seen: Collection[str]) -> dict[User, str]:
    """Those volumes of vcloud's pool that may be based on images, and the memory images."""
    names = [name for name in _all_names(pool) if volume_name(name) is None]
    texts = dict(
        run_parallel([functools.partial(_volume_text, pool, name, seen) for name in names])
    )
    found: dict[User, str] = {}
    for name, text in texts.items():
        stem = name.removesuffix(SAVED_MEMORY).removesuffix(SAVED_DISK)
        is_memory = name.startswith(MEMORY_IMAGE_PREFIX) and bool(texts.get(stem + SAVED_MEMORY))
        user = User(MEMORY_IMAGE, stem) if is_memory else User(VOLUME, name)
        found[user] = found.get(user, "") + text
    return {user: text for user, text in found.items() if text}


def _beyond(pool: StoragePool, name: str, xml: str, seen: Collection[str]) -> str:
    """What the file is based on that a volume is based on. Empty if that file is among `seen`, the
    paths of all volumes: its own text tells.
    """
    path = parse(xml).findtext("backingStore/path", "") if xml else ""
    if not path or path in seen:
        return ""
    gone_for_good = str(PurePosixPath(path).parent) == pool.folder
    return _backing_chain(pool.host, f"the volume '{name}'", path, or_gone=gone_for_good)


def _volume_text(pool: StoragePool, name: str, seen: Collection[str]) -> tuple[str, str]:
    if name.endswith(SAVED_MEMORY):
        try:
            return name, read_head(read_start(pool, name, HEAD_LIMIT)).xml
        except NotASaveImageError:
            return name, ""  # it is being made, and its domain was listed before
    volume = pool.volume(name)
    xml = (found_or_none(volume.XMLDesc) or "") if volume is not None else ""
    return name, xml + _beyond(pool, name, xml, seen)


@dataclass(frozen=True, slots=True)
class _Elsewhere:
    """A volume of another pool than vcloud's."""

    key: str
    path: str
    xml: str


def _volumes_elsewhere(host: Host) -> list[_Elsewhere]:
    """The volumes of all other pools that run."""
    pools = host.connection.listAllStoragePools(libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE)
    volumes = [
        volume
        for other in pools
        if other.name() != POOL
        for volume in found_or_none(other.listAllVolumes) or ()
    ]
    texts = run_parallel([functools.partial(found_or_none, volume.XMLDesc) for volume in volumes])
    return [
        _Elsewhere(volume.key(), parse(text).findtext("target/path", ""), text)
        for volume, text in zip(volumes, texts, strict=True)
        if text
    ]
