"""A VM's libvirt domain XML.

What a host decides (accelerator, paths of volumes, where the uplink is) comes in as `HostFacts` and `BootFiles`; the rest is the design's.
A workload's cards are defined with their link down and are raised on the running domain only when the protection is in force, so that
a VM that somebody starts by hand, or that comes up after a host's reboot, has no path at all until `vcloud up` has looked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vcloud.compile.environment import render
from vcloud.compile.libvirt.nwfilter import filter_name
from vcloud.design.model import Disk, Nic, Role, Uplink, Vm

METADATA_NAMESPACE = "https://vcloud.dev/ns/1"
OWN_DEVICES = 3
"""Of every VM on a PCIe port: its root disk, the controller of its channels and its random number generator."""
SPARE_PORTS = 4
"""Free PCIe ports for hot-plugging; each costs the guest about 30 ms of boot without KVM. libvirt would add none beyond what is in use."""


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What a domain needs to know of its host."""

    accelerator: str
    """`kvm` or `tcg`."""
    spare_ports: int = SPARE_PORTS
    credentials: tuple[str, ...] = ()
    """OEM strings of SMBIOS, by which a host tells systemd in the guest something."""

    @property
    def domain_type(self) -> str:
        return "kvm" if self.accelerator == "kvm" else "qemu"

    @property
    def cpu_mode(self) -> str:
        return "host-passthrough" if self.accelerator == "kvm" else "maximum"


@dataclass(frozen=True, slots=True)
class BootFiles:
    """Absolute paths on the host. `kernel` is empty for an image that boots by its own loader, `seed` without cloud-init."""

    disk: str
    console: str
    kernel: str = ""
    initrd: str = ""
    cmdline: str = ""
    seed: str = ""


@dataclass(frozen=True, slots=True)
class DiskView:
    path: str
    target: str
    serial: str


@dataclass(frozen=True, slots=True)
class NicView:
    """A network card as the template prints it."""

    type: str
    source: str
    mac: str
    tap: str
    link: str
    isolated: bool
    plain_offloads: bool
    filter: str
    """Name of the libvirt network filter, or empty."""


def render_domain(vm: Vm, uplink: Uplink, host: HostFacts, boot: BootFiles, disk_paths: Mapping[str, str], marks: Mapping[str, str]) -> str:
    """The domain XML of one VM. `disk_paths` maps volume names to paths; `marks` are the attributes of vcloud's element in the metadata."""
    return render(
        "libvirt/domain.xml.j2",
        namespace=METADATA_NAMESPACE,
        vm=vm,
        host=host,
        boot=boot,
        marks=marks,
        ports=host.spare_ports + OWN_DEVICES + len(vm.disks) + len(vm.nics) + bool(boot.seed),
        disks=[_disk_view(disk, disk_paths[disk.volume]) for disk in vm.disks],
        nics=[_nic_view(vm, nic, uplink, up=starts_linked(vm)) for nic in vm.nics],
    )


def starts_linked(vm: Vm) -> bool:
    """Whether its cards have a live link from the start: an appliance's do, because it lets nothing through before it is loaded."""
    return vm.role is not Role.WORKLOAD


def render_interface(vm: Vm, nic: Nic, uplink: Uplink, *, up: bool) -> str:
    """The XML of one card of a VM, to plug it into the running domain, or to raise or cut its link."""
    return render("libvirt/interface.xml.j2", nic=_nic_view(vm, nic, uplink, up=up))


def render_disk(disk: Disk, path: str) -> str:
    """One data disk's XML, to plug it into the running domain."""
    return render("libvirt/disk.xml.j2", disk=_disk_view(disk, path))


def render_seed(path: str) -> str:
    """The XML of the disk that cloud-init reads, to plug it into the running domain."""
    return render("libvirt/seed.xml.j2", seed=path)


def _disk_view(disk: Disk, path: str) -> DiskView:
    return DiskView(path, disk.target, disk.name)


def _nic_view(vm: Vm, nic: Nic, uplink: Uplink, *, up: bool) -> NicView:
    kind, source = ("network", nic.network or uplink.network) if nic.network or uplink.network else ("bridge", uplink.bridge)
    if not nic.zone:
        kind, source = "ethernet", ""
    return NicView(kind, source, nic.mac, nic.tap, "up" if up else "down", nic.isolated, nic.plain_offloads, _filter_of(vm, nic))


def _filter_of(vm: Vm, nic: Nic) -> str:
    return filter_name(vm.domain.partition(".")[0]) if vm.role is Role.WORKLOAD and nic.zone else ""
