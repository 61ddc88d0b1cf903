"""Keeps running VMs to the cores of the host that are theirs."""

from __future__ import annotations

from vcloud.apply.run import Run
from vcloud.design.model import Vm
from vcloud.hosts.cores import cores_of_vapps, keep_off, keep_others_off, pin


def keep_to_cores(run: Run, vm: Vm) -> None:
    """Pins a VM that has just been started to its cores. A saved memory may have others. A VM without
    cores of its own is kept off those of other vApps.
    """
    if cores := run.target.wanted.cores_of(vm.name):
        pin(run.host, vm.domain, cores)
    elif others := cores_of_vapps(run.host, but=run.design.instance.name):
        keep_off(run.host, vm.domain, others)


def clear_cores(run: Run) -> None:
    """Keeps all VMs of others off the cores of the vApp. The manifest must name the cores by now, so
    that a VM that starts later is kept off them by who starts it.
    """
    owned = frozenset(run.target.wanted.owned)
    if owned:
        own = {vm.domain for vm in run.design.vms}
        for name in keep_others_off(run.host, own, owned):
            run.reporter.note(f"'{name}' runs on other cores of {run.host.name} from now on")
