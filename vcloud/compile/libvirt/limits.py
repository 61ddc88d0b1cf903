"""How many devices the machine of `domain.xml.j2` can have, and how much memory its process.

Two things are limited. libvirt puts eight PCIe ports into each slot of the PCIe root, so a machine
of type q35 has a limited number of ports. And each processor of the guest has a limited number of
interrupts, which Linux hands out to the ports and to the devices in them. If no interrupt is left,
the driver of a device fails with ENOSPC. The last devices of a domain fail first, and the channel
of the guest agent is among them. Then the VM never answers, and no message says why.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface

from vcloud.compile.libvirt.devices import Device, devices_of, ports_of
from vcloud.compile.libvirt.host import SPARE_PORTS, placeholder_files
from vcloud.design.model import Uplink, Vm

MOST_PORTS = 232
"""PCIe ports of a machine. libvirt 9.0 defines a domain with 239, and refuses one with 247."""
INTERRUPTS = 190
"""Interrupts that the devices of a VM may take for each processor of the VM.

Measured with Linux 6.12 and one processor: 191 worked, and with 195 the last device failed.
"""
OF_NIC = 3
"""Interrupts of a NIC: one for its configuration, one for each direction. The PCIe port of the NIC
takes one more.
"""
_NO_UPLINK = Uplink("", "", IPv4Interface(0), IPv4Address(0), None, None)
"""A placeholder: only NICs depend on the uplink."""
QEMU_AROUND = 1 << 30
"""Bytes that a QEMU process may have beside the memory of its guest, if that is locked. libvirt itself
adds as much where it computes a limit (VFIO, https://libvirt.org/formatdomain.html#memory-tuning).
"""
QEMU_PER_CPU = 128 << 20
"""Bytes more for each virtual CPU. Its thread has a stack and a heap of its own, which count as locked
before they are used.
"""
DISK_TEMPLATES = ("disk.xml.j2", "seed-disk.xml.j2")


def hard_limit(vm: Vm) -> int:
    """The most bytes that the QEMU process of a VM with locked memory may have and lock. libvirt
    demands such a limit, because the host could swap out none of it.
    """
    return vm.memory + QEMU_AROUND + QEMU_PER_CPU * vm.cpus


def most_nics(vm: Vm) -> int:
    """How many NICs a VM with these processors and disks can have."""
    files = placeholder_files(own_kernel=bool(vm.image.recipe))
    others = devices_of(
        replace(vm, nics=()), _NO_UPLINK, files, {disk.volume: "" for disk in vm.disks}
    )
    ports = SPARE_PORTS + ports_of(others)
    taken = ports + sum(_interrupts(device, vm.cpus) for device in others)
    return max(0, min(MOST_PORTS - ports, (INTERRUPTS * vm.cpus - taken) // (OF_NIC + 1)))


def _interrupts(device: Device, cpus: int) -> int:
    """A disk has a queue for each processor. The few of other devices were there when `INTERRUPTS`
    was measured.
    """
    return 1 + cpus if device.template in DISK_TEMPLATES else 0
