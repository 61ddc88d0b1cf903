"""An instance has its own names on a host and is the same inside."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from tests.vapps import SHOP, TWO_HOMES, vapp_of
from vcloud.compile.artifacts import comparable_domain, comparable_networks, compile_vapp
from vcloud.compile.guest.cloudinit import meta_data
from vcloud.compile.libvirt.host import HostFacts
from vcloud.compile.libvirt.nwfilter import render_filters
from vcloud.data import images_dir
from vcloud.design.model import Design, Role
from vcloud.design.names import (
    Instance,
    console_volume,
    filter_name,
    filter_uuid,
    root_volume,
    seed_volume,
)
from vcloud.design.resolve import MEMORY, RecipeFacts, resolve
from vcloud.views.render import UPLINK

TEXTS = {"shop": SHOP.read_text(), "relay": TWO_HOMES}
NAMES = st.from_regex(r"[a-z](?:[a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
APPLIANCES = {role: str(images_dir() / role) for role in (Role.FIREWALL, Role.IPS)}


@cache
def design(name: str, label: str = "") -> Design:
    vapp = vapp_of(TEXTS[name])
    recipes = {
        vm.image_folder: RecipeFacts({}, MEMORY) for vm in vapp.vms.values() if vm.image_folder
    }
    return resolve(vapp, recipes, APPLIANCES, instance=Instance(vapp.name, label))


def names_on_host(built: Design) -> Iterator[str]:
    """Everything that must be unique on a host."""
    for open_zones in (False, True):
        yield filter_name(built.instance.name, open_zones=open_zones)
        yield filter_uuid(built.instance.name, open_zones=open_zones)
    for zone in built.zones:
        yield from (
            value
            for network in {zone.network, zone.inner}
            for value in (network.name, network.uuid, network.bridge)
        )
    for vm in built.vms:
        yield from (
            vm.domain,
            vm.uuid,
            root_volume(vm.domain),
            console_volume(vm.domain),
            seed_volume(vm.domain),
        )
        yield from (disk.volume for disk in vm.disks)
        yield from (nic.tap for nic in vm.nics)


@pytest.mark.parametrize("name", TEXTS)
def test_two_instances_share_no_name_on_a_host(name: str) -> None:
    for one, other in (("", "drill"), ("drill", "clone")):
        ours, theirs = (
            list(names_on_host(design(name, one))),
            list(names_on_host(design(name, other))),
        )
        assert len(set(ours)) == len(ours)
        assert not set(ours) & set(theirs)
        networks = {nic.network for vm in design(name, one).vms for nic in vm.nics} & {
            nic.network for vm in design(name, other).vms for nic in vm.nics
        }
        assert networks == {""}, "only the uplink, whose network the host decides"


@pytest.mark.parametrize("name", TEXTS)
def test_inside_two_instances_are_the_same_but_for_the_nic_on_the_uplink(name: str) -> None:
    one, other = compile_vapp(design(name), UPLINK), compile_vapp(design(name, "drill"), UPLINK)
    uplink = (
        f"nic {one.design.firewall.nics[-1].mac} uplink",
        f"nic {other.design.firewall.nics[-1].mac} uplink",
    )
    assert uplink[0] != uplink[1]
    same = {
        vm: tuple(uplink[0] if line == uplink[1] else line for line in lines)
        for vm, lines in other.identities.items()
    }
    assert same == one.identities
    assert [vm for vm in one.identities if one.identities[vm] != other.identities[vm]] == [
        "firewall"
    ]
    assert (other.firewall, other.ips) == (one.firewall, one.ips)
    for first, second in zip(one.design.workloads, other.design.workloads, strict=True):
        assert meta_data(one.design, first, "digest") == meta_data(other.design, second, "digest")


def test_the_xml_of_an_instance_names_no_other() -> None:
    built = design("shop", "drill")
    texts = [*comparable_networks(built).values(), *dict(render_filters(built)).values()]
    assert all(
        re.search(r"<(?:name>|filter name=\")(?:vcloud-)?shop_drill\b", text) for text in texts
    )


@pytest.mark.parametrize("kind", ["domain", "network", "nwfilter"])
def test_libvirts_schemas_accept_the_names_of_an_instance(kind: str) -> None:
    built = design("shop", "drill-2")
    texts = {
        "domain": [comparable_domain(vm, UPLINK, HostFacts("tcg")) for vm in built.vms],
        "network": list(comparable_networks(built).values()),
        "nwfilter": list(dict(render_filters(built)).values()),
    }[kind]
    schema = etree.RelaxNG(etree.parse(f"/usr/share/libvirt/schemas/{kind}.rng"))
    for text in texts:
        root = etree.fromstring(text.encode())
        for placeholder in root.iterfind(".//*[@file]"):
            placeholder.set("file", f"/pool/{placeholder.get('file')}")
        for log in (*root.iter("kernel"), *root.iter("initrd")):
            log.text = "/pool/boot"
        for mark in root.iter("metadata"):
            mark.clear()
        assert schema.validate(root), schema.error_log


def test_the_names_of_the_vapp_itself_are_those_of_every_release() -> None:
    """Changed names would leave everything on every host without an owner."""
    built = design("shop")
    web = built.workloads[0]
    assert (web.domain, web.uuid, web.nics[0].tap) == (
        "shop.web-1",
        "3ac4f509-609e-51c2-bd1f-7811e70d274a",
        "vc3188160148",
    )
    zone = built.zone("dmz")
    assert (zone.inner.name, zone.inner.uuid, zone.inner.bridge) == (
        "shop.dmz.inner",
        "982ecbd4-d8b1-513f-b9a7-ba7e0578ed13",
        "vbe4129e7133",
    )
    assert (filter_name("shop"), filter_uuid("shop")) == (
        "vcloud-shop",
        "0e326626-894c-5aaf-bd44-d9d2488bd802",
    )
    assert built.workloads[-1].disks[0].volume == "vm.shop.db.data.qcow2"
    assert [root_volume("shop.db"), console_volume("shop.db"), seed_volume("shop.db")] == [
        "root.shop.db.qcow2",
        "console.shop.db.log",
        "seed.shop.db.iso",
    ]


@given(NAMES, NAMES, NAMES)
def test_no_copy_is_called_like_another_vapp_or_its_copy(vapp: str, other: str, label: str) -> None:
    assert Instance(vapp).name == vapp
    assert Instance(vapp, label).name != other
    assert (Instance(vapp, label).name == Instance(other, label).name) == (vapp == other)


@pytest.mark.parametrize("label", ["Drill", "a.b", "a_b", "-a", "a-", "x" * 17, "a/b", "a\n"])
def test_what_cannot_be_a_label_is_refused(label: str) -> None:
    with pytest.raises(ValueError, match="label"):
        Instance("shop", label)
