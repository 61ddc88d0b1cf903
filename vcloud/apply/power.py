"""Starts a VM and gives it its identity. The links of a workload stay down, and its services wait."""

from __future__ import annotations

from vcloud.apply.cores import keep_to_cores
from vcloud.apply.last_look import refuse_more_losses
from vcloud.apply.run import Run
from vcloud.compile.guest.cloudinit import seed_files, seed_iso
from vcloud.compile.libvirt.devices import starts_linked
from vcloud.design.model import Role, Vm
from vcloud.errors import HostError, HostRefusedError
from vcloud.guests.setup import fill_root, give_identity, new_host_key
from vcloud.hosts import machines
from vcloud.hosts.patience import boot_timeout
from vcloud.hosts.sealing import sealing_of
from vcloud.hosts.uplink import make_uplink
from vcloud.plan.disks import blank_volumes, unfinished_copies
from vcloud.plan.losses import of_start
from vcloud.plan.order import starts_connected
from vcloud.plan.steps import FRESH, Verb


def start(run: Run, vm: Vm) -> None:
    """Makes, starts, restarts or restores a VM, or only configures it, as the plan says."""
    if vm.role is Role.FIREWALL:
        # The NAT network must exist before the NIC of the firewall is plugged into it.
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
        agent.wait(boot_timeout())
        run.reporter.report(vm.name, "setting name, addresses, keys")
        # A VM with a new root disk has no key yet. Appliances have no sshd.
        if vm.role is Role.WORKLOAD and (verb in FRESH or not run.host_key(vm)):
            run.learnt.keys[vm.name] = new_host_key()
        if vm.role is Role.WORKLOAD and verb is Verb.CONFIGURE_VM:
            run.mark_changing(vm)
        run.learnt.changed[vm.name] = give_identity(
            agent,
            vm,
            run.target.artifacts.identities[vm.name],
            run.learnt.keys.get(vm.name),
            run.claim.generation,
            run.host.clock.now(),
        )
        if vm.root and verb is not Verb.CONFIGURE_VM:
            fill_root(agent, vm)
        # `connect` and `refresh` mark a workload.
        if vm.role is not Role.WORKLOAD:
            run.mark(vm)
        run.reporter.report(vm.name, _next_stage(run, vm))


def _next_stage(run: Run, vm: Vm) -> str:
    """What to report of a VM that has got its identity: its next stage."""
    if vm.role is not Role.WORKLOAD:
        return "loading rules"
    if run.verb(vm) is Verb.CONFIGURE_VM:
        return "configured"
    awaited = [name for name in vm.after if name in run.plan.subjects(Verb.CONNECT_VM)]
    return f"waiting for {', '.join(awaited or [appliance.name for appliance in run.design.appliances])}"


def _power(run: Run, vm: Vm) -> None:
    """Brings a VM from its present state to a started one."""
    verb, domain = run.verb(vm), run.state.domain(vm.domain)
    if verb is Verb.START_VM and domain is not None and domain.running:
        if domain.paused:
            # A run that was killed may have restored it with the links of a memory that `virsh` saved.
            if not starts_linked(vm):
                machines.cut_links(run.host, vm.domain)
            machines.resume_domain(run.host, vm.domain)
        # The VM runs. Only its links and services are missing, which `connect` sets up.
        return
    if verb is Verb.RESTORE_VM:
        _restore(run, vm)
    else:
        # Somebody may have made a disk larger since the plan was made. The VM runs on then.
        stands = _standing_volumes(run, vm, verb)
        for disk in vm.disks:
            if disk.volume in stands:
                run.volumes.pool.refuse_smaller(disk.volume, disk.size)
        _make_way(run, vm, verb)
        _boot(run, vm, verb)
    keep_to_cores(run, vm)


