"""The marks that vcloud leaves in the metadata of libvirt's domains and networks.

A mark says what an object is to vcloud, even where every other record is lost: which vApp it
belongs to, which VM it is, and which rendered texts it was made from. `format` says which release's
rules the mark follows. The attributes `format`, `vapp`, `name` and `role` keep their meaning in
every format, so that an older release can at least say whose object it has found.

This module needs nothing but Python's standard library, because a program that runs on a host reads
marks as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

NAMESPACE = "https://vcloud.dev/ns/1"
"""XML namespace of every element of vcloud in libvirt's metadata."""
CONNECTED_NAMESPACE = f"{NAMESPACE}/connected"
"""XML namespace of the element that `vcloud up` puts into the metadata of a running domain, and not
into its definition, when it connects the VM. libvirt drops the element when the domain stops, and
keeps it when libvirtd restarts. So a domain that has it still runs as `vcloud up` left it running.
"""
FORMAT = 3
"""The newest format of marks that this release reads, and the one that it writes. Format 1 had no
`format` attribute. Up to format 2, a missing attribute said that data disks may be deleted, and the
digests of a domain were readable by everybody.
"""
DIGESTS = ("root", "hardware", "identity")
"""The attributes of a domain's mark that are digests. They cover secrets, so `vcloud.hosts.sealing`
puts `SEALED_DIGESTS` in their place.
"""
SEALED_DIGESTS = "made-from"
NOT_YET = "no"
"""Value of the attribute `ready`: see `VmMarks.unready`."""
_NUMBER = re.compile(r"[1-9][0-9]{0,5}")


@dataclass(frozen=True, slots=True)
class VmDigests:
    """Digests of what a VM was made from, one for each cost of a change."""

    root: str
    """Image, added packages and run commands. Where this digest changes, the VM is made anew."""
    hardware: str
    """The rendered domain XML without host paths. Where this digest changes, the VM is restarted.
    """
    identity: str
    """Addresses, names, files and keys as the guest gets them. Where this digest changes, the guest
    is configured live.
    """


@dataclass(frozen=True, slots=True)
class VmMarks:
    """The mark of a domain."""

    vapp: str
    vm: str
    role: str
    host_key: str = ""
    """The public half of the VM's SSH host key, as in known_hosts."""
    digests: VmDigests | None = None
    """None until the VM is wholly made, and where the mark is of a format that this release does
    not read.
    """
    rules: str = ""
    """Of a firewall: digest of the ruleset that the firewall reported to be loaded."""
    unready: bool = False
    """Of a VM that was made from what `digests` say: it has not become ready since, or was not told
    of all that was changed.
    """
    blank: tuple[str, ...] = ()
    """The data disks that were created for this VM and have never had a live link above them, so
    that they hold no data. Only such a disk may be made anew without asking. A disk that is not
    named here may hold data, also where the mark is missing or of an earlier format.
    """
    format: int = FORMAT

    @property
    def is_newer(self) -> bool:
        """Whether a newer release of vcloud wrote the mark, so that most of it cannot be read."""
        return self.format > FORMAT

    def with_blank(self, disks: Iterable[str]) -> VmMarks:
        """The same mark of a VM whose data disks of these names are blank, and no others."""
        return replace(self, blank=tuple(sorted(disks)))

    def attributes(self) -> dict[str, str]:
        """The mark as XML attributes, in this release's format, before its digests are sealed."""
        found = {
            "format": str(FORMAT),
            "vapp": self.vapp,
            "name": self.vm,
            "role": self.role,
            "host-key": self.host_key,
        }
        if self.rules:
            found["rules"] = self.rules
        if self.digests is not None:
            found |= {
                "root": self.digests.root,
                "hardware": self.digests.hardware,
                "identity": self.digests.identity,
            }
        if self.unready:
            found["ready"] = NOT_YET
        if self.blank:
            found["blank"] = " ".join(self.blank)
        return found


@dataclass(frozen=True, slots=True)
class NetworkMarks:
    """The mark of a network."""

    vapp: str
    zone: str
    digest: str = ""
    """Digest of the rendered XML. Empty in format 1, which did not have it."""
    format: int = FORMAT

    @property
    def is_newer(self) -> bool:
        return self.format > FORMAT

    def attributes(self) -> dict[str, str]:
        found = {"format": str(FORMAT), "vapp": self.vapp, "zone": self.zone}
        return found | ({"digest": self.digest} if self.digest else {})


NO_VM = VmMarks("", "", "", format=0)
"""The mark of a domain that is not vcloud's."""
NO_NETWORK = NetworkMarks("", "", format=0)


def vm_marks(attributes: Mapping[str, str] | None) -> VmMarks:
    """The mark that these attributes are; `NO_VM` where there are none.

    Anybody who may write to the host's libvirt may have written them. What cannot be read counts as
    missing.
    """
    if attributes is None:
        return NO_VM
    form = format_of(attributes, FORMAT)
    read = attributes if form <= FORMAT else {}
    digests = [read.get(key, "") for key in DIGESTS]
    return VmMarks(
        vapp=attributes.get("vapp", ""),
        vm=attributes.get("name", ""),
        role=attributes.get("role", ""),
        host_key=read.get("host-key", ""),
        digests=VmDigests(*digests) if all(digests) else None,
        rules=read.get("rules", ""),
        unready=read.get("ready") == NOT_YET,
        blank=tuple(read.get("blank", "").split()),
        format=form,
    )


def network_marks(attributes: Mapping[str, str] | None) -> NetworkMarks:
    """The mark that these attributes are; `NO_NETWORK` where there are none."""
    if attributes is None:
        return NO_NETWORK
    form = format_of(attributes, FORMAT)
    digest = attributes.get("digest", "") if form <= FORMAT else ""
    return NetworkMarks(attributes.get("vapp", ""), attributes.get("zone", ""), digest, form)


def format_of(attributes: Mapping[str, str], newest: int) -> int:
    """The format that attributes name. Without one it is 1. What is no number is taken for a format
    of a newer release, after `newest`.
    """
    written = attributes.get("format", "1")
    return int(written) if _NUMBER.fullmatch(written) else newest + 1
