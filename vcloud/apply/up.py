"""`vcloud up`: from a file to a protected vApp, and `vcloud plan`, which stops before the first
change.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial

from vcloud.apply.actions import act, left, tell_failure
from vcloud.apply.cores import clear_cores
from vcloud.apply.deletion import refuse_shared_disks
from vcloud.apply.newest_terms import signs_terms, tell_newest, told_before
from vcloud.apply.planning import (
    Request,
    needing_images,
    notes_on_dead,
    placed,
    planned_on,
    refuse_host,
    refuse_uplink,
    seen_by_all,
    steps_to,
    with_room,
)
from vcloud.apply.refresh import refresh_images
from vcloud.apply.run import Run
from vcloud.apply.schedule import run_steps
from vcloud.apply.settle import settle_move
from vcloud.apply.superseded import forget_replaced, remove_older
from vcloud.apply.target import Target, proven_accelerator, target_of
from vcloud.apply.wake import Waker
from vcloud.design.model import Vm
from vcloud.errors import UnprotectedError, VcloudError
from vcloud.fleet.fleet import Fleet, open_lab
from vcloud.guests.appliances import with_reports
from vcloud.hosts import machines
from vcloud.hosts.connection import Host
from vcloud.hosts.host_side import looking_at
from vcloud.hosts.lock import Lock
from vcloud.hosts.manifests import write_manifest
from vcloud.hosts.observe import observe_domain
from vcloud.hosts.patience import boot_timeout
from vcloud.hosts.tenancy import kept_together
from vcloud.hosts.uplink import choosing_uplink
from vcloud.hosts.volumes import VappVolumes
from vcloud.marks import NO_VM, VmMarks
from vcloud.placement.place import on_one
from vcloud.plan.diff import plan_changes
from vcloud.plan.host_difference import HostSide
from vcloud.plan.host_mending import left_after
from vcloud.plan.manifest import Manifest, Phase
from vcloud.plan.order import keeps_processor_busy, ordered, with_memory_images
from vcloud.plan.reasons import flow_changes
from vcloud.plan.state import VappState
from vcloud.plan.steps import FRESH, STARTED, Plan
from vcloud.reporter import Reporter

CLOCKS_DIFFER = 60
"""Seconds from which on a difference between the clocks of the host and of this machine is told."""
RECENT = 10
"""For so many seconds, what the appliances and the host's root have told counts as what they tell."""


def preview(request: Request, connect: str | None) -> Plan:
    """The plan of `up`. Nothing is changed anywhere."""
    with open_lab(connect, request.dead) as lab:
        return placed(lab, request).planned.plan


def bring_up(
    request: Request, connect: str | None, agreed: Callable[[Plan], bool], reporter: Reporter
) -> Plan:
    """Makes the vApp stand, ready and protected. Returns the plan that was carried out; an empty
    plan changed nothing.

    `agreed` is asked before the first change. Raises VcloudError at the first step that fails, and
    UnprotectedError where something of the host's side is not as vcloud made it in the end.
    """
    boot_timeout()  # A user's mistake is told before the first change.
    done = _brought_up(request, connect, agreed, reporter)
    if done.unmended:
        raise UnprotectedError(done.vapp, done.host, done.unmended)
    return done


def _brought_up(
    request: Request, connect: str | None, agreed: Callable[[Plan], bool], reporter: Reporter
) -> Plan:
    with open_lab(connect, request.dead) as lab:
        if request.refresh:
            reporter.part("refresh")
            refresh_images(request.design, reporter)
            reporter.part("planning")
        settle_move(lab, request.design.instance.name, reporter, start_as_it_stands)
        looked = time.monotonic()
        found = placed(lab, request)
        fleet, target, plan = found.fleet, found.planned.target, found.planned.plan
        name, before = request.design.instance.name, found.planned.seen.manifest
        if not plan.steps and not plan.older:
            forget_replaced(fleet, name, before)
            return plan
        for note in notes_on_dead(lab.dead, name):
            reporter.note(note)
        if not agreed(plan):
            raise VcloudError("stopped before the first change")
        remove_older(fleet, name, plan, reporter)
        if not plan.steps:
            forget_replaced(fleet, name, before)
            return plan
        reporter.part("images")
        # Before the lock: a build takes minutes, and changes nothing on the host.
        needing = needing_images(target.design, plan)
        target.images.build(needing, reporter)
        target.images.refuse_small_roots(needing)
        # Of a new vApp on all hosts, so that two runs do not make it on two of them.
        with (lab if found.is_new else fleet).locked(name, "up") as locks:
            if found.is_new:
                refuse_elsewhere(lab, name)
            lock = locks[fleet.home.name]
            recent = time.monotonic() - looked < RECENT
            run = UpRun(fleet, request, target, reporter, lock)
            return run.carry_out(plan, found.planned.seen if recent else None)


