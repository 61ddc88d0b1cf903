"""Reads settings of a host's kernel, which everybody may read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from vcloud.errors import HostError
from vcloud.hosts.connection import Host
from vcloud.placement.capabilities import UNLIMITED, Locking
from vcloud.values import OFF, ON

KSM_FOLDER = "/sys/kernel/mm/ksm"
KSM_RUN = f"{KSM_FOLDER}/run"
"""Kernel samepage merging (Documentation/admin-guide/mm/ksm.rst of Linux). QEMU offers it all
memory of a guest, unless `nosharepages` forbids it.
"""
KSM_SHARED = f"{KSM_FOLDER}/pages_shared"
CONTROLLERS = ("/sys/fs/cgroup/cgroup.controllers", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""The controllers of cgroups, version 2; and a file of version 1 that its memory controller has."""
PID_FILES = ("/run/libvirtd.pid", "/run/virtqemud.pid", "/run/libvirt/libvirtd.pid")
CAP_SYS_RESOURCE = 24
"""Number of the capability (capabilities(7)): its holder may raise limits of processes."""
KERNEL = "/proc/sys/kernel/osrelease"
"""Every kernel has it, so whoever gets it can read the others as far as they exist."""


def read_files(host: Host, paths: Sequence[str]) -> Mapping[str, str]:
    """The texts of those files that exist, in one exchange. Raises HostError where vcloud cannot run
    commands on the host.
    """
    # The exit code says that a file is missing, which is no error here.
    done = host.shell.run(("grep", "-sH", "", *paths))
    found: dict[str, list[str]] = {}
    for line in done.stdout.decode(errors="replace").splitlines():
        path, colon, text = line.partition(":")
        if colon:
            found.setdefault(path, []).append(text)
    return {path: "\n".join(lines) for path, lines in found.items()}


def locking_of(host: Host) -> Locking | None:
    """Whether libvirt there can lock the memory of VMs. None where vcloud cannot run commands on the
    host, or does not find the daemon. libvirt then says it when a VM starts.
    """
    try:
        found = read_files(host, (*CONTROLLERS, *PID_FILES))
        pids = {found[path].strip() for path in PID_FILES if path in found}
        pid = next((one for one in sorted(pids) if one.isdecimal()), "")
        status = read_files(host, (f"/proc/{pid}/status", f"/proc/{pid}/limits")) if pid else {}
    except HostError:
        return None
    if len(status) < 2:
        return None
    words = " ".join(text for path, text in found.items() if path in CONTROLLERS).split()
    limits = "memory" in words or CONTROLLERS[1] in found
    return Locking(
        limits, most_locked(status[f"/proc/{pid}/status"], status[f"/proc/{pid}/limits"])
    )


def most_locked(status: str, limits: str) -> int:
    """Bytes that a daemon can let a process lock: with CAP_SYS_RESOURCE without a limit, and otherwise
    up to its own hard limit (setrlimit(2)).
    """
    capabilities = re.search(r"^CapEff:\s*([0-9a-f]{1,16})$", status, re.M)
    if capabilities and int(capabilities[1], 16) >> CAP_SYS_RESOURCE & 1:
        return UNLIMITED
    hard = re.search(r"^Max locked memory\s+\S+\s+(\d{1,19})\s", limits, re.M)
    return int(hard[1]) if hard else UNLIMITED


def ksm_of(host: Host) -> str:
    """Whether the kernel of the host merges equal pages, or holds pages that it has merged: `on` or
    `off`. Empty where nobody can tell.
    """
    try:
        found = read_files(host, (KERNEL, KSM_RUN, KSM_SHARED))
    except HostError:
        return ""
    if KERNEL not in found:
        return ""
    merges = found.get(KSM_RUN, "0") == "1" or found.get(KSM_SHARED, "0") != "0"
    return ON if merges else OFF
