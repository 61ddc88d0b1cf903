"""Why a plan has a step, in words for the person who reads the plan: each reason names what
differs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from ipaddress import IPv4Interface, IPv6Interface

from vcloud.design.isolation import Isolation
from vcloud.design.model import Design, Flow, Role, Uplink, Vm
from vcloud.design.readers import changes_of
from vcloud.plan.images import built_anew
from vcloud.plan.manifest import Manifest, Phase
from vcloud.plan.state import VappState
from vcloud.values import Protocol

RELEASE = "this release renders it differently"
"""The reason if the file did not change, but the text that vcloud renders did."""
BROUGHT_BACK = "somebody reverted it to a snapshot, or restored its saved memory, so it has the files, the links and the clock of then"
UNREADY = "it was made, but was not ready when the last run ended"
STOPPED = "it was stopped by `vcloud stop`"
HOSTS = "/etc/hosts"
OUTAGES = {
    Role.FIREWALL: "; all traffic between zones and with the outside stops until it runs again, for 10 to 40 s without KVM",
    Role.IPS: "; all traffic that it inspects stops until it runs again, for 10 to 40 s without KVM",
}
UNTOLD = frozenset({"apps", "origin", "why"})
"""Fields of a flow that do not change which packets pass the firewall."""


def on_stopped(wanted: Manifest, state: VappState) -> Iterator[str]:
    """A note on the VMs that `vcloud stop` has stopped and that start again."""
    names = [vm.name for vm in wanted.design.vms if state.stopped(vm)]
    if starting := [name for name in names if name not in wanted.stopped]:
        yield f"stopped by `vcloud stop`, and started again: {', '.join(starting)}"


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


def root(
    vm: Vm,
    old: Vm | None,
    wanted: Manifest,
    have: Manifest | None,
    packages: Mapping[str, Sequence[str]],
) -> str:
    """Why a VM needs a new root disk. `packages` holds lists of packages by their digests."""
    image = wanted.image_of(vm.name)
    anew = built_anew(image, have.image_of(vm.name), packages) if image and have else ""
    if old is not None and old.run != vm.run:
        return f"its run commands changed; {anew}" if anew else "its run commands changed"
    return anew or "its image changed"


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
    if old.root != vm.root:
        before = f"{old.root >> 20} MiB" if old.root else "as its image"
        yield f"root disk: {before} -> {vm.root >> 20} MiB"
    if old.nics != vm.nics:
        zones = dict.fromkeys(nic.zone for nic in vm.nics if nic not in old.nics)
        yield (
            _listed("NICs", [nic.zone for nic in old.nics], [nic.zone for nic in vm.nics])
            or (f"NICs in {', '.join(zones)} changed" if zones else "the order of its NICs changed")
        )
    if old.disks != vm.disks:
        sizes, wanted_sizes = (
            [f"{disk.name} {disk.size >> 20} MiB" for disk in one.disks] for one in (old, vm)
        )
        yield _listed("disks", sizes, wanted_sizes) or "its disks changed"
    yield from _isolation(old.isolation, vm.isolation)
    if have.accelerator != wanted.accelerator:
        yield f"accelerator: {have.accelerator} -> {wanted.accelerator}"
    if vm.role is Role.FIREWALL and segment(have.uplink) != segment(wanted.uplink):
        yield f"uplink: {segment(have.uplink)} -> {segment(wanted.uplink)}"


def _isolation(old: Isolation, new: Isolation) -> Iterator[str]:
    """What a new process of QEMU has or has not. Cores are changed while it runs."""
    for before, after, demand in (
        (old.locked_memory, new.locked_memory, "its memory is locked"),
        (old.no_page_sharing, new.no_page_sharing, "its pages are not merged with others"),
        (old.svirt, new.svirt, "a security label of its own is demanded"),
    ):
        if before != after:
            yield f"isolation: {demand}" if after else f"isolation: no longer: {demand}"


def identity(vm: Vm, wanted: Manifest, have: Manifest | None) -> str:
    """The differences in a guest's identity: names, addresses, files, keys."""
    return "; ".join(_identity(vm, wanted, have)) or RELEASE


def _identity(vm: Vm, wanted: Manifest, have: Manifest | None) -> Iterator[str]:
    old = have.vm(vm.name) if have else None
    if old is None or have is None:
        return
    if vm.role is Role.FIREWALL and _named(have.uplink) != _named(wanted.uplink):
        yield (
            _listed("addresses outside", _addresses(have.uplink), _addresses(wanted.uplink))
            or "the gateway outside changed"
        )
    if changed := _changed_files(vm, old):
        yield f"files: {', '.join(_followed(vm, old, path) for path in changed)}"
        if lines := sorted(
            {number for file in vm.files if file.path in changed for number in file.named_by}
        ):
            named = ", ".join(f"run[{number}]" for number in lines)
            yield (
                f"{named} names a changed file and does not run again"
                if len(lines) == 1
                else f"{named} name changed files and do not run again"
            )
    if have.design.authorized_keys != wanted.design.authorized_keys:
        yield "authorized keys changed"
    before, after = ([other.name for other in one.design.workloads] for one in (have, wanted))
    if names := _listed("neighbours" if vm.role is Role.FIREWALL else "/etc/hosts", before, after):
        after_it = _followed(vm, old, HOSTS).removeprefix(HOSTS)
        yield f"{names}{after_it}"
    if [disk.mount for disk in old.disks] != [disk.mount for disk in vm.disks]:
        yield "mount points changed"


