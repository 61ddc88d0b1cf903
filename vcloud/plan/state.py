"""The state of one vApp on one host, as values. `vcloud.hosts.observe` reads it, `vcloud.plan.diff`
compares it with what is wanted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vcloud.design.model import Vm
from vcloud.design.names import domain_name, domain_uuid, network_uuid
from vcloud.errors import HostError
from vcloud.marks import NO_NETWORK, NO_VM, NetworkMarks, VmMarks
from vcloud.plan.facts import NO_FACTS, DomainFacts, Facts
from vcloud.plan.formats import Unreadable
from vcloud.plan.host_difference import HostSide
from vcloud.plan.manifest import Manifest
from vcloud.plan.steps import Drift


@dataclass(frozen=True, slots=True)
class DomainState:
    """A libvirt domain whose name is one that a VM of the vApp could have."""

    name: str
    uuid: str
    running: bool
    paused: bool = False
    """The domain is running, but its processors are stopped: somebody paused it, or its guest
    suspended itself.
    """
    token: str = ""
    """The token that `vcloud up` wrote into the running domain when it connected the VM. It
    ends with the running domain, but a snapshot or a saved memory brings it back. Empty if `up` has
    not connected the VM.
    """
    brought_back: bool = False
    """It runs from memory that was kept while it was connected: somebody has reverted it to a
    snapshot, or restored it from a file. Its guest has the files, the links and the clock of then.
    """
    id: int = -1
    """libvirt's id of a running domain; -1 while the domain is stopped. After a restart of libvirtd
    or of the host, libvirt uses the same ids again, so an equal id does not prove that the domain
    ran on.
    """
    sources: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Target (`vda`) -> paths of the files of this disk: the file that the disk writes to, then its
    backing files as far as libvirt tells.
    """
    live: DomainFacts = NO_FACTS
    """The running domain, as libvirt tells it."""
    kept: DomainFacts = NO_FACTS
    """The definition that the next start of the domain follows."""
    persistent: bool = True
    """Whether the domain has a definition. Without one it is gone when it stops."""
    autostart: bool = False
    """Whether libvirt starts the domain together with the host."""
    saved: bool = False
    """The domain is stopped and libvirt keeps its memory, so that it can be restored."""
    snapshots: bool = False
    """libvirt knows snapshots of the domain. They are deleted when the domain is removed."""
    marks: VmMarks = NO_VM
    terms: tuple[str, ...] = ()
    """The terms of tenancy of the running domain and of its definition, in this order. A domain
    that does not run, or has no definition, has no entry for it; an entry is empty if there are no
    terms.
    """
    unsigned: bool = False
    """An operator's key is configured, but no key has signed the VM's present terms."""
    generations: tuple[int, ...] = ()
    """The generations of the `terms`, in the same order; 0 where one says none. Empty where no
    operator's key is given.
    """

    def is_of(self, vapp: str) -> bool:
        """Whether vcloud made it for a VM of the vApp: its UUID follows from its name. A domain that
        somebody else made, or cloned from a VM, has another UUID, whatever its mark says.
        """
        return self.name.startswith(f"{vapp}.") and self.uuid == domain_uuid(vapp, self.vm)

    @property
    def vm(self) -> str:
        """The VM's name in a domain's name."""
        return self.name.partition(".")[2]


@dataclass(frozen=True, slots=True)
class NetworkState:
    """A libvirt network whose name is one that a network of the vApp could have."""

    name: str
    uuid: str
    active: bool
    marks: NetworkMarks = NO_NETWORK
    live: Facts = field(default_factory=dict)
    """The active network, as libvirt tells it."""
    kept: Facts = field(default_factory=dict)
    """Its definition."""
    ports: frozenset[str] = frozenset()
    """UUIDs of the ports that NICs of running domains have on it."""
    autostart: bool = True

    def is_of(self, vapp: str) -> bool:
        """Whether vcloud made it for the vApp: its UUID follows from its name."""
        return self.name.startswith(f"{vapp}.") and self.uuid == network_uuid(self.name)


