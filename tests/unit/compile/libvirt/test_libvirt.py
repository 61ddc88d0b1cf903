"""Domains and networks, as libvirt's own schemas and as values."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from tests.vapps import TWO_HOMES, design_of_text, shop
from vcloud.compile.libvirt.domain import render_domain, render_interface
from vcloud.compile.libvirt.host import BootFiles, HostFacts
from vcloud.compile.libvirt.network import render_network, zone_networks
from vcloud.compile.libvirt.nwfilter import render_filters
from vcloud.design.model import Design, Network, Role, Uplink, Vm, Zone
from vcloud.marks import FORMAT, NAMESPACE, NetworkMarks
from vcloud.views.render import UPLINK

SCHEMAS = Path("/usr/share/libvirt/schemas")
BOOT = BootFiles(
    "/pool/root.qcow2", "/pool/console.log", "/pool/kernel", "/pool/initrd", "console=ttyS0 quiet"
)
FIRMWARE = BootFiles("/pool/root.qcow2", "/pool/console.log", seed="/pool/seed.iso")
DESIGNS = (shop(), design_of_text(TWO_HOMES))
NETWORKS = [
    (design, zone, network)
    for design in DESIGNS
    for zone in design.zones
    for network in zone_networks(zone)
]
MACHINES = [(design, vm) for design in DESIGNS for vm in design.vms]
XML_TEXT = st.text(
    st.characters(
        codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="\ufffe\uffff"
    ),
    max_size=60,
)
HOSTILE = XML_TEXT | st.sampled_from(
    ['"/><evil/>', "</name><evil/>", "]]>", "&lt;", "<!--", "'\"<>&", "{{ vm }}", "{% raw %}"]
)


@cache
def schema(kind: str) -> Any:
    return etree.RelaxNG(etree.parse(SCHEMAS / f"{kind}.rng"))


def domain(
    vm: Vm,
    accelerator: str = "tcg",
    uplink: Uplink = UPLINK,
    boot: BootFiles = BOOT,
    vapp: str = "shop",
) -> str:
    paths = {disk.volume: f"/pool/{disk.volume}" for disk in vm.disks}
    return render_domain(
        vm,
        uplink,
        HostFacts(accelerator),
        boot,
        paths,
        {"vapp": vapp, "name": vm.name, "role": vm.role.value},
    )


def interfaces(text: str) -> list[Any]:
    return list(etree.fromstring(text.encode()).iterfind("devices/interface"))


def elements(text: str) -> list[str]:
    """The tags of a document in order: its shape, whatever its texts."""
    return [element.tag for element in etree.fromstring(text.encode()).iter()]


@pytest.mark.parametrize("accelerator", ["tcg", "kvm"])
@pytest.mark.parametrize("boot", [BOOT, FIRMWARE], ids=["kernel", "firmware"])
@pytest.mark.parametrize(("design", "vm"), MACHINES, ids=[vm.domain for _, vm in MACHINES])
def test_libvirts_schema_accepts_every_domain(
    design: Design, vm: Vm, boot: BootFiles, accelerator: str
) -> None:
    document = etree.fromstring(domain(vm, accelerator, boot=boot, vapp=design.vapp).encode())
    assert schema("domain").validate(document), schema("domain").error_log


@pytest.mark.parametrize(
    ("design", "zone", "network"), NETWORKS, ids=[network.name for *_, network in NETWORKS]
)
def test_libvirts_schema_accepts_every_network(
    design: Design, zone: Zone, network: Network
) -> None:
    document = etree.fromstring(
        render_network(
            network, NetworkMarks(design.vapp, zone.name, "digest").attributes()
        ).encode()
    )
    assert schema("network").validate(document), schema("network").error_log


@pytest.mark.parametrize("design", DESIGNS, ids=[design.vapp for design in DESIGNS])
def test_libvirts_schema_accepts_the_filters_and_every_workload_has_one(design: Design) -> None:
    filters = dict(render_filters(design))
    for text in filters.values():
        assert schema("nwfilter").validate(etree.fromstring(text.encode())), schema(
            "nwfilter"
        ).error_log
    used = set()
    for vm in design.vms:
        for nic, element in zip(vm.nics, interfaces(domain(vm, vapp=design.vapp)), strict=True):
            ref = element.find("filterref")
            if vm.role is not Role.WORKLOAD:
                assert ref is None
                continue
            assert ref is not None
            used.add(ref.get("filter"))
            assert design.zone(nic.zone).open == str(ref.get("filter")).endswith(".open")
    assert used == set(filters)


def test_the_schema_refuses_what_is_wrong() -> None:
    """The twin of the two above: the schemas look."""
    text = domain(DESIGNS[0].firewall).replace('<link state="up"/>', '<link state="sideways"/>')
    assert not schema("domain").validate(etree.fromstring(text.encode()))


@pytest.mark.parametrize(
    ("design", "zone", "network"), NETWORKS, ids=[network.name for *_, network in NETWORKS]
)
def test_the_host_is_no_part_of_a_zone(design: Design, zone: Zone, network: Network) -> None:
    """No address, no forwarding, no DHCP, no DNS: a bridge and nothing more."""
    root = etree.fromstring(
        render_network(
            network, NetworkMarks(design.vapp, zone.name, "digest").attributes()
        ).encode()
    )
    assert [child.tag for child in root] == ["name", "uuid", "metadata", "bridge"]
    assert root.find("bridge").get("name") == network.bridge
    assert root.find(f"metadata/{{{NAMESPACE}}}network").attrib == {
        "format": str(FORMAT),
        "vapp": design.vapp,
        "zone": zone.name,
        "digest": "digest",
    }


@pytest.mark.parametrize(("design", "vm"), MACHINES, ids=[vm.domain for _, vm in MACHINES])
def test_links_of_workloads_are_down_until_the_protection_is_in_force(
    design: Design, vm: Vm
) -> None:
    states = {
        element.find("link").get("state") for element in interfaces(domain(vm, vapp=design.vapp))
    }
    assert states == {"down" if vm.role is Role.WORKLOAD else "up"}


def test_a_link_is_raised_and_cut_by_the_xml_of_the_same_nic() -> None:
    vm = DESIGNS[0].workloads[0]
    nic = vm.nics[0]
    up, down = (render_interface(vm, nic, UPLINK, up=up) for up in (True, False))
    assert up.replace('"up"', '"down"') == down
    assert down.strip() in domain(vm)


@pytest.mark.parametrize(("design", "vm"), MACHINES, ids=[vm.domain for _, vm in MACHINES])
def test_nics_are_what_the_design_says(design: Design, vm: Vm) -> None:
    """Network, MAC and name; isolation at the bridge; offloads off exactly where the IPS is in the
    path.
    """
    for nic, element in zip(vm.nics, interfaces(domain(vm, vapp=design.vapp)), strict=True):
        assert element.find("source").get("network") == (nic.network or UPLINK.network)
        assert element.find("mac").get("address") == nic.mac
        assert element.find("target").get("dev") == nic.tap
        assert (element.find("port[@isolated='yes']") is not None) == nic.isolated
        offloads = element.find("driver/guest")
        assert (
            offloads is not None and set(offloads.attrib.values()) == {"off"}
        ) == nic.plain_offloads


def test_in_a_closed_zone_only_workloads_are_isolated() -> None:
    """Two isolated ports never meet; the firewall's or the IPS's must meet them all."""
    for design, vm in MACHINES:
        for nic in vm.nics:
            closed = nic.zone != "uplink" and not design.zone(nic.zone).open
            assert nic.isolated == (closed and vm.role is Role.WORKLOAD)


def test_an_uplink_can_be_a_bridge() -> None:
    text = domain(DESIGNS[0].firewall, uplink=replace(UPLINK, network="", bridge="br0"))
    assert schema("domain").validate(etree.fromstring(text.encode()))
    last = interfaces(text)[-1]
    assert (last.get("type"), last.find("source").get("bridge")) == ("bridge", "br0")


def test_the_accelerator_decides_type_and_cpu() -> None:
    for accelerator, kind, mode in (("kvm", "kvm", "host-passthrough"), ("tcg", "qemu", "maximum")):
        root = etree.fromstring(domain(DESIGNS[0].workloads[0], accelerator).encode())
        assert (root.get("type"), root.find("cpu").get("mode")) == (kind, mode)


def test_data_disks_follow_the_root_disk_and_carry_their_name() -> None:
    root = etree.fromstring(
        domain(next(vm for vm in DESIGNS[1].workloads if vm.name == "store")).encode()
    )
    disks = [
        (disk.find("target").get("dev"), disk.findtext("serial"), disk.find("source").get("file"))
        for disk in root.iterfind("devices/disk")
    ]
    assert disks == [
        ("vda", None, "/pool/root.qcow2"),
        ("vdb", "data", "/pool/vm.relay.store.data.qcow2"),
        ("vdc", "extra", "/pool/vm.relay.store.extra.qcow2"),
    ]


def test_a_vm_has_no_device_that_nobody_asked_for() -> None:
    """No USB, no graphics, no balloon, no sound: less to attack, and less to boot."""
    root = etree.fromstring(domain(DESIGNS[0].workloads[0]).encode())
    tags = {device.tag for device in root.find("devices")} - {"interface", "disk"}
    assert tags == {"controller", "serial", "console", "channel", "video", "rng", "memballoon"}
    assert root.find("devices/video/model").get("type") == "none"
    assert root.find("devices/controller[@type='usb']").get("model") == "none"
    assert root.find("devices/memballoon").get("model") == "none"


@given(HOSTILE, HOSTILE, HOSTILE)
def test_no_text_breaks_out_of_a_domain(name: str, path: str, mark: str) -> None:
    """Types upstream are narrower; the template is safe without them."""
    vm = DESIGNS[0].workloads[0]
    boot = replace(BOOT, disk=path, cmdline=mark)
    text = domain(
        replace(vm, domain=name), boot=boot, vapp=mark, uplink=replace(UPLINK, network=name)
    )
    assert elements(text) == elements(domain(vm))
    root = etree.fromstring(text.encode())
    assert root.findtext("name") == name
    assert root.find("devices/disk/source").get("file") == path
    assert root.find(f"metadata/{{{NAMESPACE}}}vm").get("vapp") == mark


@given(HOSTILE, HOSTILE)
def test_no_text_breaks_out_of_a_network(name: str, vapp: str) -> None:
    zone = DESIGNS[0].zones[0]
    text = render_network(
        replace(zone.network, name=name, bridge=name), NetworkMarks(vapp, name).attributes()
    )
    assert elements(text) == elements(
        render_network(zone.network, NetworkMarks("shop", zone.name).attributes())
    )
    assert etree.fromstring(text.encode()).findtext("name") == name