def _changed_files(vm: Vm, old: Vm) -> list[str]:
    """The paths of files that are new or removed, or have another content, mode or owner. Contents
    are digests here (`manifest.redacted`), which is enough to compare them.
    """
    before, after = (
        {(file.path, file.content, file.mode, file.owner) for file in one.files}
        for one in (old, vm)
    )
    return sorted({path for path, *_ in before ^ after})


def _followed(vm: Vm, old: Vm, path: str) -> str:
    """A changed file, and what the guest does then: `/etc/nginx/a.conf (reload nginx)`."""
    follows = [
        f"{change} {unit.removesuffix('.service')}" for change, unit in changes_of(vm, old, path)
    ]
    if any(file.run for file in vm.files if file.path == path):
        follows.insert(0, "run its command")
    return f"{path} ({', '.join(follows)})" if follows else path


def outage(vm: Vm) -> str:
    """Which traffic stops while an appliance is off."""
    return OUTAGES.get(vm.role, "")


def described(wanted: Manifest, have: Manifest | None) -> str:
    """Why a description is written anew where nothing else differs."""
    old, new = (
        [one.label for one in m.design.controls.profiles] if m else [] for m in (have, wanted)
    )
    return _listed("profiles", old, new) or "only the description changed"


def loading(state: VappState, *, reload: bool) -> str:
    """Why both appliances are loaded even if their rules are unchanged; empty if there is no such
    reason.
    """
    have = state.manifest
    if reload:
        return "--reload asks for it"
    if have is not None and have.phase is not Phase.READY:
        return "the last run did not succeed"
    return ""


def firewall(wanted: Manifest, have: Manifest | None, why: str) -> str:
    """The flows that are allowed, revoked or changed. If there are none: why the rules are loaded."""
    changes = flow_changes(wanted.design, have)
    words = (
        ("allows", changes.allowed),
        ("revokes", changes.revoked),
        ("changes", changes.changed),
    )
    flows = "; ".join(f"{word} {', '.join(names)}" for word, names in words if names)
    return (
        flows or f"rules are loaded{' again' if have else ''}: {why or _firewall_why(wanted, have)}"
    )


def _firewall_why(wanted: Manifest, have: Manifest | None) -> str:
    if have is not None and have.uplink.beside != wanted.uplink.beside:
        return "the host's own networks changed, and they are not part of internet"
    old = {zone.name: zone.denied for zone in have.design.zones} if have else {}
    told = [
        f"denied in zone {zone.name}: {old[zone.name]} -> {zone.denied}"
        for zone in wanted.design.zones
        if old.get(zone.name, zone.denied) is not zone.denied
    ]
    if told:
        return "; ".join(told)
    differ = have is not None and have.firewall != wanted.firewall
    return _rules_why(differ, wanted.design.firewall)


def ips(wanted: Manifest, have: Manifest | None, why: str) -> str:
    """The inspected zones, and the protocols of flows. If both are unchanged: why the rules are
    loaded.
    """
    zones = f"rules for {', '.join(wanted.design.inspection.zones)}{_carried(wanted.design, ())}"
    if have is None or have.design.ips is None or wanted.design.ips is None:
        return zones
    if have.design.inspection.zones != wanted.design.inspection.zones:
        return zones
    old, new = (_detectors(one.design) for one in (have, wanted))
    changed = _listed("detectors", old, new) or (
        "detectors changed"
        if have.design.inspection.detectors != wanted.design.inspection.detectors
        else ""
    ) + _carried(wanted.design, have.design.flows)
    return (
        changed.removeprefix("; ")
        or f"rules are loaded again: {why or _rules_why(have.ips != wanted.ips, wanted.design.ips)}"
    )


def _carried(design: Design, before: Collection[Flow]) -> str:
    """The protocols of flows that carried another protocol before, or none was known."""
    old = {flow.id: (flow.services, flow.apps) for flow in before}
    said = [
        f"{flow.id} carries {app or 'anything'}" + (f" on {service}" * (len(flow.services) > 1))
        for flow in design.flows
        for service, app in zip(flow.services, flow.apps, strict=True)
        if old.get(flow.id) != (flow.services, flow.apps)
        and (app is not None or (flow.id in old and service.protocol is Protocol.TCP))
    ]
    return "".join(f"; {text}" for text in said)


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
    """Whether the firewall allows the same packets on both flows."""
    return all(
        getattr(one, item.name) == getattr(other, item.name)
        for item in fields(Flow)
        if item.name not in UNTOLD
    )


def _listed(what: str, before: Collection[str], after: Collection[str]) -> str:
    """`what: + new, - old`; empty if both hold the same names."""
    signs = [
        *(f"+ {name}" for name in after if name not in before),
        *(f"- {name}" for name in before if name not in after),
    ]
    return f"{what}: {', '.join(signs)}" if signs else ""


def segment(uplink: Uplink) -> str:
    return f"network '{uplink.network}'" if uplink.network else f"bridge '{uplink.bridge}'"


def _named(uplink: Uplink) -> Uplink:
    """The part of an uplink that the firewall's identity names."""
    return replace(uplink, beside=())


def _addresses(uplink: Uplink) -> list[str]:
    both: tuple[IPv4Interface | IPv6Interface | None, ...] = (uplink.address4, uplink.address6)
    return [str(address.ip) for address in both if address is not None]
