"""Finds the volumes that may be deleted together with VMs. Volumes that somebody else made are
kept, and so are volumes that a domain of somebody else uses.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from vcloud.design.names import is_vm_volume
from vcloud.hosts import machines
from vcloud.hosts.connection import Host
from vcloud.hosts.pool import StoragePool
from vcloud.hosts.volume_reading import backing_files
from vcloud.plan.state import VappState


def kept_volumes(
    host: Host, pool: StoragePool, vapp: str, state: VappState, names: Collection[str]
) -> dict[str, str]:
    """Those of the volumes `names` that must be kept when the VMs are removed -> why they are kept,
    as a relative clause.
    """
    users = machines.disk_users(host)
    volumes = {name: users.get(pool.path(name), frozenset()) for name in names}
    return _with_backing_files(pool, volumes, volumes_left(vapp, state, volumes))


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
