"""vcloud's own elements in libvirt's metadata, and records: values that a host keeps as inactive networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import libvirt

from vcloud.hosts.connection import Host, found_or_none
from vcloud.marks import NAMESPACE

ElementTree.register_namespace("vcloud", NAMESPACE)


def parse(xml: str) -> Element:
    """XML that libvirt made, which therefore holds no entities."""
    return ElementTree.fromstring(xml)  # noqa: S314


def to_text(element: Element) -> str:
    return ElementTree.tostring(element, encoding="unicode")


def own_element(xml: str, tag: str) -> Element | None:
    """The child `vcloud:tag` of an object's metadata."""
    return parse(xml).find(f"metadata/{{{NAMESPACE}}}{tag}")


@dataclass(frozen=True, slots=True)
class Record:
    """Attributes and a text under a name on a host. Two records of one name cannot be, whoever writes them."""

    name: str
    uuid: str
    attributes: Mapping[str, str] = field(default_factory=dict)
    text: str = ""


def write_record(host: Host, record: Record) -> None:
    """Keeps a record, in one step. It replaces one of the same name and UUID.

    Raises:
        libvirt.libvirtError: there is one of that name with another UUID.
    """
    network = Element("network")
    ElementTree.SubElement(network, "name").text = record.name
    ElementTree.SubElement(network, "uuid").text = record.uuid
    place = ElementTree.SubElement(network, "metadata")
    ElementTree.SubElement(place, f"{{{NAMESPACE}}}record", dict(record.attributes)).text = record.text
    ElementTree.SubElement(network, "forward", {"mode": "bridge"})  # libvirt would give a network of any other mode a bridge and a MAC
    host.connection.networkDefineXML(to_text(network))


def read_record(host: Host, name: str) -> Record | None:
    network = found_or_none(host.connection.networkLookupByName, name)
    try:
        return None if network is None else record_of(network)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_NETWORK:
            return None  # it went between two calls
        raise


def record_of(network: libvirt.virNetwork) -> Record:
    """The record that a network is. One that somebody else made of that name is an empty record."""
    element = own_element(network.XMLDesc(), "record")
    attributes = {} if element is None else dict(element.attrib)
    return Record(network.name(), network.UUIDString(), attributes, (element.text or "") if element is not None else "")


def remove_record(host: Host, uuid: str) -> None:
    """Removes exactly the record that was seen, or nothing."""
    network = found_or_none(host.connection.networkLookupByUUIDString, uuid)
    if network is not None:
        found_or_none(network.undefine)
