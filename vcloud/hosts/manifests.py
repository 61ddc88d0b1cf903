"""The manifests on a host. Each vApp on the host has one, as a record with a fixed UUID, so a new
manifest replaces the old one.
"""

from __future__ import annotations

import base64
from dataclasses import replace
from ipaddress import IPv4Address

import libvirt

from vcloud.design.addressing import uuid_of
from vcloud.errors import HostError
from vcloud.hosts.connection import Host, message_of, translated
from vcloud.hosts.metadata import (
    Record,
    read_record,
    remove_record,
    require_room,
    write_record,
)
from vcloud.hosts.sealing import SEALED, sealing_of
from vcloud.plan.formats import Unreadable, decoded, encoded
from vcloud.plan.manifest import Manifest

PREFIX = "vcloud-manifest-"


def vapp_names(host: Host) -> tuple[str, ...]:
    """The names of the vApps that have a manifest, in alphabetical order. Costs one call to
    libvirt.
    """
    with translated(f"the vApps of {host.name} could not be listed"):
        # Also the active ones: somebody may have started a record.
        names = [network.name() for network in host.connection.listAllNetworks()]
    return tuple(sorted(name.removeprefix(PREFIX) for name in names if name.startswith(PREFIX)))


def read_manifest(host: Host, vapp: str) -> Manifest | Unreadable | None:
    """The manifest of a vApp. None if the host has none."""
    with translated(f"the manifest of '{vapp}' could not be read on {host.name}"):
        record = read_record(host, PREFIX + vapp)
    return None if record is None else manifest_in(host, record)


def manifest_in(host: Host, record: Record) -> Manifest | Unreadable:
    """The manifest in a record. Unreadable if this release cannot read it, or the host has lost the
    key to it. Raises HostError.
    """
    if SEALED not in record.attributes:
        return decoded(record.attributes, record.text)
    body = sealing_of(host).opened(record.text, record.name)
    found = decoded(record.attributes, base64.b64encode(body or b"").decode())
    if body is None and isinstance(found, Unreadable) and not found.is_newer:
        return replace(found, locked=True)
    return found


def write_manifest(host: Host, manifest: Manifest) -> None:
    """Stores the manifest of a vApp on the host and replaces the old one. The caller must hold the
    vApp's lock.

    Raises HostError if libvirt refuses it. The old manifest stays where the host has no room for the
    new one.
    """
    vapp = manifest.design.instance.name
    envelope, body = encoded(manifest)
    name = PREFIX + vapp
    sealed = sealing_of(host).sealed(base64.b64decode(body), name)
    record = Record(name, uuid_of("manifest", vapp), envelope | {SEALED: "yes"}, sealed)
    with translated(f"the manifest of '{vapp}' could not be written on {host.name}"):
        require_room(host, record)
    try:
        write_record(host, record)
    except libvirt.libvirtError as error:
        raise HostError(
            f"the manifest of '{vapp}' could not be written on {host.name}: {message_of(error)}",
            f"If `vcloud list` does not name '{vapp}' now, restart libvirtd on {host.name}, which reads the old manifest from its file again. Then run the command again.",
        ) from error


def delete_manifest(host: Host, vapp: str) -> None:
    with translated(f"the manifest of '{vapp}' could not be removed from {host.name}"):
        remove_record(host, uuid_of("manifest", vapp))


def addresses_outside(host: Host, *, but: str) -> set[IPv4Address]:
    """The public addresses that the vApps of a host use, except those of the vApp `but`.

    Raises HostError if a manifest cannot be read and does not tell its address. A new address could
    then be one that is in use.
    """
    taken = set()
    for name in vapp_names(host):
        if name == but or (manifest := read_manifest(host, name)) is None:
            continue
        if isinstance(manifest, Manifest):
            taken.add(manifest.uplink.address4.ip)
        elif manifest.address4 is not None:
            taken.add(manifest.address4)
        else:
            raise HostError(
                f"vcloud cannot tell which address the vApp '{name}' uses on {host.name}: {manifest.reason}",
                f"Nothing was changed. Run `vcloud up` with the file of '{name}', or `vcloud down {name}`. Then run this command again.",
            )
    return taken
