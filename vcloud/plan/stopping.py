"""Which VMs `vcloud stop` stops, and in which order. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from vcloud.design.model import Design, Role, Vm
from vcloud.errors import UsageError
from vcloud.plan.losses import at_next_start
from vcloud.plan.state import DomainState, VappState


def named_vms(design: Design, names: Collection[str]) -> tuple[Vm, ...]:
    """The VMs of these names. The name of a tier means all of its VMs, and no name means the whole
    vApp. Raises UsageError for a name that no VM has.
    """
    if not names:
        return design.vms
    for name in names:
        if not any(_is_named(vm, name) for vm in design.vms):
            there = ", ".join(vm.name for vm in design.vms)
            raise UsageError(
                f"there is no VM '{design.instance.name}/{name}'", f"There are: {there}."
            )
    return tuple(vm for vm in design.vms if any(_is_named(vm, name) for name in names))


def _is_named(vm: Vm, name: str) -> bool:
    return name == vm.name or (vm.role is Role.WORKLOAD and name == vm.tier)


def refuse_unprotected(design: Design, vms: Collection[Vm]) -> None:
    """Raises UsageError where an appliance is to be stopped, but not the whole vApp. Without it, the
    workloads reach nobody.
    """
    alone = [vm.name for vm in design.appliances if vm in vms]
    if alone and len(vms) < len(design.vms):
        vapp = design.instance.name
        raise UsageError(
            f"'{vapp}/{alone[0]}' protects the other VMs, and stops only together with all of them",
            f"Stop the whole vApp: vcloud stop {vapp}. Or restart it: vcloud restart {vapp}/{alone[0]}.",
        )


def refuse_unstoppable(vm: Vm, domain: DomainState) -> None:
    """Raises UsageError where a VM cannot shut down, or could not be started again."""
    if domain.paused:
        raise UsageError(
            f"'{vm.name}' is paused, so it cannot shut down",
            f"Nothing was stopped. Resume it (virsh resume {vm.domain}), or end it (virsh destroy {vm.domain}).",
        )
    if domain.running and not domain.persistent:
        raise UsageError(
            f"somebody has removed the definition of '{vm.name}', so nothing could start it again",
            "Nothing was stopped. `vcloud up` defines it again while it runs.",
        )


def told_of_restart(vms: Collection[Vm], design: Design, state: VappState) -> str:
    """The data that is lost when these VMs are started again, as a clause; empty if none is."""
    return "; ".join(str(loss) for vm in vms for loss in at_next_start(vm, design, state))


def stop_order(vms: Sequence[Vm]) -> Iterator[tuple[Vm, ...]]:
    """The VMs in groups, of which each may stop when the one before has stopped: a workload after
    those that need it by their `after`, and the appliances last.
    """
    waiting = [vm for vm in vms if vm.role is Role.WORKLOAD]
    while waiting:
        # The loop ends, because the check of the file refuses circles in `after`.
        needed = {name for vm in waiting for name in vm.after}
        free = tuple(vm for vm in waiting if vm.name not in needed)
        yield free
        waiting = [vm for vm in waiting if vm not in free]
    if appliances := tuple(vm for vm in vms if vm.role is not Role.WORKLOAD):
        yield appliances
