"""Compares the wanted manifest with the state of a host, and yields the steps between them. Pure:
the same two values give the same plan.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from vcloud.compile.libvirt.network import vapp_networks
from vcloud.design.model import Design, Role, Vm
from vcloud.design.names import filter_name
from vcloud.marks import NO_VM, VmDigests
from vcloud.plan import losses, reasons
from vcloud.plan.disks import heirs
from vcloud.plan.drift import drift_of
from vcloud.plan.given import forgotten, parameter_changes
from vcloud.plan.host_difference import HostDifference, HostSide
from vcloud.plan.host_mending import host_drift, host_steps, told_once, unmended
from vcloud.plan.manifest import Manifest, Phase
from vcloud.plan.refusals import refuse
from vcloud.plan.state import DomainState, NetworkState, VappState
from vcloud.plan.steps import STARTED, TOUCHED, Drift, Loss, Plan, Step, Verb, in_order


def plan_changes(
    wanted: Manifest,
    state: VappState,
    host: str,
    *,
    reload: bool = False,
    cold: bool = False,
    noting: bool = True,
    packages: Mapping[str, Sequence[str]] | None = None,
) -> Plan:
    """The steps from `state` to `wanted`.

    Args:
        wanted: the manifest of what is wanted.
        state: the vApp as it is on the host.
        host: the name of the host.
        reload: the appliances load their rules again even if these are unchanged.
        cold: a saved VM boots, and its saved memory is deleted.
        noting: also define a VM again if no run has noted yet how libvirt reads its definition.
        packages: lists of packages by their digests, so that the plan can say what differs in an
            image that was built anew.

    Raises:
        HostError: a newer release of vcloud made the vApp on the host.
        VcloudError: a name that the vApp needs belongs to somebody else, or somebody has renamed a
            domain of the vApp.
        SmallerDiskError: the file makes a disk smaller.
    """
    refuse(wanted.design, state, host)
    drift = _drift(wanted, state, noting=noting)
    side, differences = _on_host(state, drift)
    drift = (*drift, *host_drift(side, differences))
    steps = [
        *_vm_removals(wanted, state),
        *_filter_step(wanted, state, drift),
        *_network_steps(wanted, state, drift),
        *_vm_steps(wanted, state, drift, packages or {}, cold=cold),
    ]
    steps += [*host_steps(side, differences, host, steps)]
    # Last, because an appliance that another step touches must load its rules again.
    steps += [*_protection_steps(wanted, state, steps, drift, reload=reload)]
    if not steps and not _settled(wanted, state):
        steps.append(
            Step(
                Verb.RECORD,
                wanted.design.instance.name,
                f"{reasons.described(wanted, state.manifest)}; nothing that runs is touched",
            )
        )
    changes = parameter_changes(wanted.design, state.manifest)
    there = (replace(one, host=host, loses=_losses(one, wanted.design, state)) for one in steps)
    return Plan(
        wanted.design.instance.name,
        host,
        in_order(there),
        notes=tuple(_notes(wanted, state, steps, forgotten(changes))),
        parameters=changes,
        host_side=state.host_side,
        unmended=unmended(side, differences, steps),
    )


def _notes(wanted: Manifest, state: VappState, steps: list[Step], on_values: str) -> Iterator[str]:
    if on_values:
        yield on_values
    yield from losses.notes_on_disks(wanted.design, state)
    yield from _later(wanted.design, state, steps)
    yield from reasons.on_stopped(wanted, state)


def _later(design: Design, state: VappState, steps: list[Step]) -> Iterator[str]:
    """What these steps cannot do, and what is lost when somebody starts a VM again that none of them
    starts: the data of a disk whose file is gone while the VM has it open, or of a snapshot.
    """
    started = {step.subject: step.verb for step in steps if step.verb in STARTED}
    for vm in design.vms:
        domain, verb = state.domain(vm.domain), started.get(vm.name)
        if verb is Verb.RESTORE_VM:
            yield from losses.told_of_restore(vm, state)
        elif verb is None and domain is not None and domain.running:
            yield from losses.told_of_next_start(vm, design, state)


def _drift(wanted: Manifest, state: VappState, *, noting: bool) -> tuple[Drift, ...]:
    """The differences between what vcloud defined and what libvirt and the appliances have.

    After a run that did not end, the manifest still says how libvirt reads the definitions that the
    run was not going to change (`Manifest.claimed`). It does not say how far the run came with
    networks and the filter, so these are compared with the wanted design. Without a manifest, the
    definition of no VM is known.
    """
    have = state.manifest
    settled = have is not None and have.phase is Phase.READY
    around = None if settled else wanted.design
    drift = drift_of(have or wanted, state, around, wanted.design.terms, dict(wanted.cores))
    return (*(found for found in drift if noting or not found.unknown), *state.reported)


def _on_host(
    state: VappState, drift: tuple[Drift, ...]
) -> tuple[HostSide, tuple[HostDifference, ...]]:
    """The host's side, and those of its differences that `drift` does not already contain."""
    side = state.host_side or HostSide()
    return side, told_once(side, drift)


