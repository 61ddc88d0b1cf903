"""Plans what `up` will do: chooses the host of a vApp, and finds the steps from its present state
to the state that its file describes. Changes nothing on any host.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path

from vcloud.apply.demand import demand_of
from vcloud.apply.down import older_copy
from vcloud.apply.target import Target, known_accelerator, target_of
from vcloud.apply.vm_images import VmImages
from vcloud.apply.whole_lab import whole_lab
from vcloud.design.model import Design, Vm
from vcloud.documents.given import Given
from vcloud.enforce.install import hook_digest
from vcloud.errors import (
    HostError,
    ImageError,
    Problem,
    Refusals,
    RefusedError,
    SpecError,
    UsageError,
    VcloudError,
)
from vcloud.fleet.fleet import Fleet, open_lab
from vcloud.guests.appliances import with_reports
from vcloud.hosts.connection import Host, run_parallel
from vcloud.hosts.drained import refuse_drained
from vcloud.hosts.host_side import looking_at
from vcloud.hosts.kernel import locking_of
from vcloud.hosts.labels import labels_of
from vcloud.hosts.manifests import read_manifest
from vcloud.hosts.operators import may_ask_for_signatures
from vcloud.hosts.tenancy import ask_hook, is_alone, kept_together, somebody_demands
from vcloud.pipeline import design_of, load_file, read_name
from vcloud.placement.advice import advice
from vcloud.placement.capabilities import HookAnswer
from vcloud.placement.capacity import capacity_notes
from vcloud.placement.explain import fewest_reasons
from vcloud.placement.labels import preferred, refuse_rules
from vcloud.placement.place import (
    INSTALL_HOOK,
    Offered,
    chosen_host,
    on_one,
    place,
    refuse_tenancy,
)
from vcloud.plan.copies import refuse_unsaid, uncompared
from vcloud.plan.diff import plan_changes
from vcloud.plan.drift import has_other_terms
from vcloud.plan.given import kept_values
from vcloud.plan.manifest import Manifest, Phase
from vcloud.plan.moving import told_of
from vcloud.plan.reasons import segment
from vcloud.plan.state import VappState
from vcloud.plan.steps import FRESH, STARTED, Plan, Verb
from vcloud.tenancy import Terms


@dataclass(frozen=True, slots=True)
class Request:
    """One call of `up`, with the user's options."""

    design: Design
    accelerator: str = "auto"
    """`auto`, `kvm` or `tcg`."""
    cold: bool = False
    """Boot every VM that does not run, instead of waking it from a memory image or restoring its
    saved memory.
    """
    reload: bool = False
    """Load the appliances' rules again, even if nothing changed."""
    refresh: bool = False
    """Build the images anew with the packages of today, and make those VMs anew whose packages are
    not known.
    """
    host: str = ""
    """The name of the host that the user wants; empty: any."""
    dead: tuple[str, ...] = ()
    """The names of the hosts that the user says to be dead."""
    change_uplink: bool = False
    """The firewall of a vApp that stands may be put on another uplink."""
    kept: Manifest | None = None
    """The manifest from which the design comes where there is no file, as in `target_of`."""
    copied: tuple[tuple[str, int], ...] = ()
    """What a move copies to the host, in words, with the bytes."""


def request_of(
    path: Path,
    parameters: Given,
    accelerator: str = "auto",
    *,
    cold: bool = False,
    reload: bool = False,
    refresh: bool = False,
    host: str = "",
    dead: Sequence[str] = (),
    day: date | None = None,
    called: str = "",
    change_uplink: bool = False,
) -> Request:
    """The request for the vApp of a file, with its profiles as on a day (None: today). `called`: under
    another name than the file gives. Raises SpecError, RefusedError, ImageError.
    """
    design = design_of(load_file(path, parameters, called=called), day=day)
    return Request(
        design,
        accelerator,
        cold=cold,
        reload=reload,
        refresh=refresh,
        host=host,
        dead=tuple(sorted({*dead})),
        change_uplink=change_uplink,
    )


def with_kept(
    path: Path, given: Given, connect: str | None, dead: Sequence[str] = (), called: str = ""
) -> Given:
    """What the user gives, and for `--keep-params` what was given at the last `up` of the vApp and is
    not given now. Raises UsageError where a value was not recorded, and what `open_lab` raises.
    """
    name = called or read_name(path, given)
    with open_lab(connect, dead) as lab:
        return {**kept_on(lab, name, given), **given}


