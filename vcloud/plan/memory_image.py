"""MemoryImages: VMs without data disks, and with no card but a workload's first, whose saved memory other VMs wake from.

A card that is plugged into a running guest keeps its udev busy for half a second without KVM; every workload has one, so that a template's
card becomes it. An appliance has no udev, and a number of cards that depends on the vApp; an image of a user's own gets its cards with its seed.

The guest has agreed with its card on what the card does for it, which an inspected zone's does not: so an image has a template for either.

What a template depends on is told by the XML of its domain and by the versions of those who read it. So the key is a digest of just these,
and whatever changes in either makes another template.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from vcloud.compile.guest.gate import gate_credentials
from vcloud.compile.guest.identity import MEMORY_IMAGE_MAC
from vcloud.compile.libvirt.devices import devices_of, nics_in_memory_image, plugged_when_woken, ports_of
from vcloud.compile.libvirt.domain import render_domain
from vcloud.compile.libvirt.host import BootFiles, HostFacts, placeholder_files
from vcloud.design.addressing import uuid_of
from vcloud.design.model import Nic, Uplink, Vm
from vcloud.plan.manifest import digest_of

PORTS = 14
"""Free PCIe ports of a memory image: so many devices can be plugged into a VM that has woken from it."""
UNCONNECTED_NIC = Nic("", "", MEMORY_IMAGE_MAC, "", "", None, None, isolated=False, plain_offloads=False)
"""Plugged in nowhere."""
SHARING = 3
"""VMs that wake from one template in the run that makes it: from so many on it is made even where its image is new on the host."""


def saved_vm(vm: Vm, key: str) -> Vm:
    """The VM that is saved for VMs like this one."""
    name = f"vcloud-template-{key}"
    nics = tuple(replace(UNCONNECTED_NIC, plain_offloads=nic.plain_offloads) for nic in nics_in_memory_image(vm))
    return replace(vm, name=name, domain=name, uuid=uuid_of("template", key), nics=nics, disks=())


def saved_vm_facts(vm: Vm, accelerator: str) -> HostFacts:
    """An image of a user's own is made to wait by its host."""
    return HostFacts(accelerator, spare_ports=PORTS, credentials=() if vm.image.recipe else gate_credentials())


def memory_image_key(vm: Vm, image: str, accelerator: str, cmdline: str, versions: str, uplink: Uplink) -> str:
    """16 hex digits. `image` is its digest, `versions` those of libvirt, QEMU and the kernel on the host."""
    boot = BootFiles("disk", "console", "kernel" if vm.image.recipe else "", "initrd", cmdline)
    xml = render_domain(saved_vm(vm, ""), uplink, saved_vm_facts(vm, accelerator), boot, {}, {})
    return digest_of(image, xml, versions)[:16]


def why_not_wakeable(vm: Vm, uplink: Uplink) -> str:
    """Why a VM cannot wake from any template; empty where it can."""
    files = placeholder_files(own_kernel=bool(vm.image.recipe))
    needed = ports_of(plugged_when_woken(devices_of(vm, uplink, files, {disk.volume: "" for disk in vm.disks})))
    return f"{needed} devices would have to be plugged into it, and a woken VM has {PORTS} free PCIe ports" if needed > PORTS else ""


def worth_making(
    keys: Mapping[str, str], there: Collection[str], images: Mapping[str, str], known: Collection[str], own: Collection[str] = ()
) -> frozenset[str]:
    """The keys of templates that are to be made in a run.

    The run that brings an image to a host boots it cold, which is faster for one VM or two. Whoever comes again, will again.

    Args:
        keys: VM -> key of its template, for the VMs that are to be made.
        there: keys of the templates that the host has.
        images: VM -> digest of its image.
        known: digests of the images that the host had before.
        own: VMs of images of a user's own. Whether these can wake at all is found out once one of them has booted.
    """
    sharing = {key: [vm for vm, other in keys.items() if other == key] for key in set(keys.values())}
    return frozenset(
        key
        for key, vms in sharing.items()
        if key not in there and (len([vm for vm in vms if vm not in own]) >= SHARING or any(images[vm] in known for vm in vms))
    )
