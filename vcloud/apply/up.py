"""`vcloud up`: from a file to a protected vApp, and `vcloud plan`, which stops before the first
change.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from vcloud.apply.actions import act, left
from vcloud.apply.run import Run
from vcloud.apply.schedule import run_steps
from vcloud.apply.target import Target, expected_accelerator, proven_accelerator, target_of
from vcloud.apply.vm_images import VmImages
from vcloud.apply.wake import Waker
from vcloud.design.model import Design, Vm
from vcloud.errors import VcloudError
from vcloud.fleet.fleet import Fleet, open_fleet
from vcloud.hosts.connection import Host
from vcloud.hosts.manifests import write_manifest
from vcloud.hosts.observe import observe_domain
from vcloud.hosts.uplink import choosing_uplink
from vcloud.hosts.volumes import VappVolumes
from vcloud.marks import VmMarks
from vcloud.pipeline import design_of, load_file
from vcloud.placement.place import on_one, place
from vcloud.plan.diff import plan_changes
from vcloud.plan.manifest import Phase
from vcloud.plan.order import keeps_processor_busy, ordered, with_memory_images
from vcloud.plan.reasons import flow_changes
from vcloud.plan.state import VappState
from vcloud.plan.steps import FRESH, Plan
from vcloud.reporter import Reporter


@dataclass(frozen=True, slots=True)
class Request:
    """One call of `up`, with the user's options."""

    design: Design
    accelerator: str = "auto"
    """`auto`, `kvm` or `tcg`."""
    cold: bool = False
    """Boot every VM that does not run, where it might wake from a memory image or be restored from
    its saved memory.
    """
    reload: bool = False
    """Load the appliances' rules again, even if nothing changed."""


def request_of(
    path: Path,
    parameters: Mapping[str, str],
    accelerator: str = "auto",
    *,
    cold: bool = False,
    reload: bool = False,
) -> Request:
    """The request for the vApp of a file. Raises SpecError, RefusedError, ImageError."""
    return Request(design_of(load_file(path, parameters)), accelerator, cold=cold, reload=reload)


def preview(request: Request, connect: str | None) -> Plan:
    """The plan of `up`. Nothing is changed anywhere."""
    with open_fleet(connect) as fleet:
        return _planned(fleet, request)[1]


def bring_up(
    request: Request, connect: str | None, agreed: Callable[[Plan], bool], reporter: Reporter
) -> Plan:
    """Makes the vApp stand, ready and protected. Returns the plan that was carried out; an empty
    plan changed nothing.

    `agreed` is asked before the first change. Raises VcloudError at the first step that fails.
    """
    with open_fleet(connect) as fleet:
        target, plan = _planned(fleet, request)
        if not plan.steps:
            return plan
        if not agreed(plan):
            raise VcloudError("stopped before the first change")
        reporter.part("images")
        target.images.build(reporter)
        with fleet.locked(request.design.instance.name, "up"):
            return _Up(fleet, request, target.images, reporter).carry_out(plan)


def _planned(fleet: Fleet, request: Request) -> tuple[Target, Plan]:
    """What is wanted on the host, and the steps to it, by what stands now. Raises RefusedError for
    what the host cannot enforce.
    """
    state, host = fleet.state_of(request.design.instance.name), fleet.home
    placement = (
        on_one(request.design, host.name)
        if state.domains or state.manifest
        else place(request.design, fleet.capabilities())
    )
    target = target_of(
        host,
        request.design,
        placement,
        state,
        expected_accelerator(host, state, request.accelerator),
    )
    return target, plan_changes(target.wanted, state, placement.home, reload=request.reload)


class _Up:
    """One run of `up` under the vApp's lock."""

    def __init__(
        self, fleet: Fleet, request: Request, images: VmImages, reporter: Reporter
    ) -> None:
        self.fleet = fleet
        self.host: Host = fleet.home
        self.request = request
        self.images = images
        self.reporter = reporter
        self.volumes = VappVolumes(self.host)

    def carry_out(self, agreed: Plan) -> Plan:
        """Looks again, because somebody may have been at work since the plan was agreed to, and
        does what is to be done.
        """
        state = self.fleet.state_of(self.request.design.instance.name)
        known = self.volumes.image_digests()
        self.reporter.part("accelerator")
        accelerator = proven_accelerator(
            self.host, self.volumes, self.images, state, self.request.accelerator, self.reporter
        )
        with choosing_uplink(self.host):
            placement = on_one(self.request.design, self.host.name)
            target = target_of(self.host, self.request.design, placement, state, accelerator)
            plan = plan_changes(target.wanted, state, self.host.name, reload=self.request.reload)
            refuse_unasked(plan, agreed)
            if not plan.steps:
                return plan
            self._claim(target, state)
        self._run(target, state, plan, known)
        return plan

    def _claim(self, target: Target, state: VappState) -> None:
        """From now on the manifest says that a run goes on, and which addresses outside the vApp
        uses.

        Until the end only those VMs count as connected that were before, so that the next run looks
        after those of a killed one.
        """
        before = state.manifest.ids if state.manifest else ()
        write_manifest(self.host, replace(target.wanted, phase=Phase.APPLYING, ids=before))

    def _run(self, target: Target, state: VappState, plan: Plan, known: frozenset[str]) -> None:
        design, reporter = target.design, self.reporter
        touched = tuple(vm for vm in design.vms if plan.verb_of(vm.name))
        reporter.part("uploads")
        boots = target.images.upload(self.volumes, touched, reporter)
        appliances = {vm.domain for vm in design.appliances}
        steps = ordered(
            plan,
            design,
            firewall_first=flow_changes(design, state.manifest).only_revokes,
            linked=any(domain.running for domain in state.domains if domain.name not in appliances),
        )
        waker = (
            None if self.request.cold else Waker(self.host, self.volumes, target, reporter, known)
        )
        fresh = tuple(vm for vm in touched if plan.verb_of(vm.name) in FRESH)
        chosen = waker.choose(fresh, boots) if waker else ()
        run = Run(
            host=self.host,
            volumes=self.volumes,
            target=target,
            state=state,
            plan=with_memory_images(steps, chosen),
            reporter=reporter,
            boots=boots,
            waker=waker,
            marked=self._marked({*touched, *design.appliances} - {*fresh}),
        )
        reporter.part("VMs and rules")
        run_steps(
            run.plan.steps,
            lambda step: act(run, step),
            slots=self.host.processors,
            takes_slot=lambda step: waker is not None and keeps_processor_busy(step, waker.wakes),
            left=lambda step: left(run, step),
        )

    def _marked(self, vms: Collection[Vm]) -> dict[str, VmMarks]:
        """VM -> the mark that its own domain bears."""
        found = {vm.name: observe_domain(self.host, vm.domain) for vm in vms}
        return {name: domain.marks for name, domain in found.items() if domain is not None}


def refuse_unasked(plan: Plan, agreed: Plan) -> None:
    """Raises VcloudError where more would be lost than was agreed to, because somebody has been at
    work since.
    """
    if unasked := plan.losses() - agreed.losses():
        raise VcloudError(
            f"somebody has changed '{plan.vapp}' meanwhile: now also {', '.join(sorted(unasked))} would be made anew or removed",
            "Nothing was done. See `vcloud plan`, then run `vcloud up` again.",
        )