def _drifted(drift: tuple[Drift, ...], subject: str, *verbs: Verb) -> str:
    """The drift of a VM, network or filter that one of these steps mends, as text; empty if there
    is none.
    """
    return "; ".join(
        found.what for found in drift if found.subject == subject and found.mend in verbs
    )


def _losses(step: Step, design: Design, state: VappState) -> tuple[Loss, ...]:
    if step.verb is Verb.REMOVE_VM:
        return tuple(losses.of_removal(step.subject, design, state))
    vm = next((vm for vm in design.vms if vm.name == step.subject), None)
    if vm is None or step.verb not in STARTED:
        return ()
    return tuple(losses.of_start(vm, step.verb, design, state))


def _settled(wanted: Manifest, state: VappState) -> bool:
    have = state.manifest
    return have is not None and have.phase is Phase.READY and have.agrees_with(wanted)


def _vm_removals(wanted: Manifest, state: VappState) -> Iterator[Step]:
    names = {vm.domain for vm in wanted.design.vms}
    found = heirs(wanted.design, state)
    standing = [
        domain.name for domain in state.domains if domain.is_of(wanted.design.instance.name)
    ]
    for name in dict.fromkeys((*standing, *found)):
        if name not in names:
            heir = found.get(name)
            why = f"it is '{heir.name}' now, which gets its data disks" if heir else ""
            yield Step(Verb.REMOVE_VM, name, why or "no longer in the file")


def _filter_step(wanted: Manifest, state: VappState, drift: tuple[Drift, ...]) -> Iterator[Step]:
    """The filter is defined again only if it differs, because libvirt takes a filter off every NIC
    for a moment while it redefines the filter.
    """
    name, have = filter_name(wanted.design.instance.name), state.manifest
    if state.filter_gone:
        yield Step(
            Verb.DEFINE_FILTER,
            name,
            "it was removed" if have else "lets each workload send with its own MAC address only",
        )
    elif have is not None and have.filter != wanted.filter:
        yield Step(Verb.DEFINE_FILTER, name, reasons.RELEASE)
    elif what := _drifted(drift, name, Verb.DEFINE_FILTER):
        yield Step(Verb.DEFINE_FILTER, name, what)


def _network_steps(wanted: Manifest, state: VappState, drift: tuple[Drift, ...]) -> Iterator[Step]:
    design = wanted.design
    names = {network.name for _, network in vapp_networks(design)}
    for standing in state.networks:
        if standing.is_of(design.instance.name) and standing.name not in names:
            yield Step(Verb.REMOVE_NETWORK, standing.name, "no longer needed")
    for zone, network in vapp_networks(design):
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
        elif what := _drifted(drift, network.name, Verb.REMAKE_NETWORK):
            yield Step(Verb.REMAKE_NETWORK, network.name, what)
        elif what := _drifted(drift, network.name, Verb.MAKE_NETWORK):
            yield Step(Verb.MAKE_NETWORK, network.name, what)


def _differs(standing: NetworkState, wanted: Manifest) -> bool:
    """Whether a network was made from another text. A mark of format 1 has no digest; such a
    network counts as equal.
    """
    return standing.marks.digest not in ("", wanted.network_digest(standing.name))


