"""Asks the libvirt of a host for the capabilities of the host."""

from __future__ import annotations

import libvirt

from vcloud.hosts import machines
from vcloud.hosts.connection import Host, translated
from vcloud.hosts.pool import StoragePool
from vcloud.placement.capabilities import Capabilities, RunningVm, Storage, Version

UNSUPPORTED = {libvirt.VIR_ERR_NO_SUPPORT, libvirt.VIR_ERR_OPERATION_UNSUPPORTED}


def capabilities_of(host: Host) -> Capabilities:
    """The capabilities of a host. Changes nothing there. Raises HostError."""
    with translated(f"the capabilities of {host.name} could not be read"):
        version, qemu = host.connection.getLibVersion(), host.connection.getVersion()
        memory, free = _memory(host.connection)
        running = _running(host.connection)
    pool = StoragePool.existing(host)
    return Capabilities(
        host=host.name,
        processors=host.processors,
        memory=memory,
        libvirt=_version(version),
        qemu=_version(qemu),
        no_filters=machines.why_no_filters(host),
        free_memory=free,
        running=running,
        overcommit=host.ref.overcommit,
        cpu_overcommit=host.ref.cpu_overcommit,
        storage=Storage(pool.folder, pool.free) if pool is not None else None,
    )


def _memory(connection: libvirt.virConnect) -> tuple[int, int]:
    """Bytes of memory of a host: all, and those that programs can still get.

    getInfo and getFreeMemory count the memory of NUMA nodes only, in which memory that was plugged
    in later may be missing, and take caches for used. getMemoryStats reads /proc/meminfo. Not
    every driver of libvirt has it.
    """
    try:
        kibibytes = connection.getMemoryStats(libvirt.VIR_NODE_MEMORY_STATS_ALL_CELLS)
    except libvirt.libvirtError as error:
        if error.get_error_code() not in UNSUPPORTED:
            raise
        return int(connection.getInfo()[1]) << 20, int(connection.getFreeMemory())
    free = sum(kibibytes.get(part, 0) for part in ("free", "buffers", "cached"))
    return int(kibibytes["total"]) << 10, int(free) << 10


def _running(connection: libvirt.virConnect) -> tuple[RunningVm, ...]:
    """The memory of all running domains. A domain of which libvirt does not tell it is left out."""
    found = connection.getAllDomainStats(
        libvirt.VIR_DOMAIN_STATS_BALLOON | libvirt.VIR_DOMAIN_STATS_VCPU,
        libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE
        | libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT,
    )
    return tuple(
        RunningVm(
            domain.name(),
            values["balloon.maximum"] << 10,
            values["balloon.rss"] << 10,
            values.get("vcpu.maximum", 0),
        )
        for domain, values in found
        if {"balloon.maximum", "balloon.rss"} <= values.keys()
    )


def _version(number: int) -> Version:
    """The version that libvirt writes as one number: 1,000,000 x major + 1,000 x minor + release."""
    return Version(number // 1_000_000, number // 1000 % 1000, number % 1000)