def kept_on(lab: Fleet, vapp: str, given: Collection[str]) -> dict[str, str]:
    """The values that the last `up` of a vApp was given; none where no host has it. `given` is as in
    `kept_values`.
    """
    home = lab.home_of(vapp)
    manifest = read_manifest(home, vapp) if home else None
    return kept_values(manifest.design, given) if isinstance(manifest, Manifest) else {}


@dataclass(frozen=True, slots=True)
class Planned:
    """The wanted state of a vApp on a host, its present state, and the steps between them."""

    target: Target
    seen: VappState
    plan: Plan


@dataclass(frozen=True, slots=True)
class Placed:
    """The host that `up` works on, and the plan for it."""

    fleet: Fleet
    """That host alone."""
    planned: Planned
    is_new: bool
    """Whether no host of the lab has the vApp yet. Then another run at the same time might choose
    another host.
    """


def placed(lab: Fleet, request: Request) -> Placed:
    """The host of the vApp, and the plan for it. A vApp that exists stays on its host. For a new one,
    every host is asked, and one of those that can run it is chosen (`chosen_host`).

    Raises RefusedError with the reasons of all hosts if none can run it; the first error if no host
    could even be asked; and what `Fleet.home_of` raises.
    """
    vapp = request.design.instance.name
    copies = lab.copies_of(vapp)
    home, older = copies.home, copies.older
    wanted = _named_by_user(lab, request)
    if home is not None:
        if home not in wanted:
            raise _elsewhere(request, home.name)
        asked = {host.name for host in lab.hosts if host is not home} - copies.unknown.keys()
        fleet = lab.only(home, older, asked)
        planned = planned_on(fleet, request)
        names = [host.name for host in older]
        refuse_unsaid(vapp, home.name, planned.seen.manifest, names)
        move = planned.seen.manifest.move if planned.seen.manifest else None
        begun = (told_of(move, switched=home.name == move.destination),) if move else ()
        plan = replace(
            planned.plan,
            notes=(*begun, *notes_on_dead(lab.dead, vapp), *planned.plan.notes),
            older=tuple(older_copy(lab.only(host), vapp) for host in older),
            uncompared=uncompared(planned.plan, planned.seen, copies.unknown),
        )
        return Placed(fleet, replace(planned, plan=plan), is_new=False)
    offers = run_parallel([partial(_offer, lab.only(host), request) for host in wanted])
    found = dict(zip((host.name for host in wanted), offers, strict=True))
    refused = {name: offer for name, offer in found.items() if isinstance(offer, VcloudError)}
    can = {name: offer for name, offer in found.items() if isinstance(offer, _Offer)}
    if not can:
        raise _no_host(lab, request.design, refused)
    others = {host.name: f"--host names {request.host}" for host in lab.hosts if host not in wanted}
    chosen, reasons = chosen_host(
        {name: offer.offered for name, offer in can.items()},
        others | {name: _reason(error) for name, error in refused.items()},
        request.design.placement,
    )
    home, planned = next(host for host in wanted if host.name == chosen), can[chosen].planned
    notes = (*notes_on_dead(lab.dead, vapp), *reasons, *planned.plan.notes)
    plan = replace(planned.plan, notes=notes)
    return Placed(lab.only(home), replace(planned, plan=plan), is_new=True)


def notes_on_dead(dead: Collection[str], vapp: str) -> Iterator[str]:
    """What nobody can make sure of who says that hosts are dead, in sentences without an end."""
    for name in sorted(dead):
        yield f"{name} is taken for dead, because you say so; without fencing, vcloud cannot make sure of it: if {name} was only cut off and has a copy of '{vapp}', that copy runs on until {name} is reached. Data disks on {name} stay there"


def _named_by_user(lab: Fleet, request: Request) -> tuple[Host, ...]:
    """The hosts that the user lets `up` choose from. Raises UsageError."""
    if not request.host:
        return tuple(lab.hosts)
    if found := tuple(host for host in lab.hosts if host.name == request.host):
        return found
    if request.host in lab.unreachable:
        raise lab.unreachable[request.host]
    names = ", ".join(host.name for host in lab.hosts)
    raise UsageError(
        f"--host names '{request.host}', but the hosts are {names}",
        "Write the name of one of these.",
    )


