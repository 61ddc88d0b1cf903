"""XML of what vcloud keeps on a host beside domains and zones: pools, volumes, records, the NAT
network, test boots, guest ports.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from vcloud.compile.libvirt.domain import render_guest_port, render_test_boot
from vcloud.compile.libvirt.host import HostFacts
from vcloud.compile.libvirt.network import render_nat_network
from vcloud.compile.libvirt.record import render_record
from vcloud.compile.libvirt.storage import PoolView, VolumeView, render_pool, render_volume
from vcloud.design.addressing import uuid_of
from vcloud.marks import NAMESPACE
from vcloud.views.render import UPLINK

SCHEMAS = Path("/usr/share/libvirt/schemas")
UUID = uuid_of("test", "one")
XML_TEXT = st.text(
    st.characters(
        codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="\ufffe\uffff"
    ),
    max_size=60,
)
HOSTILE = XML_TEXT | st.sampled_from(
    ['"/><evil/>', "</name><evil/>", "]]>", "&lt;", "<!--", "'\"<>&", "{{ name }}", "{% raw %}"]
)
TEXTS = {
    "storagepool": [
        render_pool(PoolView("vcloud", "/var/lib/libvirt/images/vcloud", "0711", UUID)),
        render_pool(PoolView("cards", "/var/lib/libvirt/dnsmasq", "0755")),
    ],
    "storagevol": [
        render_volume(VolumeView("root.shop.web.qcow2", 1 << 30, "qcow2", "/pool/image.qcow2")),
        render_volume(VolumeView("seed.shop.web.iso", 0, "raw")),
    ],
    "network": [
        render_nat_network("vcloud-uplink", "vcloud-up", UPLINK),
        render_nat_network(
            "vcloud-uplink", "vcloud-up", replace(UPLINK, address6=None, gateway6=None)
        ),
        render_record("vcloud-manifest-shop", UUID, {"pid": "7"}, '{"phase": "ready"}'),
    ],
    "domain": [
        render_test_boot("vcloud-probe-1", "/kernel", "/initrd", HostFacts(name))
        for name in ("kvm", "tcg")
    ],
}
CASES = [(kind, text) for kind, texts in TEXTS.items() for text in texts]


@cache
def schema(kind: str) -> Any:
    return etree.RelaxNG(etree.parse(SCHEMAS / f"{kind}.rng"))


def elements(text: str) -> list[str]:
    return [element.tag for element in etree.fromstring(text.encode()).iter()]


@pytest.mark.parametrize(("kind", "text"), CASES)
def test_libvirts_schema_accepts_it(kind: str, text: str) -> None:
    assert schema(kind).validate(etree.fromstring(text.encode())), schema(kind).error_log


@pytest.mark.parametrize("kind", list(TEXTS))
def test_the_schemas_refuse_a_strange_element(kind: str) -> None:
    """The twin of the test above: the schemas look."""
    root = etree.fromstring(TEXTS[kind][0].encode())
    etree.SubElement(root, "strange")
    assert not schema(kind).validate(root)


def test_a_volume_is_for_its_owner_only_and_lies_over_its_backing_file() -> None:
    root = etree.fromstring(TEXTS["storagevol"][0].encode())
    assert (
        root.findtext("target/permissions/mode"),
        root.findtext("capacity"),
        root.findtext("allocation"),
    ) == ("0600", str(1 << 30), "0")
    assert root.findtext("backingStore/path") == "/pool/image.qcow2"
    assert etree.fromstring(TEXTS["storagevol"][1].encode()).find("backingStore") is None


def test_the_nat_network_has_the_gateways_and_answers_no_dhcp_and_no_dns() -> None:
    uplink = replace(
        UPLINK, address4=IPv4Interface("172.16.3.9/24"), gateway4=IPv4Address("172.16.3.1")
    )
    root = etree.fromstring(render_nat_network("vcloud-uplink", "vcloud-up", uplink).encode())
    assert [(ip.get("address"), ip.get("prefix")) for ip in root.findall("ip")] == [
        ("172.16.3.1", "24"),
        ("2001:db8:198:18::1", "64"),
    ]
    assert root.find("dns").get("enable") == "no"
    assert root.find("ip/dhcp") is None
    assert root.find("forward").get("mode") == "nat"


@given(HOSTILE, HOSTILE, HOSTILE)
def test_a_record_keeps_every_text_and_no_text_breaks_out_of_it(
    name: str, value: str, text: str
) -> None:
    xml = render_record(name, UUID, {"key": value}, text)
    assert elements(xml) == elements(render_record("a", UUID, {"key": "b"}, "c"))
    root = etree.fromstring(xml.encode())
    record = root.find(f"metadata/{{{NAMESPACE}}}record")
    assert (root.findtext("name"), record.get("key"), record.text or "") == (name, value, text)


@given(HOSTILE, HOSTILE)
def test_no_text_breaks_out_of_the_others(name: str, path: str) -> None:
    pairs = (
        (
            render_pool(PoolView(name, path, "0711", UUID)),
            render_pool(PoolView("a", "b", "0711", UUID)),
        ),
        (
            render_volume(VolumeView(name, 1, "raw", path or "/")),
            render_volume(VolumeView("a", 1, "raw", "b")),
        ),
        (
            render_test_boot(name, path, path, HostFacts("kvm")),
            render_test_boot("a", "b", "b", HostFacts("kvm")),
        ),
        (render_guest_port(name), render_guest_port("a")),
    )
    for hostile, plain in pairs:
        assert elements(hostile) == elements(plain)
