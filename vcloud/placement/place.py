"""Chooses a host for each VM of a vApp."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vcloud.design.model import Design
from vcloud.errors import Problem, RefusedError
from vcloud.placement.capabilities import Capabilities


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the VMs of one vApp run."""

    hosts: tuple[tuple[str, str], ...]
    """(VM, host), in the order of the design."""

    @property
    def home(self) -> str:
        """The one host of the vApp."""
        (host,) = {host for _, host in self.hosts}
        return host

    def host_of(self, vm: str) -> str:
        return dict(self.hosts)[vm]


def on_one(design: Design, host: str) -> Placement:
    """All VMs on one host: where a vApp stands already, it stays."""
    return Placement(tuple((vm.name, host) for vm in design.vms))


def place(design: Design, host: Capabilities) -> Placement:
    """The placement of a vApp that stands nowhere yet.

    Raises RefusedError that names what the host cannot enforce.
    """
    if problems := tuple(_problems(design, (host,))):
        raise RefusedError(problems)
    return on_one(design, host.host)


def _problems(design: Design, hosts: Sequence[Capabilities]) -> Iterator[Problem]:
    for host in hosts:
        if host.no_filters:
            what = f"{host.host} cannot bind a VM to its own MAC address, so a VM could send in another VM's name: {host.no_filters}"
            yield Problem(
                design.file,
                0,
                "",
                what,
                "Install libvirt's network filter driver on that host: see `vcloud doctor`.",
            )
        needed = max(vm.memory for vm in design.vms)
        if needed > host.memory:
            what = f"one VM has {needed >> 20} MiB of memory, and {host.host} has {host.memory >> 20} MiB in all"
            yield Problem(
                design.file,
                0,
                "",
                what,
                "Give the VM less memory, or choose a larger host with --connect.",
            )