def _elsewhere(request: Request, home: str) -> RefusedError:
    vapp = request.design.instance.name
    what = f"'{vapp}' exists on {home}, but --host names {request.host}"
    hint = (
        f"Remove --host. Or first remove the vApp there, with its data disks: vcloud down {vapp}."
    )
    return RefusedError((Problem(request.design.file, 0, "", what, hint),))


def _no_host(lab: Fleet, design: Design, refused: Mapping[str, VcloudError]) -> VcloudError:
    """The error if no host can run a new vApp. For several hosts it has the fewest reasons that
    exclude all of them.
    """
    if not any(isinstance(error, RefusedError) for error in refused.values()):
        return next(iter(refused.values()))
    by_host = {
        name: error.problems
        if isinstance(error, RefusedError)
        else (Problem(design.file, 0, "", error.what, error.hint),)
        for name, error in refused.items()
    }
    first = min(by_host)
    if len(by_host) == 1:
        return RefusedError(by_host[first])
    more = f"These reasons exclude all {len(by_host)} hosts. To see all reasons of one host: vcloud plan --host {first}."
    found = whole_lab(lab, design) if len(by_host) == len(lab.hosts) else None
    advised = advice(design.instance.name, *found) if found else ""
    return RefusedError(fewest_reasons(by_host), f"{more} {advised}".rstrip())


def _reason(error: VcloudError) -> str:
    if isinstance(error, RefusedError):
        return "; ".join(problem.what for problem in error.problems)
    return error.what


@dataclass(frozen=True, slots=True)
class _Offer:
    """The plan of a host that can run a new vApp, and the figures by which hosts are compared."""

    planned: Planned
    offered: Offered


def _offer(fleet: Fleet, request: Request) -> _Offer | VcloudError:
    """The offer of a host, or the error if it cannot run the vApp. Raises ImageError and SpecError,
    which every host would have.
    """
    try:
        refuse_drained(fleet.home, request.design.file)
        planned, rules = planned_on(fleet, request), request.design.placement
        known = known_accelerator(fleet.home, planned.seen, request.accelerator)
        liked = preferred(rules, labels_of(fleet.home, known)) if rules.prefer else 0
        return _Offer(planned, Offered(fleet.capabilities().free_memory, liked))
    except (ImageError, SpecError):
        raise
    except VcloudError as error:
        return error


def planned_on(fleet: Fleet, request: Request) -> Planned:
    """The plan for one host. Raises RefusedError if the host cannot enforce something, or has no
    room.
    """
    host = fleet.home
    state = fleet.state_of(request.design.instance.name)
    known, refused = known_accelerator(host, state, request.accelerator), Refusals()
    with refused.gathered():
        refuse_host(host, request.design, known, stands=state.manifest is not None)
    try:
        target = target_of(
            host,
            request.design,
            on_one(request.design, host.name),
            state,
            known or "tcg",
            renew=request.refresh,
            kept=request.kept,
        )
    except RefusedError as error:
        raise RefusedError((*refused.problems, *error.problems)) from None
    with refused.gathered():
        refuse_uplink(target.wanted, state.manifest, host.name, agreed=request.change_uplink)
    state = seen_by_all(fleet, state, target.wanted)
    target, plan = steps_to(target, state, host, request)
    with refused.gathered():
        plan = with_room(fleet, target, plan, state, request.copied)
    refused.refuse()
    if not plan.has(*STARTED) and any(domain.running for domain in state.domains):
        # The plan starts no VM, so no step would end a breach of tenancy of the VMs that run. So it
        # is reported.
        plan = replace(plan, unmended=(*plan.unmended, *kept_together(host, target.design)))
    return Planned(target, state, plan)


def refuse_host(host: Host, design: Design, accelerator: str, *, stands: bool) -> None:
    """Raises RefusedError if the vApp's rules of placement forbid the host. `accelerator` is as in
    `labels_of`.
    """
    if design.placement.rules:
        refuse_rules(design, labels_of(host, accelerator), stands=stands)


def refuse_uplink(wanted: Manifest, have: Manifest | None, host: str, *, agreed: bool) -> None:
    """Raises RefusedError if the firewall of a vApp that stands would get another uplink, and the user
    has not agreed to it: most often the same host was only named otherwise.
    """
    if have is None or agreed:
        return
    old, new = segment(have.uplink), segment(wanted.uplink)
    if old != new:
        vapp = wanted.design.instance.name
        what = f"the firewall of '{vapp}' on {host} is on {old}, and this run would put it on {new}"
        hint = "Name the host as at the last `up` (--connect, or the inventory, which gives the uplink). If you mean the change, which restarts the firewall: --change-uplink."
        raise RefusedError((Problem(wanted.design.file, 0, "", what, hint),))


