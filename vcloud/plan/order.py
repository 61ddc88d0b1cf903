"""Decides in which order the steps of a plan may run. This order keeps a vApp protected while it
changes.

Networks and the filter come first, then the appliances, whose rules are loaded and checked. Only
then is any workload connected. Workloads start beside the appliances to save time, but with their
links down. Removals come last: the rules no longer name a VM when it is removed. `Step.needs` holds
this order as data. So it can be tested without a host, and the code that runs a plan needs no order
of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from vcloud.design.model import Design, Role, Vm
from vcloud.plan.steps import FRESH, LOADED, SETTLED, STARTED, TOUCHED, Plan, Step, Verb

NETWORKS = frozenset({Verb.MAKE_NETWORK, Verb.REMAKE_NETWORK})
PREPARING = NETWORKS | {Verb.REMOVE_VM, Verb.DEFINE_FILTER, Verb.MEND_HOST}
LAST = (Verb.REMOVE_NETWORK, Verb.RECORD)


def ordered(plan: Plan, design: Design, *, firewall_first: bool, linked: bool) -> Plan:
    """The complete plan: with the hidden parts of its steps, with the needs of each step, and with
    ranks for steps that wait for a processor.

    Args:
        plan: the steps that the user was shown; at least one.
        design: what is wanted.
        firewall_first: the firewall is loaded before the IPS, because the new rules only revoke
            flows. Otherwise the IPS is loaded first, so that it already inspects a new flow when
            the firewall allows it.
        linked: some workload runs with its links up, so that the order of loading matters.
    """
    complete = plan.with_steps(_connections(plan, design))
    if not complete.has(Verb.RECORD):
        complete = complete.with_steps(
            [Step(Verb.RECORD, plan.vapp, "every run ends with it", plan.host)]
        )
    needs = _Needs(complete, design, firewall_first=firewall_first, linked=linked)
    ranks = {vm.name: rank for rank, vm in enumerate(by_urgency(complete, design))}
    return replace(
        complete,
        steps=tuple(
            replace(step, needs=frozenset(needs.of(step)), rank=ranks.get(step.subject, 0))
            for step in complete.steps
        ),
    )


def with_memory_images(plan: Plan, keys: Iterable[tuple[str, Sequence[str]]]) -> Plan:
    """The ordered plan with a step for each memory image that this run makes. `keys` are pairs of a
    key and the VMs that wake from it.
    """
    steps = plan.steps
    for key, vms in keys:
        image = Step(Verb.MAKE_MEMORY_IMAGE, key, f"for {', '.join(vms)}", plan.host)
        steps = tuple(
            replace(step, needs=step.needs | {image.id})
            if step.verb in FRESH and step.subject in vms
            else step
            for step in steps
        )
        steps = (image, *steps)
    # The record must also wait for the new steps.
    record = next(step for step in steps if step.verb is Verb.RECORD)
    others = frozenset(step.id for step in steps) - {record.id}
    return replace(
        plan, steps=tuple(replace(step, needs=others) if step is record else step for step in steps)
    )


def starts_connected(vm: Vm) -> bool:
    """Whether a VM may be started only when its links may be raised, too. The services of an image
    of a user's own do not wait for the links.
    """
    return vm.role is Role.WORKLOAD and not vm.image.recipe


def revokes_first(plan: Plan, design: Design) -> bool:
    """Whether VMs are removed only after the appliances have loaded their new rules, so that the
    firewall sends nothing to a VM that is gone.

    If an appliance is started again, or a network is made, no traffic passes meanwhile. Then VMs are
    removed first, to free memory and processors.
    """
    return not plan.has(*NETWORKS) and not any(
        plan.verb_of(vm.name) in STARTED for vm in design.appliances
    )


def keeps_processor_busy(step: Step, wakes: Callable[[str], bool]) -> bool:
    """Whether a step computes so much from beginning to end that it slows down the steps beside it.

    `wakes` says whether a VM that is made anew wakes from a memory image. Measured without KVM: the
    rules of the IPS took twice as long to load while VMs woke, and those VMs had to wait for these
    rules anyway. A VM that boots does not count, because it also waits for its disk. Services do
    not count, because they may wait as long as `ready` allows.
    """
    return (
        wakes(step.subject)
        if step.verb in FRESH
        else step.verb is Verb.RESTORE_VM or step.verb in LOADED
    )


def by_urgency(plan: Plan, design: Design) -> tuple[Vm, ...]:
    """The VMs that the plan touches, the most urgent first: the IPS, the firewall, then the
    workloads in start order.
    """
    touched = {step.subject for step in plan.steps if step.verb in TOUCHED}
    starting = {step.subject for step in plan.steps if step.verb in STARTED}
    order = [
        # The IPS comes first, because Suricata takes longest to load its rules.
        *reversed(design.appliances),
        *in_start_order([vm for vm in design.workloads if vm.name in starting]),
    ]
    rest = [vm for vm in design.workloads if vm not in order]
    return tuple(vm for vm in (*order, *rest) if vm.name in touched)


def in_start_order(vms: Iterable[Vm]) -> Iterator[Vm]:
    """The VMs, each after those of them that its `after` names."""
    waiting = list(vms)
    names = {vm.name for vm in waiting}
    while waiting:
        # The loop ends, because the check of the file refuses circles in `after`.
        free = [vm for vm in waiting if not names & set(vm.after)]
        yield from free
        names -= {vm.name for vm in free}
        waiting = [vm for vm in waiting if vm.name in names]


def _connections(plan: Plan, design: Design) -> Iterator[Step]:
    for vm in design.workloads:
        verb = plan.verb_of(vm.name)
        if verb in STARTED:
            yield Step(Verb.CONNECT_VM, vm.name, "part of starting it", plan.host)
        elif verb is Verb.CONFIGURE_VM:
            yield Step(Verb.REFRESH_VM, vm.name, "part of configuring it", plan.host)


class _Needs:
    """Finds the ids of the steps that each step of one plan must wait for."""

    def __init__(self, plan: Plan, design: Design, *, firewall_first: bool, linked: bool) -> None:
        self.plan = plan
        self.vms = {vm.name: vm for vm in design.vms}
        self.preparing = self._ids(PREPARING)
        self.loading = self._ids(LOADED)
        self.removing = self._ids({Verb.REMOVE_VM})
        self.revoking = self.loading if revokes_first(plan, design) else frozenset()
        # The firewall loses its route to a removed VM only after its rules no longer name the VM.
        self.only_leave = bool(self.revoking and self.removing) and not plan.has(*FRESH)
        self.appliances = [vm.name for vm in design.appliances]
        self.first = Verb.LOAD_FIREWALL if firewall_first else Verb.LOAD_IPS
        self.linked = linked

    def of(self, step: Step) -> Iterator[str]:
        if step.verb in NETWORKS:
            yield from self._ids({Verb.REMOVE_VM})
        elif step.verb is Verb.MEND_HOST:
            yield from self._ids(NETWORKS)
        elif step.verb is Verb.REMOVE_VM:
            yield from self.revoking
        elif step.verb is Verb.CONFIGURE_VM:
            yield from self.preparing - self.removing
            if self.only_leave and self.vms[step.subject].role is not Role.WORKLOAD:
                yield from self.revoking
        elif step.verb in TOUCHED:
            yield from self.preparing
            stops = step.verb in (Verb.RESTART_VM, Verb.REMAKE_VM)
            if self.linked and stops and step.subject in self.appliances:
                yield from self._made_beside()
            if starts_connected(self.vms[step.subject]) and step.verb in STARTED:
                yield from self._before_links(self.vms[step.subject])
        elif step.verb is Verb.MEND_VM:
            yield from self.preparing
            yield from self._touching(step.subject)
            if self.vms[step.subject].role is Role.WORKLOAD:
                yield from self.loading
        elif step.verb in LOADED:
            yield from self.preparing - (self.removing if self.revoking else frozenset())
            if not self.only_leave:
                yield from self._touching(step.subject)
            # As long as no workload has a live link, both appliances may be loaded side by side.
            if self.linked and step.verb is not self.first:
                yield from self._ids({self.first})
        elif step.verb in SETTLED:
            yield from (*self._touching(step.subject), *self._before_links(self.vms[step.subject]))
        elif step.verb in LAST:
            yield from (
                other.id
                for other in self.plan.steps
                # REMOVE_NETWORK waits for all steps that are not in LAST. RECORD waits for
                # REMOVE_NETWORK as well.
                if other.verb not in LAST[LAST.index(step.verb) :]
            )

    def _made_beside(self) -> Iterator[str]:
        """The workloads that are made beside the running vApp. An appliance that restarts
        interrupts all traffic. So it restarts after they are made, when nothing else uses the
        host's processors.
        """
        return (
            step.id
            for step in self.plan.steps
            if step.verb in FRESH
            and self.vms[step.subject].role is Role.WORKLOAD
            and not starts_connected(self.vms[step.subject])
        )

    def _before_links(self, vm: Vm) -> Iterator[str]:
        """The steps after which the links of a VM may be raised: both appliances are configured and
        loaded, and the VMs in its `after` are ready.
        """
        yield from self.loading
        for name in self.appliances:
            yield from self._touching(name)
        yield from (
            step.id
            for name in vm.after
            for step in self.plan.steps
            if step.verb in SETTLED and step.subject == name
        )

    def _touching(self, vm: str) -> Iterator[str]:
        return (step.id for step in self.plan.steps if step.subject == vm and step.verb in TOUCHED)

    def _ids(self, verbs: Iterable[Verb]) -> frozenset[str]:
        return frozenset(step.id for step in self.plan.steps if step.verb in verbs)
