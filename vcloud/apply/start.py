"""`vcloud start` and `vcloud restart`: starts VMs as the last `vcloud up` has made them. No file of
the vApp is needed.

What is wanted is the host's own manifest. The steps, their order and their checks are those of `up`:
the appliances run with their rules loaded and checked before a workload's link is raised. A manifest
has no contents of files, so the guests keep the files on their disks. What differs in any other way
than by being off is refused, because only the file can say what it should be.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from vcloud.apply.planning import Request, refuse_host, seen_by_all, with_room
from vcloud.apply.stop import stop
from vcloud.apply.target import Target
from vcloud.apply.up import UpRun
from vcloud.apply.vm_images import VmImages
from vcloud.compile.artifacts import compile_vapp
from vcloud.design.model import Vm
from vcloud.errors import UnprotectedError, UnreachableError, VcloudError
from vcloud.fleet.fleet import Fleet, open_home
from vcloud.hosts.lock import Lock
from vcloud.hosts.patience import boot_timeout
from vcloud.hosts.volumes import VappVolumes
from vcloud.placement.place import on_one
from vcloud.plan.copies import refuse_moved, uncompared
from vcloud.plan.diff import plan_changes
from vcloud.plan.manifest import Manifest, Phase
from vcloud.plan.state import VappState
from vcloud.plan.steps import Plan, Verb
from vcloud.plan.stopping import named_vms, told_of_restart
from vcloud.plan.wanted import filter_digest, hardware_digest, network_digests
from vcloud.reporter import Reporter

ALLOWED = frozenset(
    {
        Verb.DEFINE_FILTER,
        Verb.MAKE_NETWORK,
        Verb.MEND_HOST,
        Verb.START_VM,
        Verb.RESTORE_VM,
        Verb.MEND_VM,
        Verb.LOAD_IPS,
        Verb.LOAD_FIREWALL,
        Verb.RECORD,
    }
)
"""The steps that change nothing but what somebody has stopped or taken away."""
WAY_OUT = "Nothing was started. `vcloud up` with the vApp's file does it; `vcloud plan` shows what it would do."


def start_vms(vapp: str, names: Collection[str], connect: str | None, reporter: Reporter) -> Plan:
    """Starts the VMs of these names; no names: all of the vApp. The appliances are started with
    them. Returns the plan that was carried out; an empty one changed nothing.

    Raises:
        NoVappError: the host has no such vApp.
        UsageError: there is no such VM.
        RefusedError: the host has no room for them, or its rules forbid them.
        UnreachableError: a host that cannot be reached may have the copy that counts.
        VcloudError: more differs than that VMs are off, or a step fails.
        UnprotectedError: they run, and something on the host is not as vcloud made it.
    """
    boot_timeout()  # A user's mistake is told before the first change.
    with open_home(connect, vapp) as fleet, fleet.locked(vapp, "start") as locks:
        state, manifest = fleet.standing(vapp)
        vms = named_vms(manifest.design, names)
        _refuse_other_copies(fleet, state, manifest, vms)
        return _protected(start(fleet, vms, locks[fleet.home.name], reporter))


def restart_vms(
    vapp: str, names: Collection[str], connect: str | None, timeout: int, reporter: Reporter
) -> Plan:
    """Stops the VMs of these names and starts them again; no names: all of the vApp. An appliance may
    restart alone: meanwhile nothing passes it. Raises as `stop_vms` and `start_vms` do.
    """
    boot_timeout()
    with open_home(connect, vapp) as fleet, fleet.locked(vapp, "restart") as locks:
        state, manifest = fleet.standing(vapp)
        lock, vms = locks[fleet.home.name], named_vms(manifest.design, names)
        # Before the first one stops, so that a restart does not end as a stop.
        _refuse_other_copies(fleet, state, manifest, vms)
        _refuse_more(_planned(fleet.home.name, manifest, state, vms))
        if lost := told_of_restart(vms, manifest.design, state):
            raise VcloudError(
                f"data would be lost: {lost}",
                "Nothing was stopped. `vcloud up` with the vApp's file asks before it does this.",
            )
        reporter.part("stopping")
        stop(fleet, vms, lock, timeout, reporter)
        return _protected(start(fleet, vms, lock, reporter))


def _refuse_other_copies(
    fleet: Fleet, state: VappState, manifest: Manifest, vms: Sequence[Vm]
) -> None:
    """Raises UnreachableError where another host may have the copy that counts, and may run it."""
    host = fleet.home.name
    refuse_moved(host, manifest)
    plan = _planned(host, manifest, state, vms)
    if found := uncompared(plan, state, fleet.unknown):
        raise UnreachableError(
            "; ".join(one.told(plan.vapp, host) for one in found),
            f"Nothing was started. If the copy on {host} is the newest one, name its host: --connect {host}.",
        )


def _protected(done: Plan) -> Plan:
    if done.unmended:
        raise UnprotectedError(done.vapp, done.host, done.unmended)
    return done


def start(fleet: Fleet, vms: Sequence[Vm], lock: Lock, reporter: Reporter) -> Plan:
    """Starts these VMs under the vApp's lock. Raises as `start_vms` does."""
    host, vapp = fleet.home, vms[0].domain.partition(".")[0]
    state, manifest = fleet.standing(vapp)
    target = _target(host.name, manifest, state, vms)
    state = seen_by_all(fleet, state, target.wanted)
    plan = plan_changes(target.wanted, state, host.name)
    _refuse_more(plan)
    if not plan.steps:
        return plan
    refuse_host(host, target.design, manifest.accelerator, stands=True)
    plan = with_room(fleet, target, plan, state)
    # `cold`: no memory image is looked for, because no VM gets a new root disk.
    request = Request(target.design, manifest.accelerator, cold=True)
    run = UpRun(fleet, request, target, reporter, lock)
    known = VappVolumes(host).images()
    return run.finish(target, state, plan, known, run.claim(target, state, plan))


