"""`vcloud down`: deletes a vApp, whatever state it is in. It needs neither the vApp's file nor a
readable manifest: the names and UUIDs that vcloud gives suffice.

Only what vcloud has made is deleted. What merely looks like it stays, and is named: a clone of a
VM, a domain or network of somebody else's that has a fitting name, a copy of a disk, and every
volume that a domain of somebody else's uses.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath

from vcloud.apply.deletion import kept_volumes
from vcloud.design.model import Role
from vcloud.design.names import data_disk_of, filter_name, filter_uuid
from vcloud.errors import NoVappError, VcloudError
from vcloud.fleet.fleet import Fleet, open_home
from vcloud.hosts import machines
from vcloud.hosts.connection import Host
from vcloud.hosts.memory_images import MemoryImages
from vcloud.hosts.pool import StoragePool
from vcloud.hosts.uplink import forget_vapp
from vcloud.hosts.volumes import VappVolumes
from vcloud.plan.copies import refuse_unsaid
from vcloud.plan.losses import of_down, refuse_unnamed, unknown_disks
from vcloud.plan.refusals import refuse_renamed
from vcloud.plan.state import DomainState, VappState
from vcloud.plan.steps import Loss, OlderCopy
from vcloud.reporter import Reporter


@dataclass(frozen=True, slots=True)
class Gone:
    """What `vcloud down` has done."""

    removed: tuple[str, ...]
    """Names of domains, networks and volumes."""
    left: tuple[str, ...]
    """What looks like a part of the vApp and stays, each with the reason."""


def data_of(vapp: str, connect: str | None) -> tuple[dict[str, str], tuple[Loss, ...]]:
    """Name -> URI of each host that has a copy of the vApp, and the data that `take_down` would delete
    there. Nothing is changed anywhere. Raises HostError.
    """
    with open_home(connect, vapp) as fleet:
        _refuse_unsaid(fleet, vapp)
        losses = [*_data_on(fleet, vapp)]
        for host in fleet.older:
            losses += older_copy(fleet.only(host), vapp).loses
        hosts = (fleet.home, *fleet.older)
        return {host.name: host.ref.uri for host in hosts}, tuple(losses)


@dataclass(frozen=True, slots=True)
class _Found:
    """What a host has of a vApp."""

    domains: Sequence[DomainState]
    networks: Sequence[str]
    volumes: VappVolumes
    deleted: Sequence[str]
    """The names of the volumes that may be deleted."""
    left: Mapping[str, str]
    """The other volumes that have such names -> why they are kept."""


def older_copy(fleet: Fleet, vapp: str) -> OlderCopy:
    """The superseded copy on the host, with the data that goes with it. Raises HostError."""
    host = fleet.home.name
    return OlderCopy(host, tuple(_on(host, loss) for loss in _data_on(fleet, vapp)))


def _on(host: str, loss: Loss) -> Loss:
    """The loss, as it is told of a superseded copy."""
    return replace(loss, what=f"{loss.what} on {host}")


def _data_on(fleet: Fleet, vapp: str) -> Iterator[Loss]:
    host, state = fleet.home, fleet.state_of(vapp)
    pool = StoragePool.existing(host)
    if pool is None:
        return of_down(vapp, None, state)
    names = state.volumes or frozenset()
    return of_down(vapp, names - kept_volumes(host, pool, vapp, state, names).keys(), state)


def take_down(
    vapp: str,
    connect: str | None,
    reporter: Reporter,
    among: Collection[str] = (),
    agreed: Collection[Loss] | None = None,
) -> Gone:
    """Deletes everything of a vApp, the superseded copies first. `among` are the hosts that the user
    has agreed to; empty: all. `agreed` is the data that the user was shown; None: the user has agreed to
    the loss of all data, unseen.

    Raises NoVappError where the host has nothing of it, VcloudError where somebody has renamed a
    domain of it, where it is on another host, or where more data would go than was agreed to,
    HostError where a newer release of vcloud made it, or where something cannot be removed.
    """
    with open_home(connect, vapp) as fleet:
        _refuse_unsaid(fleet, vapp)
        hosts = (*fleet.older, fleet.home)
        if among and (other := {host.name for host in hosts} - {*among}):
            raise VcloudError(
                f"'{vapp}' is on {', '.join(sorted(other))}, too, since you were asked",
                "Nothing was done. Run `vcloud down` again.",
            )
        gone = [
            remove_copy(fleet.only(host), vapp, reporter, agreed, superseded=True)
            for host in fleet.older
        ]
        gone.append(remove_copy(fleet, vapp, reporter, agreed, superseded=False))
    return Gone(
        tuple(name for one in gone for name in one.removed),
        tuple(name for one in gone for name in one.left),
    )


def _refuse_unsaid(fleet: Fleet, vapp: str) -> None:
    if fleet.older:
        names = [host.name for host in fleet.older]
        refuse_unsaid(vapp, fleet.home.name, fleet.state_of(vapp).manifest, names)


def remove_copy(
    fleet: Fleet,
    vapp: str,
    reporter: Reporter,
    agreed: Collection[Loss] | None = None,
    *,
    superseded: bool,
) -> Gone:
    """Deletes everything of a vApp on one host, where it may be a superseded copy. Raises as `take_down`
    does.
    """
    with fleet.locked(vapp, "down"):
        host, state = fleet.home, fleet.state_of(vapp)
        if state.manifest:
            refuse_renamed(state.manifest.design, state)
        found = _found(host, vapp, state)
        losses = tuple(of_down(vapp, found.deleted, state))
        if agreed is not None:
            unknown, *told = (
                _on(host.name, loss) if superseded else loss
                for loss in (unknown_disks(vapp), *losses)
            )
            if unknown not in agreed:
                refuse_unnamed(vapp, told, agreed)
        for name in () if superseded else _still_away(fleet, state):
            reporter.note(
                f"{name} was said to be dead: if it comes back with a copy of '{vapp}', that copy stays; `vcloud down {vapp} -c {name}` removes it then"
            )
        for name in () if superseded else _of_move(fleet, state):
            reporter.note(
                f"a move between {host.name} and {name} has not ended: if {name} has a copy of '{vapp}', that copy stays; `vcloud down {vapp} -c {name}` removes it then"
            )
        for loss in losses:
            reporter.note(f"data that goes: {loss}")
        return _remove(host, vapp, state, found, reporter)


def remove_here(
    fleet: Fleet, vapp: str, reporter: Reporter, only: Collection[str] | None = None
) -> Gone:
    """Deletes everything of a vApp on the host. Of its volumes only those that `only` names, if that is
    given. The caller must hold the vApp's lock, and the user's consent. Raises as `take_down` does.
    """
    host, state = fleet.home, fleet.state_of(vapp)
    return _remove(host, vapp, state, _found(host, vapp, state, only), reporter)


def _remove(host: Host, vapp: str, state: VappState, found: _Found, reporter: Reporter) -> Gone:
    domains, networks = found.domains, found.networks
    # False sorts before True. All links of workloads are cut while the appliances still run, and
    # only then is the first VM removed.
    workloads_first = sorted(domains, key=_is_appliance)
    for domain in workloads_first:
        machines.cut_links(host, domain.name)
    for domain in workloads_first:
        reporter.report(domain.vm, "removing")
        machines.remove_domain(host, domain.name)
        reporter.report(domain.vm, "removed")
    for network in networks:
        machines.remove_network(host, network)
    machines.remove_filter(host, filter_uuid(vapp))
    machines.remove_filter(host, filter_uuid(vapp, open_zones=True))
    found.volumes.delete(found.deleted)
    # These VMs may have been the last that ran on the disk of a removed memory image.
    MemoryImages(host, found.volumes.pool).sweep()
    # The manifest goes last, because it tells the next `down` that something may be left.
    forget_vapp(host, vapp)
    return Gone(
        (*(domain.name for domain in domains), *networks, *found.deleted),
        (
            *_stays(vapp, state, found.left),
            *_out_of_sight(domains, {*found.deleted, *found.left}, found.volumes.pool.folder),
        ),
    )


def _found(host: Host, vapp: str, state: VappState, only: Collection[str] | None = None) -> _Found:
    """Of the volumes only those that `only` names are deleted, if that is given. Raises NoVappError."""
    volumes = VappVolumes(host)
    names = volumes.volumes_of_vapp(vapp)
    left = kept_volumes(host, volumes.pool, vapp, state, names)
    if only is not None:
        other = {*names} - {*only} - left.keys()
        left |= dict.fromkeys(other, "which was not there when it was looked for")
    found = _Found(
        [domain for domain in state.domains if domain.is_of(vapp)],
        [network.name for network in state.networks if network.is_of(vapp)],
        volumes,
        [name for name in names if name not in left],
        left,
    )
    if not (state.manifest or state.unreadable or found.domains or found.networks or found.deleted):
        raise NoVappError(vapp, host.name)
    return found


def _still_away(fleet: Fleet, state: VappState) -> list[str]:
    """The hosts that were said to be dead, and may come back with a copy."""
    said = state.manifest.replaced if state.manifest else ()
    return sorted({*said} - {host.name for host in fleet.older})


def _of_move(fleet: Fleet, state: VappState) -> list[str]:
    """The other host of a move that has not ended, if nothing was removed there."""
    move = state.manifest.move if state.manifest else None
    hosts = {move.source, move.destination} if move else set()
    return sorted(hosts - {fleet.home.name, *(host.name for host in fleet.older)})


def _is_appliance(domain: DomainState) -> bool:
    """By its mark. Without a mark it counts as a workload, whose links are cut first."""
    return domain.marks.role in (Role.FIREWALL, Role.IPS)


def _stays(vapp: str, state: VappState, left: Mapping[str, str]) -> Iterator[str]:
    """What is kept, with the reasons. `left` are the volumes among it."""
    yield from (f"{what}, which vcloud did not make" for what in _look_alikes(vapp, state))
    yield from (f"the volume '{name}', {why}" for name, why in left.items())


def _out_of_sight(
    domains: Iterable[DomainState], volumes: Collection[str], folder: str
) -> Iterator[str]:
    """The data disks of domains whose files the pool's folder did not have: the file system with them
    may not have been mounted. `volumes` are those that it had.
    """
    files = {file for one in domains for chain in one.sources.values() for file in chain}
    for file in sorted(files):
        path = PurePath(file)
        if str(path.parent) == folder and data_disk_of(path.name) and path.name not in volumes:
            yield f"the data disk '{file}', which was not there: if its file system was not mounted, it is there when that is mounted again"


def _look_alikes(vapp: str, state: VappState) -> Iterator[str]:
    """Domains, networks and filters that have names like those of the vApp, and are not its."""
    yield from (f"the domain '{item.name}'" for item in state.domains if not item.is_of(vapp))
    yield from (f"the network '{item.name}'" for item in state.networks if not item.is_of(vapp))
    if state.filter_foreign:
        yield f"the network filter '{filter_name(vapp)}'"
