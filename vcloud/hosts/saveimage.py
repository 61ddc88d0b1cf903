"""libvirt's save images: turns the file that virDomainSave wrote for one domain into the saved memory of another domain. Pure.

A save image begins with a header of 92 bytes: 16 bytes of magic, then little-endian numbers (format version, length of the data that
follows, whether the domain ran, compression, offset of the cookie); the rest is unused. The data are the domain's XML, a NUL, the cookie
(XML of libvirt's own, which is not changed), a NUL, and zeros up to the length. libvirt leaves 64 KiB of zeros for changes. QEMU's
migration stream follows and is not read here.

libvirt does not compare the XML in a save image with any other XML. So its name, UUID and paths can be replaced. Source: libvirt,
src/qemu/qemu_saveimage.h; https://libvirt.org/html/libvirt-libvirt-domain.html#virDomainSave.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from xml.etree import ElementTree

from vcloud.hosts.metadata import parse, to_text
from vcloud.marks import NAMESPACE

HEADER = struct.Struct("<16s5I56s")
WHOLE = b"LibvirtQemudSave"
"""The magic of an image that was written to its end. libvirt writes another magic first and this one last."""
VERSION = 2
MOST = 512 << 10
"""Bytes at the beginning of an image that hold the header, the XML and the cookie. In libvirt's own images these take 72 KiB."""


class NotASaveImageError(ValueError):
    """The bytes are not the beginning of a whole save image of this format."""


@dataclass(frozen=True, slots=True)
class Head:
    """The beginning of a save image, before QEMU's stream."""

    xml: str
    cookie: bytes
    length: int
    """Bytes of XML, cookie and zeros."""
    was_running: int
    compressed: int
    unused: bytes

    def to_bytes(self) -> bytes:
        """The head as bytes, of the same size as the head that was read. Raises NotASaveImageError when a longer XML does not fit."""
        xml = self.xml.encode() + b"\0"
        body = xml + self.cookie + (b"\0" if self.cookie else b"")
        if len(body) > self.length:
            raise NotASaveImageError(f"the description of the domain has {len(body)} bytes, and there is room for {self.length}")
        cookie_at = len(xml) if self.cookie else 0
        numbers = (VERSION, self.length, self.was_running, self.compressed, cookie_at)
        return HEADER.pack(WHOLE, *numbers, self.unused) + body.ljust(self.length, b"\0")


def read_head(content: bytes) -> Head:
    """The head in the first `MOST` bytes of a save image. Raises NotASaveImageError."""
    try:
        magic, version, length, was_running, compressed, cookie_at, unused = HEADER.unpack_from(content)
    except struct.error as error:
        raise NotASaveImageError("it is shorter than a header") from error
    body = content[HEADER.size : HEADER.size + length]
    if magic != WHOLE or version != VERSION or len(body) != length:
        raise NotASaveImageError("it was not written to its end, or is of another format")
    xml, _, _ = body.partition(b"\0")
    cookie = body[cookie_at:].partition(b"\0")[0] if cookie_at else b""
    try:
        return Head(xml.decode(), cookie, length, was_running, compressed, unused)
    except UnicodeDecodeError as error:
        raise NotASaveImageError("its description is not text") from error


@dataclass(frozen=True, slots=True)
class Clone:
    """What a domain that wakes from a save image has instead of what the saved domain had."""

    name: str
    uuid: str
    marks: Mapping[str, str]
    """Attributes of vcloud's element in its metadata."""
    disk: str
    """Path of its root disk, an overlay over the root disk of the saved domain."""
    console: str
    """Path of the log of its serial console."""
    nic: str = ""
    """XML of its first NIC; empty where the saved domain has none."""


def head_for(head: Head, clone: Clone) -> Head:
    """The head of the same saved memory for another domain. Raises NotASaveImageError where the XML is not one of `domain.xml.j2`."""
    try:
        domain = parse(head.xml)
        disk, mark = domain.find("devices/disk[@device='disk']/source"), domain.find(f"metadata/{{{NAMESPACE}}}vm")
        name, uuid, logs = domain.find("name"), domain.find("uuid"), domain.findall("devices/*/log")
    except ElementTree.ParseError as error:
        raise NotASaveImageError("its description is not XML") from error
    if disk is None or mark is None or name is None or uuid is None or not logs:
        raise NotASaveImageError("its description is not that of a memory image")
    name.text, uuid.text = clone.name, clone.uuid
    mark.attrib.clear()
    mark.attrib.update(clone.marks)
    disk.set("file", clone.disk)
    for log in logs:
        log.set("file", clone.console)
    _exchange_nic(domain, clone.nic)
    return replace(head, xml=to_text(domain))


def _exchange_nic(domain: ElementTree.Element, xml: str) -> None:
    """Puts another NIC on the PCIe port of the NIC that the domain has. Raises NotASaveImageError where only one of the two exists."""
    devices, nic = domain.find("devices"), domain.find("devices/interface")
    if devices is None or (nic is None) != (not xml):
        raise NotASaveImageError("its description has another number of NICs")
    if nic is None:
        return
    index, another = list(devices).index(nic), parse(xml)
    another.extend(nic.findall("alias") + nic.findall("address"))
    devices.remove(nic)
    devices.insert(index, another)
