"""Values that the vApp file and the design share: protocols, services, what they carry, actions,
ends of flows, names of interfaces.

A flow's end is written as the name of a VM or a zone, as `internet`, or as a prefix of addresses
outside. The checks of the file, the
design, a guest's hosts file and the proof all ask this module what an end means and over which NICs
two VMs meet, so that all of them get the same answer.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final

Network = IPv4Network | IPv6Network
NEVER_OUTSIDE4: Final = tuple(map(IPv4Network, ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3")))
"""Addresses that no machine outside has (RFC 6890): "this network", loopback, multicast and what is
reserved.
"""
NEVER_OUTSIDE6: Final = tuple(map(IPv6Network, ("::1/128", "::ffff:0:0/96", "ff00::/8")))
"""The same in IPv6: loopback, IPv4 addresses in the notation of programs, multicast."""
RECIPE_ROOT: Final = 4 << 30
"""Bytes of the root disk of every image that vcloud builds from a recipe."""
INTERNET: Final = "internet"
LONGEST_INTERFACE: Final = 15
"""Characters of an interface's name in Linux (IFNAMSIZ without the zero at the end)."""
CARD_NUMBER: Final = "card-number"
BUILT_IN_DETECTORS: Final = (CARD_NUMBER,)
"""Kinds of data that a leak detector may name in `detect` without a pattern; `vcloud.compile.leaks`
has a module for each.
"""

ACCELERATOR: Final = "accelerator"
ARCH: Final = "arch"
SMT: Final = "smt"
SVIRT: Final = "svirt"
KSM: Final = "ksm"
ON: Final = "on"
OFF: Final = "off"
NONE: Final = "none"
HOST_FACTS: Final[Mapping[str, tuple[str, ...]]] = {
    ACCELERATOR: ("kvm", "tcg"),
    ARCH: (),
    SMT: (ON, OFF),
    SVIRT: ("apparmor", "selinux", NONE),
    KSM: (ON, OFF),
}
"""What vcloud reads from a host, and a vApp may ask for like for a label of the inventory: how the
VMs of the vApp run there, the architecture by libvirt's name, whether two threads of a core are two
processors, what keeps the host's QEMU processes apart, and whether its kernel merges equal pages of
memory. To each its possible values, if they are few.
"""


class Protocol(StrEnum):
    TCP = "tcp"
    UDP = "udp"
    ICMP = "icmp"
    """ICMP in IPv4 and ICMPv6 in IPv6, echo only."""


class App(StrEnum):
    """The protocol that a service of a flow carries."""

    HTTP = "http"
    TLS = "tls"
    POSTGRES = "postgres"
    MYSQL = "mysql"
    REDIS = "redis"
    SSH = "ssh"
    DNS = "dns"
    SMTP = "smtp"
    FTP = "ftp"
    OTHER = "other"
    """Anything: the IPS does not look at how a connection begins."""


class Denied(StrEnum):
    """What the firewall does with a packet that no flow allows: `reject` tells its sender at once."""

    DROP = "drop"
    REJECT = "reject"


class Mode(StrEnum):
    """What the IPS does with a match: `prevent` drops, `detect` only logs."""

    PREVENT = "prevent"
    DETECT = "detect"


class Action(StrEnum):
    """What a leak detector does with a match."""

    BLOCK = "block"
    ALERT = "alert"


@dataclass(frozen=True, slots=True, order=True)
class Service:
    """A protocol and an inclusive port range; ports are 0 for ICMP."""

    protocol: Protocol
    first: int
    last: int

    def __str__(self) -> str:
        if self.protocol is Protocol.ICMP:
            return "icmp"
        return f"{self.protocol}/{self.first}" + (
            f"-{self.last}" if self.last != self.first else ""
        )


ALL: Final = "all"
ALL_SERVICES: Final = (
    Service(Protocol.TCP, 1, 65535),
    Service(Protocol.UDP, 1, 65535),
    Service(Protocol.ICMP, 0, 0),
)
"""What a flow may allow at most."""
_APPS_BY_PORT: Final = {
    21: App.FTP,
    22: App.SSH,
    25: App.SMTP,
    53: App.DNS,
    80: App.HTTP,
    443: App.TLS,
    465: App.TLS,
    587: App.SMTP,
    636: App.TLS,
    853: App.TLS,
    993: App.TLS,
    995: App.TLS,
    3306: App.MYSQL,
    5432: App.POSTGRES,
    6379: App.REDIS,
}
"""Ports on which one protocol is so common that a flow need not name it."""


