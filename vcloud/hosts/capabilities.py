"""Asks the libvirt of a host for the capabilities of the host."""

from __future__ import annotations

from vcloud.hosts import machines
from vcloud.hosts.connection import Host, translated
from vcloud.placement.capabilities import Capabilities, Version


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


def _version(number: int) -> Version:
    """The version that libvirt writes as one number: 1,000,000 x major + 1,000 x minor + release."""
    return Version(number // 1_000_000, number // 1000 % 1000, number % 1000)
