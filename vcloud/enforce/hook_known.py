"""The VMs of vApps that a host has run, and whose disks are still there: what has the name, the UUID or
a disk of one, and is none, does not start. The text of this module is part of the hook
(`vcloud.enforce.install`).

A copy of a disk in another file is not seen. It is a VM that vcloud does not manage, for which the
host has its policy.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO
from xml.etree.ElementTree import Element, ParseError
from xml.etree.ElementTree import parse as parse_xml

from vcloud.enforce.hook_files import LEASES, RefusedError, broken_if, read_json, replace
from vcloud.signature import COMMAND_LINE

KNOWN = "known"
"""The file: UUID -> name, vApp and paths of disks."""
MOST_LAYERS = 50
"""Files of one disk that are looked at: each is based on the next."""
QCOW2_MAGIC, QED_MAGIC, DATA_FILE = b"QFI\xfb", b"QED\0", b"DATA"
HEAD = 64 << 10
"""Bytes of a file that are read at its beginning."""
POOLS = (Path("/etc/libvirt/storage"), Path("/run/libvirt/storage"))
"""Where libvirt keeps what its pools are."""
FREE = "if that VM is no more, root removes its entry from /var/lib/vcloud/leases/known"
LONGEST_BACKING = 1023
"""Bytes of the name of a backing file in qcow2."""


def refuse_look_alike(name: str, uuid: str, vapp: str, domain: Element) -> None:
    """Raises RefusedError where the domain has something of another vApp's VM. `vapp` is the one of
    the domain; empty for a VM that vcloud does not manage. Raises BrokenError.

    It needs no lock, so that a VM that keeps the lock busy lets nobody past.
    """
    others = {
        other: entry
        for other, entry in known().items()
        if not (vapp and entry["vapp"] == vapp) and any(map(os.path.lexists, entry["disks"]))
    }
    if not others:
        return
    mine = files_of(domain)
    written = " ".join("".join(one.attrib.values()) for one in domain.iterfind(f"{COMMAND_LINE}/*"))
    for other, entry in others.items():
        whose = f"'{entry['name']}', a VM of vApp '{entry['vapp']}'"
        if name == entry["name"] or uuid == other:
            what = "name" if name == entry["name"] else "UUID"
            raise RefusedError(f"'{name}' has the {what} of {whose}, and is not that VM; {FREE}")
        for path in entry["disks"]:
            if path in written or mine & set(identity_of_file(path)):
                raise RefusedError(
                    f"'{name}' has a disk of {whose}, and is not that VM: {path}; {FREE}"
                )


def note_known(name: str, uuid: str, vapp: str, domain: Element) -> None:
    """Keeps in mind what a VM of a vApp has, beside what it had, and forgets those whose disks are
    gone. Raises BrokenError.
    """
    before = known()
    had = before.get(uuid, {"disks": []})["disks"]
    entry = {"name": name, "vapp": vapp, "disks": sorted({*had, *own_disks(domain)})}
    after = {
        other: one | {"disks": disks}
        for other, one in (before | {uuid: entry}).items()
        if (disks := [path for path in one["disks"] if not is_gone(path)])
    }
    if after != before:
        replace(KNOWN, after)


def is_gone(path: str) -> bool:
    """Whether a file is gone. Where its folder is missing, perhaps only a file system is not mounted."""
    return not os.path.lexists(path) and Path(path).parent.is_dir()


def known() -> dict[str, dict[str, Any]]:
    path = LEASES / KNOWN
    found = read_json(path)
    if found is None:
        return {}
    with broken_if(f"'{path}' is no list of VMs", TypeError, KeyError, AttributeError):
        return {
            str(uuid): {
                "name": str(entry["name"]),
                "vapp": str(entry["vapp"]),
                "disks": [str(one) for one in entry["disks"]],
            }
            for uuid, entry in found.items()
        }


def own_disks(domain: Element) -> set[str]:
    """The files and devices of the host that a domain writes to as disks. What it only reads, such as
    a CD, may be everybody's.
    """
    return {
        path
        for disk in domain.iterfind("devices/disk")
        if disk.get("device", "disk") == "disk" and disk.find("readonly") is None
        for source in disk.iterfind("source")
        if (path := source.get("file") or source.get("dev"))
    }


def files_of(domain: Element) -> set[tuple[int, int]]:
    """What identifies each file that a domain uses as a disk, a memory or a variable store, and each
    file below. Raises RefusedError where a disk has too many layers.
    """
    found: set[tuple[int, int]] = set()
    for disk in domain.iterfind("devices/disk"):
        driver = disk.find("driver")
        is_raw = driver is not None and driver.get("type") == "raw"
        for source in disk.iter("source"):
            path = source.get("file") or source.get("dev") or volume_path(source)
            if path:
                found.update(identity_of_file(path) if is_raw else layers(path))
    plain = [*domain.iterfind("devices/memory/source/path"), *domain.iterfind("os/nvram")]
    for element in plain:
        found.update(identity_of_file((element.text or "").strip()))
    return found


def volume_path(source: Element) -> str:
    """The path of a volume of one of libvirt's pools that are folders; empty where there is none."""
    pool, volume = source.get("pool", ""), source.get("volume", "")
    if not pool or "/" in pool + volume:
        return ""
    with contextlib.suppress(OSError, ParseError):
        for folder in POOLS:
            path = folder / f"{pool}.xml"
            if path.is_file():
                target = parse_xml(path).findtext("target/path") or ""  # noqa: S314 - of root
                return f"{target}/{volume}"
    return ""