def _vm_steps(
    wanted: Manifest,
    state: VappState,
    drift: tuple[Drift, ...],
    packages: Mapping[str, Sequence[str]],
    *,
    cold: bool,
) -> Iterator[Step]:
    for vm in wanted.design.vms:
        domain = state.domain(vm.domain)
        if domain is None:
            yield Step(Verb.MAKE_VM, vm.name, reasons.first(vm))
            continue
        if vm.name in wanted.stopped and state.stopped(vm):
            continue
        step = _vm_step(vm, domain, wanted, state, drift, packages)
        if cold and step is not None and step.verb is Verb.RESTORE_VM:
            step = Step(
                Verb.RESTART_VM, vm.name, "its memory was saved, and is not used with --cold"
            )
        runs_on = step is None or step.verb is Verb.CONFIGURE_VM
        runs_on = runs_on or (step is not None and step.verb is Verb.START_VM and domain.running)
        if runs_on and (what := _drifted(drift, vm.name, Verb.RESTART_VM)):
            step, runs_on = Step(Verb.RESTART_VM, vm.name, f"{what}{reasons.outage(vm)}"), False
        if step is not None and not runs_on and losses.root_is_gone(vm, state):
            step = Step(Verb.REMAKE_VM, vm.name, "its root disk is gone from the host")
        if step is not None:
            yield step
        # A VM that is defined and started again needs no extra step for its drift.
        if runs_on and (what := _drifted(drift, vm.name, Verb.MEND_VM)):
            yield Step(Verb.MEND_VM, vm.name, what)


def _vm_step(
    vm: Vm,
    domain: DomainState,
    wanted: Manifest,
    state: VappState,
    drift: tuple[Drift, ...],
    packages: Mapping[str, Sequence[str]],
) -> Step | None:
    """The step that an existing VM needs because it differs or does not run; None if it needs none.
    The most thorough step is tried first, because it includes the others: a VM that is made anew is
    also started, and a VM that is started also gets its links and its identity.
    """
    digests = wanted.digests_of(vm.name)
    assert digests is not None  # noqa: S101 - wanted_manifest made one per VM
    have = standing_digests(vm, domain, state.manifest)
    old = state.manifest.vm(vm.name) if state.manifest else None
    if have is None:
        return Step(Verb.REMAKE_VM, vm.name, _why_unknown(domain))
    if have.root != digests.root:
        why = reasons.root(vm, old, wanted, state.manifest, packages)
        return Step(Verb.REMAKE_VM, vm.name, f"{why}{reasons.outage(vm)}")
    if have.hardware != digests.hardware:
        why = reasons.hardware(vm, wanted, state.manifest)
        return Step(Verb.RESTART_VM, vm.name, f"{why}{reasons.outage(vm)}")
    # Only cloud-init can configure an image of a user's own, and it runs only while the VM boots.
    if have.identity != digests.identity and not vm.image.recipe:
        why = reasons.identity(vm, wanted, state.manifest)
        return Step(Verb.RESTART_VM, vm.name, f"{why}; cloud-init applies this only at boot")
    if domain.brought_back and not vm.image.recipe:
        why = f"{reasons.BROUGHT_BACK}; cloud-init gives it those of today at boot"
        return Step(Verb.RESTART_VM, vm.name, f"{why}{reasons.outage(vm)}")
    if domain.marks.unready and not vm.image.recipe:
        return Step(
            Verb.RESTART_VM,
            vm.name,
            f"{reasons.UNREADY}; only a boot shows whether it becomes ready",
        )
    if domain.running and (cut := _cut_off(vm, state, wanted, drift)):
        return Step(
            Verb.RESTART_VM,
            vm.name,
            f"it is cut off: {cut} and libvirt connects its NICs again only when it starts{reasons.outage(vm)}",
        )
    other = have.identity != digests.identity
    return _step_without_boot(vm, domain, wanted, state, drift, other_identity=other)