def start_as_it_stands(fleet: Fleet, manifest: Manifest, reporter: Reporter, lock: Lock) -> None:
    """Starts a vApp by its manifest, without its file, like `vcloud up`: the guests keep their files. Its
    domains must be defined. The caller holds the lock.

    Raises what `bring_up` raises, and VcloudError if data would be lost, because nobody is asked.
    """
    request = Request(manifest.design, cold=True, kept=manifest, change_uplink=True)
    planned = planned_on(fleet, request)
    refuse_any_loss(planned.plan)
    done = UpRun(fleet, request, planned.target, reporter, lock).carry_out(planned.plan, None)
    if done.unmended:
        raise UnprotectedError(done.vapp, done.host, done.unmended)


def refuse_any_loss(plan: Plan) -> None:
    """Raises VcloudError if a plan that nobody agrees to destroys data."""
    if lost := plan.lost_data():
        raise VcloudError(
            f"'{plan.vapp}' cannot be started on {plan.host} as it stands, because data would be lost: {'; '.join(map(str, lost))}",
            "Nothing was started or deleted. `vcloud plan` shows what is lost, and what keeps it. Then run `vcloud up` again.",
        )


def refuse_elsewhere(lab: Fleet, vapp: str) -> None:
    """Raises VcloudError where a host has got a vApp since none had it."""
    home = lab.home_of(vapp)
    if home is not None:
        raise VcloudError(
            f"'{vapp}' is on {home.name} now: somebody else has made it meanwhile",
            "Run `vcloud up` again.",
        )


class UpRun:
    """One run of `up` or `start` under the vApp's lock."""

    def __init__(
        self, fleet: Fleet, request: Request, planned: Target, reporter: Reporter, lock: Lock
    ) -> None:
        """`planned` is the target of the plan that was agreed to, whose images are built."""
        self.fleet = fleet
        self.host: Host = fleet.home
        self.request = request
        self.planned = planned
        self.reporter = reporter
        self.lock = lock
        self.volumes = VappVolumes(self.host)

    def carry_out(self, agreed: Plan, seen: VappState | None) -> Plan:
        """Looks again, because somebody may have been at work since the plan was agreed to, and
        does what is to be done. `seen` is what the plan was made from, if that was a moment ago: the
        appliances and the host's root are then not asked once more.
        """
        state = self.fleet.state_of(self.request.design.instance.name)
        if seen is not None and seen.manifest == state.manifest:
            state = replace(state, reported=seen.reported, host_side=seen.host_side)
        else:
            state = seen_by_all(self.fleet, state, self.planned.wanted)
        # By now the images are built, so that their sizes are known, and the host has a pool.
        with_room(self.fleet, self.planned, agreed, state)
        # Read before anything is uploaded: the accelerator's test boot may upload an image.
        known = self.volumes.images()
        self.reporter.part("accelerator")
        accelerator = proven_accelerator(
            self.host,
            self.volumes,
            self.planned.images,
            state,
            self.request.accelerator,
            self.reporter,
        )
        refuse_host(self.host, self.request.design, accelerator, stands=state.manifest is not None)
        # Held until the manifest is written, so that no other vApp chooses the same address.
        with choosing_uplink(self.host) as choosing:
            placement = on_one(self.request.design, self.host.name)
            target = target_of(
                self.host,
                self.request.design,
                placement,
                state,
                accelerator,
                renew=self.request.refresh,
                settled=self.planned.images,
                kept=self.request.kept,
            )
            agreed_to = self.request.change_uplink
            refuse_uplink(target.wanted, state.manifest, self.host.name, agreed=agreed_to)
            target, plan = steps_to(target, state, self.host, self.request)
            refuse_unasked(plan, agreed)
            if not plan.steps:
                return plan
            plan = with_room(self.fleet, target, plan, state)
            refuse_shared_disks(self.host, target.design, state, plan)
            choosing.require()
            claim = self.claim(target, state, plan)
        return self.finish(target, state, plan, known, claim)

    def finish(
        self,
        target: Target,
        state: VappState,
        plan: Plan,
        known: frozenset[str],
        claim: Manifest,
    ) -> Plan:
        """Carries out the plan of a claimed vApp, and looks at the host once more. `known` are the
        contents of the images that the host had before. Returns the plan with what was seen then.
        """
        for note in plan.notes:
            self.reporter.note(note)
        self._run(target, state, plan, known, claim)
        done = _seen(plan, self._look_again(target, state))
        return replace(done, unmended=(*done.unmended, *kept_together(self.host, target.design)))

    def _look_again(self, target: Target, before: VappState) -> HostSide:
        """What the host's side is like after the last step. Raises VcloudError where anything else
        differs then: somebody has been at work meanwhile, or a step has not done what it should.

        The appliances are asked again only if they reported a difference `before` the run. That
        they have loaded what this run gave them is a part of its steps.
        """
        with looking_at(self.host) as host_side_of:
            state = self.fleet.state_of(target.design.instance.name)
            if before.reported:
                state = with_reports(self.host, state, target.wanted)
            refuse_difference(plan_changes(target.wanted, state, self.host.name, noting=False))
            return host_side_of(state, target.wanted)

    def claim(self, target: Target, state: VappState, plan: Plan) -> Manifest:
        """From now on the manifest says that this run goes on, and which addresses outside the vApp
        uses.
        """
        before = state.manifest
        if before is not None:
            self._mark_again(before, state)
        redefined = frozenset(plan.subjects(*STARTED))
        anew = frozenset(plan.subjects(*FRESH))
        claimed = partial(
            target.wanted.claimed,
            self.lock.uuid,
            before,
            int(time.time()),
            redefined,
            anew,
            replaced=self.fleet.dead,
            empty=self.fleet.empty,
        )
        claim = claimed(above=state.newest_signed())
        if signs_terms(plan):
            design = target.design
            told = told_before(design, plan, state, claim.generation)
            newest = tell_newest(self.host, design, told)
            if newest > claim.generation:
                claim = claimed(above=newest)
                told = told_before(design, plan, state, claim.generation)
                tell_newest(self.host, design, told)
        self.lock.require()
        write_manifest(self.host, claim)
        return claim

    def _mark_again(self, before: Manifest, state: VappState) -> None:
        """Gives a VM whose mark somebody has removed the mark that it had. While the manifest is
        settled, it says what the VM was made from. From the claim on, it says what is wanted.
        """
        for vm in before.design.vms if before.phase is Phase.READY else ():
            domain = state.domain(vm.domain)
            if domain is not None and domain.marks == NO_VM:
                marks = VmMarks(
                    before.design.instance.name,
                    vm.name,
                    vm.role.value,
                    digests=before.digests_of(vm.name),
                )
                machines.mark_domain(self.host, vm.domain, marks)

    def _run(
        self,
        target: Target,
        state: VappState,
        plan: Plan,
        known: frozenset[str],
        claim: Manifest,
    ) -> None:
        design, reporter = target.design, self.reporter
        touched = needing_images(design, plan)
        reporter.part("uploads")
        boots = target.images.upload(self.volumes, touched, reporter)
        appliances = {vm.domain for vm in design.appliances}
        steps = ordered(
            plan,
            design,
            firewall_first=flow_changes(design, state.manifest).only_revokes,
            linked=any(domain.running for domain in state.domains if domain.name not in appliances),
        )
        if touched and abs(self.host.clock.ahead()) > CLOCKS_DIFFER:
            reporter.note(
                f"the clock of {self.host.name} differs from this machine's by {self.host.clock.ahead():+.0f} s; guests get that of {self.host.name}"
            )
        signed = claim.generation if self.host.is_signed_on else 0
        waker = (
            None
            if self.request.cold
            else Waker(self.host, self.volumes, target, reporter, known, signed)
        )
        fresh = tuple(vm for vm in touched if plan.verb_of(vm.name) in FRESH)
        chosen = waker.choose(fresh, boots) if waker else ()
        run = Run(
            host=self.host,
            lock=self.lock,
            claim=claim,
            volumes=self.volumes,
            target=target,
            state=state,
            plan=with_memory_images(steps, chosen),
            reporter=reporter,
            boots=boots,
            waker=waker,
            # The appliances are among them because loading rules writes their marks anew.
            marked=self._marked({*touched, *design.appliances} - {*fresh}),
        )
        clear_cores(run)
        reporter.part("VMs and rules")
        run_steps(
            run.plan.steps,
            lambda step: act(run, step),
            slots=self.host.processors,
            takes_slot=lambda step: waker is not None and keeps_processor_busy(step, waker.wakes),
            left=lambda step: left(run, step),
            failed=lambda error, running: tell_failure(run, error, running),
        )

    def _marked(self, vms: Collection[Vm]) -> dict[str, VmMarks]:
        """VM -> the mark that its own domain bears."""
        found = {vm.name: observe_domain(self.host, vm.domain) for vm in vms}
        return {name: domain.marks for name, domain in found.items() if domain is not None}


