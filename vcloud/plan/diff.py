"""Compares what is wanted with what stands. Pure: the same two values give the same plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields

from vcloud.compile.artifacts import Artifacts
from vcloud.compile.libvirt.network import zone_networks
from vcloud.design.model import Design, Flow, Network, Role, Vm
from vcloud.errors import SmallerDiskError, VcloudError
from vcloud.plan.state import DomainState, Manifest, Phase, VappState, VmDigests, digest_of, redacted
from vcloud.plan.steps import Plan, Step, Verb


def wanted_manifest(artifacts: Artifacts, accelerator: str, images: Mapping[str, str], written: str, version: str) -> Manifest:
    """The manifest that a host will carry when the vApp stands. `images` maps VM names to image digests."""
    design = redacted(artifacts.design)
    return Manifest(
        phase=Phase.APPLYING,
        design=design,
        uplink=artifacts.uplink,
        accelerator=accelerator,
        images=tuple(sorted(images.items())),
        vms=tuple((vm.name, vm_digests(vm, artifacts, accelerator, images[vm.name])) for vm in design.vms),
        firewall=artifacts.firewall_digest,
        ips=artifacts.ips_digest,
        written=written,
        vcloud=version,
    )


def vm_digests(vm: Vm, artifacts: Artifacts, accelerator: str, image: str) -> VmDigests:
    """`vm` is the redacted one, so that `root` holds run commands as digests of their digests. `identity` covers what is delivered: the
    contents of the files themselves."""
    uplink = (artifacts.uplink.network, artifacts.uplink.bridge) if vm.role is Role.FIREWALL else ()
    return VmDigests(
        root=digest_of(image, vm.run),
        hardware=digest_of(vm.memory, vm.cpus, vm.nics, vm.disks, vm.domain, accelerator, uplink),
        identity=digest_of(artifacts.identities[vm.name]),
    )


def plan_changes(wanted: Manifest, state: VappState, host: str, *, reload: bool = False) -> Plan:
    """The steps from `state` to `wanted`; with `reload` the appliances get their rules again, whatever they should hold already.

    Raises VcloudError when a name that the vApp needs belongs to somebody else, SmallerDiskError.
    """
    refuse_renamed(wanted.design, state)
    refuse_foreign_names(wanted.design, state)
    refuse_smaller_disks(wanted.design, state.manifest)
    steps = [*_vm_removals(wanted, state), *_network_steps(wanted.design, state), *_vm_steps(wanted, state)]
    steps += [*_protection_steps(wanted, state, steps, reload)]
    if not steps and not _settled(wanted, state):
        steps.append(Step(Verb.RECORD, wanted.design.vapp, "the description changed, nothing that runs does"))
    order = list(Verb)
    return Plan(wanted.design.vapp, host, tuple(sorted(steps, key=lambda step: order.index(step.verb))))


def refuse_renamed(design: Design, state: VappState) -> None:
    """The disks of a VM whose domain has another name now must not go from under it."""
    for vm in design.vms:
        if name := state.renamed(vm):
            raise VcloudError(
                f"the domain of '{vm.name}' is called '{name}' now, and its disks are in use there",
                f"Give it its name back (virsh domrename {name} {vm.domain}), or remove it (virsh undefine {name}).",
            )


def refuse_foreign_names(design: Design, state: VappState) -> None:
    """A domain or network that is not ours keeps its name; nothing is touched."""
    for vm in design.vms:
        found = state.domain(vm.domain)
        if found is not None and found.uuid != vm.uuid:
            raise VcloudError(
                f"the domain '{vm.domain}' exists already and is not vcloud's",
                f"Rename it (virsh domrename), or give the vApp '{design.vapp}' another name.",
            )
    for network in networks_of(design):
        standing = state.network(network.name)
        if standing is not None and standing.uuid != network.uuid:
            raise VcloudError(
                f"the network '{network.name}' exists already and is not vcloud's",
                f"Remove it (virsh net-undefine), or give the vApp '{design.vapp}' another name.",
            )


def refuse_smaller_disks(design: Design, manifest: Manifest | None) -> None:
    """Whoever cuts a disk loses what lies behind the cut."""
    for vm in design.vms:
        old = _old_vm(vm, manifest)
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
        if domain.is_of(wanted.design.vapp) and domain.name not in names:
            yield Step(Verb.REMOVE_VM, domain.name, "no longer in the file")


def _network_steps(design: Design, state: VappState) -> Iterator[Step]:
    names = {network.name for network in networks_of(design)}
    for standing in state.networks:
        if standing.vapp == design.vapp and standing.name not in names:
            yield Step(Verb.REMOVE_NETWORK, standing.name, "no longer needed")
    for zone in design.zones:
        for network in zone_networks(zone):
            found = state.network(network.name)
            if found is None:
                side = "between the IPS and the firewall in" if network is zone.inner and zone.inspected else "of"
                yield Step(Verb.MAKE_NETWORK, network.name, f"network {side} zone '{zone.name}'")
            elif not found.active:
                yield Step(Verb.MAKE_NETWORK, network.name, "it is not active")


def _vm_steps(wanted: Manifest, state: VappState) -> Iterator[Step]:
    for vm in wanted.design.vms:
        digests = wanted.digests_of(vm.name)
        assert digests is not None  # noqa: S101 - wanted_manifest made one per VM
        domain = state.domain(vm.domain)
        if domain is None:
            yield Step(Verb.MAKE_VM, vm.name, _first_why(vm))
            continue
        have = standing_digests(vm, domain, state.manifest)
        old = _old_vm(vm, state.manifest)
        if have is None:
            lost = "; its data disks, never finished, begin anew" if vm.disks and not domain.keeps_data else ""
            yield Step(Verb.REMAKE_VM, vm.name, f"an earlier run was interrupted while making it{lost}")
        elif have.root != digests.root:
            yield Step(Verb.REMAKE_VM, vm.name, _root_why(vm, old))
        elif have.hardware != digests.hardware:
            yield Step(Verb.RESTART_VM, vm.name, _hardware_why(vm, old))
        elif have.identity != digests.identity and not vm.image.recipe:
            yield Step(Verb.RESTART_VM, vm.name, f"{_identity_why(vm, old, moved=False)}; cloud-init learns of it at boot")
        elif domain.running and (cut := _cut_off(vm, state)):
            yield Step(Verb.RESTART_VM, vm.name, f"it is cut off: {cut} and its cards come back only when it starts")
        elif domain.saved:
            yield Step(Verb.RESTORE_VM, vm.name, "its memory was saved")
        elif not domain.running or domain.paused:
            yield Step(Verb.START_VM, vm.name, "it is paused" if domain.paused else "it is not running")
        elif not state.brought_in(vm):
            yield Step(Verb.START_VM, vm.name, "it was started, and nobody has seen to its links and services since")
        elif have.identity != digests.identity:
            moved = vm.role is Role.FIREWALL and state.manifest is not None and state.manifest.uplink != wanted.uplink
            yield Step(Verb.CONFIGURE_VM, vm.name, _identity_why(vm, old, moved=moved))


def _cut_off(vm: Vm, state: VappState) -> str:
    """Why no packet reaches some card of a VM that runs: when a network ends its bridge goes, and a new one of that name has no ports."""
    if vm.role is Role.FIREWALL and state.uplink_gone:
        return "the uplink's network was stopped or removed,"
    for name in dict.fromkeys(nic.network for nic in vm.nics if nic.network):
        standing = state.network(name)
        if standing is None or not standing.active:
            return f"the network '{name}' was {'removed' if standing is None else 'stopped'},"
    return ""


def standing_digests(vm: Vm, domain: DomainState, manifest: Manifest | None) -> VmDigests | None:
    """The manifest's word while it is settled, else the domain's own."""
    if manifest is not None and manifest.phase is Phase.READY:
        return manifest.digests_of(vm.name)
    return domain.digests


def _first_why(vm: Vm) -> str:
    if vm.role is Role.FIREWALL:
        return "between all zones and the outside"
    if vm.role is Role.IPS:
        return "inspects " + ", ".join(dict.fromkeys(nic.zone for nic in vm.nics))
    return f"image {vm.image.name}, {vm.memory >> 20} MiB, in " + ", ".join(nic.zone for nic in vm.nics)


def _old_vm(vm: Vm, manifest: Manifest | None) -> Vm | None:
    return next((old for old in manifest.design.vms if old.name == vm.name), None) if manifest else None


def _root_why(vm: Vm, old: Vm | None) -> str:
    return "its run commands changed" if old is not None and old.run != vm.run else "its image changed"


def _hardware_why(vm: Vm, old: Vm | None) -> str:
    if old is None:
        return "its hardware changed"
    words = {"memory": "memory", "cpus": "CPUs", "nics": "network cards", "disks": "disks"}
    changed = [word for name, word in words.items() if getattr(old, name) != getattr(vm, name)]
    if "memory" in changed:
        changed[changed.index("memory")] = f"memory {old.memory >> 20} -> {vm.memory >> 20} MiB"
    return ", ".join(changed) + " changed" if changed else "the host's accelerator or uplink changed"


def _identity_why(vm: Vm, old: Vm | None, *, moved: bool) -> str:
    """`moved`: it is a firewall whose place in the outside is another one."""
    if moved:
        return "the host's uplink changed"
    if old is not None and old.files != vm.files:
        return "files changed: " + ", ".join(sorted({file.path for file in {*old.files} ^ {*vm.files}}))
    return "names or neighbours changed"


def _protection_steps(wanted: Manifest, state: VappState, steps: list[Step], reload: bool) -> Iterator[Step]:
    """Appliances are loaded when their rules differ, and whenever they were (re)started or may not have been loaded."""
    have = state.manifest
    settled = have is not None and have.phase is Phase.READY and not reload
    touched = {step.subject for step in steps}
    firewall, ips = wanted.design.firewall, wanted.design.ips
    if not settled or have is None or have.firewall != wanted.firewall or firewall.name in touched:
        yield Step(Verb.LOAD_FIREWALL, firewall.name, _flows_why(flow_changes(wanted.design, have)))
    if ips is not None and (not settled or have is None or have.ips != wanted.ips or ips.name in touched):
        yield Step(Verb.LOAD_IPS, ips.name, "rules for " + ", ".join(wanted.design.inspection.zones))


@dataclass(frozen=True, slots=True)
class FlowChanges:
    """Ids of flows, in the order of the file."""

    allowed: tuple[str, ...]
    revoked: tuple[str, ...]
    changed: tuple[str, ...]

    @property
    def only_revokes(self) -> bool:
        return bool(self.revoked) and not (self.allowed or self.changed)


def flow_changes(design: Design, have: Manifest | None) -> FlowChanges:
    old = {flow.id: flow for flow in have.design.flows} if have else {}
    new = {flow.id: flow for flow in design.flows}
    return FlowChanges(
        allowed=tuple(name for name in new if name not in old),
        revoked=tuple(name for name in old if name not in new),
        changed=tuple(name for name in new if name in old and not same_flow(new[name], old[name])),
    )


def _flows_why(changes: FlowChanges) -> str:
    """Names what changes in the flows, which is what a reviewer wants to see."""
    words = (("allows", changes.allowed), ("revokes", changes.revoked), ("changes", changes.changed))
    return "; ".join(f"{word} {', '.join(names)}" for word, names in words if names) or "its rules are to be loaded again"


def same_flow(one: Flow, other: Flow) -> bool:
    """Equal but for the line it stands on and its reason."""
    ignored = {"line", "why"}
    return all(getattr(one, item.name) == getattr(other, item.name) for item in fields(Flow) if item.name not in ignored)