def steps_to(target: Target, state: VappState, host: Host, request: Request) -> tuple[Target, Plan]:
    """The steps from the present to the wanted state, with the user's options. If a VM gets a new
    root disk, but the build of its image is lost, another build is chosen.
    """
    plan = _changes(target, state, host, request)
    if lost := target.images.lost(plan.subjects(*FRESH)):
        images = VmImages.of(
            target.design,
            state.manifest,
            state.images,
            renew=request.refresh,
            fresh=lost,
            settled=target.images,
        )
        target = target.with_images(images)
        plan = _changes(target, state, host, request)
    aged = target.images.notes(target.wanted.written)
    told = target.design.controls.told()
    return target, replace(plan, notes=(*told, *plan.notes, *aged))


def _changes(target: Target, state: VappState, host: Host, request: Request) -> Plan:
    return plan_changes(
        target.wanted,
        state,
        host.name,
        reload=request.reload,
        cold=request.cold,
        packages=target.images.packages(host),
    )


def needing_images(design: Design, plan: Plan) -> tuple[Vm, ...]:
    """The VMs whose images must be on the host: all that the plan starts, configures or mends."""
    mended = plan.subjects(Verb.MEND_VM)
    return tuple(vm for vm in design.vms if plan.verb_of(vm.name) or vm.name in mended)


def seen_by_all(fleet: Fleet, state: VappState, wanted: Manifest) -> VappState:
    """The state by libvirt (`state`), completed with the reports of the appliances and, if the last
    run ended, with the host's side.
    """
    manifest = state.manifest
    # During a run, or after one that was killed, the host's side is not expected to be complete.
    if manifest is None or manifest.phase is not Phase.READY or state.saved():
        return with_reports(fleet.home, state, wanted)
    with looking_at(fleet.home) as host_side_of:
        state = with_reports(fleet.home, state, wanted)
        return replace(state, host_side=host_side_of(state, manifest))


def with_room(
    fleet: Fleet,
    target: Target,
    plan: Plan,
    state: VappState,
    copied: tuple[tuple[str, int], ...] = (),
) -> Plan:
    """The plan, with notes on resources that may run out later. Raises RefusedError if the host cannot
    enforce the vApp's rules, or has no room for the VMs that the plan starts.

    If the plan starts no VM and writes no file, the host is not asked. `copied` is as in `Request`.
    """
    demand = demand_of(fleet.home, target.design, target.images, plan, state)
    demand = replace(demand, files=(*demand.files, *copied))
    other_terms, refused = has_other_terms(target.design, state), Refusals()
    if demand.starts or demand.files:
        host = fleet.capabilities()
        if any(vm.isolation.locked_memory for vm in demand.starts):
            host = replace(host, locking=locking_of(fleet.home))
        with refused.gathered():
            place(target.design, demand, host)
        plan = replace(plan, notes=(*plan.notes, *capacity_notes(demand, host)))
    # A mend also writes the terms of tenancy again, with the operator's signature.
    mends = plan.has(Verb.MEND_VM)
    if demand.starts or other_terms or mends:
        hook = _hook_answer(fleet.home, target.design.terms)
        # If something on the host cannot be read (not `knows`), such as terms that an earlier
        # release wrote, a plan that only mends is not refused: the mend may repair just that.
        if hook is not None and (demand.starts or hook.knows):
            stands = any(domain.running for domain in state.domains)
            with refused.gathered():
                refuse_tenancy(target.design, fleet.home.name, hook, stands=stands)
    refused.refuse()
    return plan


def _hook_answer(host: Host, terms: Terms) -> HookAnswer | None:
    """The hook's answer about the vApp; None if neither this vApp nor another on the host has
    demands.
    """
    signs = may_ask_for_signatures(host)
    if not terms.demands and is_alone(host, terms.vapp) and not signs:
        return None
    demands = terms.demands or somebody_demands(host, terms.vapp)
    try:
        answer = ask_hook(host, terms)
    except HostError:
        if demands:
            raise
        return None  # If the host has a hook all the same, the hook itself refuses the start.
    if signs and host.is_signed_on and answer.exists and answer.digest != hook_digest():
        raise HostError(
            f"the hook of {host.name} is not that of this release, so it may not read the terms that this release signs",
            INSTALL_HOOK,
        )
    return answer if answer.exists or demands else None
