"""Compares the wanted manifest with the state of a host, and yields the steps between them. Pure:
the same two values give the same plan.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from vcloud.compile.libvirt.network import zone_networks
from vcloud.design.model import Design, Network, Role, Vm
from vcloud.design.names import filter_name
from vcloud.errors import SmallerDiskError, VcloudError
from vcloud.marks import VmDigests
from vcloud.plan import reasons
from vcloud.plan.manifest import Manifest, Phase
from vcloud.plan.state import DomainState, NetworkState, VappState
from vcloud.plan.steps import Plan, Step, Verb, in_order


def plan_changes(wanted: Manifest, state: VappState, host: str, *, reload: bool = False) -> Plan:
    """The steps from `state` to `wanted`. With `reload`, the appliances load their rules again even
    if these are unchanged.

    Raises:
        HostError: a newer release of vcloud made the vApp on the host.
        VcloudError: a name that the vApp needs belongs to somebody else, or somebody has renamed a
            domain of the vApp.
        SmallerDiskError: the file makes a data disk smaller.
    """
    state.refuse_newer(wanted.design.instance.name, host)
    refuse_renamed(wanted.design, state)
    refuse_foreign_names(wanted.design, state)
    refuse_smaller_disks(wanted.design, state.manifest)
    steps = [
        *_vm_removals(wanted, state),
        *_filter_step(wanted, state),
        *_network_steps(wanted, state),
        *_vm_steps(wanted, state),
    ]
    steps += [*_protection_steps(wanted, state, steps, reload)]
    if not steps and not _settled(wanted, state):
        steps.append(
            Step(
                Verb.RECORD,
                wanted.design.instance.name,
                "only the description changed; nothing that runs is touched",
            )
        )
    return Plan(
        wanted.design.instance.name, host, in_order(replace(step, host=host) for step in steps)
    )


def refuse_renamed(design: Design, state: VappState) -> None:
    """Refuses a plan where somebody has renamed a domain of the vApp: the VM would be made again,
    with the disks that the domain uses.
    """
    for vm in design.vms:
        if name := state.renamed(vm):
            raise VcloudError(
                f"the domain of '{vm.name}' is called '{name}' now, and its disks are in use there",
                f"Give it its name back (virsh domrename {name} {vm.domain}), or remove it (virsh undefine {name}).",
            )


def refuse_foreign_names(design: Design, state: VappState) -> None:
    """Refuses a plan that needs the name of a domain or network that is not vcloud's. Nothing is
    touched.
    """
    for vm in design.vms:
        found = state.domain(vm.domain)
        if found is not None and found.uuid != vm.uuid:
            raise VcloudError(
                f"the domain '{vm.domain}' exists already and is not vcloud's",
                f"Rename it (virsh domrename), or give the vApp '{design.instance.name}' another name.",
            )
    for network in networks_of(design):
        standing = state.network(network.name)
        if standing is not None and standing.uuid != network.uuid:
            raise VcloudError(
                f"the network '{network.name}' exists already and is not vcloud's",
                f"Remove it (virsh net-undefine), or give the vApp '{design.instance.name}' another name.",
            )


def refuse_smaller_disks(design: Design, manifest: Manifest | None) -> None:
    """Refuses a disk that the file makes smaller: the data behind the new end would be lost."""
    for vm in design.vms:
        old = manifest.vm(vm.name) if manifest else None
        sizes = {disk.name: disk.size for disk in old.disks} if old else {}
        for disk in vm.disks:
            if disk.size < sizes.get(disk.name, 0):
                raise SmallerDiskError(
                    f"the disk '{disk.name}' of '{vm.name}' has {sizes[disk.name] >> 20} MiB, and a disk cannot become smaller",
                    "Leave its size, or give it a new name, which makes an empty one.",
                )


def networks_of(design: Design) -> tuple[Network, ...]:
    return tuple(network for zone in design.zones for network in zone_networks(zone))


def _settled(wanted: Manifest, state: VappState) -> bool:
    have = state.manifest
    return have is not None and have.phase is Phase.READY and have.agrees_with(wanted)


def _vm_removals(wanted: Manifest, state: VappState) -> Iterator[Step]:
    names = {vm.domain for vm in wanted.design.vms}
    for domain in state.domains:
        if domain.is_of(wanted.design.instance.name) and domain.name not in names:
            yield Step(Verb.REMOVE_VM, domain.name, "no longer in the file")


def _filter_step(wanted: Manifest, state: VappState) -> Iterator[Step]:
    """A filter is defined again only if its text changed, because libvirt takes a filter off every
    NIC for a moment while it redefines it.
    """
    name, have = filter_name(wanted.design.instance.name), state.manifest
    if state.filter_gone:
        yield Step(
            Verb.DEFINE_FILTER,
            name,
            "it was removed" if have else "each workload sends with its own MAC address only",
        )
    elif have is not None and have.filter != wanted.filter:
        yield Step(Verb.DEFINE_FILTER, name, reasons.RELEASE)


def _network_steps(wanted: Manifest, state: VappState) -> Iterator[Step]:
    design = wanted.design
    names = {network.name for network in networks_of(design)}
    for standing in state.networks:
        if standing.marks.vapp == design.instance.name and standing.name not in names:
            yield Step(Verb.REMOVE_NETWORK, standing.name, "no longer needed")
    for zone in design.zones:
        for network in zone_networks(zone):
            found = state.network(network.name)
            if found is None:
                side = (
                    "between the IPS and the firewall in"
                    if network is zone.inner and zone.inspected
                    else "of"
                )
                yield Step(Verb.MAKE_NETWORK, network.name, f"network {side} zone '{zone.name}'")
            elif _differs(found, wanted):
                yield Step(Verb.REMAKE_NETWORK, network.name, reasons.RELEASE)
            elif not found.active:
                yield Step(Verb.MAKE_NETWORK, network.name, "it is not active")


def _differs(standing: NetworkState, wanted: Manifest) -> bool:
    """Whether a network was made from another text. A mark of format 1 does not tell; such a
    network counts as equal.
    """
    return standing.marks.digest not in ("", wanted.network_digest(standing.name))


def _vm_steps(wanted: Manifest, state: VappState) -> Iterator[Step]:
    for vm in wanted.design.vms:
        digests = wanted.digests_of(vm.name)
        assert digests is not None  # noqa: S101 - wanted_manifest made one per VM
        domain = state.domain(vm.domain)
        if domain is None:
            yield Step(Verb.MAKE_VM, vm.name, reasons.first(vm))
            continue
        have = standing_digests(vm, domain, state.manifest)
        old = state.manifest.vm(vm.name) if state.manifest else None
        if have is None:
            lost = (
                "; its data disks, never finished, begin anew"
                if vm.disks and not domain.marks.keeps_data
                else ""
            )
            yield Step(
                Verb.REMAKE_VM, vm.name, f"an earlier run was interrupted while making it{lost}"
            )
        elif have.root != digests.root:
            yield Step(Verb.REMAKE_VM, vm.name, reasons.root(vm, old))
        elif have.hardware != digests.hardware:
            yield Step(Verb.RESTART_VM, vm.name, reasons.hardware(vm, wanted, state.manifest))
        elif have.identity != digests.identity and not vm.image.recipe:
            yield Step(
                Verb.RESTART_VM,
                vm.name,
                f"{reasons.identity(vm, wanted, state.manifest)}; cloud-init learns of it at boot",
            )
        elif domain.running and (cut := _cut_off(vm, state, wanted)):
            yield Step(
                Verb.RESTART_VM,
                vm.name,
                f"it is cut off: {cut} and its NICs are plugged in again only when it starts",
            )
        elif domain.saved:
            yield Step(Verb.RESTORE_VM, vm.name, "its memory was saved")
        elif not domain.running or domain.paused:
            yield Step(
                Verb.START_VM, vm.name, "it is paused" if domain.paused else "it is not running"
            )
        elif not state.connected(vm):
            yield Step(
                Verb.START_VM,
                vm.name,
                "it was started, but not by `vcloud up`, so its links and services were not set up",
            )
        elif have.identity != digests.identity:
            yield Step(Verb.CONFIGURE_VM, vm.name, reasons.identity(vm, wanted, state.manifest))


def _cut_off(vm: Vm, state: VappState, wanted: Manifest) -> str:
    """Why no packet reaches some NIC of a running VM; empty where packets reach all of them.

    When a network stops, its bridge is removed. A new bridge of that name has no ports, so the NICs
    of running VMs are not on it.
    """
    if vm.role is Role.FIREWALL and state.uplink_gone:
        return "the uplink's network was stopped or removed,"
    for name in dict.fromkeys(nic.network for nic in vm.nics if nic.network):
        standing = state.network(name)
        if standing is None or not standing.active:
            return f"the network '{name}' was {'removed' if standing is None else 'stopped'},"
        if _differs(standing, wanted):
            return f"the network '{name}' is made anew,"
    return ""


def standing_digests(vm: Vm, domain: DomainState, manifest: Manifest | None) -> VmDigests | None:
    """The digests of a standing VM. The manifest has them if the last run ended; otherwise only the
    domain's own mark is reliable.
    """
    if manifest is not None and manifest.phase is Phase.READY:
        return manifest.digests_of(vm.name)
    return domain.marks.digests


def _protection_steps(
    wanted: Manifest, state: VappState, steps: list[Step], reload: bool
) -> Iterator[Step]:
    """Appliances are loaded when their rules differ, and whenever they were (re)started or may not
    have been loaded.
    """
    have = state.manifest
    touched = {step.subject for step in steps}
    firewall, ips = wanted.design.firewall, wanted.design.ips
    why = reasons.loading(state, reload=reload)
    if have is None or why or have.firewall != wanted.firewall or firewall.name in touched:
        yield Step(Verb.LOAD_FIREWALL, firewall.name, reasons.firewall(wanted, have, why))
    if ips is not None and (have is None or why or have.ips != wanted.ips or ips.name in touched):
        yield Step(Verb.LOAD_IPS, ips.name, reasons.ips(wanted, have, why))