def layers(path: str) -> Iterator[tuple[int, int]]:
    """What identifies a disk's file, and each file that it is based on. Raises RefusedError where these
    are too many.
    """
    todo = [path]
    seen: set[tuple[int, int]] = set()
    while todo:
        path = todo.pop()
        if len(seen) > MOST_LAYERS:
            raise RefusedError(f"the disk '{path}' is based on more than {MOST_LAYERS} files")
        for identity in identity_of_file(path):
            if identity in seen:
                continue
            seen.add(identity)
            yield identity
            todo += backing_files(path)


def identity_of_file(path: str) -> list[tuple[int, int]]:
    """The device and the inode of a file, after symbolic links; nothing where there is none."""
    with contextlib.suppress(OSError, ValueError):
        state = Path(path).stat()
        return [(state.st_dev, state.st_ino)]
    return []


def backing_files(path: str) -> list[str]:
    """The files that the header of a qcow2 or QED file names as the ones it is based on. Others have
    none. Whatever the file is, nothing waits for it and no device does anything.
    """
    with contextlib.suppress(OSError, ValueError, RecursionError):
        if not is_disk(path):
            return []
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY), "rb") as file:  # noqa: PTH123
            head = file.read(HEAD)
            named = [*_backing_names(head, file), *_data_files(head)]
        # QEMU takes a relative name from where the path says that the file lies. Others follow links.
        folders = {Path(path).parent, Path(path).resolve().parent}
        return [str(folder / one) for folder in sorted(folders) for one in named if one]
    return []


def is_disk(path: str) -> bool:
    mode = Path(path).stat().st_mode
    return stat.S_ISREG(mode) or stat.S_ISBLK(mode)


def _backing_names(head: bytes, file: BinaryIO) -> list[str]:
    if head[:4] == QCOW2_MAGIC:
        offset, size = int.from_bytes(head[8:16], "big"), int.from_bytes(head[16:20], "big")
    elif head[:4] == QED_MAGIC:
        offset, size = int.from_bytes(head[56:60], "little"), int.from_bytes(head[60:64], "little")
    else:
        return []
    if not offset or not 0 < size <= LONGEST_BACKING:
        return []
    file.seek(offset)
    text = file.read(size).decode(errors="surrogateescape")
    if text.startswith("json:"):
        return list(_file_names(json.loads(text[5:])))
    return [text.removeprefix("file:")]


def _data_files(head: bytes) -> list[str]:
    """The file in which a qcow2 file keeps its data, where that is another one: an extension of the
    header (docs/interop/qcow2.txt of QEMU).
    """
    if head[:4] != QCOW2_MAGIC:
        return []
    at = int.from_bytes(head[100:104], "big") if int.from_bytes(head[4:8], "big") >= 3 else 72
    while at + 8 <= len(head):
        kind, size = head[at : at + 4], int.from_bytes(head[at + 4 : at + 8], "big")
        if kind == b"\0\0\0\0":
            break
        if kind == DATA_FILE:
            text = head[at + 8 : at + 8 + size].decode(errors="surrogateescape")
            return [text.removeprefix("file:")]
        at += 8 + -(-size // 8) * 8
    return []


def _file_names(document: Any) -> Iterator[str]:
    """All values of `filename`, also of `file.filename`, in QEMU's description of a disk."""
    if isinstance(document, dict):
        for key, value in document.items():
            if isinstance(value, str) and key.rpartition(".")[2] == "filename":
                yield value.removeprefix("file:")
            else:
                yield from _file_names(value)
