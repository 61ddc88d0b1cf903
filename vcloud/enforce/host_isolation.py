"""What the QEMU processes of a host share with others: processors and memory, as the kernel tells root.
The text of this module is part of the reporter (`vcloud.enforce.install`).
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterable
from pathlib import Path

from vcloud.enforce.host_processes import QEMU, Data, read_text

MERGING = "merging"
"""The part of a report about pages that may be merged."""
MERGING_SECONDS = 5
"""The kernel walks all memory of a process to tell its mappings. After so many seconds the rest is left
out.
"""
CPUS = re.compile(r"^Cpus_allowed_list:\s*(\S*)$", re.M)
NAME = re.compile(r"^Name:\s*(.*)$", re.M)
LOCKED = re.compile(r"^VmLck:\s*(\d+) kB$", re.M)
LABELS = ("attr/apparmor/current", "attr/current")
"""Where a process has its security label (proc_pid_attr(5)). Other security modules may have the second
file for themselves.
"""
STATES = {
    "ksm": "/sys/kernel/mm/ksm/run",
    "ksm_pages": "/sys/kernel/mm/ksm/pages_shared",
    "smt": "/sys/devices/system/cpu/smt/active",
    "selinux": "/sys/fs/selinux/enforce",
}


def guests(processes: Iterable[Data], unseen: dict[str, str]) -> list[Data]:
    """One entry for each process of QEMU. What cannot be told of all of them is named in `unseen`."""
    deadline = time.monotonic() + MERGING_SECONDS
    found: list[Data] = []
    for pid in (one["pid"] for one in processes if one["program"].startswith(QEMU)):
        # A process may end while it is looked at.
        with contextlib.suppress(OSError):
            status = read_text(pid, "status")
            locked = LOCKED.search(status)
            found.append(
                {
                    "pid": pid,
                    "threads": threads(pid),
                    "locked": int(locked[1]) << 10 if locked else 0,
                    "merges": merges(pid, deadline),
                    "label": label(pid),
                }
            )
    if time.monotonic() > deadline:
        unseen[MERGING] = f"the mappings of all VMs could not be read in {MERGING_SECONDS} s"
    elif found and not any("VmFlags:" in text for text in (first_mapping(one) for one in found)):
        unseen[MERGING] = "the kernel does not tell the flags of mappings"
    return found


def threads(pid: int) -> list[Data]:
    """The names of a process' threads, and the processors that each may run on."""
    found: list[Data] = []
    for path in sorted(Path(f"/proc/{pid}/task").iterdir(), key=lambda one: int(one.name)):
        with contextlib.suppress(OSError):  # It has ended.
            status = (path / "status").read_text(errors="replace")
            name, cpus = NAME.search(status), CPUS.search(status)
            found.append({"name": name[1] if name else "", "cpus": cpus[1] if cpus else ""})
    return found


def merges(pid: int, deadline: float) -> bool:
    """Whether the kernel may merge pages of a process: a mapping has the flag `mg` (proc_pid_smaps(5)),
    by madvise(2) or for the whole process by prctl(2), PR_SET_MEMORY_MERGE. After the deadline nothing
    is looked at.
    """
    with Path(f"/proc/{pid}/smaps").open("rb") as file:
        for line in file if time.monotonic() < deadline else ():
            if line.startswith(b"VmFlags:"):
                if b"mg" in line.split():
                    return True
                if time.monotonic() > deadline:
                    break
    return False


def first_mapping(guest: Data) -> str:
    """The beginning of what the kernel tells of a process' mappings; empty if it has ended."""
    try:
        with Path(f"/proc/{guest['pid']}/smaps").open(errors="replace") as file:
            return file.read(4096)
    except OSError:
        return "VmFlags:"


def label(pid: int) -> str:
    """The label by which a security module of the kernel knows a process; empty without one."""
    for name in LABELS:
        # EINVAL: no module has labels.
        with contextlib.suppress(OSError):
            return read_text(pid, name).rstrip("\0\n")
    return ""


def kernel_state() -> Data:
    """What counts for all processes. Empty where the kernel does not know such a thing."""
    found: Data = dict.fromkeys(STATES, "")
    for name, path in STATES.items():
        with contextlib.suppress(OSError):
            found[name] = Path(path).read_text().strip()
    return found
