"""The vApp as vcloud will build it, with all names, addresses and sizes.

A `Design` is a pure function of the file and its parameters. It does not know which host it will
run on. What a host adds (the uplink's addresses, the accelerator, storage paths) is in `Uplink` and
in the manifest.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)

from vcloud.design.controls import NO_CONTROLS, Controls
from vcloud.design.isolation import NO_ISOLATION, Isolation
from vcloud.design.names import Instance
from vcloud.design.origin import Origin, Product
from vcloud.design.placement import ANYWHERE, PlacementRules
from vcloud.documents.parameter import Parameter
from vcloud.tenancy import LABELLED, Selector, Terms
from vcloud.values import Action, App, Denied, Mode, Service, prefix_of

PRODUCT = Product()


class Role(StrEnum):
    """What a VM is for. Appliances come first, because they must run before a workload has a
    network.
    """

    FIREWALL = "firewall"
    IPS = "ips"
    WORKLOAD = "workload"


@dataclass(frozen=True, slots=True)
class Network:
    """One libvirt network: a plain bridge without an address of the host and without forwarding."""

    name: str
    """libvirt's name: `shop.dmz`, or `shop.dmz.inner` for the firewall's side of an inspected zone.
    """
    uuid: str
    bridge: str
    """At most 15 characters (IFNAMSIZ)."""


@dataclass(frozen=True, slots=True)
class Nic:
    """One network card of a VM, with its final names and addresses."""

    zone: str
    """Name of the zone; `uplink` for the firewall's NIC on the uplink; empty for a memory image's
    NIC, which is plugged in nowhere.
    """
    network: str
    """Name of its libvirt network (`Network.name`); empty on the uplink, whose network the host
    decides.
    """
    mac: str
    ifname: str
    """Name in the guest: at most 15 characters."""
    tap: str
    """Name on the host: at most 15 characters, unique per host."""
    address4: IPv4Address | None
    """None for the NICs of the IPS, which have no address, and on the uplink, where the host
    decides.
    """
    address6: IPv6Address | None
    isolated: bool
    """Isolated at the bridge: frames pass only from and to ports that are not isolated, which are
    those of the firewall and the IPS.
    """
    plain_offloads: bool
    """Checksum and segmentation offloads are off. AF_PACKET, by which the IPS forwards frames,
    needs this on the whole path.
    """


@dataclass(frozen=True, slots=True)
class Zone:
    """An isolated layer-2 network of the vApp. Unless it is open, the firewall is the only
    neighbour of each VM.
    """

    name: str
    open: bool
    """VMs of this zone talk to each other directly, past the firewall."""
    inspected: bool
    """The IPS stands between the VMs (on `network`) and the firewall (on `inner`)."""
    holds: tuple[str, ...]
    prefix4: IPv4Network
    prefix6: IPv6Network
    network: Network
    """Where the VMs are plugged in."""
    inner: Network
    """Where the firewall is plugged in; the same as `network` in a zone that is not inspected."""
    gateway: Nic
    """The firewall's NIC in this zone."""
    denied: Denied = Denied.DROP
    """What the firewall does with packets of its VMs that no flow allows."""


@dataclass(frozen=True, slots=True)
class Disk:
    """A data disk. Its serial number in the guest is its name (`/dev/disk/by-id/virtio-NAME`)."""

    name: str
    size: int
    """Bytes."""
    target: str
    """`vdb`, `vdc`, ..."""
    volume: str
    """Name of the storage volume."""
    mount: str
    """Where the guest mounts it as ext4, after it has formatted an empty disk. Empty: the guest
    decides.
    """


class Change(StrEnum):
    """What systemd does with a unit after a file that the unit reads has changed. A unit that does
    not run is started, as by systemctl.
    """

    RELOAD = "reload"
    RESTART = "restart"


@dataclass(frozen=True, slots=True)
class Reader:
    """A systemd unit of an image that reads a file, or the files of a folder."""

    path: str
    change: Change
    unit: str