MOST_PROCESSORS: Final = 1 << 16
"""A number of a processor that no kernel has."""


_RANGE: Final = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")


def processors_in(text: str) -> frozenset[int]:
    """The processors of a list as Linux writes it: `0-3,8`. Raises ValueError."""
    found: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        match = _RANGE.fullmatch(part)
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not low <= high < MOST_PROCESSORS:
            raise ValueError(f"'{text[:80]}' is no list of processors")
        found.update(range(low, high + 1))
    return frozenset(found)


def processors_shown(processors: Iterable[int]) -> str:
    """The list as Linux writes it. Empty for no processor."""
    ranges: list[list[int]] = []
    for number in sorted(processors):
        if ranges and number == ranges[-1][-1] + 1:
            ranges[-1][1:] = [number]
        else:
            ranges.append([number])
    return ",".join("-".join(map(str, one)) for one in ranges)


def share_a_port(some: Iterable[Service], others: Collection[Service]) -> bool:
    """Whether a packet can be of a service among some, and of one among the others."""
    return any(
        one.protocol is other.protocol and one.first <= other.last and other.first <= one.last
        for one in some
        for other in others
    )


def app_of(service: Service, written: App | None) -> App | None:
    """What a service carries: what the file says or, where it says nothing, what the port says.
    None where nobody says it, and for what is not TCP.

    A range of ports says nothing. One in a flow of FTP is for the data of FTP, which is anything.
    """
    if service.protocol is not Protocol.TCP:
        return None
    if written is not None:
        return App.OTHER if written is App.FTP and service.first != service.last else written
    return _APPS_BY_PORT.get(service.first) if service.first == service.last else None


def is_prefix(end: str) -> bool:
    """Whether an end is written as addresses, as no name of a VM or a zone is."""
    return "." in end or "/" in end or end.count(":") > 1


def is_outside(end: str) -> bool:
    """Whether an end means machines outside the vApp: `internet`, or a prefix."""
    return end == INTERNET or is_prefix(end)


def prefix_of(end: str) -> Network | None:
    """The addresses that an end means; None for the internet, a VM or a zone. Raises ValueError
    where the prefix is not valid.
    """
    return ip_network(end) if is_prefix(end) else None


def covers(one: Network, other: Network) -> bool:
    """Whether every address of `other` is one of `one`."""
    return one.version == other.version and other.subnet_of(one)  # type: ignore[arg-type]


def zone_named(end: str, tiers: Container[str]) -> str:
    """The zone that an end (`app`, `zone:app`) means; empty for the VMs of a tier and for the
    outside.
    """
    if is_outside(end):
        return ""
    kind, _, name = end.rpartition(":")
    # In a sound file a name without its kind means one thing: a tier, or else a zone.
    return name if kind == "zone" or name not in tiers else ""


def tiers_at(end: str, zones: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The tiers whose VMs an end means, in the order of `zones`, which has the zones of each tier.
    None for the outside.
    """
    if zone := zone_named(end, zones):
        return tuple(tier for tier, its in zones.items() if zone in its)
    return () if is_outside(end) else (end.removeprefix("vm:"),)


def meeting_zones(ours: Sequence[str], theirs: Sequence[str], wanted: str = "") -> tuple[str, str]:
    """The zones of the two NICs over which a VM in the zones `ours` (none: the internet) reaches a
    VM in `theirs`.

    Their NIC is the one in the wanted zone if there is one, else in a common zone, else their
    first. Our NIC is the one in the same zone, else our first.
    """
    there = (
        wanted if wanted in theirs else next((zone for zone in theirs if zone in ours), theirs[0])
    )
    return (there if there in ours else next(iter(ours), "")), there


def guest_name(prefix: str, zone: str) -> str:
    """A readable name for an appliance's interface: `z-dmz`. A hash shortens it to Linux' 15
    characters.
    """
    name = prefix + zone
    if len(name) <= LONGEST_INTERFACE:
        return name
    from hashlib import sha256

    return f"{name[:10]}-{sha256(zone.encode()).hexdigest()[:4]}"
