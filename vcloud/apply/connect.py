"""Connects a workload: raises its links, lets its services start, and waits until the VM is ready."""

from __future__ import annotations

from vcloud.apply.run import Run
from vcloud.compile.libvirt.domain import render_interface
from vcloud.design.model import Vm
from vcloud.guests.cloud_init import wait_for_cloud_init
from vcloud.guests.setup import open_gate, run_commands, wait_ready
from vcloud.hosts import machines


def connect(run: Run, vm: Vm) -> None:
    """Raises the VM's links, which the plan allows only once the appliances hold their rules."""
    by_cloud_init = bool(run.boots[vm.name].seed)
    with run.explained(vm, booting=by_cloud_init):
        for nic in vm.nics:
            machines.set_link(
                run.host, vm.domain, render_interface(vm, nic, run.target.artifacts.uplink, up=True)
            )
        run.reporter.report(vm.name, _stage(run, vm))
        if by_cloud_init:
            wait_for_cloud_init(run.host, run.volumes, vm)
            if run.waker:
                run.waker.note_agent(vm)
        else:
            _open(run, vm)
        # The digests come last: the next run makes a VM anew whose mark lacks them.
        run.mark(vm)
        run.reporter.report(vm.name, "ready")


def _stage(run: Run, vm: Vm) -> str:
    """The stage that a workload has reached once its links are up, in words."""
    if run.goes_on(vm):
        return "resumed with its services"
    return (
        "booting, configured by cloud-init" if run.boots[vm.name].seed else "starting its services"
    )


def _open(run: Run, vm: Vm) -> None:
    """From the gate to what the file calls ready, by the guest agent."""
    agent = run.agent(vm)
    if not run.goes_on(vm):
        open_gate(agent, vm)
    # The file's `run` lines belong to the root disk: they ran when the disk was new.
    if run.is_fresh(vm):
        run_commands(agent, vm)
        if vm.disks:
            run.mark_data(vm)
    wait_ready(agent, vm)