@dataclass(frozen=True, slots=True)
class VappState:
    """Everything of one vApp on one host."""

    manifest: Manifest | None
    domains: tuple[DomainState, ...]
    networks: tuple[NetworkState, ...]
    others: Mapping[str, str] = field(default_factory=dict)
    """UUID -> name of every other domain of the host."""
    uplink_gone: bool = False
    """The libvirt network that connects the firewall to the outside is stopped or removed."""
    uplink: NetworkState | None = None
    """That network, where it is one of libvirt's and stands."""
    filter_gone: bool = False
    """The network filter that each vApp has is not defined."""
    filter: Facts | None = None
    """The vApp's network filters as libvirt has them; None if libvirt does not have them or does not
    tell.
    """
    bindings: frozenset[tuple[str, str]] = frozenset()
    """(tap, network filter) of each NIC on the host to which libvirt applies a filter."""
    reported: tuple[Drift, ...] = ()
    """Differences that the appliances themselves report. Empty if they were not asked."""
    host_side: HostSide | None = None
    """What root sees of the host. None if it was not asked for."""
    volumes: frozenset[str] | None = None
    """The volumes of the vApp's VMs that the host has; None if they are not known, because the
    host's storage pool is not active.
    """
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Data volume -> its size in bytes, as far as libvirt tells it."""
    images: frozenset[str] = frozenset()
    """The contents of the images that the host has, whichever vApp uses them."""
    folder: str = ""
    """The folder of the volumes on the host; empty if it is not known."""
    filter_foreign: bool = False
    """A network filter that vcloud did not make has the name of the vApp's filter."""
    unreadable: Unreadable | None = None
    """The manifest, if it exists but cannot be read."""

    def uplink_of(self, network: str) -> NetworkState | None:
        """The network of the uplink, if it is of this name."""
        return self.uplink if self.uplink is not None and self.uplink.name == network else None

    def refuse_newer(self, vapp: str, host: str) -> None:
        """Raises HostError if a newer release of vcloud made any part of the vApp. This release may
        not change such a vApp.
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

    def refuse_locked(self, vapp: str, host: str) -> None:
        """Raises HostError if the key to the manifest is lost. Without the manifest it is not known
        what the VMs were made from, so all of them would be made anew.
        """
        if self.unreadable is not None and self.unreadable.locked:
            raise HostError(
                f"'{vapp}' on {host} cannot be read: {self.unreadable.reason}",
                f"Nothing was changed. Bring back the host's /etc/libvirt/secrets from a backup, or remove the vApp with its disks: vcloud down {vapp}.",
            )

    def renamed(self, vapp: str, vm: str) -> str:
        """The name that somebody gave the domain of a VM of the vApp; empty if it has its own name,
        or if there is no such domain.
        """
        uuid = domain_uuid(vapp, vm)
        # The new name may look like a name of this vApp or not, so both collections are searched.
        found = next(
            (domain.name for domain in self.domains if domain.uuid == uuid), ""
        ) or self.others.get(uuid, "")
        return found if found != domain_name(vapp, vm) else ""

    def connected(self, vm: Vm) -> bool:
        """Whether `vcloud up` has connected this VM since the VM was started: its links, its
        services and its rules.
        """
        domain, manifest = self.domain(vm.domain), self.manifest
        if domain is None or manifest is None or not domain.running or domain.brought_back:
            return False
        token = manifest.token_of(vm.name)
        # Up to format 2, a manifest held libvirt's ids in place of tokens.
        return token == domain.token if token else manifest.id_of(vm.name) == domain.id

    def stopped(self, vm: Vm) -> bool:
        """Whether the VM is off because `vcloud stop` has stopped it. A VM whose domain is gone or
        not vcloud's is not.
        """
        domain, manifest = self.domain(vm.domain), self.manifest
        if domain is None or manifest is None or domain.uuid != vm.uuid:
            return False
        return vm.name in manifest.stopped and not domain.running and not domain.saved

    def newest_signed(self) -> int:
        """The highest generation of the signed terms of its VMs; 0 where none has one."""
        found = (domain.generations for domain in self.domains if not domain.unsigned)
        return max((one for generations in found for one in generations), default=0)

    def saved(self) -> bool:
        """Whether every VM that the manifest names is off with its memory kept, but for those that
        `vcloud stop` had stopped before.
        """
        vms = self.manifest.design.vms if self.manifest else ()
        domains = [self.domain(vm.domain) for vm in vms if not self.stopped(vm)]
        return bool(domains) and all(domain is not None and domain.saved for domain in domains)

    def domain(self, name: str) -> DomainState | None:
        return next((domain for domain in self.domains if domain.name == name), None)

    def network(self, name: str) -> NetworkState | None:
        return next((network for network in self.networks if network.name == name), None)


WAY_OUT = "Nothing was changed. Use the release of vcloud that made it, or a later one."
