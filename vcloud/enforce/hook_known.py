"""The VMs of vApps that a host has run, and whose disks are still there: what has the name, the UUID or
a disk of one, and is none, does not start. Of each VM the newest terms are known, too, also when its
disks are gone (`vcloud.enforce.hook_terms`), and the boot of the host in which it was last admitted
(`vcloud.enforce.hook_admitted`). The text of this module is part of the hook
(`vcloud.enforce.install`).

A copy of a disk in another file is not seen. It is a VM that vcloud does not manage, for which the
host has its policy.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO
from xml.etree.ElementTree import Element, ParseError
from xml.etree.ElementTree import parse as parse_xml

from vcloud.enforce.hook_files import LEASES, RefusedError, broken_if, read_json, replace
from vcloud.enforce.hook_processes import boot
from vcloud.signature import COMMAND_LINE

KNOWN = "known"
"""The file: UUID -> name, vApp, paths of disks, the generation of the newest terms (0 or missing where
no signed terms with a generation are known), and the boot of the host in which the VM was last
admitted. Earlier releases wrote neither of the last two.
"""
MOST_GONE = 1000
"""VMs without disks whose generation is known. Of more, those with the oldest terms are forgotten."""
NOTHING: dict[str, Any] = {"name": "", "vapp": "", "disks": [], "generation": 0, "boot": ""}
"""What is known of a VM of which nothing is known."""
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


def note_known(name: str, uuid: str, vapp: str, domain: Element, generation: int) -> None:
    """Keeps in mind what a VM of a vApp has, beside what it had, and that it starts or runs in this
    boot. `generation` is that of its terms, which count. Raises BrokenError.
    """
    before = known()
    had = before.get(uuid, NOTHING)
    entry = {
        "name": name,
        "vapp": vapp,
        "disks": sorted({*had["disks"], *own_disks(domain)}),
        "generation": max(generation, had["generation"]),
        "boot": boot(),
    }
    keep(before, {uuid: entry})


def note_newest(vapp: str, generations: Mapping[str, int], admitted_in: str) -> None:
    """Keeps in mind that there are terms of these generations of VMs of the vApp, by their UUIDs. If the
    boot in which they are admitted is this one, they may start in it. Raises RefusedError where one
    is another vApp's, BrokenError.
    """
    before = known()
    changed = {}
    for uuid, generation in generations.items():
        had = before.get(uuid, NOTHING | {"vapp": vapp})
        if had["vapp"] != vapp:
            raise RefusedError(f"a notice of '{vapp}' names '{had['name']}' of '{had['vapp']}'")
        changed[uuid] = had | {"generation": max(generation, had["generation"])}
        if admitted_in == boot():
            changed[uuid]["boot"] = admitted_in
    keep(before, changed)


def keep(before: dict[str, dict[str, Any]], changed: dict[str, dict[str, Any]]) -> None:
    """Writes the file, without disks that are gone. Of a VM without disks only the generation of its
    terms is of use. Raises BrokenError.
    """
    after = {
        uuid: one | {"disks": [path for path in one["disks"] if not is_gone(path)]}
        for uuid, one in (before | changed).items()
    }
    gone = sorted(
        (uuid for uuid, one in after.items() if not one["disks"]),
        key=lambda uuid: -after[uuid]["generation"],
    )
    forgotten = {uuid for uuid in gone if not after[uuid]["generation"]} | {*gone[MOST_GONE:]}
    after = {uuid: one for uuid, one in after.items() if uuid not in forgotten}
    if after != before:
        replace(KNOWN, after)


def newest_known(uuid: str) -> int:
    """The generation of the newest terms of a VM that are known. Raises BrokenError."""
    generation: int = known().get(uuid, NOTHING)["generation"]
    return generation


def newest_of_vapp(vapp: str) -> int:
    """The newest generation of all VMs of a vApp that are known. Raises BrokenError."""
    return max((one["generation"] for one in known().values() if one["vapp"] == vapp), default=0)


def is_gone(path: str) -> bool:
    """Whether a file is gone. Where its folder is missing, perhaps only a file system is not mounted."""
    return not os.path.lexists(path) and Path(path).parent.is_dir()


def known() -> dict[str, dict[str, Any]]:
    path = LEASES / KNOWN
    found = read_json(path)
    if found is None:
        return {}
    with broken_if(f"'{path}' is no list of VMs", TypeError, KeyError, AttributeError, ValueError):
        return {
            str(uuid): {
                "name": str(entry["name"]),
                "vapp": str(entry["vapp"]),
                "disks": [str(one) for one in entry["disks"]],
                "generation": int(entry.get("generation", 0)),
                "boot": str(entry.get("boot", "")),
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
