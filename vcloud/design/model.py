"""The vApp as it will be built: every name, address and size resolved, no optional field left to guess.

A `Design` is a pure function of the file and its parameters. It does not know which host it will run on: what a host adds (the
uplink's addresses, the accelerator, storage paths) is in `Uplink` and in the manifest.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network

from vcloud.design.names import Instance
from vcloud.design.origin import Origin
from vcloud.values import Action, Mode, Service


class Role(StrEnum):
    """What a VM is for; the order is the order in which VMs must be safe."""

    FIREWALL = "firewall"
    IPS = "ips"
    WORKLOAD = "workload"


@dataclass(frozen=True, slots=True)
class Network:
    """One libvirt network without host address and without forwarding: a plain bridge."""

    name: str
    """libvirt's name: `shop.dmz`, or `shop.dmz.inner` for the firewall's side of an inspected zone."""
    uuid: str
    bridge: str
    """At most 15 characters (IFNAMSIZ)."""


@dataclass(frozen=True, slots=True)
class Nic:
    """One network card of a VM, with its final identity."""

    zone: str
    """Zone name; for the firewall's card on the uplink, `uplink`; empty for a template's, which leads nowhere."""
    network: str
    """Name of the libvirt network it is plugged into (`Network.name`); empty for the uplink, which the host decides."""
    mac: str
    ifname: str
    """Name in the guest: at most 15 characters."""
    tap: str
    """Name on the host: at most 15 characters, unique per host."""
    address4: IPv4Address | None
    """None for cards that carry no address: the IPS's, and the uplink's (the host decides)."""
    address6: IPv6Address | None
    isolated: bool
    """Isolated at the bridge: meets only non-isolated ports, that is the firewall's or the IPS's."""
    plain_offloads: bool
    """Checksum and segmentation offloads off (needed wherever AF_PACKET forwards frames)."""


@dataclass(frozen=True, slots=True)
class Zone:
    """An isolated layer-2 network of the vApp, with the firewall as the only neighbour unless `open`."""

    name: str
    open: bool
    """A plain segment: VMs of this zone meet directly, and the prefix is on-link."""
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
    """The firewall's card in this zone."""


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
    """Where the guest mounts it (ext4, made when blank); empty: left to the guest."""


@dataclass(frozen=True, slots=True)
class GuestFile:
    """A file that the guest gets before its services start."""

    path: str
    content: bytes
    mode: int
    owner: str


@dataclass(frozen=True, slots=True)
class Ready:
    """When a VM counts as ready. Empty fields are not asked for."""

    tcp: int
    command: str
    timeout: int
    """Seconds."""


@dataclass(frozen=True, slots=True)
class ImageRef:
    """Which image a VM starts from, as the file says it; `vcloud.images` turns it into files."""

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
    """One virtual machine, workload or appliance."""

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
    """The first one carries the default route."""
    disks: tuple[Disk, ...]
    """In the order in which they are mounted: what stands in a mounted disk comes after it."""
    files: tuple[GuestFile, ...]
    run: tuple[str, ...]
    after: tuple[str, ...]
    """Names of VMs (not tiers) that must be ready first."""
    ready: Ready
    origin: Origin


@dataclass(frozen=True, slots=True)
class FlowPath:
    """One source and one destination card of a flow; None stands for the outside world (`internet`)."""

    source: Nic | None
    target: Nic | None


@dataclass(frozen=True, slots=True)
class Flow:
    """Traffic the vApp's owner asked for; anything no flow names is dropped."""

    id: str
    source: str
    """As written: a VM, a zone or `internet`."""
    target: str
    services: tuple[Service, ...]
    publish: tuple[Service, ...]
    """Ports on the uplink, one per entry of `services`, for a flow from `internet`; otherwise empty."""
    paths: tuple[FlowPath, ...]
    carries: tuple[str, ...]
    why: str
    origin: Origin


@dataclass(frozen=True, slots=True)
class Detector:
    """Data that must not leave: traffic from `zones` (as one set) to anything outside that set is searched."""

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
    """What the IPS does. Zones listed here are inspected; detectors imply inspection of their zones."""

    zones: tuple[str, ...]
    mode: Mode
    detectors: tuple[Detector, ...]
    origin: Origin


@dataclass(frozen=True, slots=True)
class Design:
    """A whole vApp, resolved."""

    vapp: str
    owner: str
    labels: tuple[tuple[str, str], ...]
    file: str
    """Name of the vApp file without its folder, as printable text, for messages. No loaded text holds it."""
    authorized_keys: tuple[str, ...]
    zones: tuple[Zone, ...]
    workloads: tuple[Vm, ...]
    firewall: Vm
    ips: Vm | None
    """None when no zone is inspected. Its cards come in pairs per inspected zone: the VMs' side, then the firewall's."""
    flows: tuple[Flow, ...]
    inspection: Inspection
    label: str = ""
    """Of the instance; empty for the vApp itself."""

    @property
    def instance(self) -> Instance:
        """From this come all names on a host."""
        return Instance(self.vapp, self.label)

    @property
    def appliances(self) -> tuple[Vm, ...]:
        return (self.firewall,) if self.ips is None else (self.firewall, self.ips)

    @property
    def vms(self) -> tuple[Vm, ...]:
        return (*self.appliances, *self.workloads)

    def zone(self, name: str) -> Zone:
        return next(zone for zone in self.zones if zone.name == name)


@dataclass(frozen=True, slots=True)
class Uplink:
    """Where a firewall meets the outside, as a host gives it."""

    network: str
    """libvirt network the uplink card is plugged into; empty when `bridge` is used."""
    bridge: str
    address4: IPv4Interface
    gateway4: IPv4Address
    address6: IPv6Interface | None
    gateway6: IPv6Address | None
