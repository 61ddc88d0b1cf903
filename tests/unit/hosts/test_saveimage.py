"""Save images of libvirt, rewritten for another domain; tests/vm wakes VMs from real ones."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vapps import shop
from vcloud.compile.libvirt.domain import render_domain, render_interface
from vcloud.compile.libvirt.host import BootFiles
from vcloud.hosts.metadata import own_element, parse
from vcloud.hosts.saveimage import (
    HEADER,
    MAGIC,
    Clone,
    Head,
    NotASaveImageError,
    head_for,
    read_head,
)
from vcloud.hosts.signing import TERMS
from vcloud.plan.memory_image import saved_vm, saved_vm_facts
from vcloud.views.render import UPLINK

ROOM = 72 << 10
COOKIE = b"<cookie>\n  <slirpHelper/>\n</cookie>\n"
WEB = next(vm for vm in shop().workloads if vm.name == "web-1")
FIREWALL = shop().firewall
XML, WITHOUT_NIC = (
    render_domain(
        saved_vm(vm, "abc"),
        UPLINK,
        saved_vm_facts(vm, "tcg"),
        BootFiles("/old", "/old.log", "/k", "/i", "quiet"),
        {},
        {"role": "template"},
    )
    for vm in (WEB, FIREWALL)
)
SLOT = '<alias name="net0"/><address type="pci" bus="0x01"/></interface>'
NIC = render_interface(WEB, WEB.nics[0], UPLINK, up=False)
MARKS = {"vapp": "shop", "name": "web-1", "host-key": "<&\">'"}
CLONE = Clone(WEB.domain, WEB.uuid, MARKS, "/pool/root.shop.web-1.qcow2", "/pool/web.log", nic=NIC)


def image(xml: str = XML, cookie: bytes = COOKIE, magic: bytes = MAGIC, version: int = 2) -> bytes:
    """As libvirt 9.0 writes it."""
    start = xml.encode() + b"\0"
    body = (start + cookie + b"\0").ljust(ROOM, b"\0")
    return (
        struct.pack("<16s5I56x", magic, version, ROOM, 1, 0, len(start) if cookie else 0)
        + body
        + b"QEVM"
        + bytes(1000)
    )


def test_the_head_is_what_libvirt_wrote() -> None:
    assert read_head(image()) == Head(XML, COOKIE, ROOM, 1, 0, bytes(56))


def test_a_head_that_is_not_changed_has_the_same_bytes() -> None:
    assert read_head(image()).to_bytes() == image()[: HEADER.size + ROOM]


@given(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=200),
    st.binary(max_size=50).map(lambda raw: raw.replace(b"\0", b"-")),
)
def test_any_head_comes_back_and_keeps_its_size(xml: str, cookie: bytes) -> None:
    head = replace(read_head(image()), xml=xml, cookie=cookie)
    content = head.to_bytes()
    assert len(content) == HEADER.size + ROOM
    assert read_head(content) == head


def test_a_clone_has_its_own_name_marks_and_paths_and_else_the_same_hardware() -> None:
    head = head_for(read_head(image()), CLONE)
    domain, old = parse(head.xml), parse(XML)
    mark = own_element(head.xml, "vm")
    assert mark is not None
    assert dict(mark.attrib) == CLONE.marks
    assert (domain.findtext("name"), domain.findtext("uuid")) == (WEB.domain, WEB.uuid)
    assert [source.get("file") for source in domain.findall("devices/disk/source")] == [CLONE.disk]
    assert {log.get("file") for log in domain.findall("devices/*/log")} == {CLONE.console}
    for path in ("vcpu", "memory", "os/type", "os/cmdline"):
        assert domain.findtext(path) == old.findtext(path)
    assert len(domain.findall("devices/controller")) == len(old.findall("devices/controller")) > 14
    assert head.cookie == COOKIE
    assert len(head.to_bytes()) == HEADER.size + ROOM


@pytest.mark.parametrize("own", ["", '<cputune><vcpupin vcpu="0" cpuset="3"/></cputune>'])
@pytest.mark.parametrize("before", ["", '<cputune><vcpupin vcpu="0" cpuset="0-1"/></cputune>'])
def test_a_clone_has_its_own_pins_and_not_those_of_the_vm_that_was_saved(
    before: str, own: str
) -> None:
    saved = read_head(image(XML.replace("<features>", f"{before}<features>")))
    domain = parse(head_for(saved, replace(CLONE, cputune=own)).xml)
    pins = [pin.get("cpuset") for pin in domain.iterfind("cputune/vcpupin")]
    assert pins == (["3"] if own else [])


def test_a_clone_has_its_own_nic_on_the_port_of_the_one_before() -> None:
    domain = parse(head_for(read_head(image(XML.replace("</interface>", SLOT))), CLONE).xml)
    (nic,) = domain.findall("devices/interface")
    ours = parse(NIC)
    assert [child.tag for child in nic] == [*(child.tag for child in ours), "alias", "address"]
    assert (nic.find("mac").attrib, nic.find("link").attrib) == (
        {"address": WEB.nics[0].mac},
        {"state": "down"},
    )  # type: ignore[union-attr]
    assert nic.find("address").get("bus") == "0x01"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("xml", "nic"), [(XML, ""), (WITHOUT_NIC, NIC)], ids=["one too few", "one too many"]
)
def test_another_number_of_nics_is_refused(xml: str, nic: str) -> None:
    with pytest.raises(NotASaveImageError, match="NICs"):
        head_for(read_head(image(xml)), replace(CLONE, nic=nic))


def test_an_appliance_wakes_without_a_nic() -> None:
    assert "<interface" not in head_for(read_head(image(WITHOUT_NIC)), replace(CLONE, nic="")).xml


@pytest.mark.parametrize(
    "content",
    [
        b"",
        image()[:91],
        image()[:4000],
        image(magic=b"LibvirtQemudPart"),
        image(version=1),
        image().replace(b"<domain", b"\xff\xfe\xfd", 1),
        bytes(200_000),
    ],
    ids=[
        "empty",
        "no header",
        "cut short",
        "not written to its end",
        "another version",
        "not text",
        "zeros",
    ],
)
def test_what_is_not_whole_is_refused(content: bytes) -> None:
    with pytest.raises(NotASaveImageError):
        read_head(content)


@pytest.mark.parametrize(
    "xml", ["", "<domain>", "<domain/>", "<domain><name>a</name><uuid>b</uuid></domain>"]
)
def test_what_is_not_a_memory_image_is_refused(xml: str) -> None:
    with pytest.raises(NotASaveImageError):
        head_for(replace(read_head(image()), xml=xml), CLONE)


def test_a_description_that_has_no_room_is_refused() -> None:
    with pytest.raises(NotASaveImageError, match="only space for"):
        replace(read_head(image()), xml="x" * ROOM).to_bytes()


@given(st.binary(max_size=400))
def test_hostile_bytes_are_refused_and_nothing_else(content: bytes) -> None:
    with pytest.raises(NotASaveImageError):
        read_head(content)


def test_a_woken_domain_gets_the_terms_and_their_generation() -> None:
    clone = replace(CLONE, terms='{"vapp": "shop"}', generation=7)
    terms = parse(head_for(read_head(image()), clone).xml).find(f"metadata/{TERMS}")
    assert terms is not None
    assert (terms.text, terms.attrib) == ('{"vapp": "shop"}', {"generation": "7"})
