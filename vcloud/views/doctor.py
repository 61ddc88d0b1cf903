"""`vcloud doctor`: can this host run vApps, and what is to be done where it cannot?"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from vcloud.errors import VcloudError
from vcloud.hosts.accelerator import probe_host
from vcloud.hosts.connection import Host, open_host
from vcloud.hosts.inventory import choose_host
from vcloud.hosts.machines import why_no_filters
from vcloud.hosts.pool import StoragePool
from vcloud.images.build import TOOLS

BRIDGE_FILTER = "/proc/sys/net/bridge/bridge-nf-call-iptables"
KSM = "/sys/kernel/mm/ksm/run"
"""Documentation/admin-guide/mm/ksm.rst of Linux; QEMU offers it all memory of its guests."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. `result` is ok, note or fail."""

    check: str
    result: str
    detail: str
    hint: str = ""

    def as_data(self) -> dict[str, Any]:
        return asdict(self)


def examine(connect: str | None) -> list[Finding]:
    """Everything that is looked at, in order; a host that cannot be opened ends it."""
    findings = [*_tools()]
    try:
        with open_host(choose_host(connect)) as host:
            findings.append(Finding("host", "ok", f"{host.name} ({host.ref.uri})"))
            for look in (_versions, _accelerator, _storage, _bridges, _filters, _memory, _page_sharing):
                findings += _safely(look, host)
    except VcloudError as error:
        findings.append(Finding("host", "fail", error.what, error.hint))
    return findings


def _safely(look: Callable[[Host], Iterator[Finding]], host: Host) -> list[Finding]:
    try:
        return list(look(host))
    except VcloudError as error:
        return [Finding(look.__name__.strip("_"), "fail", error.what, error.hint)]


def _tools() -> Iterator[Finding]:
    """Programs of this machine; needed to build images, not to run vApps."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        yield Finding(
            "image tools",
            "note",
            f"missing: {', '.join(missing)}",
            "To build images here: apt-get install " + " ".join(sorted({TOOLS[tool] for tool in missing})),
        )
    else:
        yield Finding("image tools", "ok", "all there")


def _versions(host: Host) -> Iterator[Finding]:
    libvirt, qemu = (_version(number) for number in (host.connection.getLibVersion(), host.connection.getVersion()))
    result = "ok" if host.connection.getLibVersion() >= 9_000_000 else "fail"
    yield Finding("versions", result, f"libvirt {libvirt}, QEMU {qemu}", "" if result == "ok" else "vcloud needs libvirt 9.0 or newer.")


def _version(number: int) -> str:
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"


def _accelerator(host: Host) -> Iterator[Finding]:
    found = probe_host(host)
    hint = (
        ""
        if found.name == "kvm"
        else "VMs run, but several times slower. On real hardware: load kvm_amd or kvm_intel, and enable virtualisation in the firmware."
    )
    yield Finding("accelerator", "ok" if found.name == "kvm" else "note", f"{found.name}: {found.reason}", hint)


def _storage(host: Host) -> Iterator[Finding]:
    pool = StoragePool(host)
    yield Finding("storage", "ok" if pool.free >= 4 << 30 else "note", f"pool 'vcloud': {pool.free >> 30} GiB free")


def _bridges(host: Host) -> Iterator[Finding]:
    done = host.shell.run(["cat", BRIDGE_FILTER])
    if done.code == 0 and done.stdout.strip() == b"1":
        hint = "On the host: sysctl net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0."
        yield Finding("bridges", "note", "br_netfilter sends bridged packets through the host's iptables, which may drop them", hint)
    else:
        yield Finding("bridges", "ok", "bridged packets do not pass the host's iptables")


def _filters(host: Host) -> Iterator[Finding]:
    """Without them a VM could send as another of its zone."""
    missing = why_no_filters(host)
    hint = "On the host: apt-get install libvirt-daemon-driver-nwfilter, and start libvirtd again." if missing else ""
    yield Finding("network filters", "fail" if missing else "ok", missing or "libvirt filters what VMs send", hint)


def _memory(host: Host) -> Iterator[Finding]:
    free = host.connection.getFreeMemory()
    yield Finding("memory", "ok" if free >= 2 << 30 else "note", f"{free >> 20} MiB free; the shop needs about 2 GiB")


def _page_sharing(host: Host) -> Iterator[Finding]:
    """The host's own affair: what it saves in memory it pays for by letting VMs tell, by timing, which pages others hold."""
    on = host.shell.run(["cat", KSM]).stdout.strip() == b"1"
    hint = "" if on else f"Where all VMs of the host may know of each other: echo 1 >{KSM}."
    yield Finding("page sharing", "ok", "VMs share equal pages (KSM)" if on else "VMs share no pages (KSM is off)", hint)
