"""Connects a workload: raises its links, lets its services start, and waits until the VM is ready.
After a VM was configured live, reloads or restarts the services that read changed files.
"""

from __future__ import annotations

import time

from vcloud.apply.run import Run
from vcloud.compile.libvirt.domain import render_interface
from vcloud.design.model import Vm
from vcloud.guests.cloud_init import wait_for_cloud_init
from vcloud.guests.services import NotReadyError, follow_changes, start_services, wait_ready
from vcloud.guests.setup import run_commands
from vcloud.hosts import machines


def connect(run: Run, vm: Vm) -> None:
    """Raises the VM's links and waits until it is ready. The plan runs this step only after the
    appliances have loaded their rules.
    """
    by_cloud_init = bool(run.boots[vm.name].seed)
    with run.explained(vm, booting=by_cloud_init):
        if vm.disks:
            run.mark_used(vm)
        for nic in vm.nics:
            machines.set_link(
                run.host, vm.domain, render_interface(vm, nic, run.target.artifacts.uplink, up=True)
            )
        run.reporter.report(vm.name, _stage(run, vm))
        if by_cloud_init:
            try:
                wait_for_cloud_init(run.host, run.volumes, vm)
            except NotReadyError:
                run.mark_made(vm)
                raise
            if run.waker:
                run.waker.note_agent(vm)
        else:
            _open(run, vm)
        run.note_connected(vm)
        run.mark(vm)
        run.reporter.report(vm.name, "ready")


def refresh(run: Run, vm: Vm) -> None:
    """Reloads or restarts the services of a VM that was configured live, and waits until it is
    ready.
    """
    with run.explained(vm):
        _settle(run, vm, time.monotonic())
        run.mark(vm)
        run.reporter.report(vm.name, "ready")


def _stage(run: Run, vm: Vm) -> str:
    """What to report of a workload after its links were raised."""
    if run.goes_on(vm):
        return "resumed with its services"
    return (
        "booting, configured by cloud-init" if run.boots[vm.name].seed else "starting its services"
    )


def _open(run: Run, vm: Vm) -> None:
    """Starts the services of a VM of a shipped image, and waits until it is ready. Uses the guest
    agent.
    """
    agent, begun = run.agent(vm), time.monotonic()
    if not run.goes_on(vm):
        start_services(agent, vm)
    # `run` lines run only on a new root disk.
    if run.is_fresh(vm):
        run_commands(agent, vm)
        # The services have already read the files when they started. But the `run` command of a
        # file may change something after that.
        follow_changes(agent, vm, None, {file.path for file in vm.files if file.run})
        # Only now the mark gets its digests, because the next run makes a VM without digests anew.
        run.mark_made(vm)
    _settle(run, vm, begun)


def _settle(run: Run, vm: Vm, begun: float) -> None:
    """Reloads the services that read changed files, and waits until the VM is ready."""
    agent, manifest = run.agent(vm), run.state.manifest
    changed = run.learnt.changed.get(vm.name, frozenset())
    follow_changes(agent, vm, manifest.vm(vm.name) if manifest else None, changed)
    wait_ready(agent, vm, begun)
