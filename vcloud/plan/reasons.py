"""Why a plan has a step, in words for the person who reads the plan: each reason names what
differs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, fields
from ipaddress import IPv4Interface, IPv6Interface

from vcloud.design.model import Design, Flow, Role, Uplink, Vm
from vcloud.plan.manifest import Manifest, Phase
from vcloud.plan.state import VappState

RELEASE = "this release renders it differently"
"""Nothing of the file differs, but the text that is made of it does."""
UNTOLD = frozenset({"line", "origin", "why"})
"""Fields of a flow that change nothing of what passes."""


def first(vm: Vm) -> str:
    """The purpose of a VM that is made for the first time."""
    if vm.role is Role.FIREWALL:
        return "between all zones and the outside"
    zones = ", ".join(dict.fromkeys(nic.zone for nic in vm.nics))
    return (
        f"inspects {zones}"
        if vm.role is Role.IPS
        else f"image {vm.image.name}, {vm.memory >> 20} MiB, in {zones}"
    )


def root(vm: Vm, old: Vm | None) -> str:
    return (
        "its run commands changed" if old is not None and old.run != vm.run else "its image changed"
    )


def hardware(vm: Vm, wanted: Manifest, have: Manifest | None) -> str:
    """The differences in a VM's domain."""
    return ", ".join(_hardware(vm, wanted, have)) or RELEASE


def _hardware(vm: Vm, wanted: Manifest, have: Manifest | None) -> Iterator[str]:
    old = have.vm(vm.name) if have else None
    if old is None or have is None:
        return
    if old.memory != vm.memory:
        yield f"memory: {old.memory >> 20} -> {vm.memory >> 20} MiB"
    if old.cpus != vm.cpus:
        yield f"CPUs: {old.cpus} -> {vm.cpus}"
    if old.nics != vm.nics:
        zones = dict.fromkeys(nic.zone for nic in vm.nics if nic not in old.nics)
        yield (
            _listed("NICs", [nic.zone for nic in old.nics], [nic.zone for nic in vm.nics])
            or f"NICs in {', '.join(zones)} changed"
        )
    if old.disks != vm.disks:
        before, after = (
            [f"{disk.name} {disk.size >> 20} MiB" for disk in one.disks] for one in (old, vm)
        )
        yield _listed("disks", before, after) or "its disks changed"
    if have.accelerator != wanted.accelerator:
        yield f"accelerator: {have.accelerator} -> {wanted.accelerator}"
    if vm.role is Role.FIREWALL and _segment(have.uplink) != _segment(wanted.uplink):
        yield f"uplink: {_segment(have.uplink)} -> {_segment(wanted.uplink)}"


def identity(vm: Vm, wanted: Manifest, have: Manifest | None) -> str:
    """The differences in a guest's identity: names, addresses, files, keys."""
    return "; ".join(_identity(vm, wanted, have)) or RELEASE


def _identity(vm: Vm, wanted: Manifest, have: Manifest | None) -> Iterator[str]:
    old = have.vm(vm.name) if have else None
    if old is None or have is None:
        return
    if vm.role is Role.FIREWALL and have.uplink != wanted.uplink:
        yield (
            _listed("addresses outside", _addresses(have.uplink), _addresses(wanted.uplink))
            or "the gateway outside changed"
        )
    if changed := sorted({file.path for file in {*old.files} ^ {*vm.files}}):
        yield f"files: {', '.join(changed)}"
    if have.design.authorized_keys != wanted.design.authorized_keys:
        yield "authorized keys changed"
    before, after = ([other.name for other in one.design.workloads] for one in (have, wanted))
    if names := _listed("neighbours" if vm.role is Role.FIREWALL else "/etc/hosts", before, after):
        yield names
    if [disk.mount for disk in old.disks] != [disk.mount for disk in vm.disks]:
        yield "mount points changed"


def loading(state: VappState, *, reload: bool) -> str:
    """Why both appliances are loaded whatever their rules are; empty where only a difference or a
    restart is a reason.
    """
    have = state.manifest
    if reload:
        return "--reload asks for it"
    if have is not None and have.phase is not Phase.READY:
        return "the last run did not end"
    return ""


def firewall(wanted: Manifest, have: Manifest | None, why: str) -> str:
    """Which flows come and go. Where none do: why the rules are loaded."""
    changes = flow_changes(wanted.design, have)
    words = (
        ("allows", changes.allowed),
        ("revokes", changes.revoked),
        ("changes", changes.changed),
    )
    flows = "; ".join(f"{word} {', '.join(names)}" for word, names in words if names)
    return (
        flows
        or f"rules are loaded again: {why or _rules_why(have is not None and have.firewall != wanted.firewall, wanted.design.firewall)}"
    )


def ips(wanted: Manifest, have: Manifest | None, why: str) -> str:
    """Which zones are inspected from now on. Where they stay: why the rules are loaded."""
    zones = f"rules for {', '.join(wanted.design.inspection.zones)}"
    if have is None or have.design.ips is None or wanted.design.ips is None:
        return zones
    if have.design.inspection.zones != wanted.design.inspection.zones:
        return zones
    old, new = (_detectors(one.design) for one in (have, wanted))
    changed = _listed("detectors", old, new) or (
        "detectors changed"
        if have.design.inspection.detectors != wanted.design.inspection.detectors
        else ""
    )
    return (
        changed
        or f"rules are loaded again: {why or _rules_why(have.ips != wanted.ips, wanted.design.ips)}"
    )


def _rules_why(differ: bool, vm: Vm) -> str:
    return RELEASE if differ else f"'{vm.name}' is started or configured"


def _detectors(design: Design) -> list[str]:
    return [detector.id for detector in design.inspection.detectors]


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


def same_flow(one: Flow, other: Flow) -> bool:
    """Whether both let the same pass: all is equal but the origin and the reason."""
    return all(
        getattr(one, item.name) == getattr(other, item.name)
        for item in fields(Flow)
        if item.name not in UNTOLD
    )


def _listed(what: str, before: Collection[str], after: Collection[str]) -> str:
    """`what: + new, - old`; empty where both hold the same."""
    signs = [
        *(f"+ {name}" for name in after if name not in before),
        *(f"- {name}" for name in before if name not in after),
    ]
    return f"{what}: {', '.join(signs)}" if signs else ""


def _segment(uplink: Uplink) -> str:
    return f"network '{uplink.network}'" if uplink.network else f"bridge '{uplink.bridge}'"


def _addresses(uplink: Uplink) -> list[str]:
    both: tuple[IPv4Interface | IPv6Interface | None, ...] = (uplink.address4, uplink.address6)
    return [str(address.ip) for address in both if address is not None]