def _planned(host: str, manifest: Manifest, state: VappState, vms: Sequence[Vm]) -> Plan:
    return plan_changes(_target(host, manifest, state, vms).wanted, state, host)


def _target(host: str, manifest: Manifest, state: VappState, vms: Sequence[Vm]) -> Target:
    """What the last `up` made, with these VMs and the appliances running. Raises VcloudError where
    that is not known, or this release would make it otherwise.
    """
    design, vapp = manifest.design, manifest.design.instance.name
    if manifest.phase is not Phase.READY:
        raise VcloudError(
            f"a run of `vcloud up` of '{vapp}' has failed or was interrupted", WAY_OUT
        )
    made = compile_vapp(design, manifest.uplink, keeps_files=True)
    if not _renders_alike(manifest, made.firewall_digest, made.ips_digest):
        raise VcloudError(
            f"another release of vcloud made '{vapp}', and this one renders it differently", WAY_OUT
        )
    started = {vm.name for vm in (*vms, *design.appliances)}
    left = tuple(vm.name for vm in design.vms if state.stopped(vm) and vm.name not in started)
    return Target(
        design,
        on_one(design, host),
        made,
        replace(manifest, stopped=left),
        VmImages.kept(manifest, state.images),
    )


def _renders_alike(manifest: Manifest, firewall: str, ips: str) -> bool:
    """Whether this release makes from the manifest's design what the manifest says was made."""
    design = manifest.design
    return (
        (firewall, ips) == (manifest.firewall, manifest.ips)
        and network_digests(design) == manifest.networks
        and filter_digest(design) == manifest.filter
        and all(
            found is not None
            and found.hardware == hardware_digest(vm, manifest.uplink, manifest.accelerator)
            for vm in design.vms
            for found in [manifest.digests_of(vm.name)]
        )
    )


def _refuse_more(plan: Plan) -> None:
    """Raises VcloudError where a plan does more than to start what is off, or loses data."""
    if lost := plan.lost_data():
        raise VcloudError(f"data would be lost: {'; '.join(map(str, lost))}", WAY_OUT)
    more = [step for step in plan.shown if step.verb not in ALLOWED]
    if more:
        told = "; ".join(f"{step.verb} {step.subject} ({step.why})" for step in more)
        raise VcloudError(
            f"more of '{plan.vapp}' on {plan.host} differs than that it is off: {told}", WAY_OUT
        )