@dataclass(frozen=True, slots=True)
class GuestFile:
    """A file that the guest gets before its services start."""

    path: str
    content: bytes
    mode: int
    owner: str
    reload: tuple[str, ...] = ()
    """systemd units that are reloaded when the file changes."""
    restart: tuple[str, ...] = ()
    """systemd units that are restarted when the file changes."""
    run: str = ""
    """A shell command that runs when the file is new and when it changes."""
    named_by: tuple[int, ...] = ()
    """The `run` lines of the VM, by their numbers, that name the file or its folder."""
    secret: bool = False
    """A secret stands in its content."""


@dataclass(frozen=True, slots=True)
class Ready:
    """When a VM counts as ready. A condition whose field is 0 or empty is not checked."""

    tcp: int
    command: str
    timeout: int
    """Seconds."""


@dataclass(frozen=True, slots=True)
class ImageRef:
    """The image that a VM starts from, as the file names it. `vcloud.images` turns it into files."""

    name: str
    """A shipped recipe's name, or for a user's own the folder or file as written."""
    recipe: str
    """Absolute path of the recipe's folder; empty for a qcow2."""
    source: str
    """Absolute path or URL of a qcow2; empty for a recipe."""
    sha256: str
    """Of the qcow2; empty for a recipe."""
    packages: tuple[str, ...]
    """Packages the VM adds to the recipe."""


@dataclass(frozen=True, slots=True)
class Vm:
    """One virtual machine: a workload or an appliance."""

    name: str
    """`db`, or `web-1` where the file gives a count."""
    tier: str
    """The name in the file: `web`."""
    role: Role
    uuid: str
    domain: str
    """libvirt's name: `shop.web-1`."""
    machine_id: str
    image: ImageRef
    memory: int
    """Bytes."""
    cpus: int
    nics: tuple[Nic, ...]
    """The first one has the default route."""
    disks: tuple[Disk, ...]
    """In the order in which they are mounted: a disk that is mounted inside another one comes after
    it.
    """
    files: tuple[GuestFile, ...]
    run: tuple[str, ...]
    after: tuple[str, ...]
    """Names of VMs (not tiers) that must be ready first."""
    ready: Ready
    origin: Origin
    was: tuple[str, ...] = ()
    """Names that this VM may have had before, the likeliest first. If the host has a VM of such a
    name that the file no longer names, its data disks go to this VM.
    """
    readers: tuple[Reader, ...] = ()
    """Which units of its image read which files."""
    isolation: Isolation = NO_ISOLATION
    root: int = 0
    """Bytes of its root disk; 0: as large as its image."""


@dataclass(frozen=True, slots=True)
class FlowPath:
    """One source and one target NIC of a flow. None stands for the outside."""

    source: Nic | None
    target: Nic | None


@dataclass(frozen=True, slots=True)
class Flow:
    """Traffic that is allowed. Everything that no flow names is dropped."""

    id: str
    source: str
    """As written: a VM, a zone, `internet`, or a prefix of addresses outside."""
    target: str
    services: tuple[Service, ...]
    publish: tuple[Service, ...]
    """Ports on the uplink, one per entry of `services`, for a flow from `internet`; otherwise
    empty.
    """
    apps: tuple[App | None, ...]
    """The protocol that each entry of `services` carries; None if neither the file nor the port
    says it.
    """
    paths: tuple[FlowPath, ...]
    carries: tuple[str, ...]
    why: str
    origin: Origin

    @property
    def prefix(self) -> IPv4Network | IPv6Network | None:
        """The addresses outside at the flow's end; None for `internet`, and for a flow that has no
        end outside.
        """
        return prefix_of(self.source) or prefix_of(self.target)


@dataclass(frozen=True, slots=True)
class Detector:
    """Data that must not leave a set of zones. All traffic from these zones to anything outside the
    set is searched.
    """

    id: str
    kind: str
    """`regex`, or one of `vcloud.values.BUILT_IN_DETECTORS`."""
    regex: str
    at_least: int
    zones: tuple[str, ...]
    excepted: tuple[str, ...]
    """Ids of flows on which the data may leave."""
    action: Action
    origin: Origin


@dataclass(frozen=True, slots=True)
class Inspection:
    """What the IPS does. The zones of detectors are among the inspected zones."""

    zones: tuple[str, ...]
    mode: Mode
    detectors: tuple[Detector, ...]
    origin: Origin
    demanded: tuple[tuple[str, Origin], ...] = ()
    """(zone, the control that asks for its inspection), of zones that a control asks for."""

    def origin_in(self, zone: str) -> Origin:
        """Why a zone is inspected."""
        return dict(self.demanded).get(zone, self.origin)


