"""Which template a VM wakes from: the same for VMs of one kind, and never one whose inputs were
others.
"""

from __future__ import annotations

import base64
from dataclasses import replace

import pytest

from tests.vapps import shop
from vcloud.compile.guest.identity import MEMORY_IMAGE_MAC
from vcloud.compile.libvirt.domain import render_domain
from vcloud.compile.libvirt.host import BootFiles
from vcloud.design.model import Nic, Vm
from vcloud.hosts.metadata import parse
from vcloud.plan.memory_image import (
    PORTS,
    SHARING,
    memory_image_key,
    saved_vm,
    saved_vm_facts,
    why_not_wakeable,
    worth_making,
)
from vcloud.views.render import UPLINK

DESIGN = shop(web_count="3")
WEB, OTHER = DESIGN.workloads[:2]
INPUTS = {
    "image": "d1",
    "accelerator": "tcg",
    "cmdline": "quiet",
    "versions": "libvirt 9 qemu 7",
    "uplink": UPLINK,
}


def key(vm: Vm = WEB, **changes: str) -> str:
    return memory_image_key(vm, **{**INPUTS, **changes})  # type: ignore[arg-type]


def test_replicas_share_a_template_whatever_their_cards_names_and_files() -> None:
    assert key(WEB) == key(OTHER)
    other = replace(
        WEB.nics[0],
        zone="else",
        network="else",
        mac="52:54:00:00:00:02",
        ifname="else",
        tap="else",
        isolated=False,
    )
    assert key(WEB) == key(
        replace(WEB, nics=(other, other), files=(), domain="else.where", memory=WEB.memory)
    )
    assert len(key()) == 16


@pytest.mark.parametrize(
    "other",
    [
        key(replace(WEB, memory=WEB.memory + (1 << 20))),
        key(replace(WEB, cpus=2)),
        key(
            replace(
                WEB, nics=(replace(WEB.nics[0], plain_offloads=not WEB.nics[0].plain_offloads),)
            )
        ),
        key(image="d2"),
        key(accelerator="kvm"),
        key(cmdline="loud"),
        key(versions="libvirt 9 qemu 8"),
    ],
    ids=[
        "memory",
        "CPUs",
        "offloads of its first card",
        "image",
        "accelerator",
        "kernel command line",
        "versions of the host",
    ],
)
def test_a_changed_input_makes_another_template(other: str) -> None:
    assert other != key()


def test_a_template_has_a_card_that_leads_nowhere_no_data_disk_and_no_name_of_a_vapp() -> None:
    database = next(vm for vm in DESIGN.workloads if vm.disks)
    template = saved_vm(database, "abc")
    assert ([nic.mac for nic in template.nics], template.disks) == ([MEMORY_IMAGE_MAC], ())
    xml = render_domain(
        template, UPLINK, saved_vm_facts(database, "tcg"), BootFiles("d", "c"), {}, {}
    )
    assert '<interface type="ethernet">' in xml
    assert '<link state="down"/>' in xml
    assert "<source network" not in xml
    assert "filterref" not in xml
    assert DESIGN.vapp not in template.domain
    assert template.uuid != database.uuid


def test_the_template_of_an_appliance_has_no_card() -> None:
    assert [saved_vm(vm, "abc").nics for vm in DESIGN.appliances] == [(), ()]


def test_an_image_of_a_users_own_is_made_to_wait_by_its_host() -> None:
    own = replace(WEB, image=replace(WEB.image, recipe="", source="/a.qcow2"))
    assert saved_vm(own, "abc").nics == ()
    assert saved_vm_facts(WEB, "tcg").credentials == ()
    xml = parse(
        render_domain(
            saved_vm(own, "abc"), UPLINK, saved_vm_facts(own, "tcg"), BootFiles("d", "c"), {}, {}
        )
    )
    units = dict(
        (entry.text or "").split("=", 1)
        for entry in xml.findall("sysinfo[@type='smbios']/oemStrings/entry")
    )
    assert xml.find("os/smbios[@mode='sysinfo']") is not None
    target = base64.b64decode(
        units["io.systemd.credential.binary:systemd.extra-unit.default.target"]
    ).decode()
    assert "Wants=qemu-guest-agent.service vcloud-opened.service\n" in target
    assert "io.systemd.credential.binary:systemd.extra-unit.vcloud-opened.service" in units
    assert key(own) != key()


def test_what_cannot_wake_says_why() -> None:
    """The memory image has a workload's first NIC; the others, and data disks, need a free PCIe
    port each.
    """
    most = other_nics(PORTS)
    assert why_not_wakeable(replace(WEB, nics=(*WEB.nics, *most)), UPLINK) == ""
    assert f"{PORTS + 1} devices" in why_not_wakeable(
        replace(WEB, nics=(*WEB.nics, *other_nics(PORTS + 1))), UPLINK
    )
    database = next(vm for vm in DESIGN.workloads if vm.disks)
    assert f"{PORTS + 1} devices" in why_not_wakeable(
        replace(database, nics=(*database.nics, *most)), UPLINK
    )
    assert why_not_wakeable(replace(DESIGN.firewall, nics=most), UPLINK) == ""
    assert f"{PORTS + 1} devices" in why_not_wakeable(
        replace(DESIGN.firewall, nics=other_nics(PORTS + 1)), UPLINK
    )


def other_nics(count: int) -> tuple[Nic, ...]:
    return tuple(
        replace(WEB.nics[0], mac=f"52:54:00:00:01:{number:02x}") for number in range(count)
    )


def test_the_seed_disk_of_an_own_image_takes_a_port() -> None:
    own = replace(WEB, image=replace(WEB.image, recipe="", source="/disk.qcow2"))
    assert why_not_wakeable(replace(own, nics=other_nics(PORTS - 1)), UPLINK) == ""
    assert f"{PORTS + 1} devices" in why_not_wakeable(replace(own, nics=other_nics(PORTS)), UPLINK)


@pytest.mark.parametrize(
    ("vms", "there", "known", "made"),
    [
        (1, (), (), False),
        (SHARING - 1, (), (), False),
        (SHARING, (), (), True),
        (1, (), ("i",), True),
        (1, ("k",), ("i",), False),
        (9, ("k",), (), False),
    ],
    ids=[
        "first run",
        "two of a kind",
        "many of a kind",
        "the image was here before",
        "there",
        "many, but there",
    ],
)
def test_a_template_is_made_where_it_pays(
    vms: int, there: tuple[str, ...], known: tuple[str, ...], made: bool
) -> None:
    names = [f"web-{number}" for number in range(vms)]
    assert worth_making(dict.fromkeys(names, "k"), there, dict.fromkeys(names, "i"), known) == (
        {"k"} if made else set()
    )


@pytest.mark.parametrize(
    ("known", "made"), [((), False), (("i",), True)], ids=["first run", "the image was here before"]
)
def test_whether_an_image_of_a_users_own_can_wake_is_found_out_by_a_boot(
    known: tuple[str, ...], made: bool
) -> None:
    names = [f"web-{number}" for number in range(9)]
    assert (
        bool(worth_making(dict.fromkeys(names, "k"), (), dict.fromkeys(names, "i"), known, names))
        == made
    )
