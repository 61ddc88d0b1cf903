"""Writes manifests, and reads those of this release and of others.

A manifest is kept in two parts. The *envelope* is a handful of plain attributes that keep their
meaning in every format: the format's number, the release that wrote it, the addresses that the
vApp's firewall uses outside, and the cores that are its own. So every release can see which
addresses and cores are taken, even if it cannot read the rest. The *body* is JSON, compressed. On a host it is sealed (`vcloud.hosts.sealing`),
because more people may read libvirt's records than may read its content.

To change the format: raise `FORMAT`, write the step from the format before into `UPGRADES`, and add
a golden file of the new format to tests/golden/formats. A field that gets a default needs no new
format.
"""

from __future__ import annotations

import base64
import binascii
import functools
import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Interface
from typing import Any, Final

from vcloud.marks import format_of
from vcloud.plan.manifest import Manifest
from vcloud.plan.upgrade import from_1, from_2, from_3
from vcloud.plan.wanted import hardware_digest, network_digests
from vcloud.values import processors_shown

FORMAT: Final = 4
"""The newest format that this release reads, and the one that it writes. Format 1 had no envelope.
"""
UPGRADES: Final[Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]]] = {
    1: from_1,
    2: from_2,
    3: from_3,
}
"""Format -> the function that turns a body of that format into one of the next format."""
CORES: Final = "cores"
"""In an envelope: the processors of the host that are the vApp's own, as Linux lists them."""
MOST: Final = 32 << 20
"""Bytes that a body may have when it is unpacked. A manifest of a thousand VMs has about 4 MiB."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A manifest that exists but cannot be read. No step may change a vApp with such a manifest."""

    format: int
    """The format of the manifest; 0 if it is damaged, so that its format is not known."""
    vcloud: str
    """The version of vcloud that wrote it; empty if the envelope does not say it."""
    address4: IPv4Address | None
    """The address outside that the vApp's firewall uses; None if the envelope does not say it."""
    locked: bool = False
    """It is sealed, and the host does not have the key with which it was sealed."""

    @property
    def is_newer(self) -> bool:
        """Whether a newer release wrote it. Otherwise it is damaged."""
        return self.format > FORMAT

    @property
    def reason(self) -> str:
        if self.locked:
            return "its description is sealed, and the host has lost the key (a libvirt secret)"
        if not self.is_newer:
            return "its description is damaged"
        by = f"vcloud {self.vcloud}" if self.vcloud else "a newer release of vcloud"
        return f"its description was made by {by} (format {self.format}; this release reads up to {FORMAT})"


def encoded(manifest: Manifest) -> tuple[dict[str, str], str]:
    """The envelope and the body of a manifest."""
    uplink = manifest.uplink
    envelope = {
        "format": str(FORMAT),
        "vcloud": manifest.vcloud,
        "phase": manifest.phase.value,
        "address4": str(uplink.address4),
    }
    if uplink.address6 is not None:
        envelope["address6"] = str(uplink.address6)
    if manifest.owned:
        envelope[CORES] = processors_shown(manifest.owned)
    # Compressed, because libvirt's metadata can hold only some hundred KiB. In base64, because XML
    # cannot hold every byte.
    return envelope, base64.b64encode(zlib.compress(_adapter().dump_json(manifest))).decode()


def decoded(envelope: Mapping[str, str], body: str) -> Manifest | Unreadable:
    """The manifest of any format up to this release's. The text may be hostile: anybody who may
    write to the host's libvirt can have written it.
    """
    form = format_of(envelope, FORMAT)
    unreadable = Unreadable(
        form if form > FORMAT else 0, _printable(envelope.get("vcloud", "")), _address(envelope)
    )
    if form > FORMAT:
        return unreadable
    try:
        document = json.loads(_unpacked(body))
        for earlier in range(form, FORMAT):
            document = UPGRADES[earlier](document)
        manifest: Manifest = _adapter().validate_json(json.dumps(document))
    # RecursionError: a hostile body may be nested deeper than Python's stack.
    except (ValueError, RecursionError):
        return unreadable
    return _with_digests(manifest) if form == 1 else manifest


def _with_digests(manifest: Manifest) -> Manifest:
    """The manifest of a vApp that a release of format 1 made, with the digests of what that release
    rendered.
    """
    design = manifest.design
    hardware = {
        vm.name: hardware_digest(vm, manifest.uplink, manifest.accelerator) for vm in design.vms
    }
    return replace(
        manifest,
        vms=tuple(
            (name, replace(digests, hardware=hardware.get(name, "")))
            for name, digests in manifest.vms
        ),
        networks=network_digests(design),
    )


def _unpacked(body: str) -> bytes:
    """Raises ValueError."""
    try:
        unpacker = zlib.decompressobj()
        # With a limit, because a small body can unpack to gigabytes.
        text = unpacker.decompress(base64.b64decode(body, validate=True), MOST)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(str(error)) from None
    if not unpacker.eof:
        raise ValueError("it is cut short or too large")
    return text


def _address(envelope: Mapping[str, str]) -> IPv4Address | None:
    try:
        return IPv4Interface(envelope.get("address4", "")).ip
    except ValueError:
        return None


def _printable(text: str) -> str:
    # The text becomes part of a message, and anybody who can write to the host may have written it.
    return text if len(text) <= 40 and text.isprintable() else ""


@functools.cache
def _adapter() -> Any:
    from pydantic import TypeAdapter  # 0.1 s of import that most commands can do without

    return TypeAdapter(Manifest)
