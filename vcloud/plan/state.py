"""The state of one vApp on one host, as values. `vcloud.hosts.observe` reads it, `vcloud.plan.diff`
compares it with what is wanted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vcloud.design.model import Vm
from vcloud.errors import HostError
from vcloud.marks import NO_NETWORK, NO_VM, NetworkMarks, VmMarks
from vcloud.plan.formats import Unreadable
from vcloud.plan.manifest import Manifest


@dataclass(frozen=True, slots=True)
class DomainState:
    """A libvirt domain whose name is one that a VM of the vApp could have."""

    name: str
    uuid: str
    running: bool
    paused: bool = False
    id: int = -1
    """libvirt's id, which every start changes; -1 while the domain is stopped."""
    saved: bool = False
    """The domain is stopped and libvirt keeps its memory, so that it can be restored."""
    marks: VmMarks = NO_VM

    def is_of(self, vapp: str) -> bool:
        """Whether it is a VM of the vApp. A clone that somebody made of a VM has the VM's mark, and
        a name that does not fit the mark.
        """
        return self.marks.vapp == vapp and self.name == f"{vapp}.{self.marks.vm}"


@dataclass(frozen=True, slots=True)
class NetworkState:
    """A libvirt network whose name is one that a network of the vApp could have."""

    name: str
    uuid: str
    active: bool
    marks: NetworkMarks = NO_NETWORK


@dataclass(frozen=True, slots=True)
class VappState:
    """Everything of one vApp on one host.

    While the manifest is `ready`, the marks of what it names are the manifest's, and those of the
    domains themselves were not read.
    """

    manifest: Manifest | None
    domains: tuple[DomainState, ...]
    networks: tuple[NetworkState, ...]
    others: Mapping[str, str] = field(default_factory=dict)
    """UUID -> name of every domain of the host whose name is none of this vApp's."""
    uplink_gone: bool = False
    """The libvirt network that connects the firewall to the outside is stopped or removed."""
    filter_gone: bool = False
    """The vApp's network filter is not defined."""
    unreadable: Unreadable | None = None
    """The manifest that is there and cannot be read."""

    def refuse_newer(self, vapp: str, host: str) -> None:
        """Raises HostError where a newer release of vcloud made any part of what stands: nothing
        may be built upon that.
        """
        newer = [
            f"the domain '{domain.name}'"
            for domain in self.domains
            if domain.marks.is_newer and domain.marks.vapp == vapp
        ]
        newer += [
            f"the network '{network.name}'"
            for network in self.networks
            if network.marks.is_newer and network.marks.vapp == vapp
        ]
        if self.unreadable is not None and self.unreadable.is_newer:
            raise HostError(f"'{vapp}' on {host} cannot be read: {self.unreadable.reason}", WAY_OUT)
        if newer:
            raise HostError(
                f"'{vapp}' on {host} cannot be read: a newer release of vcloud made {newer[0]}",
                WAY_OUT,
            )

    def renamed(self, vm: Vm) -> str:
        """The name that somebody gave a VM's domain; empty where it has its own name, or where
        there is no such domain.
        """
        found = next(
            (domain.name for domain in self.domains if domain.uuid == vm.uuid), ""
        ) or self.others.get(vm.uuid, "")
        return found if found != vm.domain else ""

    def connected(self, vm: Vm) -> bool:
        """Whether `vcloud up` has connected this VM since the VM was started: its links, its
        services and its rules.
        """
        domain = self.domain(vm.domain)
        return (
            domain is not None
            and self.manifest is not None
            and domain.running
            and self.manifest.id_of(vm.name) == domain.id
        )

    def saved(self) -> bool:
        """Whether every VM that the manifest names is stopped with its memory kept."""
        domains = (
            [self.domain(vm.domain) for vm in self.manifest.design.vms] if self.manifest else []
        )
        return bool(domains) and all(domain is not None and domain.saved for domain in domains)

    def domain(self, name: str) -> DomainState | None:
        return next((domain for domain in self.domains if domain.name == name), None)

    def network(self, name: str) -> NetworkState | None:
        return next((network for network in self.networks if network.name == name), None)


WAY_OUT = "Nothing was changed. Use the release of vcloud that made it, or a later one."
