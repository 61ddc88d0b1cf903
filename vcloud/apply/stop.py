"""`vcloud stop`: shuts VMs down and keeps everything of them: disks, networks, addresses.

The workloads stop first, each while its protection still runs, and the appliances last. The manifest
notes which VMs were stopped, so that `status` does not take them for broken.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

from vcloud.design.model import Vm
from vcloud.fleet.fleet import Fleet, open_home
from vcloud.hosts import machines
from vcloud.hosts.connection import Host
from vcloud.hosts.lock import Lock
from vcloud.hosts.manifests import write_manifest
from vcloud.plan.manifest import Manifest
from vcloud.plan.refusals import refuse_foreign_domains, refuse_renamed
from vcloud.plan.state import VappState
from vcloud.plan.stopping import (
    named_vms,
    refuse_unprotected,
    refuse_unstoppable,
    stop_order,
)
from vcloud.reporter import Reporter


@dataclass(frozen=True, slots=True)
class Stopped:
    """What `vcloud stop` has done."""

    vms: tuple[str, ...]
    """The VMs that ran and do not run any more."""
    ended: tuple[str, ...]
    """Those of them that did not shut down in time, so that they were powered off."""


def stop_vms(
    vapp: str, names: Collection[str], connect: str | None, timeout: int, reporter: Reporter
) -> Stopped:
    """Stops the VMs of these names; no names: all of the vApp. A VM that does not shut down within
    `timeout` seconds is powered off.

    Raises:
        NoVappError: the host has no such vApp.
        UsageError: there is no such VM, it is paused or has no definition, or it is an appliance while
            workloads stay.
        VcloudError: somebody has renamed a domain, or a domain with the name of a VM is not vcloud's.
        HostError: a VM cannot be stopped. Those before it are stopped.
    """
    with open_home(connect, vapp) as fleet, fleet.locked(vapp, "stop") as locks:
        _, manifest = fleet.standing(vapp)
        vms = named_vms(manifest.design, names)
        refuse_unprotected(manifest.design, vms)
        return stop(fleet, vms, locks[fleet.home.name], timeout, reporter)


def stop(fleet: Fleet, vms: Sequence[Vm], lock: Lock, timeout: int, reporter: Reporter) -> Stopped:
    """Stops these VMs under the vApp's lock. Raises as `stop_vms` does."""
    host, vapp = fleet.home, vms[0].domain.partition(".")[0]
    state, manifest = fleet.standing(vapp)
    refuse_renamed(manifest.design, state)
    refuse_foreign_domains(manifest.design, state)
    running = _running(state, vms)
    noted = _noted(state, manifest, vms)
    if not running and noted == manifest.stopped:
        return Stopped((), ())
    # Before the first one stops: if this is interrupted, nobody takes a stopped VM for a broken one.
    write_manifest(host, replace(manifest, stopped=noted, lock=lock.uuid))
    ended: list[str] = []
    for group in stop_order(running):
        lock.require()
        with ThreadPoolExecutor(host.processors) as pool:
            # `list` waits for the whole group, and raises an error of any.
            one = partial(_stop_one, host, timeout=timeout, reporter=reporter)
            ended += [
                vm.name for vm, was in zip(group, list(pool.map(one, group)), strict=True) if was
            ]
    return Stopped(tuple(vm.name for vm in running), tuple(ended))


def _running(state: VappState, vms: Sequence[Vm]) -> tuple[Vm, ...]:
    found = {vm: state.domain(vm.domain) for vm in vms}
    for vm, domain in found.items():
        if domain is not None:
            refuse_unstoppable(vm, domain)
    return tuple(vm for vm, domain in found.items() if domain is not None and domain.running)


def _noted(state: VappState, manifest: Manifest, vms: Sequence[Vm]) -> tuple[str, ...]:
    """The VMs that are stopped afterwards, in the order of the design. A VM whose memory is saved
    stays saved, and one whose domain is gone is not stopped but missing.
    """
    domains = {vm.name: state.domain(vm.domain) for vm in vms}
    stopped = {name for name, domain in domains.items() if domain and not domain.saved}
    kept = {vm.name for vm in manifest.design.vms if state.stopped(vm)}
    return tuple(vm.name for vm in manifest.design.vms if vm.name in stopped | kept)


def _stop_one(host: Host, vm: Vm, *, timeout: int, reporter: Reporter) -> bool:
    reporter.report(vm.name, "shutting down")
    ended = machines.stop_domain(host, vm.domain, graceful=True, timeout=timeout)
    if ended:
        reporter.note(f"{vm.name} did not shut down within {timeout} s, and was powered off")
    reporter.report(vm.name, "stopped")
    return ended
