"""Lets the hook of a host know the newest signed terms of tenancy of a vApp's VMs, also of those that do
not run. From then on no older terms of these VMs count there.

Terms of a VM that runs are told once it has them: until then the hook would find it running with
terms that are too old, and would start no VM of a vApp beside it. Terms of a VM that does not run are
told before the run changes anything: should the run be killed, the VM does not start until the next
`up`.
"""

from __future__ import annotations

from collections.abc import Mapping

from vcloud.design.model import Design
from vcloud.hosts.connection import Host
from vcloud.hosts.operators import may_ask_for_signatures
from vcloud.hosts.tenancy import ask_hook
from vcloud.plan.state import VappState
from vcloud.plan.steps import STARTED, Plan, Verb


def signs_terms(plan: Plan) -> bool:
    """Whether the plan gives a VM terms."""
    return plan.has(*STARTED, Verb.MEND_VM)


def started_from_rest(design: Design, plan: Plan, state: VappState) -> tuple[str, ...]:
    """The VMs of the plan that it starts and that do not run."""
    running = {domain.name for domain in state.domains if domain.running}
    started = {*plan.subjects(*STARTED)}
    return tuple(vm.name for vm in design.vms if vm.name in started and vm.domain not in running)


def tell_newest(host: Host, design: Design, generations: Mapping[str, int]) -> int:
    """Tells the hook the generations of the terms of these VMs. Returns the newest generation that it
    knows of the vApp; 0 where nobody signs, or the host asks for no signatures. Raises HostError.
    """
    if host.operator is None or not may_ask_for_signatures(host):
        return 0
    notice = {vm.uuid: generations[vm.name] for vm in design.vms if vm.name in generations}
    return ask_hook(host, design.terms, notice).newest
