"""The one list of the devices of a VM: `devices_of`.

Everything that depends on the devices of a VM comes from this one list: the domain's XML and its
number of PCIe ports, what is plugged into a VM that has woken from a memory image and in which
order, and how many devices such a VM may have.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from vcloud.compile.environment import render
from vcloud.compile.libvirt.host import BootFiles
from vcloud.design.model import Disk, Nic, Role, Uplink, Vm
from vcloud.design.names import filter_name

NIC_TEMPLATE = "interface.xml.j2"


@dataclass(frozen=True, slots=True)
class FileView:
    """A device that is one file on the host."""

    path: str


@dataclass(frozen=True, slots=True)
class DiskView:
    """A qcow2 disk."""

    path: str
    target: str
    serial: str
    """The guest finds the disk by it; empty for the root disk, which needs none."""


@dataclass(frozen=True, slots=True)
class NicView:
    """A network card as its template prints it."""

    type: str
    source: str
    mac: str
    tap: str
    link: str
    isolated: bool
    plain_offloads: bool
    filter: str
    """Name of the libvirt network filter, or empty."""


View = FileView | DiskView | NicView | None


@dataclass(frozen=True, slots=True)
class Device:
    """One device of a VM."""

    template: str
    """Name of its template below `templates/libvirt`."""
    view: View
    """What the template prints; None for a device that is the same in every VM."""
    takes_port: bool
    """The device, or the controller that libvirt adds for it, takes a PCIe port."""
    in_memory_image: bool
    """A VM that wakes from a memory image has the device at once. All other devices are plugged
    into the woken VM.
    """

    def xml(self) -> str:
        """The device's own XML, to plug it into a running domain or to change it there."""
        return render(f"libvirt/{self.template}", view=self.view)


def devices_of(
    vm: Vm, uplink: Uplink, boot: BootFiles, disk_paths: Mapping[str, str]
) -> tuple[Device, ...]:
    """All devices of a VM. The domain's XML lists them in this order, and a woken VM gets them in
    this order.

    `disk_paths` maps the names of the VM's data volumes to paths. Devices that are the same
    everywhere (the PCIe root, no USB, no graphics, no balloon) are in `domain.xml.j2` itself.
    """
    image_nics = nics_in_memory_image(vm)
    seed = (
        [Device("seed-disk.xml.j2", FileView(boot.seed), takes_port=True, in_memory_image=False)]
        if boot.seed
        else []
    )
    return (
        Device(
            "disk.xml.j2", DiskView(boot.disk, "vda", ""), takes_port=True, in_memory_image=True
        ),
        *(_data_disk(disk, disk_paths[disk.volume]) for disk in vm.disks),
        *(
            nic_device(vm, nic, uplink, up=starts_linked(vm), in_memory_image=nic in image_nics)
            for nic in vm.nics
        ),
        *seed,
        Device("console.xml.j2", FileView(boot.console), takes_port=False, in_memory_image=True),
        # The port is that of the virtio-serial controller, which further channels would share.
        Device("agent-channel.xml.j2", None, takes_port=True, in_memory_image=True),
        Device("entropy.xml.j2", None, takes_port=True, in_memory_image=True),
    )


def nic_device(
    vm: Vm,
    nic: Nic,
    uplink: Uplink,
    *,
    up: bool,
    isolated: bool | None = None,
    in_memory_image: bool = False,
) -> Device:
    """One network card of a VM, with its link up or down. `isolated`: None means as the design says."""
    # Only the uplink can be a bridge of the host. All other NICs are on networks of libvirt.
    kind, source = (
        ("network", nic.network or uplink.network)
        if nic.network or uplink.network
        else ("bridge", uplink.bridge)
    )
    # The NIC of a memory image is plugged in nowhere.
    if not nic.zone:
        kind, source = "ethernet", ""
    view = NicView(
        kind,
        source,
        nic.mac,
        nic.tap,
        "up" if up else "down",
        nic.isolated if isolated is None else isolated,
        nic.plain_offloads,
        filter_of(vm, nic),
    )
    return Device(NIC_TEMPLATE, view, takes_port=True, in_memory_image=in_memory_image)


def starts_linked(vm: Vm) -> bool:
    """Whether the links of its NICs are up from the start. They are for an appliance, because it
    lets nothing through before it has its rules.
    """
    return vm.role is not Role.WORKLOAD


def nics_in_memory_image(vm: Vm) -> tuple[Nic, ...]:
    """The NICs of a VM that its memory image has already: a workload's first one.

    A NIC that is plugged into a running guest keeps its udev busy for half a second without KVM,
    and every workload has one. An appliance has no udev, and its number of NICs depends on the
    vApp. An image of a user's own gets its NICs together with its seed disk.
    """
    return vm.nics[:1] if vm.role is Role.WORKLOAD and vm.image.recipe else ()


def ports_of(devices: Iterable[Device]) -> int:
    """PCIe ports that these devices take."""
    return sum(device.takes_port for device in devices)


def plugged_when_woken(devices: Iterable[Device]) -> tuple[Device, ...]:
    """The devices that a VM lacks when it has woken from a memory image, in the order in which they
    are plugged in.
    """
    return tuple(device for device in devices if not device.in_memory_image)


def woken_nic(devices: Iterable[Device]) -> str:
    """The XML of the NIC that a woken VM has in place of the memory image's own; empty where the
    memory image has none.
    """
    return next(
        (
            device.xml()
            for device in devices
            if device.in_memory_image and device.template == NIC_TEMPLATE
        ),
        "",
    )


def _data_disk(disk: Disk, path: str) -> Device:
    return Device(
        "disk.xml.j2",
        DiskView(path, disk.target, disk.name),
        takes_port=True,
        in_memory_image=False,
    )


def filter_of(vm: Vm, nic: Nic) -> str:
    """The network filter of a NIC; empty where it has none."""
    # Before the dot stands the name of the instance (`design.names.domain_name`).
    if vm.role is not Role.WORKLOAD or not nic.zone:
        return ""
    return filter_name(vm.domain.partition(".")[0], open_zones=not nic.isolated)
