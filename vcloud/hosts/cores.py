"""The cores of a host: which there are, whose they are, and who is pinned to them.

The manifest of a vApp names the processors that are its own. They are chosen, and the manifest is
written, under the lock of `vcloud.hosts.uplink.choosing_uplink`, so that no two vApps get the same. A
VM of another vApp that starts meanwhile is kept off them by one of the two: who starts a VM looks at
the manifests afterwards, and who gets cores looks at the running VMs after its manifest is written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType
from xml.etree.ElementTree import Element

import libvirt

from vcloud.design.model import Design
from vcloud.enforce.host_processes import MACHINES
from vcloud.errors import HostError
from vcloud.hosts.accelerator import read_capabilities
from vcloud.hosts.connection import Host, found_or_none, translated
from vcloud.hosts.manifests import PREFIX, vapp_names
from vcloud.hosts.metadata import parse, read_record
from vcloud.placement.cores import (
    NO_CORES,
    Cores,
    Topology,
    chosen_cores,
    refuse_without_cores,
    wanting_cores,
)
from vcloud.plan.facts import EMULATOR, domain_facts
from vcloud.plan.formats import CORES
from vcloud.values import processors_in


def topology_of(host: Host) -> Topology:
    """The cores of the host that are in use. Raises HostError."""
    cores: set[tuple[int, ...]] = set()
    for cpu in read_capabilities(host).iterfind("host/topology/cells//cpu"):
        siblings = processors_in(cpu.get("siblings", "") or cpu.get("id", ""))
        cores.add(tuple(sorted(siblings)))
    if not cores:
        raise HostError(
            f"libvirt on {host.name} does not tell the cores of the host",
            "`virsh capabilities` there shows what it tells. Without cores, take `cpus: own` out of the file.",
        )
    return Topology(tuple(sorted(cores)))


def cores_for(host: Host, design: Design, standing: Mapping[str, tuple[int, ...]]) -> Cores:
    """The cores of a vApp on the host. `standing` are those that its VMs have. Hold
    `choosing_uplink` until the manifest names them.

    Raises RefusedError where the host has too few.
    """
    wanting = wanting_cores(design)
    if not wanting:
        return NO_CORES
    name, topology = design.instance.name, topology_of(host)
    # Whoever pins another VM to cores that the vApp has already takes none of them from it.
    mine = topology.whole(frozenset(core for cores in standing.values() for core in cores))
    taken = cores_of_vapps(host, but=name) | (cores_of_unmanaged(host, but=name) - mine)
    found = chosen_cores(topology, wanting, taken, standing)
    refuse_without_cores(design, host.name, topology, taken, found)
    return found


def cores_of_vapps(host: Host, *, but: str) -> frozenset[int]:
    """The processors that vApps of the host have for themselves, except those of the vApp `but`.

    Raises HostError where a manifest does not tell.
    """
    found: set[int] = set()
    for name in vapp_names(host):
        with translated(f"the manifest of '{name}' could not be read on {host.name}"):
            record = None if name == but else read_record(host, PREFIX + name)
        try:
            found |= processors_in(record.attributes.get(CORES, "")) if record else frozenset()
        except ValueError:
            raise HostError(
                f"vcloud cannot tell which cores the vApp '{name}' has on {host.name}",
                f"Nothing was changed. Run `vcloud up` with the file of '{name}', or `vcloud down {name}`. Then run this command again.",
            ) from None
    return frozenset(found)


def cores_of_unmanaged(host: Host, *, but: str) -> frozenset[int]:
    """The processors to which the definition of a VM that vcloud does not manage is pinned. The VMs
    of the vApp `but` are none, also if it has no manifest yet. Raises HostError.
    """
    managed = (*(f"{name}." for name in vapp_names(host)), f"{but}.")
    everything = topology_of(host).processors
    found: set[int] = set()
    with translated(f"the domains of {host.name} could not be read"):
        for domain in host.connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_PERSISTENT):
            xml = found_or_none(domain.XMLDesc, libvirt.VIR_DOMAIN_XML_INACTIVE)
            if xml and not domain.name().startswith(managed):
                for pinned in _pinned(parse(xml)):
                    found |= pinned if not everything <= pinned else frozenset()
    return frozenset(found)


def _pinned(domain: Element) -> Iterator[frozenset[int]]:
    yield from domain_facts(domain).pins.values()
    vcpu = domain.find("vcpu")
    yield processors_in(vcpu.get("cpuset", "") if vcpu is not None else "")


def pin(host: Host, name: str, processors: Collection[int]) -> None:
    """Pins each virtual CPU of a running domain to one of these processors, and the rest of its QEMU
    to all of them. The definition does not change.
    """
    pin_threads(host, name, processors)
    with translated(f"'{name}' could not be pinned on {host.name}"):
        domain, width = host.connection.lookupByName(name), _width(host)
        for number, processor in enumerate(processors):
            domain.pinVcpu(number, _map({processor}, width))  # of the running domain only
        domain.pinEmulator(_map(processors, width), libvirt.VIR_DOMAIN_AFFECT_LIVE)


def pin_threads(host: Host, name: str, processors: Collection[int]) -> None:
    """Pins all threads of a running domain's QEMU to these processors, also those that libvirt does not
    know: without cgroups these are most of QEMU's own. It needs root on the host. What it could not do
    is seen when vcloud looks at the host again.
    """
    with contextlib.suppress(HostError):
        number = host.shell.run(("cat", f"{MACHINES}/{name}.pid")).stdout.strip()
        if number.isdigit():
            allowed = ",".join(map(str, sorted(processors)))
            words = ("taskset", "--all-tasks", "--cpu-list", "--pid", allowed, number.decode())
            host.shell.run(words)


def release(host: Host, name: str, others: frozenset[int]) -> None:
    """Lets a running domain use all processors of the host but those of others."""
    _spread(host, name, topology_of(host).processors - others)


def keep_off(host: Host, name: str, others: frozenset[int]) -> bool:
    """Keeps a running domain off the processors of others. Returns whether it was allowed there. A
    domain that is not there, or does not run, is on none.
    """
    with translated(f"'{name}' could not be read on {host.name}"):
        domain = found_or_none(host.connection.lookupByName, name)
        xml = found_or_none(domain.XMLDesc) if domain and found_or_none(domain.isActive) else None
    if not xml or not others:
        return False
    root = parse(xml)
    pins, vcpu = domain_facts(root).pins, root.find("vcpu")
    everything = topology_of(host).processors
    # Where nobody has pinned a part, it may use those of the whole domain.
    usual = processors_in(vcpu.get("cpuset", "") if vcpu is not None else "") or everything
    parts = (*map(str, range(int(root.findtext("vcpu") or 1))), EMULATOR)
    had = {part: pins.get(part, usual) for part in parts}
    if not any(allowed & others for allowed in had.values()):
        return False
    _spread(host, name, everything - others, {part: had[part] - others for part in parts})
    return True


def keep_others_off(host: Host, own: Collection[str], owned: frozenset[int]) -> tuple[str, ...]:
    """Keeps all running domains of the host but a vApp's `own` off its processors. Returns the names
    of those that were allowed there.
    """
    with translated(f"the domains of {host.name} could not be listed"):
        running = host.connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
        names = [domain.name() for domain in running]
    return tuple(
        name for name in sorted(names) if name not in own and _was_moved(host, name, owned)
    )


def _was_moved(host: Host, name: str, owned: frozenset[int]) -> bool:
    try:
        return keep_off(host, name, owned)
    except HostError:
        domain = found_or_none(host.connection.lookupByName, name)
        if domain and found_or_none(domain.isActive):
            raise
        return False  # It has ended meanwhile.


def _spread(
    host: Host,
    name: str,
    processors: frozenset[int],
    kept: Mapping[str, frozenset[int]] = MappingProxyType({}),
) -> None:
    """Lets a running domain use these processors. `kept` are the ones that parts of it were allowed
    before, without those that it loses.
    """
    pin_threads(host, name, processors)
    with translated(f"'{name}' could not be pinned on {host.name}"):
        domain, width = host.connection.lookupByName(name), _width(host)
        for number in range(int(parse(domain.XMLDesc()).findtext("vcpu") or 1)):
            domain.pinVcpu(number, _map(kept.get(str(number)) or processors, width))
        rest = kept.get(EMULATOR) or processors
        domain.pinEmulator(_map(rest, width), libvirt.VIR_DOMAIN_AFFECT_LIVE)


def _width(host: Host) -> int:
    return max(topology_of(host).processors) + 1


def _map(processors: Collection[int], width: int) -> tuple[bool, ...]:
    """As libvirt's Python binding wants it: whether each processor is one of these."""
    return tuple(number in processors for number in range(width))
