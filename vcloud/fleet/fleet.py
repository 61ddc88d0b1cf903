"""The open hosts of one command."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from types import MappingProxyType
from typing import Final

from vcloud.errors import (
    HostError,
    NoVappError,
    UnreachableError,
    UsageError,
)
from vcloud.hosts.capabilities import capabilities_of
from vcloud.hosts.connection import Host, open_host, run_parallel
from vcloud.hosts.inventory import HostRef, choose_host, choose_hosts
from vcloud.hosts.lock import Lock, vapp_lock
from vcloud.hosts.observe import has_vapp, observe_vapp
from vcloud.placement.capabilities import Capabilities
from vcloud.plan.manifest import Manifest
from vcloud.plan.state import VappState

NONE: Final[Mapping[str, HostError]] = MappingProxyType({})


class Fleet:
    """Hosts with open connections. Several threads may use a fleet at once."""

    def __init__(self, hosts: Sequence[Host], unreachable: Mapping[str, HostError] = NONE) -> None:
        """`unreachable` maps the name of each host that could not be opened to the reason."""
        self.hosts = tuple(sorted(hosts, key=lambda host: host.name))
        self.unreachable = unreachable

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

    def only(self, host: Host) -> Fleet:
        """The fleet of one of these hosts."""
        return Fleet([host])

    def home_of(self, vapp: str) -> Host | None:
        """The host that has something of the vApp; None if none of these has.

        Raises UnreachableError where a host that cannot be reached may have it, UsageError where
        several hosts have it.
        """
        if len(self.hosts) == 1 and not self.unreachable:
            return self.hosts[0]
        asked = run_parallel([partial(_asked, host, vapp) for host in self.hosts])
        found = dict(zip(self.hosts, asked, strict=True))
        homes = [host for host, has in found.items() if has is True]
        silent = {host.name: has for host, has in found.items() if isinstance(has, HostError)}
        unreachable = {**self.unreachable, **silent}
        if len(homes) > 1:
            names = [host.name for host in homes]
            raise UsageError(
                f"'{vapp}' is on {' and on '.join(names)}",
                f"Name one host: --connect {'|'.join(names)}.",
            )
        if not homes and unreachable:
            name, error = next(iter(unreachable.items()))
            other = next((host.name for host in self.hosts if host.name not in silent), "HOST")
            raise UnreachableError(
                f"no host that can be reached has '{vapp}', and {name} may have it: {error.what}",
                f"{error.hint} If it cannot have it, name another host: --connect {other}.",
            )
        return homes[0] if homes else None

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


@contextmanager
def open_lab(connect: str | None) -> Iterator[Fleet]:
    """Opens all hosts that the user means, of which a command then chooses one by itself. A host that
    does not let us in is left out, unless it is the only one.

    Raises UsageError, SpecError where the choice is not clear, HostError where no host lets us in.
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
        if not hosts:
            raise next(iter(unreachable.values()))
        yield Fleet(hosts, unreachable)


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
        home = lab.home_of(vapp)
        if home is None:
            raise NoVappError(vapp, ", ".join(host.name for host in lab.hosts))
        for host in lab.hosts:
            if host is not home:
                host.close()
        yield lab.only(home)


@contextmanager
def open_fleet(connect: str | None) -> Iterator[Fleet]:
    """Opens the one host that a command works on. `connect` is a host's name or a libvirt URI; None:
    as the environment says.

    Raises UsageError where the choice is not clear, HostError where a host does not let us in.
    """
    with ExitStack() as opened:
        yield Fleet([opened.enter_context(open_host(choose_host(connect)))])