def _seen(plan: Plan, side: HostSide) -> Plan:
    """The plan that was carried out, with what the host's side is like after it."""
    return replace(plan, host_side=side, unmended=left_after(side, plan.steps))


def refuse_difference(left: Plan) -> None:
    """Raises VcloudError where a plan that was made after the last step of a run has steps left."""
    if left.steps:
        told = "; ".join(f"{step.verb} {step.subject} ({step.why})" for step in left.shown)
        raise VcloudError(
            f"every step has ended, and '{left.vapp}' on {left.host} still differs from its file: {told}",
            "Somebody or something has changed it meanwhile. Run `vcloud up` again; if the same differs again, see `vcloud status` and `vcloud logs`.",
        )


def refuse_unasked(plan: Plan, agreed: Plan) -> None:
    """Raises VcloudError where more would be lost than was agreed to, because somebody has been at
    work since.
    """
    if more := {*plan.lost_data()} - {*agreed.lost_data()}:
        raise VcloudError(
            f"somebody has changed '{plan.vapp}' meanwhile, and data would be lost: {'; '.join(sorted(map(str, more)))}",
            "Nothing was done. See `vcloud plan`, then run `vcloud up` again.",
        )
    if unasked := plan.losses() - agreed.losses():
        raise VcloudError(
            f"somebody has changed '{plan.vapp}' meanwhile: now also {', '.join(sorted(unasked))} would be made anew or removed",
            "Nothing was done. See `vcloud plan`, then run `vcloud up` again.",
        )
