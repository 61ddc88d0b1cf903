"""One list of devices: what a booted VM has, what a woken VM gets, and how many PCIe ports either
needs.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from lxml import etree

from tests.vapps import TWO_HOMES, design_of_text, shop
from vcloud.compile.libvirt.devices import (
    NIC_TEMPLATE,
    devices_of,
    plugged_when_woken,
    ports_of,
    woken_nic,
)
from vcloud.compile.libvirt.domain import render_domain
from vcloud.compile.libvirt.host import BootFiles, HostFacts, placeholder_files
from vcloud.design.model import Vm
from vcloud.plan.memory_image import saved_vm
from vcloud.views.render import UPLINK

SHIPPED = tuple(vm for design in (shop(), design_of_text(TWO_HOMES)) for vm in design.vms)
OWN = tuple(
    replace(vm, name=f"own-{vm.name}", image=replace(vm.image, recipe="", source="/srv/own.qcow2"))
    for vm in SHIPPED
    if vm.disks
)
MACHINES = (*SHIPPED, *OWN)
ON_A_PORT = ("disk", "interface", "channel", "rng")
"""Elements below `devices` that QEMU puts on the PCI bus of a q35 machine; a channel brings its
controller.
"""


def files_of(vm: Vm) -> BootFiles:
    return placeholder_files(own_kernel=bool(vm.image.recipe))


def paths_of(vm: Vm) -> dict[str, str]:
    return {disk.volume: f"/pool/{disk.volume}" for disk in vm.disks}


@pytest.mark.parametrize("spare", [0, 3])
@pytest.mark.parametrize("vm", MACHINES, ids=lambda vm: vm.name)
def test_a_domain_has_a_port_for_each_device_that_needs_one_and_the_spare_ones(
    vm: Vm, spare: int
) -> None:
    xml = render_domain(
        vm, UPLINK, HostFacts("tcg", spare_ports=spare), files_of(vm), paths_of(vm), {}
    )
    devices = etree.fromstring(xml.encode()).find("devices")
    ports = devices.findall("controller[@model='pcie-root-port']")
    assert len(ports) == spare + sum(child.tag in ON_A_PORT for child in devices)


@pytest.mark.parametrize("vm", MACHINES, ids=lambda vm: vm.name)
def test_a_booted_vm_and_a_woken_one_have_the_same_devices(vm: Vm) -> None:
    """What the memory image has, and what is plugged in afterwards, are all devices of the VM and
    no other.
    """
    devices = devices_of(vm, UPLINK, files_of(vm), paths_of(vm))
    xml = render_domain(vm, UPLINK, HostFacts("tcg"), files_of(vm), paths_of(vm), {})
    assert all(device.xml() in xml for device in devices)
    image_files = replace(files_of(vm), seed="")
    image = devices_of(saved_vm(vm, "key"), UPLINK, image_files, {})
    assert [device.template for device in image] == [
        device.template for device in devices if device.in_memory_image
    ]
    assert len(plugged_when_woken(devices)) + len(image) == len(devices)
    assert ports_of(image) + ports_of(plugged_when_woken(devices)) == ports_of(devices)


def test_a_woken_vm_gets_its_data_disks_then_its_other_nics() -> None:
    store = next(vm for vm in SHIPPED if vm.name == "store")
    devices = devices_of(store, UPLINK, files_of(store), paths_of(store))
    plugged = [etree.fromstring(device.xml().encode()) for device in plugged_when_woken(devices)]
    assert [item.find("target").get("dev") for item in plugged] == ["vdb", "vdc", store.nics[1].tap]
    assert store.nics[0].mac in woken_nic(devices)


def test_an_appliance_gets_all_of_its_nics_and_an_own_image_its_seed_disk_last() -> None:
    firewall, own = SHIPPED[0], OWN[0]
    devices = devices_of(firewall, UPLINK, files_of(firewall), {})
    assert [device.template for device in plugged_when_woken(devices)] == [NIC_TEMPLATE] * len(
        firewall.nics
    )
    assert woken_nic(devices) == ""
    devices = devices_of(own, UPLINK, files_of(own), paths_of(own))
    assert "SEED" in plugged_when_woken(devices)[-1].xml()
    assert woken_nic(devices) == ""
