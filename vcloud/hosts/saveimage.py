"""libvirt's save images: turns the file that virDomainSave wrote for one domain into one for
another domain. Pure functions.

A save image begins with a header of 92 bytes: 16 bytes of magic, then little-endian numbers (format
version, length of the data that follows, whether the domain ran, compression, offset of the
cookie), then unused bytes. The data are the domain's XML, a NUL, the cookie (XML for libvirt's own
use, which vcloud does not change), a NUL, and zeros up to the length. libvirt leaves 64 KiB of
zeros, so that the XML can grow. QEMU's migration stream follows the data; vcloud does not read it.

libvirt does not compare the XML in a save image with the domain's definition. So vcloud can replace
the name, the UUID and the paths in it. Source: libvirt, src/qemu/qemu_saveimage.h;
https://libvirt.org/html/libvirt-libvirt-domain.html#virDomainSave.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from xml.etree import ElementTree

from vcloud.hosts.metadata import parse, to_text
from vcloud.hosts.signing import terms_element
from vcloud.marks import NAMESPACE

# Magic; version, length, was_running, compressed, offset of the cookie; 14 unused numbers.
HEADER = struct.Struct("<16s5I56s")
MAGIC = b"LibvirtQemudSave"
"""The magic of a complete save image. libvirt first writes another magic and replaces it when the
image is complete.
"""
VERSION = 2
"""The only format version that this module reads."""
HEAD_LIMIT = 512 << 10
"""Bytes that are read from the beginning of a save image. The header, the XML and the cookie must
fit; libvirt's own images need 72 KiB.
"""


class NotASaveImageError(ValueError):
    """The bytes are not the beginning of a complete save image in this format."""


@dataclass(frozen=True, slots=True)
class Head:
    """The beginning of a save image, up to QEMU's migration stream."""

    xml: str
    cookie: bytes
    length: int
    """The number of bytes of the XML, the cookie and the zeros together."""
    was_running: int
    compressed: int
    unused: bytes

    def to_bytes(self) -> bytes:
        """The head as bytes. It has the size of the head that was read, so that QEMU's migration
        stream stays in its place.

        Raises NotASaveImageError if the XML has become too long.
        """
        xml = self.xml.encode() + b"\0"
        body = xml + self.cookie + (b"\0" if self.cookie else b"")
        if len(body) > self.length:
            raise NotASaveImageError(
                f"the XML of the domain has {len(body)} bytes, but there is only space for {self.length}"
            )
        cookie_at = len(xml) if self.cookie else 0
        numbers = (VERSION, self.length, self.was_running, self.compressed, cookie_at)
        return HEADER.pack(MAGIC, *numbers, self.unused) + body.ljust(self.length, b"\0")


def read_head(content: bytes) -> Head:
    """The head of a save image, from its first `HEAD_LIMIT` bytes. Raises NotASaveImageError."""
    try:
        magic, version, length, was_running, compressed, cookie_at, unused = HEADER.unpack_from(
            content
        )
    except struct.error as error:
        raise NotASaveImageError("the file is shorter than the header of a save image") from error
    body = content[HEADER.size : HEADER.size + length]
    if magic != MAGIC or version != VERSION or len(body) != length:
        raise NotASaveImageError("the save image is incomplete, or has another format")
    xml, _, _ = body.partition(b"\0")
    cookie = body[cookie_at:].partition(b"\0")[0] if cookie_at else b""
    try:
        return Head(xml.decode(), cookie, length, was_running, compressed, unused)
    except UnicodeDecodeError as error:
        raise NotASaveImageError("the XML in the save image is not UTF-8 text") from error


@dataclass(frozen=True, slots=True)
class Clone:
    """The identity of a domain that wakes from the save image of another domain."""

    name: str
    uuid: str
    marks: Mapping[str, str]
    """Attributes of vcloud's element in the domain's metadata."""
    disk: str
    """Path of the root disk, an overlay over the root disk of the saved domain."""
    console: str
    """Path of the log of the serial console."""
    terms: str = ""
    """The vApp's terms of tenancy, which the host's hook reads."""
    generation: int = 0
    """That of the terms; 0 where nobody signs them."""
    nic: str = ""
    """XML of the first NIC. Empty if the saved domain has no NIC."""
    cputune: str = ""
    """XML of the element that pins virtual CPUs; empty if nothing is pinned."""


def head_for(head: Head, clone: Clone) -> Head:
    """The head of the same saved memory for another domain.

    Raises NotASaveImageError if the XML was not made from `domain.xml.j2`.
    """
    try:
        domain = parse(head.xml)
        disk, metadata, mark = (
            domain.find("devices/disk[@device='disk']/source"),
            domain.find("metadata"),
            domain.find(f"metadata/{{{NAMESPACE}}}vm"),
        )
        name, uuid, logs = domain.find("name"), domain.find("uuid"), domain.findall("devices/*/log")
    except ElementTree.ParseError as error:
        raise NotASaveImageError("the save image holds no valid XML") from error
    if disk is None or metadata is None or mark is None or name is None or uuid is None or not logs:
        raise NotASaveImageError("the XML in the save image is not that of a memory image")
    name.text, uuid.text = clone.name, clone.uuid
    mark.attrib.clear()
    mark.attrib.update(clone.marks)
    if clone.terms:
        metadata.append(terms_element(clone.terms, clone.generation))
    disk.set("file", clone.disk)
    for log in logs:
        log.set("file", clone.console)
    # The VM that was saved may have been kept off cores that others had then.
    for pins in domain.findall("cputune"):
        domain.remove(pins)
    if clone.cputune:
        domain.append(parse(clone.cputune))
    _exchange_nic(domain, clone.nic)
    return replace(head, xml=to_text(domain))


def _exchange_nic(domain: ElementTree.Element, xml: str) -> None:
    """Puts another NIC on the PCIe port of the domain's NIC.

    The guest has loaded its driver for this port already, so the new NIC must keep the port's
    address. Raises NotASaveImageError if only one of the two NICs exists.
    """
    devices, nic = domain.find("devices"), domain.find("devices/interface")
    if devices is None or (nic is None) != (not xml):
        raise NotASaveImageError("the domain in the save image has another number of NICs")
    if nic is None:
        return
    index, another = list(devices).index(nic), parse(xml)
    another.extend(nic.findall("alias") + nic.findall("address"))
    devices.remove(nic)
    devices.insert(index, another)
