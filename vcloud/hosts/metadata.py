"""vcloud's own elements in libvirt's metadata, and records: values that vcloud stores on a host in
networks that are never started.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import libvirt

from vcloud import tenancy
from vcloud.compile.libvirt.record import render_record
from vcloud.hosts.connection import Host, found_or_none
from vcloud.marks import NAMESPACE

ElementTree.register_namespace("vcloud", NAMESPACE)
ElementTree.register_namespace("tenancy", tenancy.NAMESPACE)


def parse(xml: str) -> Element:
    """The tree of an XML text that libvirt wrote. libvirt writes no entities, so Python's standard
    parser is safe for it.
    """
    return ElementTree.fromstring(xml)  # noqa: S314


def to_text(element: Element) -> str:
    """The XML text of an element."""
    return ElementTree.tostring(element, encoding="unicode")


def element_of(xml: str, tag: str) -> str:
    """The XML text of the first element of this name in an object; empty if it has none."""
    found = parse(xml).find(tag)
    return "" if found is None else to_text(found)


def own_element(xml: str, tag: str) -> Element | None:
    """The element `vcloud:TAG` in an object's metadata. None if it has none."""
    return parse(xml).find(f"metadata/{{{NAMESPACE}}}{tag}")


@dataclass(frozen=True, slots=True)
class Record:
    """Attributes and a text that a host stores under a name. libvirt refuses a second record of the
    same name with another UUID.
    """

    name: str
    uuid: str
    attributes: Mapping[str, str] = field(default_factory=dict)
    text: str = ""


def write_record(host: Host, record: Record) -> None:
    """Writes a record in one atomic step. A record of the same name and UUID is replaced.

    Raises:
        libvirt.libvirtError: a record of that name with another UUID exists.
    """
    host.connection.networkDefineXML(
        render_record(record.name, record.uuid, record.attributes, record.text)
    )


def read_record(host: Host, name: str) -> Record | None:
    """The record of that name. None if the host has none."""
    network = found_or_none(host.connection.networkLookupByName, name)
    # Another process may remove it between the two calls.
    return found_or_none(record_of, network) if network else None


def record_of(network: libvirt.virNetwork) -> Record:
    """The record in a network. A network that vcloud did not create as a record gives an empty one."""
    element = own_element(network.XMLDesc(), "record")
    attributes = {} if element is None else dict(element.attrib)
    return Record(
        network.name(),
        network.UUIDString(),
        attributes,
        (element.text or "") if element is not None else "",
    )


def remove_record(host: Host, uuid: str) -> None:
    """Removes the record of that UUID. A newer record of the same name has another UUID and stays."""
    network = found_or_none(host.connection.networkLookupByUUIDString, uuid)
    if network is not None:
        found_or_none(network.undefine)
