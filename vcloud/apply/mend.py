"""Restores a running VM, its definition and its host as vcloud made them, without a restart."""

from __future__ import annotations

import shlex

from vcloud.apply.cores import keep_to_cores
from vcloud.apply.run import Run
from vcloud.compile.libvirt.devices import filter_of
from vcloud.compile.libvirt.domain import render_interface
from vcloud.compile.libvirt.nwfilter import FilterBinding
from vcloud.design.model import Vm
from vcloud.enforce.host_processes import FOLDERS
from vcloud.hosts import machines
from vcloud.hosts.cores import cores_of_vapps, release
from vcloud.hosts.terms import set_terms
from vcloud.plan.facts import Facts
from vcloud.plan.host_difference import HostKind
from vcloud.proof.report import plain


def mend(run: Run, vm: Vm) -> None:
    """Mends one VM. The definition comes first, so that the next start of the VM is right even if
    this run is killed.
    """
    with run.explained(vm):
        uplink = run.target.artifacts.uplink
        disks = {disk.volume: run.volumes.pool.path(disk.volume) for disk in vm.disks}
        xml = run.definition(vm, disks, run.marks(vm, finished=True))
        machines.mend_definition(run.host, vm.domain, xml)
        run.note_definition(vm, _known_disks(run, vm))
        unlike = _cards_unlike(run, HostKind.ISOLATION)
        for nic in vm.nics:
            if nic.tap in unlike:
                # libvirt does nothing if it gets the definition that it already has, so it first
                # gets another one.
                other = render_interface(vm, nic, uplink, up=True, isolated=not nic.isolated)
                machines.set_link(run.host, vm.domain, other)
        machines.keep_only(
            run.host,
            vm.domain,
            {nic.mac: render_interface(vm, nic, uplink, up=True) for nic in vm.nics},
        )
        set_terms(run.host, vm.domain, run.design.terms, run.generation)
        run.learnt.signed[vm.name] = run.generation
        _bind_filters(run, vm)
        _pin(run, vm)
        run.reporter.report(vm.name, "mended")


def _pin(run: Run, vm: Vm) -> None:
    """Whoever may use the vApp's cores otherwise is kept off them at the beginning of each run."""
    if run.target.wanted.cores_of(vm.name):
        keep_to_cores(run, vm)
    elif run.state.manifest is not None and run.state.manifest.cores_of(vm.name):
        release(run.host, vm.domain, cores_of_vapps(run.host, but=run.design.instance.name))


def _bind_filters(run: Run, vm: Vm) -> None:
    """Binds the filter to each NIC that has no binding. If libvirt has a binding but the host does
    not filter, the binding is made anew.
    """
    unfiltered = _cards_unlike(run, HostKind.FILTER)
    for nic in vm.nics:
        name = filter_of(vm, nic)
        if not name:
            continue
        bound = (nic.tap, name) in run.state.bindings
        if not bound or nic.tap in unfiltered:
            binding = FilterBinding(vm.domain, vm.uuid, nic.tap, nic.mac, name)
            # If `keep_only` gave the card its filter back just now, libvirt has already bound it.
            machines.bind_filter(run.host, binding, anew=bound)


def _cards_unlike(run: Run, kind: HostKind) -> frozenset[str]:
    """The taps that differ on the host in this way."""
    side = run.state.host_side
    found = side.differences if side else ()
    return frozenset(difference.device for difference in found if difference.kind is kind)


def mend_host(run: Run) -> None:
    """Runs the commands of the plan on the host. A command may fail because an earlier one has
    already done its work. So a failure is only noted, and the end of the run checks whether
    everything is mended.
    """
    path = f"PATH={':'.join(FOLDERS)}"
    for step in run.plan.steps:
        for command in step.commands:
            run.lock.require()
            done = run.host.shell.run(("env", path, "LC_ALL=C", *command))
            if done.code != 0:
                said = plain(done.stderr.decode(errors="replace").strip())
                run.reporter.note(
                    f"on {run.host.name}, {plain(shlex.join(command))} failed: {said}"
                )
    run.reporter.report(run.host.name, "mended")


def _known_disks(run: Run, vm: Vm) -> Facts:
    """The disks of the definition that vcloud gave the VM. They are noted as expected, so that a
    snapshot that somebody else made is still reported as a difference.
    """
    before = run.state.manifest and run.state.manifest.definition_of(vm.name)
    return {part: text for part, text in (before or {}).items() if part.startswith("disk ")}
