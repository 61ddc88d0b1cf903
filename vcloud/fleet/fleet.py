"""The open hosts of one command."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from vcloud.errors import NoVappError, UsageError
from vcloud.hosts.capabilities import capabilities_of
from vcloud.hosts.connection import Host, open_host
from vcloud.hosts.inventory import choose_host
from vcloud.hosts.lock import vapp_lock
from vcloud.hosts.observe import observe_vapp
from vcloud.placement.capabilities import Capabilities
from vcloud.plan.manifest import Manifest
from vcloud.plan.state import VappState


class Fleet:
    """Hosts with open connections. Several threads may use a fleet at once."""

    def __init__(self, hosts: Sequence[Host]) -> None:
        self.hosts = tuple(sorted(hosts, key=lambda host: host.name))

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

    @contextmanager
    def locked(self, vapp: str, command: str) -> Iterator[None]:
        """Holds the vApp's lock on every host. `command` is what the lock is held for, such as
        `up`. Raises LockedError.
        """
        with ExitStack() as locks:
            for host in self.hosts:
                locks.enter_context(vapp_lock(host, vapp, command))
            yield

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
        if state.domains:
            raise UsageError(
                f"of '{vapp}' on {host}, leftovers remain; their description is lost", way_out
            )
        raise NoVappError(vapp, host)

    def capabilities(self) -> Capabilities:
        """The capabilities of the host. Raises HostError."""
        return capabilities_of(self.home)


@contextmanager
def open_fleet(connect: str | None) -> Iterator[Fleet]:
    """Opens the hosts that a command works on. `connect` is a host's name or a libvirt URI; None:
    as the environment says.

    Raises UsageError where the choice is not clear, HostError where a host does not let us in.
    """
    with ExitStack() as opened:
        yield Fleet([opened.enter_context(open_host(choose_host(connect)))])
