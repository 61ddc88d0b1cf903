"""What a domain's XML says of processors and memory that a VM shares with nobody."""

from __future__ import annotations

import pytest
from lxml import etree

from tests.unit.compile.libvirt.test_libvirt import BOOT, schema
from tests.vapps import design_of_text
from vcloud.compile.libvirt.domain import render_domain
from vcloud.compile.libvirt.host import HostFacts
from vcloud.design.model import Vm
from vcloud.plan.wanted import hardware_digest
from vcloud.views.render import UPLINK

TEXT = """\
vcloud: 1
name: vault
zones: {dmz: {}}
vms: {web: {image: base, zone: dmz, cpus: 2, memory: 1G}}
%s
"""


def vms(section: str = "") -> tuple[Vm, ...]:
    return design_of_text(TEXT % section).vms


def rendered(vm: Vm, cores: tuple[int, ...] = ()) -> str:
    return render_domain(vm, UPLINK, HostFacts("tcg", cores=cores), BOOT, {}, {"name": vm.name})


def tree(vm: Vm, cores: tuple[int, ...] = ()) -> etree._Element:
    document = etree.fromstring(rendered(vm, cores).encode())
    assert schema("domain").validate(document), schema("domain").error_log
    return document


@pytest.mark.parametrize(
    ("section", "found"),
    [
        ("isolation: {page_sharing: forbidden}", {"memoryBacking/nosharepages"}),
        ("isolation: {memory: locked}", {"memoryBacking/locked", "memtune/hard_limit"}),
        ("isolation: {svirt: required}", {"seclabel[@type='dynamic']"}),
        ("isolation: {ksm: forbidden, smt: forbidden, cpus: own}", set()),
        ("", set()),
    ],
)
def test_every_vm_has_what_its_vapp_demands_and_no_more(section: str, found: set[str]) -> None:
    """The firewall is one of them. What concerns the host is no part of a domain."""
    paths = {
        *("memoryBacking/nosharepages", "memoryBacking/locked", "memtune/hard_limit"),
        *("seclabel[@type='dynamic']", "cputune"),
    }
    for vm in vms(section):
        document = tree(vm)
        assert {path for path in paths if document.find(path) is not None} == found


def test_a_vm_with_locked_memory_has_a_limit_above_it() -> None:
    """libvirt demands one. A limit that QEMU itself reaches would end the VM."""
    for vm in vms("isolation: {memory: locked}"):
        limit = tree(vm).find("memtune/hard_limit")
        assert limit is not None
        assert limit.get("unit") == "b"
        assert vm.memory + (1 << 30) < int(limit.text or 0) < vm.memory + (2 << 30)


def test_each_virtual_cpu_is_pinned_to_its_core_and_the_rest_of_qemu_to_all_of_them() -> None:
    web = vms()[-1]
    document = tree(web, (5, 3))
    pins = [(pin.get("vcpu"), pin.get("cpuset")) for pin in document.iterfind("cputune/vcpupin")]
    assert pins == [("0", "5"), ("1", "3")]
    emulator = document.find("cputune/emulatorpin")
    assert emulator is not None
    assert emulator.get("cpuset") == "5,3"


def test_other_cores_are_no_other_machine_and_other_memory_is() -> None:
    """New pins need no restart."""
    bare, own, locked = (
        vms(section)[-1]
        for section in ("", "isolation: {cpus: own}", "isolation: {memory: locked}")
    )
    assert hardware_digest(bare, UPLINK, "tcg") == hardware_digest(own, UPLINK, "tcg")
    assert hardware_digest(bare, UPLINK, "tcg") != hardware_digest(locked, UPLINK, "tcg")
