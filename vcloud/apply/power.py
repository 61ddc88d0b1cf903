"""Starts a VM, up to the moment at which it has its identity. A workload has no live link yet, and
its services wait.
"""

from __future__ import annotations

from vcloud.apply.run import Run
from vcloud.compile.guest.cloudinit import seed_files, seed_iso
from vcloud.compile.libvirt.devices import starts_linked
from vcloud.compile.libvirt.domain import render_domain
from vcloud.compile.libvirt.host import HostFacts
from vcloud.design.model import Role, Vm
from vcloud.errors import HostError
from vcloud.guests.setup import give_identity, new_host_key
from vcloud.hosts import machines
from vcloud.hosts.uplink import make_uplink
from vcloud.plan.order import starts_connected
from vcloud.plan.steps import FRESH, Verb

AGENT_TIMEOUT = 180
"""Seconds from power-on to the guest agent's first answer; a distribution's stock image takes a
minute without KVM.
"""


def start(run: Run, vm: Vm) -> None:
    """Makes, starts, restarts or restores a VM, or only configures it, as the plan says."""
    if vm.role is Role.FIREWALL:
        make_uplink(run.host, run.target.artifacts.uplink)
    if starts_connected(vm):
        # cloud-init gives such a VM its identity while it boots.
        with run.explained(vm, booting=True):
            _power(run, vm)
        return
    verb = run.verb(vm)
    with run.explained(vm, booting=True):
        if verb is not Verb.CONFIGURE_VM:
            _power(run, vm)
        agent = run.agent(vm)
        agent.wait(AGENT_TIMEOUT)
        run.reporter.report(vm.name, "setting name, addresses, keys")
        if verb in FRESH and vm.role is Role.WORKLOAD:
            run.learnt.keys[vm.name] = new_host_key()
        give_identity(
            agent, vm, run.target.artifacts.identities[vm.name], run.learnt.keys.get(vm.name)
        )
        # A workload is wholly made only when it is ready, so `connect` marks it.
        if vm.role is not Role.WORKLOAD or verb is Verb.CONFIGURE_VM:
            run.mark(vm)
        run.reporter.report(vm.name, _next_stage(run, vm))


def _next_stage(run: Run, vm: Vm) -> str:
    """The next stage of a VM that has its identity, in words."""
    if vm.role is not Role.WORKLOAD:
        return "loading rules"
    if run.verb(vm) is Verb.CONFIGURE_VM:
        return "ready"
    awaited = [name for name in vm.after if name in run.plan.subjects(Verb.CONNECT_VM)]
    return f"waiting for {', '.join(awaited or [appliance.name for appliance in run.design.appliances])}"


def _power(run: Run, vm: Vm) -> None:
    """From whatever stands to a VM that has just been started."""
    verb, domain = run.verb(vm), run.state.domain(vm.domain)
    if verb is Verb.START_VM and domain is not None and domain.running:
        if domain.paused:
            machines.resume_domain(run.host, vm.domain)
        # It runs. Its links and services are what it lacks, and `connect` sees to them.
        return
    if verb is Verb.RESTORE_VM:
        if run.waker:
            _restore(run, vm)
            return
        run.reporter.note(f"{vm.name} is booted cold: what only its saved memory held is lost")
    _make_way(run, vm, verb)
    _boot(run, vm, verb)


def _boot(run: Run, vm: Vm, verb: Verb) -> None:
    """Wakes the VM from a memory image where that is possible, and boots it where not."""
    boot = run.boots[vm.name]
    if boot.seed:
        run.volumes.put_seed(vm.domain, _seed(run, vm, fresh=verb in FRESH))
    marks = run.marks(vm, finished=verb not in FRESH)
    # Asking the host costs a call for each VM, which counts where many VMs wake.
    may_have_data = vm.disks or verb is Verb.REMAKE_VM
    if verb in FRESH and may_have_data and run.volumes.has_data(vm):
        marks = marks.with_data()
    disks = {disk.volume: run.volumes.make_disk(disk.volume, disk.size) for disk in vm.disks}
    xml = render_domain(
        vm,
        run.target.artifacts.uplink,
        HostFacts(run.target.wanted.accelerator),
        boot,
        disks,
        marks.attributes(),
    )
    if verb in FRESH and run.waker and run.waker.wake(vm, boot, xml, marks.attributes(), disks):
        return
    run.volumes.make_root(vm, boot)
    run.reporter.report(vm.name, "booting")
    machines.start_domain(run.host, vm.domain, xml)


def _restore(run: Run, vm: Vm) -> None:
    """Lets a VM go on from its saved memory. A memory that cannot be restored is kept: only a
    person may give it up.

    An image of a user's own gets no document that would set its clock, so the clock is set here.
    """
    run.reporter.report(vm.name, "restoring")
    try:
        machines.restore_domain(run.host, vm.domain, linked=starts_linked(vm))
    except HostError as error:
        raise HostError(
            error.what,
            "`vcloud up --cold` boots what is saved; what only its memory holds is lost then.",
        ) from error
    run.learnt.restored.add(vm.name)
    if run.boots[vm.name].seed and not machines.set_clock(run.host, vm.domain):
        run.reporter.note(
            f"the clock of {vm.name} stands where it was saved: no guest agent sets it"
        )


def _make_way(run: Run, vm: Vm, verb: Verb) -> None:
    """Ends and removes what the VM is not to begin with. A killed run may have left a root disk
    without a domain.
    """
    machines.cut_links(run.host, vm.domain)
    if verb in (Verb.RESTART_VM, Verb.RESTORE_VM):
        machines.stop_domain(run.host, vm.domain, graceful=True)
        machines.discard_saved_memory(run.host, vm.domain)
    elif verb in FRESH:
        machines.remove_domain(run.host, vm.domain)
        run.volumes.delete_root(vm.domain)
    if verb is Verb.REMAKE_VM and _began_blank(run, vm):
        run.volumes.delete_of_domain(vm.domain)


def _began_blank(run: Run, vm: Vm) -> bool:
    """Whether the VM was never wholly made, so that its data disks, blank at first, hold no more
    than the beginnings of that.
    """
    domain = run.state.domain(vm.domain)
    return domain is None or (domain.marks.digests is None and not domain.marks.keeps_data)


def _seed(run: Run, vm: Vm, *, fresh: bool) -> bytes:
    """The content of cloud-init's seed disk. A VM that is made anew gets a new host key with it."""
    if not fresh:
        return seed_iso(seed_files(run.design, vm, None))
    key = run.learnt.keys[vm.name] = new_host_key()
    return seed_iso(seed_files(run.design, vm, (key.private, key.public)))
