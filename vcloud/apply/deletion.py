"""Finds the volumes that may be deleted together with VMs. Volumes that somebody else made are
kept, and so are volumes that a domain of somebody else uses.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from vcloud.design.model import Design
from vcloud.design.names import data_disk_of, is_vm_volume, root_volume
from vcloud.errors import HostError
from vcloud.hosts.connection import Host
from vcloud.hosts.disk_users import disk_users
from vcloud.hosts.pool import StoragePool
from vcloud.hosts.volume_reading import backing_files
from vcloud.plan.disks import blank_volumes
from vcloud.plan.state import VappState
from vcloud.plan.steps import FRESH, Plan


def kept_volumes(
    host: Host, pool: StoragePool, vapp: str, state: VappState, names: Collection[str]
) -> dict[str, str]:
    """Those of the volumes `names` that must be kept when the VMs are removed -> why they are kept,
    as a relative clause.
    """
    users = disk_users(host)
    volumes = {name: users.get(pool.path(name), frozenset()) for name in names}
    return _with_backing_files(pool, volumes, volumes_left(vapp, state, volumes))


def came_since(state: VappState, names: Collection[str]) -> dict[str, str]:
    """Those of the volumes `names` that look like data disks and were not there in the `state` that
    the plan was made from, so nobody has agreed to their loss -> why they are kept.
    """
    known = state.volumes
    return {
        name: "which came since the plan was made"
        for name in names
        if known is not None and name not in known and data_disk_of(name)
    }


def refuse_shared_disks(host: Host, design: Design, state: VappState, plan: Plan) -> None:
    """Raises HostError if the plan makes a VM anew and a domain of somebody else uses a disk of it that
    goes, or has a disk that is based on it.
    """
    anew = plan.subjects(*FRESH)
    goes = {
        volume: vm.name
        for vm in design.vms
        if vm.name in anew
        for volume in (root_volume(vm.domain), *blank_volumes(vm, state))
        if state.volumes is not None and volume in state.volumes
    }
    if not goes:
        return
    users, pool = disk_users(host), StoragePool(host)
    ours = {domain.name for domain in state.domains if domain.is_of(plan.vapp)}
    for volume, vm in goes.items():
        if others := sorted(users.get(pool.path(volume), frozenset()) - ours):
            raise HostError(
                f"'{vm}' cannot be made anew: the domain '{others[0]}' uses its disk '{volume}', or has a disk that is based on it",
                f"Nothing of '{plan.vapp}' was stopped or removed. Remove '{others[0]}', or give it a disk that is based on nothing (`virsh blockpull`). Then run `vcloud up` again.",
            )


def volumes_left(
    vapp: str, state: VappState, volumes: Mapping[str, Collection[str]]
) -> dict[str, str]:
    """The volumes that have a name like those of the vApp, but do not belong to it -> why they are
    kept.

    `volumes` maps each volume to the domains that use it as a disk. A disk that one of the vApp's
    own VMs uses belongs to the vApp, whatever its name is, because an external snapshot replaces a
    disk by another file.
    """
    ours = {domain.name for domain in state.domains if domain.is_of(vapp)}
    foreign = [domain.name for domain in state.domains if domain.name not in ours]
    left = {}
    for name, users in volumes.items():
        if others := sorted({*users} - ours):
            left[name] = f"which the domain '{others[0]}' uses"
        elif namesakes := [domain for domain in foreign if f".{domain}." in name and not users]:
            left[name] = f"which belongs to the domain '{namesakes[0]}' by its name"
        elif not users and not is_vm_volume(name):
            left[name] = "which vcloud did not make"
    return left


def _with_backing_files(
    pool: StoragePool, volumes: Collection[str], left: Mapping[str, str]
) -> dict[str, str]:
    """The volumes that are kept, and also their backing files."""
    found, new = dict(left), [*left]
    while new:
        needed = {path: name for name in new for path in backing_files(pool, name)}
        new = [name for name in volumes if name not in found and pool.path(name) in needed]
        found |= {name: f"which '{needed[pool.path(name)]}' is based on" for name in new}
    return found
