"""`vcloud save`: saves the memory of every VM of a vApp on its host and stops the VMs. The next
`up` resumes them.

It makes a managed save (libvirt's word) of each VM. The order keeps the vApp protected: the links
of all workloads are cut, then the workloads are saved, and then the appliances. `up` restores the
appliances first, and raises a link only after their rules are loaded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from vcloud.design.model import Role, Vm
from vcloud.errors import GuestError, HostError, VcloudError
from vcloud.fleet.fleet import open_home
from vcloud.hosts import machines
from vcloud.hosts.connection import Host
from vcloud.hosts.manifests import write_manifest
from vcloud.plan.manifest import Manifest, Phase
from vcloud.plan.refusals import refuse_foreign_domains, refuse_renamed
from vcloud.reporter import Reporter

SYNC_TIMEOUT = 60
"""Seconds that a guest gets to write its data to its disks."""


def save_vapp(vapp: str, connect: str | None, reporter: Reporter) -> tuple[str, ...]:
    """Saves every running VM, and returns their names. If all VMs are saved already, no name is
    returned.

    Raises:
        NoVappError: the host has no such vApp.
        VcloudError: no VM runs, a run of `up` has not succeeded, somebody has renamed a domain, or a
            domain that has the name of a VM is not vcloud's.
        HostError: a VM cannot be saved. It then keeps running, and its links stay cut until the
            next `up`.
    """
    with open_home(connect, vapp) as fleet, fleet.locked(vapp, "save") as locks:
        host, (state, manifest) = fleet.home, fleet.standing(vapp)
        refuse_renamed(manifest.design, state)
        refuse_foreign_domains(manifest.design, state)
        running = {domain.name for domain in state.domains if domain.running}
        vms = [vm for vm in manifest.design.vms if vm.domain in running]
        if not vms and not state.saved():
            raise VcloudError(
                f"no VM of '{vapp}' runs on {host.name}, so there is no memory to save",
                "`vcloud up` starts them.",
            )
        if vms:
            _refuse_unfinished(manifest)
            # From here on links are cut. The manifest loses its tokens, so the next `up` takes no
            # VM for connected and raises every link, however this run ends.
            write_manifest(host, manifest.saved(locks[host.name].uuid))
            _save(host, vapp, vms, reporter)
        return tuple(vm.name for vm in vms)


def _refuse_unfinished(manifest: Manifest) -> None:
    """Raises VcloudError if a run of `up` did not succeed: half-made VMs would be saved as if they
    were complete. No run can be going on, because this one has the lock.
    """
    if manifest.phase is not Phase.READY:
        raise VcloudError(
            f"a run of `vcloud up` of '{manifest.design.instance.name}' has failed or was interrupted",
            "Run `vcloud up` to its end first.",
        )


def _save(host: Host, vapp: str, vms: Sequence[Vm], reporter: Reporter) -> None:
    """Saves the workloads, then the appliances. As many VMs are saved at a time as the host has
    processors.
    """
    appliances = [vm for vm in vms if vm.role is not Role.WORKLOAD]
    workloads = [vm for vm in vms if vm.role is Role.WORKLOAD]
    for vm in workloads:
        machines.cut_links(host, vm.domain)
    for group in (workloads, appliances):
        with ThreadPoolExecutor(host.processors) as pool:
            # `list` waits for all VMs of the group, and raises an error of any: no appliance is
            # saved before every workload.
            list(pool.map(lambda vm: _save_one(host, vapp, vm, reporter), group))


def _save_one(host: Host, vapp: str, vm: Vm, reporter: Reporter) -> None:
    reporter.report(vm.name, "saving")
    # If no agent runs `sync`, the data that the guest has not written is in the saved memory only.
    with contextlib.suppress(GuestError):
        machines.agent_of(host, vm.domain).execute(["sync"], timeout=SYNC_TIMEOUT)
    try:
        machines.save_domain(host, vm.domain)
    except HostError as error:
        raise HostError(
            error.what,
            f"Repair that and run `vcloud save {vapp}` again, or run `vcloud up`. Until then the links of '{vapp}' are down.",
        ) from error
    reporter.report(vm.name, "saved")
