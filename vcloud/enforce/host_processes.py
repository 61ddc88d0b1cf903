"""The processes of a host that hold taps or disks, as only root can see them. The text of this module
is part of the reporter (`vcloud.enforce.install`).
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import Any

FOLDERS = ("/usr/sbin", "/sbin", "/usr/bin", "/bin")
QEMU = ("qemu", "kvm")
POOL = "/var/lib/libvirt/images/vcloud"
"""The folder of vcloud's storage pool, as in `vcloud.hosts.pool`."""
MACHINES = Path("/run/libvirt/qemu")
"""libvirt's process number of each running domain: NAME.pid."""
LIBVIRT = frozenset(
    f"{folder}/{name}"
    for folder in FOLDERS
    for name in ("libvirtd", "virtqemud", "virtstoraged", "virtnetworkd", "virtlogd", "virtlockd")
)
"""Daemons that open taps and disks for a moment."""
TUN = "/dev/net/tun"

Data = dict[str, Any]
"""An object of JSON."""


def machines() -> dict[str, int]:
    """The process numbers by which libvirt knows its running domains."""
    found = {}
    for path in sorted(MACHINES.glob("*.pid")):
        with contextlib.suppress(OSError, ValueError):
            found[path.stem] = int(path.read_text())
    return found


def read_processes() -> tuple[list[Data], dict[int, Data]]:
    """Processes that hold a tap, or run QEMU, or write a disk image; and the process of every
    socket, by its inode.
    """
    found: list[Data] = []
    sockets: dict[int, Data] = {}
    here = Path("/proc/self/ns/net").stat().st_ino
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):  # noqa: PTH208
        # A process may end while it is looked at.
        with contextlib.suppress(OSError):
            process = read_process(pid, here, sockets)
            if process:
                found.append(process)
    return found, sockets


def without_own_files(processes: list[Data]) -> list[Data]:
    """The processes without the disk images that only programs beside QEMU have open, in folders
    where QEMU has no disk and vcloud no pool: files of the host's users, maybe very many.
    """
    disks = [disk for one in processes if one["program"].startswith(QEMU) for disk in one["disks"]]
    files = {disk["file"] for disk in disks}
    folders = {POOL, *(folder_of(disk) for disk in disks)}
    for one in (other for other in processes if not other["program"].startswith(QEMU)):
        its = one["disks"]
        one["disks"] = [d for d in its if d["file"] in files or folder_of(d) in folders]
    return [
        one for one in processes if one["taps"] or one["disks"] or one["program"].startswith(QEMU)
    ]


def folder_of(disk: Data) -> str:
    return str(disk["path"]).rpartition("/")[0]


def printable(name: str) -> str:
    """A name of the kernel's, which may hold any bytes, as text that can be printed."""
    return os.fsencode(name).decode(errors="replace")


def read_process(pid: int, here: int, sockets: dict[int, Data]) -> Data | None:
    executable = os.readlink(f"/proc/{pid}/exe")  # noqa: PTH115
    if executable in LIBVIRT:
        return None
    program = printable(os.path.basename(executable))  # noqa: PTH119
    taps: list[str] = []
    files: list[tuple[str, str]] = []
    for number in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208
        with contextlib.suppress(OSError):
            path = f"/proc/{pid}/fd/{number}"
            target = os.readlink(path)  # noqa: PTH115
            if target == TUN:
                taps += re.findall(r"^iff:\s*(\S+)$", read_text(pid, f"fdinfo/{number}"), re.M)
            elif target.startswith("socket:["):
                sockets[int(target[8:-1])] = {"pid": pid, "program": program}
            elif target.startswith("/") and not target.startswith(("/dev/", "/proc/")):
                files.append((path, target))
    in_qemu = program.startswith(QEMU)
    opened = [
        item for path, target in files if (item := open_disk(path, target, in_qemu)) is not None
    ]
    if not taps and not in_qemu and not opened:
        return None
    words = read_text(pid, "cmdline").split("\0")
    return {
        "pid": pid,
        "program": program,
        "name": guest_name(words),
        "here": Path(f"/proc/{pid}/ns/net").stat().st_ino == here,
        "taps": sorted(taps),
        "disks": opened,
    }


def read_text(pid: int, name: str) -> str:
    with Path(f"/proc/{pid}/{name}").open(errors="replace") as file:
        return file.read(1 << 20)


def guest_name(words: list[str]) -> str:
    """libvirt's name of a domain, as QEMU was given it; empty for other processes."""
    for option, value in zip(words, words[1:]):  # noqa: B905, RUF007 - Python 3.9
        if option == "-name":
            return dict(part.partition("=")[::2] for part in value.split(",")).get("guest", "")
    return ""


def open_disk(path: str, target: str, in_qemu: bool) -> Data | None:
    """An open file that is a disk image; None for any other file.

    `here`: the path leads to the same file for this program, so it is not one of a host in another
    mount namespace.
    """
    writes = bool(os.lstat(path).st_mode & 0o200)
    if not in_qemu and not (writes and target.endswith(".qcow2")):
        return None
    there = Path(path).stat()
    try:
        here = os.path.samestat(there, Path(target).stat())
    except OSError:
        here = False
    return {
        "path": printable(target),
        "file": f"{there.st_dev}:{there.st_ino}",
        "writes": writes,
        "here": here,
    }


def loop_devices() -> list[Data]:
    """Files that the kernel itself has open as disks, in the form of processes."""
    found: list[Data] = []
    for path in sorted(Path("/sys/block").glob("loop*/loop/backing_file")):
        with contextlib.suppress(OSError):
            target = path.read_text().rstrip("\n")
            there = Path(target).stat()
            disk = {"path": target, "file": f"{there.st_dev}:{there.st_ino}", "here": True}
            disk["writes"] = (path.parents[1] / "ro").read_text().strip() == "0"
            process = {"pid": 0, "program": path.parts[3], "name": "", "here": True, "taps": []}
            found.append({**process, "disks": [disk]})
    return found
