"""Asks the libvirt of a host what the host can do."""

from __future__ import annotations

from vcloud.hosts import machines
from vcloud.hosts.connection import Host, translated
from vcloud.placement.capabilities import Capabilities


def capabilities_of(host: Host) -> Capabilities:
    """The capabilities of a host. Raises HostError."""
    with translated(f"the capabilities of {host.name} could not be read"):
        _, mebibytes, processors, *_ = host.connection.getInfo()
        libvirt, qemu = host.connection.getLibVersion(), host.connection.getVersion()
    return Capabilities(
        host=host.name,
        processors=int(processors),
        memory=int(mebibytes) << 20,
        libvirt=_version(libvirt),
        qemu=_version(qemu),
        no_filters=machines.why_no_filters(host),
    )


def _version(number: int) -> str:
    """Formats a version number of libvirt (1,000,000 x major + 1,000 x minor + release), for
    example as 9.0.0.
    """
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"