def _boot(run: Run, vm: Vm, verb: Verb) -> None:
    """Wakes the VM from a memory image if that is possible; otherwise boots it."""
    boot = run.boots[vm.name]
    # Without the contents of files, the seed disk stays as `up` has written it.
    if boot.seed and run.knows_files:
        run.volumes.put_seed(vm.domain, _seed(run, vm, fresh=verb in FRESH))
    marks = run.marks(vm, finished=verb not in FRESH)
    stands = _standing_volumes(run, vm, verb)
    made = {
        disk: run.volumes.make_disk(disk.volume, disk.size, stands=disk.volume in stands)
        for disk in vm.disks
    }
    disks = {disk.volume: path for disk, (path, _) in made.items()}
    # The domain has this mark before it runs. If a run is killed after it created a disk and before
    # it set the mark, the disk counts as one that holds data.
    marks = marks.with_blank(disk.name for disk, (_, created) in made.items() if created)
    xml = run.definition(vm, disks, marks)
    # Only a VM with a new root disk can wake, because the saved memory belongs to the disk of the
    # memory image.
    if not (
        verb in FRESH
        and run.waker
        and run.waker.wake(vm, boot, xml, sealing_of(run.host).sealed_marks(marks), disks)
    ):
        # A root disk that should be kept is never made here, even if its file was removed since the
        # plan was made. Then the start fails, and no empty disk replaces it.
        if verb in FRESH:
            run.volumes.make_root(vm, boot)
        if vm.root:
            run.volumes.grow_root(vm)
        run.reporter.report(vm.name, "booting")
        machines.start_domain(run.host, vm.domain, xml)
    run.learnt.signed[vm.name] = run.generation
    run.note_definition(vm)


def _standing_volumes(run: Run, vm: Vm, verb: Verb) -> frozenset[str]:
    """The volumes that were there when the run began, without those that begin anew."""
    blank = blank_volumes(vm, run.state) if verb in FRESH else ()
    return (run.state.volumes or frozenset()) - unfinished_copies(run.state) - {*blank}


def _restore(run: Run, vm: Vm) -> None:
    """Restores a VM from its saved memory. If that fails, the saved memory is kept: only the user may
    decide to delete it.

    A user's own image gets no identity document, which would set its clock, so it is set here.
    """
    run.reporter.report(vm.name, "restoring")
    try:
        machines.restore_domain(
            run.host, vm.domain, run.design.terms, run.generation, linked=starts_linked(vm)
        )
    except HostRefusedError:
        raise  # The saved memory is intact.
    except HostError as error:
        # If the error has a hint of its own, such as for a broken connection or a full disk, the
        # memory is intact, and the user should not be advised to delete it.
        raise HostError(
            error.what,
            error.hint
            or "`vcloud up --cold` boots the VM without its saved memory, which is then lost; it asks first.",
        ) from error
    run.learnt.restored.add(vm.name)
    run.learnt.signed[vm.name] = run.generation
    if run.boots[vm.name].seed and not machines.set_clock(run.host, vm.domain):
        run.reporter.note(
            f"the clock of {vm.name} still has the time of the save, because no guest agent can set it"
        )


def _make_way(run: Run, vm: Vm, verb: Verb) -> None:
    """Stops a VM and removes those parts of it that it must not start with. A killed run may have
    left a root disk without a domain.

    Raises VcloudError if more data would be lost than the plan says. The VM then runs on.
    """
    refuse_more_losses(run, vm.domain, lambda state: of_start(vm, verb, run.design, state))
    machines.cut_links(run.host, vm.domain)
    if verb is Verb.RESTART_VM:
        machines.stop_domain(run.host, vm.domain, graceful=True)
        machines.discard_saved_memory(run.host, vm.domain)
    elif verb in FRESH:
        machines.stop_domain(run.host, vm.domain, graceful=False)
        # The blank disks are deleted before the mark that names them.
        run.volumes.delete(blank_volumes(vm, run.state))
        machines.remove_domain(run.host, vm.domain)
        run.volumes.delete_root(vm.domain)


def _seed(run: Run, vm: Vm, *, fresh: bool) -> bytes:
    """The content of cloud-init's seed disk. A VM that is made anew gets a new host key with it."""
    if not fresh:
        return seed_iso(seed_files(run.design, vm, None, run.claim.salt))
    key = run.learnt.keys[vm.name] = new_host_key()
    return seed_iso(seed_files(run.design, vm, (key.private, key.public), run.claim.salt))
