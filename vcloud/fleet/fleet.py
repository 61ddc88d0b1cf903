"""The open hosts of one command."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Final

from vcloud.errors import (
    HostError,
    NoVappError,
    SilentError,
    UnreachableError,
    UsageError,
)
from vcloud.hosts.capabilities import capabilities_of
from vcloud.hosts.connection import Host, open_host, run_parallel
from vcloud.hosts.inventory import HostRef, choose_host, choose_hosts
from vcloud.hosts.lock import Lock, vapp_lock
from vcloud.hosts.manifests import read_manifest
from vcloud.hosts.observe import has_vapp, observe_vapp
from vcloud.placement.capabilities import Capabilities
from vcloud.plan.copies import newest_copy
from vcloud.plan.manifest import Manifest
from vcloud.plan.state import VappState

NONE: Final[Mapping[str, HostError]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Copies:
    """The hosts that have something of a vApp."""

    home: Host | None
    """The one with the newest copy; None: none has any."""
    older: tuple[Host, ...] = ()
    """Those that have superseded copies."""
    unknown: Mapping[str, HostError] = field(default_factory=dict)
    """Name -> why it could not be asked, of the hosts that may have a copy, too."""


class Fleet:
    """Hosts with open connections. Several threads may use a fleet at once."""

    def __init__(
        self,
        hosts: Sequence[Host],
        unreachable: Mapping[str, HostError] = NONE,
        dead: Collection[str] = (),
        older: Sequence[Host] = (),
        empty: Collection[str] = (),
        unknown: Mapping[str, HostError] = NONE,
    ) -> None:
        """`unreachable` maps the name of each host that could not be opened to the reason; `dead` are
        the names of those that a person has said to be dead; `older` have superseded copies of the
        vApp that the hosts were opened for. `empty` are the names of other hosts that were asked, and
        have nothing of it once the copies on `older` are removed; `unknown` maps the name of each
        that could not be asked, and may have a copy, too, to the reason.
        """
        self.hosts = tuple(sorted(hosts, key=lambda host: host.name))
        self.unreachable = unreachable
        self.dead = frozenset(dead)
        self.older = tuple(older)
        self.empty = frozenset(empty)
        self.unknown = unknown

    @property
    def home(self) -> Host:
        """The one host of the command. Raises UsageError where there are several."""
        if len(self.hosts) != 1:
            names = ", ".join(host.name for host in self.hosts)
            raise UsageError(
                f"this command works on one host, and there are: {names}",
                "Name one host: --connect HOST.",
            )
        return self.hosts[0]

    def named(self, name: str) -> Host:
        """The host of that name. Raises HostError if it could not be opened, UsageError if there is
        none.
        """
        if name in self.unreachable:
            raise self.unreachable[name]
        for host in self.hosts:
            if host.name == name:
                return host
        names = ", ".join(host.name for host in self.hosts)
        raise UsageError(f"there is no host '{name}'", f"The hosts are {names}.")

    def only(self, host: Host, older: Sequence[Host] = (), empty: Collection[str] = ()) -> Fleet:
        """The fleet of one of these hosts, with what a person has said of others, and what was found
        there.
        """
        return Fleet([host], dead=self.dead, older=older, empty=empty)

    def home_of(self, vapp: str) -> Host | None:
        """The host that has something of the vApp, or of several copies the newest; None if none of
        these has. Raises as `copies_of` does.
        """
        return self.copies_of(vapp).home

    def copies_of(self, vapp: str) -> Copies:
        """Where copies of the vApp are, as far as the hosts could be asked.

        Raises UnreachableError where a host that cannot be reached may have it, UsageError where
        several hosts have it and none is known to be the newest.
        """
        if len(self.hosts) == 1 and not self.unreachable:
            return Copies(self.hosts[0])
        asked = run_parallel([partial(_asked, host, vapp) for host in self.hosts])
        found = dict(zip(self.hosts, asked, strict=True))
        homes = [host for host, has in found.items() if has is True]
        silent = {host.name: has for host, has in found.items() if isinstance(has, HostError)}
        unreachable = {**self.unreachable, **silent}
        if len(homes) > 1:
            newest = _newest(homes, vapp)
            if newest is not None:
                older = tuple(host for host in homes if host is not newest)
                return Copies(newest, older, unreachable)
            names = [host.name for host in homes]
            raise UsageError(
                f"'{vapp}' is on {' and on '.join(names)}, and which copy is the newest is not known",
                f"Name one host: --connect {'|'.join(names)}.",
            )
        if not homes and unreachable:
            name, error = next(iter(unreachable.items()))
            other = next((host.name for host in self.hosts if host.name not in silent), "HOST")
            raise UnreachableError(
                f"no host that can be reached has '{vapp}', and {name} may have it: {error.what}",
                f"{error.hint} If it cannot have it, name another host: --connect {other}. If it is dead: vcloud up --host-is-dead {name}.",
            )
        return Copies(homes[0] if homes else None, (), unreachable)

    @contextmanager
    def locked(self, vapp: str, command: str) -> Iterator[Mapping[str, Lock]]:
        """Holds the vApp's lock on every host, and gives host's name -> lock. `command` is what the
        lock is held for, such as `up`.

        Raises LockedError, and LostLockError where somebody removes a lock meanwhile.
        """
        with ExitStack() as locks:
            # In the order of their names, so that two operators cannot wait for each other.
            yield {
                host.name: locks.enter_context(vapp_lock(host, vapp, command))
                for host in self.hosts
            }

    def state_of(self, vapp: str) -> VappState:
        """The state of a vApp on the host. Raises HostError where a newer release of vcloud made
        it.
        """
        state = observe_vapp(self.home, vapp)
        state.refuse_newer(vapp, self.home.name)
        return state

    def standing(self, vapp: str) -> tuple[VappState, Manifest]:
        """The state of a vApp that `vcloud up` has made, and its manifest.

        Raises NoVappError where there is none, UsageError where its description is damaged or lost,
        HostError where a newer release of vcloud made it.
        """
        state, host = self.state_of(vapp), self.home.name
        if state.manifest is not None:
            return state, state.manifest
        way_out = f"`vcloud up` with its file writes the description again; `vcloud down {vapp}` removes the vApp."
        if state.unreadable is not None:
            raise UsageError(
                f"'{vapp}' on {host} cannot be read: {state.unreadable.reason}", way_out
            )
        if any(domain.is_of(vapp) for domain in state.domains) or any(
            network.is_of(vapp) for network in state.networks
        ):
            raise UsageError(
                f"of '{vapp}' on {host}, leftovers remain; libvirt has no description of them",
                f"If the host's disk was full, free some space, then restart libvirtd: it may still have the file. Otherwise {way_out}",
            )
        raise NoVappError(vapp, host)

    def capabilities(self) -> Capabilities:
        """The capabilities of the host. Raises HostError."""
        return capabilities_of(self.home)


def _asked(host: Host, vapp: str) -> bool | HostError:
    try:
        return has_vapp(host, vapp)
    except HostError as error:
        return error


def _newest(homes: Sequence[Host], vapp: str) -> Host | None:
    """The host with the newest copy; None where that cannot be told. Raises HostError."""
    found = run_parallel([partial(read_manifest, host, vapp) for host in homes])
    copies = {
        host.name: manifest
        for host, manifest in zip(homes, found, strict=True)
        if isinstance(manifest, Manifest)
    }
    name = newest_copy(copies) if len(copies) == len(homes) else None
    return next((host for host in homes if host.name == name), None)


def refuse_living(
    dead: Collection[str], answering: Collection[str], unreachable: Mapping[str, HostError]
) -> None:
    """Raises UsageError where a host that is said to be dead is none of these or answers,
    UnreachableError where it answers and vcloud cannot use it.
    """
    for name in sorted(dead):
        leave = "Leave --host-is-dead away. A host that answers is never taken for dead."
        if name in answering:
            raise UsageError(f"{name} answers, so it is not dead", leave)
        if name not in unreachable:
            names = ", ".join(sorted({*answering, *unreachable}))
            raise UsageError(
                f"--host-is-dead names '{name}', and the hosts are {names}",
                "Write the name of one of these.",
            )
        if not isinstance(error := unreachable[name], SilentError):
            raise UnreachableError(
                f"it is not known that {name} is dead: {error.what}", f"{error.hint} {leave}"
            )


@contextmanager
def open_lab(connect: str | None, dead: Collection[str] = ()) -> Iterator[Fleet]:
    """Opens all hosts that the user means, of which a command then chooses one by itself. A host that
    does not let us in is left out, unless it is the only one. Those that a person has said to be
    `dead` count as if they did not exist.

    Raises UsageError, SpecError where the choice is not clear, HostError where no host lets us in,
    and what `refuse_living` raises.
    """
    refs = choose_hosts(connect)
    with ExitStack() as opened:
        found = run_parallel([partial(_attempt, ref) for ref in refs])
        hosts = [opened.enter_context(one) for one in found if isinstance(one, Host)]
        unreachable = {
            ref.name: one
            for ref, one in zip(refs, found, strict=True)
            if isinstance(one, HostError)
        }
        refuse_living(dead, {host.name for host in hosts}, unreachable)
        if not hosts:
            raise next(iter(unreachable.values()))
        left = {name: error for name, error in unreachable.items() if name not in dead}
        yield Fleet(hosts, left, dead)


def _attempt(ref: HostRef) -> Host | HostError:
    try:
        return open_host(ref)
    except HostError as error:
        return error


@contextmanager
def open_home(connect: str | None, vapp: str) -> Iterator[Fleet]:
    """Opens the host that has the vApp, among all that the user means.

    Raises NoVappError where none has it, UnreachableError where one that cannot be reached may have
    it, UsageError where several have it, and what `open_lab` raises.
    """
    with open_lab(connect) as lab:
        copies = lab.copies_of(vapp)
        home, older = copies.home, copies.older
        if home is None:
            raise NoVappError(vapp, ", ".join(host.name for host in lab.hosts))
        for host in lab.hosts:
            if host is not home and host not in older:
                host.close()
        yield Fleet([home], dead=lab.dead, older=older, unknown=copies.unknown)


@contextmanager
def open_fleet(connect: str | None) -> Iterator[Fleet]:
    """Opens the one host that a command works on. `connect` is a host's name or a libvirt URI; None:
    as the environment says.

    Raises UsageError where the choice is not clear, HostError where a host does not let us in.
    """
    with ExitStack() as opened:
        yield Fleet([opened.enter_context(open_host(choose_host(connect)))])
