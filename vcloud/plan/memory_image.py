"""Memory images: which VM vcloud boots and saves so that others can wake from its memory, and which
VMs can use that memory.

The saved VM has no data disk, and of NICs only the first one of a workload. Plugging a NIC into a
running guest keeps the guest's udev busy for half a second without KVM. So the first NIC of a
workload is part of the memory image, and becomes the VM's own. An appliance has no udev, and its
number of NICs depends on the vApp. An image of a user's own gets its NICs together with its seed
disk.

A guest and its NIC agree on offloads when the guest boots. NICs in inspected zones have no
offloads. So an image can have two memory images, one for each kind of NIC.

A VM can use a memory image only if the domain, the image, and the versions of libvirt, QEMU and the
kernel are the same. The key of a memory image is a digest of these, so if any of them changes,
another memory image is needed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from vcloud.compile.guest.gate import gate_credentials
from vcloud.compile.guest.identity import MEMORY_IMAGE_MAC
from vcloud.compile.libvirt.devices import (
    devices_of,
    nics_in_memory_image,
    plugged_when_woken,
    ports_of,
)
from vcloud.compile.libvirt.domain import render_domain
from vcloud.compile.libvirt.host import BootFiles, HostFacts, placeholder_files
from vcloud.design.addressing import uuid_of
from vcloud.design.model import Nic, Uplink, Vm
from vcloud.plan.manifest import digest_of

FORMAT = 2
"""Format of memory images. A memory image of another format has another key, so no VM wakes from
it, and it is deleted when space is needed.
"""
PORTS = 14
"""Free PCIe ports of a memory image. So many devices can be plugged into a VM that woke from it."""
UNCONNECTED_NIC = Nic(
    "", "", MEMORY_IMAGE_MAC, "", "", None, None, isolated=False, plain_offloads=False
)
"""The NIC of a memory image. It is on no network; when a VM wakes, the VM's own NIC replaces it."""
SHARING = 3
"""If so many VMs of one run can wake from one memory image, the image is made even in the run that
brings the VM image to the host.
"""


def saved_vm(vm: Vm, key: str) -> Vm:
    """The VM that is booted and saved, for all VMs of the same kind as `vm`."""
    name = f"vcloud-template-{key}"
    nics = tuple(
        replace(UNCONNECTED_NIC, plain_offloads=nic.plain_offloads)
        for nic in nics_in_memory_image(vm)
    )
    return replace(vm, name=name, domain=name, uuid=uuid_of("template", key), nics=nics, disks=())


def saved_vm_facts(vm: Vm, accelerator: str) -> HostFacts:
    """Facts of the host for the saved VM's domain. Credentials for systemd make an image of a
    user's own wait at the gate (`vcloud.compile.guest.gate`).
    """
    return HostFacts(
        accelerator, spare_ports=PORTS, credentials=() if vm.image.recipe else gate_credentials()
    )


def memory_image_key(
    vm: Vm, image: str, accelerator: str, cmdline: str, versions: str, uplink: Uplink
) -> str:
    """16 hex digits. `image` is its content, `versions` those of libvirt, QEMU and the kernel on the
    host.
    """
    # Fixed words replace the paths, because paths differ from VM to VM, and all these VMs can use
    # the memory.
    boot = BootFiles("disk", "console", "kernel" if vm.image.recipe else "", "initrd", cmdline)
    # The name of the saved VM holds the key, which is not known yet. So it is left empty here.
    xml = render_domain(saved_vm(vm, ""), uplink, saved_vm_facts(vm, accelerator), boot, {}, {})
    return digest_of(FORMAT, image, xml, versions)[:16]


def why_not_wakeable(vm: Vm, uplink: Uplink) -> str:
    """Why a VM cannot wake from any memory image; empty if it can."""
    if vm.root:
        return "its root disk is larger than that of its image, and grows while it boots"
    files = placeholder_files(own_kernel=bool(vm.image.recipe))
    needed = ports_of(
        plugged_when_woken(devices_of(vm, uplink, files, {disk.volume: "" for disk in vm.disks}))
    )
    return (
        f"{needed} devices must be plugged into it, but a woken VM has only {PORTS} free PCIe ports"
        if needed > PORTS
        else ""
    )


def worth_making(
    keys: Mapping[str, str],
    there: Collection[str],
    images: Mapping[str, str],
    known: Collection[str],
    own: Collection[str] = (),
) -> frozenset[str]:
    """The keys of the memory images that a run makes.

    The run that uploads a VM image to a host boots the VMs, because that is faster for one or two
    VMs. A user who makes VMs of an image a second time will probably do so again, so the second run
    makes the memory image.

    Args:
        keys: VM -> key of its memory image, for the VMs that are to be made.
        there: keys of the memory images that the host has.
        images: VM -> content of its image.
        known: contents of the VM images that the host had before this run.
        own: VMs of images of a user's own. Whether they can wake is known only after one of them
            has booted.
    """
    sharing = {
        key: [vm for vm, other in keys.items() if other == key] for key in set(keys.values())
    }
    return frozenset(
        key
        for key, vms in sharing.items()
        if key not in there
        and (
            len([vm for vm in vms if vm not in own]) >= SHARING
            or any(images[vm] in known for vm in vms)
        )
    )
