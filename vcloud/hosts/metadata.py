"""vcloud's own elements in libvirt's metadata, and records: values that vcloud stores on a host in
networks that vcloud never starts.

Somebody else may start a record, for example with a loop over all inactive networks after a reboot.
An active network keeps its old XML until it stops, so what counts is its definition.
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import libvirt

from vcloud import tenancy
from vcloud.compile.libvirt.record import render_record
from vcloud.hosts.connection import Host, found_or_none
from vcloud.hosts.holder import this_process
from vcloud.marks import NAMESPACE

TRIAL = "vcloud-trial-"
"""How the name of a record begins that is written only to see whether the host has room for it."""
PADDING = 1024
"""Bytes by which the text of a trial is longer than that of the record that follows it, which has a
longer name and other attributes.
"""

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
    """Writes a record in one atomic step. A record of the same name and UUID is replaced, and stopped
    where somebody has started it.

    Raises:
        libvirt.libvirtError: a record of that name with another UUID exists. Or the host's disk is
            full; libvirt then forgets a record of the same UUID until it is restarted, see
            `require_room`.
    """
    standing = found_or_none(host.connection.networkLookupByUUIDString, record.uuid)
    if standing is not None:
        stop_record(standing)
    host.connection.networkDefineXML(
        render_record(record.name, record.uuid, record.attributes, record.text)
    )


def require_room(host: Host, record: Record) -> None:
    """Writes a trial of the same size as a record, and removes it again.

    libvirt forgets an inactive network if it cannot write the new definition into its file
    (networkDefineXMLFlags). So call this before a record is replaced that must not be lost. The trial
    names this process as its holder, so that it can be removed where this process is killed.

    Raises:
        libvirt.libvirtError: the host has no room for the record.
    """
    trial = replace(
        record,
        name=f"{TRIAL}{secrets.token_hex(8)}",
        uuid=str(uuid.uuid4()),
        attributes=asdict(this_process("up")),
        text=record.text + "." * (PADDING + len(record.name)),
    )
    try:
        write_record(host, trial)
    finally:
        remove_record(host, trial.uuid)


def stop_record(network: libvirt.virNetwork) -> None:
    """Stops a record that somebody has started. Otherwise it would stay until it is stopped,
    although it is undefined.
    """
    if found_or_none(network.isActive):
        found_or_none(network.destroy)


def read_record(host: Host, name: str) -> Record | None:
    """The record of that name. None if the host has none."""
    network = found_or_none(host.connection.networkLookupByName, name)
    # Another process may remove it between the two calls.
    return found_or_none(record_of, network) if network else None


def record_of(network: libvirt.virNetwork) -> Record:
    """The record in a network. A network that vcloud did not create as a record gives an empty one."""
    element = own_element(definition_of(network), "record")
    attributes = {} if element is None else dict(element.attrib)
    return Record(
        network.name(),
        network.UUIDString(),
        attributes,
        (element.text or "") if element is not None else "",
    )


def remove_record(host: Host, record: str) -> None:
    """Removes the record of the UUID `record`. A newer record of the same name has another UUID and stays."""
    network = found_or_none(host.connection.networkLookupByUUIDString, record)
    if network is not None:
        undefine_record(network)


def undefine_record(network: libvirt.virNetwork) -> None:
    """Removes a record, also where somebody has started it."""
    stop_record(network)
    found_or_none(network.undefine)


def definition_of(network: libvirt.virNetwork) -> str:
    """The XML of the definition of a network, whether or not the network is active. libvirt's test
    driver knows one XML only.
    """
    try:
        return str(network.XMLDesc(libvirt.VIR_NETWORK_XML_INACTIVE))
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_INVALID_ARG:
            return str(network.XMLDesc())
        raise
