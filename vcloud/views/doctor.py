"""`vcloud doctor`: can this host run vApps, and what can be done if it cannot?

To look at one more thing: write a function of a host that yields findings, and add it to `LOOKS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from vcloud.errors import HostError, VcloudError
from vcloud.fleet.fleet import open_fleet
from vcloud.guests.probes import Prober
from vcloud.hosts.accelerator import host_accelerator
from vcloud.hosts.capabilities import capabilities_of
from vcloud.hosts.connection import Host
from vcloud.hosts.pool import StoragePool
from vcloud.placement.capabilities import Version

BRIDGE_FILTER = "/proc/sys/net/bridge/bridge-nf-call-iptables"
KSM = "/sys/kernel/mm/ksm/run"
"""Kernel samepage merging (Documentation/admin-guide/mm/ksm.rst of Linux). QEMU offers it all
memory of its guests.
"""
LEAST_LIBVIRT = Version(9, 0, 0)
LEAST_STORAGE, LEAST_MEMORY = 4 << 30, 2 << 30
"""Bytes below which a note is made."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `result` is ok, note or fail."""

    check: str
    result: str
    detail: str
    hint: str = ""

    def as_data(self) -> dict[str, Any]:
        return asdict(self)


def examine(connect: str | None, missing_tools: Mapping[str, str]) -> list[Finding]:
    """Looks at this machine and at the host. If the host cannot be opened, that is the last
    finding.

    Args:
        connect: the host, as on the command line.
        missing_tools: programs that building images needs and this machine lacks, with the packages
            that bring them.
    """
    findings = [_tools(missing_tools)]
    try:
        with open_fleet(connect) as fleet:
            host = fleet.home
            findings.append(Finding("host", "ok", f"{host.name} ({host.ref.uri})"))
            for look in LOOKS:
                findings += _safely(look, host)
    except VcloudError as error:
        findings.append(Finding("host", "fail", error.what, error.hint))
    return findings


def _safely(look: Callable[[Host], Iterator[Finding]], host: Host) -> list[Finding]:
    try:
        return list(look(host))
    except VcloudError as error:
        return [Finding(look.__name__.strip("_"), "fail", error.what, error.hint)]


def _tools(missing: Mapping[str, str]) -> Finding:
    """Programs of this machine. They are needed to build images, not to run vApps."""
    if not missing:
        return Finding("image tools", "ok", "all installed")
    install = "To build images here: apt-get install " + " ".join(sorted(set(missing.values())))
    return Finding("image tools", "note", f"missing: {', '.join(missing)}", install)


def _versions(host: Host) -> Iterator[Finding]:
    found = capabilities_of(host)
    result = "ok" if found.libvirt >= LEAST_LIBVIRT else "fail"
    yield Finding(
        "versions",
        result,
        f"libvirt {found.libvirt}, QEMU {found.qemu}",
        "" if result == "ok" else f"vcloud needs libvirt {LEAST_LIBVIRT} or newer.",
    )


def _accelerator(host: Host) -> Iterator[Finding]:
    found = host_accelerator(host)
    hint = (
        ""
        if found.name == "kvm"
        else "VMs run without KVM, but several times slower. On real hardware: load kvm_amd or kvm_intel, and enable virtualisation in the firmware."
    )
    yield Finding(
        "accelerator",
        "ok" if found.name == "kvm" else "note",
        f"{found.name}: {found.reason}",
        hint,
    )


def _storage(host: Host) -> Iterator[Finding]:
    pool = StoragePool(host)
    yield Finding(
        "storage",
        "ok" if pool.free >= LEAST_STORAGE else "note",
        f"pool 'vcloud': {pool.free >> 30} GiB free",
    )


def _bridges(host: Host) -> Iterator[Finding]:
    done = host.shell.run(["cat", BRIDGE_FILTER])
    if done.code == 0 and done.stdout.strip() == b"1":
        hint = "On the host: sysctl net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0."
        yield Finding(
            "bridges",
            "note",
            "br_netfilter sends bridged packets through the host's iptables, which can drop them",
            hint,
        )
    else:
        yield Finding("bridges", "ok", "bridged packets do not pass through the host's iptables")


def _filters(host: Host) -> Iterator[Finding]:
    """Without network filters, a VM could send packets with the address of another VM of its zone."""
    missing = capabilities_of(host).no_filters
    hint = (
        "On the host: apt-get install libvirt-daemon-driver-nwfilter, and restart libvirtd."
        if missing
        else ""
    )
    yield Finding(
        "network filters",
        "fail" if missing else "ok",
        missing or "libvirt filters the packets that VMs send",
        hint,
    )


def _probes(host: Host) -> Iterator[Finding]:
    """Whether `verify` can send probes from the host: the host gets its probe program through stdin."""
    prober = Prober(lambda argv, stdin: host.shell.run(argv, stdin=stdin), shipped=False)
    try:
        prober.try_out(host.name)
    except HostError as error:
        yield Finding("probes", "note", error.what, error.hint)
    else:
        yield Finding("probes", "ok", "verify can send packets from the host")


def _memory(host: Host) -> Iterator[Finding]:
    free = host.connection.getFreeMemory()
    yield Finding(
        "memory",
        "ok" if free >= LEAST_MEMORY else "note",
        f"{free >> 20} MiB free; the shop needs about 2 GiB",
    )


def _page_sharing(host: Host) -> Iterator[Finding]:
    """Whether the host shares equal memory pages of VMs. It saves memory, but a VM can tell by
    timing which pages other VMs hold.
    """
    on = host.shell.run(["cat", KSM]).stdout.strip() == b"1"
    hint = (
        ""
        if on
        else f"KSM saves memory but leaks content by timing; enable it only among trusted VMs: echo 1 >{KSM}."
    )
    yield Finding(
        "page sharing",
        "ok",
        "VMs share equal pages (KSM)" if on else "VMs share no pages (KSM is off)",
        hint,
    )


LOOKS: tuple[Callable[[Host], Iterator[Finding]], ...] = (
    _versions,
    _accelerator,
    _storage,
    _bridges,
    _filters,
    _probes,
    _memory,
    _page_sharing,
)