@dataclass(frozen=True, slots=True)
class Tenancy:
    """Which other vApps may share the host, as in `vcloud.tenancy.Terms`."""

    share: str = LABELLED
    together: tuple[Selector, ...] = ()
    never: tuple[Selector, ...] = ()
    conflicts: tuple[str, ...] = ()
    remembered: tuple[str, ...] = ()
    origin: Origin = PRODUCT
    """The section of the file, or the product if the file has none. Without a section the vApp
    demands nothing.
    """


NO_DEMANDS = Tenancy()


@dataclass(frozen=True, slots=True)
class Design:
    """A whole vApp with everything decided."""

    vapp: str
    owner: str
    labels: tuple[tuple[str, str], ...]
    file: str
    """Name of the vApp file without its folder, as printable text, for messages. No loaded text
    holds it.
    """
    authorized_keys: tuple[str, ...]
    zones: tuple[Zone, ...]
    workloads: tuple[Vm, ...]
    firewall: Vm
    ips: Vm | None
    """None when no zone is inspected. It has two NICs for each inspected zone: on the VMs' side,
    then on the firewall's side.
    """
    flows: tuple[Flow, ...]
    inspection: Inspection
    label: str = ""
    """The label of the instance; empty for the vApp itself."""
    tenancy: Tenancy = NO_DEMANDS
    placement: PlacementRules = ANYWHERE
    controls: Controls = NO_CONTROLS
    parameters: tuple[Parameter, ...] = ()
    """The parameters of the file that are no secrets, with the values that it was read with."""

    @property
    def instance(self) -> Instance:
        """All names of the vApp on a host come from it."""
        return Instance(self.vapp, self.label)

    @property
    def terms(self) -> Terms:
        """What the vApp demands of other vApps on its host, and what they may know of it."""
        owner = {"owner": self.owner} if self.owner else {}
        return Terms(
            vapp=self.instance.name,
            labels=tuple(sorted({**dict(self.labels), **owner}.items())),
            share=self.tenancy.share,
            together=self.tenancy.together,
            never=self.tenancy.never,
            conflicts=self.tenancy.conflicts,
            remembered=self.tenancy.remembered,
        )

    def origin_of(self, stable_id: str) -> Origin:
        """The origin of the part that loaded text, counters, checks and events name by this stable
        id.

        `flow:ID` and `detector:ID` are parts of the file or of a profile. `rule:SID` is a shipped
        rule of the IPS, which runs because the vApp's inspection asks for it. Everything else
        (`ctl:NAME`) is in every vApp.
        """
        kind, _, name = stable_id.partition(":")
        if kind == "rule":
            return self.inspection.origin
        named = (
            self.flows
            if kind == "flow"
            else self.inspection.detectors
            if kind == "detector"
            else ()
        )
        return next((part.origin for part in named if part.id == name), Product())

    @property
    def appliances(self) -> tuple[Vm, ...]:
        return (self.firewall,) if self.ips is None else (self.firewall, self.ips)

    @property
    def vms(self) -> tuple[Vm, ...]:
        return (*self.appliances, *self.workloads)

    def zone(self, name: str) -> Zone:
        return next(zone for zone in self.zones if zone.name == name)

    def are_neighbours(self, one: Nic | None, other: Nic | None) -> bool:
        """Whether both NICs are in one open zone, so that packets between them pass neither the
        firewall nor the IPS. None is the outside.
        """
        return bool(one and other and one.zone == other.zone and self.zone(one.zone).open)


@dataclass(frozen=True, slots=True)
class Uplink:
    """Where a host connects the firewall to the internet."""

    network: str
    """libvirt network of the firewall's NIC; empty where `bridge` is used."""
    bridge: str
    address4: IPv4Interface
    gateway4: IPv4Address
    address6: IPv6Interface | None
    gateway6: IPv6Address | None
    beside: tuple[IPv4Network | IPv6Network, ...] = ()
    """Public networks in which the host has an address: its own addresses, and its LAN. If the
    gateway is an address of the host, it is here too as a /32 or a /128, whether public or not.
    """
