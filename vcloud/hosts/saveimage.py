"""libvirt's save images: what virDomainSave has written of one domain, made into the saved memory of another. Pure.

A save image begins with a header of 92 bytes: 16 of magic, then little-endian numbers (version, length of what follows, whether it ran,
compression, offset of the cookie), the rest unused. Then come the domain's XML, a NUL, the cookie (libvirt's own XML, which stays as it
is), a NUL, and zeros up to the length, of which libvirt leaves 64 KiB for changes. QEMU's stream is behind it and is not looked at.

libvirt compares the XML inside a save image with nothing, so a name, a UUID and paths can be written over. Source: libvirt,
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
"""The magic of an image that was written to its end; it is another one until then."""
VERSION = 2
MOST = 512 << 10
"""Bytes at its beginning that hold all that is changed; libvirt's are 72 KiB."""


class NotASaveImageError(ValueError):
    """The bytes are not the beginning of a whole save image of this format."""


@dataclass(frozen=True, slots=True)
class Head:
    """The beginning of a save image, up to QEMU's stream."""

    xml: str
    cookie: bytes
    length: int
    """Bytes of XML, cookie and zeros."""
    was_running: int
    compressed: int
    unused: bytes

    def to_bytes(self) -> bytes:
        """As it stands in the file, of the same size as the one it was read from. Raises NotASaveImageError when there is no room."""
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
    """What a domain that is woken from a save image has of its own."""

    name: str
    uuid: str
    marks: Mapping[str, str]
    """Attributes of vcloud's element in its metadata."""
    disk: str
    """Path of its root disk, an overlay over that of the domain that was saved."""
    console: str
    """Path of the log of its serial console."""
    card: str = ""
    """XML of its first card, where the domain that was saved has one."""


def head_for(head: Head, clone: Clone) -> Head:
    """The same saved memory with another domain's name. Raises NotASaveImageError where the XML is not what `domain.xml.j2` makes."""
    try:
        domain = parse(head.xml)
        disk, mark = domain.find("devices/disk[@device='disk']/source"), domain.find(f"metadata/{{{NAMESPACE}}}vm")
        name, uuid, logs = domain.find("name"), domain.find("uuid"), domain.findall("devices/*/log")
    except ElementTree.ParseError as error:
        raise NotASaveImageError("its description is not XML") from error
    if disk is None or mark is None or name is None or uuid is None or not logs:
        raise NotASaveImageError("its description is not of a template")
    name.text, uuid.text = clone.name, clone.uuid
    mark.attrib.clear()
    mark.attrib.update(clone.marks)
    disk.set("file", clone.disk)
    for log in logs:
        log.set("file", clone.console)
    _exchange_card(domain, clone.card)
    return replace(head, xml=to_text(domain))


def _exchange_card(domain: ElementTree.Element, xml: str) -> None:
    """Puts another card in the slot of the one that the domain has. Raises NotASaveImageError where only one of the two is there."""
    devices, card = domain.find("devices"), domain.find("devices/interface")
    if devices is None or (card is None) != (not xml):
        raise NotASaveImageError("its description has another number of cards")
    if card is None:
        return
    place, another = list(devices).index(card), parse(xml)
    another.extend(card.findall("alias") + card.findall("address"))
    devices.remove(card)
    devices.insert(place, another)
