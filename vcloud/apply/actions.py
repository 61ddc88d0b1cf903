"""The function for each kind of step. The plan decides which steps there are, and
`vcloud.apply.schedule` when each one begins.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from typing import Final

from vcloud.apply.connect import connect, refresh
from vcloud.apply.deletion import came_since, kept_volumes
from vcloud.apply.last_look import refuse_more_losses
from vcloud.apply.mend import mend, mend_host
from vcloud.apply.newest_terms import tell_newest
from vcloud.apply.power import start
from vcloud.apply.rules import load
from vcloud.apply.run import Run
from vcloud.compile.libvirt.network import render_network, vapp_networks
from vcloud.compile.libvirt.nwfilter import render_filters
from vcloud.errors import HostError, VcloudError
from vcloud.hosts import machines
from vcloud.hosts.manifests import read_manifest, write_manifest
from vcloud.marks import NetworkMarks
from vcloud.plan.disks import moved_disks
from vcloud.plan.losses import of_removal
from vcloud.plan.manifest import Manifest, Phase
from vcloud.plan.steps import LOADED, TOUCHED, Step, Verb


def act(run: Run, step: Step) -> None:
    """Does one step. Raises VcloudError if it fails, LostLockError if the run has lost its lock."""
    run.lock.require()
    ACTIONS[step.verb](run, step.subject)


def left(run: Run, step: Step) -> None:
    """Reports that a workload does not become ready, because another step has failed."""
    if step.verb is Verb.CONNECT_VM:
        run.reporter.report(step.subject, "not connected: an earlier step failed")
    if step.verb is Verb.REFRESH_VM:
        run.reporter.report(step.subject, "its services were not reloaded: an earlier step failed")


def tell_failure(run: Run, error: BaseException, running: Collection[Step]) -> None:
    """Reports an error before the run ends, if other steps still run or another error came first."""
    # Any other error is a bug of vcloud. It ends the run with its traceback.
    if isinstance(error, VcloudError):
        steps = ", ".join(f"{step.verb} {step.subject}" for step in running)
        awaited = f"\n  No other step begins; up waits for the steps that still run: {steps}."
        run.reporter.note(f"error: {error.what}{awaited if running else ''}")


def _remove_vm(run: Run, domain: str) -> None:
    """Removes a VM. Its definition is removed last, so that a later run still finds what is left.

    If another VM gets its data disks, the VM is shut down, so that its guest writes its data to them.

    Raises HostError if another domain uses a disk that must move, VcloudError if more data would be
    lost than the plan says. Nothing is removed then.
    """
    refuse_more_losses(run, domain, lambda state: of_removal(domain, run.design, state))
    moved = moved_disks(domain, run.design, run.state)
    vm = domain.partition(".")[2]
    names = run.volumes.volumes_of_domain(domain)
    vapp = run.design.instance.name
    kept = kept_volumes(run.host, run.volumes.pool, vapp, run.state, names)
    for volume in moved:
        if volume in kept:
            raise HostError(
                f"the disk '{volume}' cannot move to another VM: it is a volume {kept[volume]}",
                "Nothing was removed. Remove the domain or volume that uses the disk, or remove `was` from the file.",
            )
    run.reporter.report(vm, "removing")
    machines.cut_links(run.host, domain)
    machines.stop_domain(run.host, domain, graceful=bool(moved))
    for volume, name in moved.items():
        run.volumes.move_disk(volume, name)
    names = run.volumes.volumes_of_domain(domain)
    kept |= came_since(run.state, names)
    run.volumes.delete({*names} - kept.keys())
    for name, why in kept.items():
        run.reporter.note(f"the volume '{name}' stays, {why}")
    machines.remove_domain(run.host, domain)
    run.reporter.report(vm, "removed")


def _define_filter(run: Run, _: str) -> None:
    for name, text in render_filters(run.design):
        machines.define_filter(run.host, name, text)


def _make_network(run: Run, name: str) -> None:
    zone, network = next(
        (zone, network) for zone, network in vapp_networks(run.design) if network.name == name
    )
    marks = NetworkMarks(
        run.design.instance.name, zone.name, run.target.wanted.network_digest(name)
    )
    machines.make_network(run.host, name, render_network(network, marks.attributes()))


def _remake_network(run: Run, name: str) -> None:
    """Makes a network anew. The plan also restarts all VMs with a NIC on this network, which plugs
    in these NICs again.
    """
    machines.remove_network(run.host, name)
    _make_network(run, name)


def _remove_network(run: Run, name: str) -> None:
    machines.remove_network(run.host, name)
    run.reporter.report(name, "removed")


def _make_memory_image(run: Run, key: str) -> None:
    if run.waker:
        run.waker.make(key)


def _record(run: Run, _: str) -> None:
    """Writes the manifest with the phase `ready` and the tokens of this run.

    Until now the manifest said `applying`, with the tokens of the VMs that an earlier run connected.
    So after a killed run, the next one connects the VMs that the killed run has started.
    """
    before, signed = run.state.manifest, tuple(_signed(run))
    ready = replace(
        run.claim,
        phase=Phase.READY,
        connected=tuple(_tokens(run)),
        defined=tuple(_definitions(run)),
        ids=(),
        signed=signed,
    )
    _require_claim(run)
    if before is None or before.phase is not Phase.READY or run.learnt.signed:
        tell_newest(run.host, run.design, dict(signed))
    write_manifest(run.host, ready)


def _require_claim(run: Run) -> None:
    """Raises LostLockError if the run has lost its lock. Raises VcloudError if another run has
    written the manifest since this one began, because it is not known what that run changed.
    """
    run.lock.require()
    vapp = run.design.instance.name
    found = read_manifest(run.host, vapp)
    if not isinstance(found, Manifest) or found.lock != run.lock.uuid:
        write_manifest(run.host, run.claim)
        raise VcloudError(
            f"meanwhile another run without the lock has written the manifest of '{vapp}' on {run.host.name}",
            "It may have changed the vApp, too. Run `vcloud up` again: it checks every part of the vApp.",
        )


def _definitions(run: Run) -> Iterator[tuple[str, tuple[tuple[str, str], ...]]]:
    """How libvirt read the definitions of the VMs: those of this run, and for all other VMs the
    earlier ones.
    """
    before = run.state.manifest
    for vm in run.design.vms:
        parts = run.learnt.defined.get(vm.name) or (before and before.definition_of(vm.name))
        if parts:
            yield vm.name, tuple(parts.items())


def _signed(run: Run) -> Iterator[tuple[str, int]]:
    """The generations of the terms of the VMs: those that this run gave, and those of before. A run
    that was killed may have given newer ones than the manifest says.
    """
    before = run.state.manifest
    for vm in run.design.vms:
        domain = run.state.domain(vm.domain)
        known = before.signed_of(vm.name) if before else 0
        if domain is not None and domain.is_of(run.design.instance.name) and not domain.unsigned:
            known = max(known, min(domain.generations, default=0))
        if generation := run.learnt.signed.get(vm.name, known):
            yield vm.name, generation


def _tokens(run: Run) -> Iterator[tuple[str, str]]:
    """The tokens of the VMs that this run has connected, and of those that were connected before."""
    for vm in run.design.vms:
        if token := run.learnt.tokens.get(vm.name):
            yield vm.name, token
        elif run.state.connected(vm) and run.state.manifest is not None:
            yield (
                vm.name,
                run.state.manifest.token_of(vm.name) or machines.set_token(run.host, vm.domain),
            )


ACTIONS: Final[Mapping[Verb, Callable[[Run, str], None]]] = {
    Verb.REMOVE_VM: _remove_vm,
    Verb.DEFINE_FILTER: _define_filter,
    Verb.MAKE_NETWORK: _make_network,
    Verb.REMAKE_NETWORK: _remake_network,
    Verb.MEND_HOST: lambda run, _: mend_host(run),
    Verb.MAKE_MEMORY_IMAGE: _make_memory_image,
    # `start` asks the plan which of these verbs the VM has.
    **{verb: lambda run, vm: start(run, run.vm(vm)) for verb in TOUCHED},
    Verb.MEND_VM: lambda run, vm: mend(run, run.vm(vm)),
    **{verb: lambda run, vm: load(run, run.vm(vm)) for verb in LOADED},
    Verb.CONNECT_VM: lambda run, vm: connect(run, run.vm(vm)),
    Verb.REFRESH_VM: lambda run, vm: refresh(run, run.vm(vm)),
    Verb.REMOVE_NETWORK: _remove_network,
    Verb.RECORD: _record,
}
