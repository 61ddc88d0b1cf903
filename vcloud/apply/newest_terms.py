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
from vcloud.errors import HostError
from vcloud.hosts.connection import Host
from vcloud.hosts.operators import may_ask_for_signatures
from vcloud.hosts.tenancy import ask_hook
from vcloud.plan.state import VappState
from vcloud.plan.steps import STARTED, Plan, Verb


def signs_terms(plan: Plan) -> bool:
    """Whether the plan gives a VM terms."""
    return plan.has(*STARTED, Verb.MEND_VM)


def told_before(design: Design, plan: Plan, state: VappState, generation: int) -> dict[str, int]:
    """VM -> the generation of terms that the hook is told before the run changes anything. Those that
    the plan starts and that do not run get terms of the run's `generation`. Of the others nothing new
    is told but that they may start in this boot of the host.
    """
    running = {domain.name for domain in state.domains if domain.running}
    started = {*plan.subjects(*STARTED)}
    before = state.manifest
    return {
        vm.name: generation
        if vm.name in started and vm.domain not in running
        else before.signed_of(vm.name)
        if before
        else 0
        for vm in design.vms
    }


def tell_newest(host: Host, design: Design, generations: Mapping[str, int]) -> int:
    """Tells the hook the generations of the terms of these VMs. Returns the newest generation that it
    knows of the vApp; 0 where nobody signs, or the host asks for no signatures. Raises HostError, also
    where the hook has not kept them in mind.
    """
    if host.operator is None or not may_ask_for_signatures(host):
        return 0
    notice = {vm.uuid: generations[vm.name] for vm in design.vms if vm.name in generations}
    answer = ask_hook(host, design.terms, notice)
    untold = answer.newest < max(notice.values(), default=0)
    if untold and answer.refusal and answer.trusts:
        raise HostError(
            f"the hook of {host.name} could not be told of newer terms: {answer.refusal}",
            "`vcloud up` tries again.",
        )
    return answer.newest