def _step_without_boot(
    vm: Vm,
    domain: DomainState,
    wanted: Manifest,
    state: VappState,
    drift: tuple[Drift, ...],
    *,
    other_identity: bool,
) -> Step | None:
    """The step of a VM whose disks and hardware are as they should be: it is restored, started, or
    configured while it runs.
    """
    # A saved domain does not run either, so this comes before the question whether it runs.
    if domain.saved:
        return Step(Verb.RESTORE_VM, vm.name, "its memory was saved")
    if not domain.running or domain.paused:
        off = reasons.STOPPED if state.stopped(vm) else "it is not running"
        return Step(Verb.START_VM, vm.name, "it is paused" if domain.paused else off)
    if not state.connected(vm):
        return Step(
            Verb.START_VM,
            vm.name,
            reasons.BROUGHT_BACK
            if domain.brought_back
            else reasons.UNREADY
            if domain.marks.unready
            else "it was started, but not by `vcloud up`, so its links and services were not set up",
        )
    if domain.marks.unready:
        return Step(Verb.CONFIGURE_VM, vm.name, reasons.UNREADY)
    if other_identity:
        return Step(Verb.CONFIGURE_VM, vm.name, reasons.identity(vm, wanted, state.manifest))
    if what := _drifted(drift, vm.name, Verb.CONFIGURE_VM):
        return Step(Verb.CONFIGURE_VM, vm.name, what)
    return None


def _cut_off(vm: Vm, state: VappState, wanted: Manifest, drift: tuple[Drift, ...]) -> str:
    """Why some NIC of a running VM gets no packets; empty if all NICs get packets.

    When a network stops, its bridge is removed. A new bridge of that name has no ports, so the NICs
    of running VMs are not on it.
    """
    if vm.role is Role.FIREWALL and state.uplink_gone:
        return "the uplink's network was stopped or removed,"
    for name in dict.fromkeys(nic.network for nic in vm.nics if nic.network):
        standing = state.network(name)
        if standing is None or not standing.active:
            return f"the network '{name}' was {'removed' if standing is None else 'stopped'},"
        if _differs(standing, wanted) or _drifted(drift, name, Verb.REMAKE_NETWORK):
            return f"the network '{name}' is made anew,"
    return ""


def _why_unknown(domain: DomainState) -> str:
    """Why it is not known what a domain was made from."""
    if domain.marks == NO_VM:
        return "vcloud's mark in its metadata is gone, so vcloud cannot know what it was made from; its data disks are kept"
    blank = (
        f"; these data disks, to which no service has written yet, are made anew, too: {', '.join(domain.marks.blank)}"
        if domain.marks.blank
        else ""
    )
    return f"an earlier run did not finish making it{blank}"


def standing_digests(vm: Vm, domain: DomainState, manifest: Manifest | None) -> VmDigests | None:
    """The digests of an existing VM. The manifest has them if the last run ended; otherwise only
    the domain's own mark is reliable.
    """
    if manifest is not None and manifest.phase is Phase.READY:
        return manifest.digests_of(vm.name)
    return domain.marks.digests


def _protection_steps(
    wanted: Manifest,
    state: VappState,
    steps: list[Step],
    drift: tuple[Drift, ...],
    *,
    reload: bool,
) -> Iterator[Step]:
    """An appliance is loaded if its rules differ, if another step starts or configures it, if the
    last run may not have loaded it, or if it reports other rules than it was given.
    """
    have = state.manifest
    touched = {step.subject for step in steps if step.verb in TOUCHED}
    firewall, ips = wanted.design.firewall, wanted.design.ips
    why = reasons.loading(state, reload=reload)
    if have is None or why or have.firewall != wanted.firewall or firewall.name in touched:
        yield Step(Verb.LOAD_FIREWALL, firewall.name, reasons.firewall(wanted, have, why))
    elif what := _drifted(drift, firewall.name, Verb.LOAD_FIREWALL):
        yield Step(Verb.LOAD_FIREWALL, firewall.name, what)
    if ips is None:
        return
    if have is None or why or have.ips != wanted.ips or ips.name in touched:
        yield Step(Verb.LOAD_IPS, ips.name, reasons.ips(wanted, have, why))
    elif what := _drifted(drift, ips.name, Verb.LOAD_IPS):
        yield Step(Verb.LOAD_IPS, ips.name, what)
