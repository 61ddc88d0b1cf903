"""The small values of a vApp file: names, sizes, durations, services, ports, paths, text.

A value that only has to match a pattern is a `Shape`. The others have a function `parse_*`, which
takes the value as the file has it, and returns the parsed value or raises `FieldError` with what is
wrong and what to write. Sizes are bytes, durations seconds. Nothing here imports pydantic or YAML,
so the command line can use it cheaply.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Sequence
from datetime import date
from ipaddress import IPv6Network, ip_address, ip_network
from typing import Final

from vcloud.documents.field import FieldError, Shape, parse_content, shown, text_of
from vcloud.values import (
    ALL,
    ALL_SERVICES,
    NEVER_OUTSIDE4,
    NEVER_OUTSIDE6,
    Network,
    Protocol,
    Service,
    covers,
)

RESERVED: Final = frozenset(
    {
        "firewall",
        "ips",
        "internet",
        "host",
        "uplink",
        "localhost",
        "ip6-localhost",
        "ip6-loopback",
        "ip6-allnodes",
        "ip6-allrouters",
    }
)
"""Names that a VM or a zone cannot have. vcloud uses the first ones; /etc/hosts of every Debian has
the others.
"""
TEXT_LENGTH: Final = 200
SCRIPT_LENGTH: Final = 64 << 10
ID_LENGTH: Final = 63
LAST_PORT: Final = 65535
LONGEST: Final = 366 * 86400
"""Seconds."""
LARGEST: Final = 64 << 40
"""Bytes."""
SMALLEST_MEMORY: Final = 64 << 20
SMALLEST_DISK: Final = 16 << 20
"""A smaller ext4 has no room for data."""

_PART_PATTERN: Final = r"[a-z](?:[a-z0-9-]{0,19}[a-z0-9])?"
_DISK_PATTERN: Final = r"[a-z](?:[a-z0-9-]{0,18}[a-z0-9])?"
"""A disk's name becomes its virtio serial number, which has 20 bytes."""
_ID_PATTERN: Final = r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?"


def _name(longest: int) -> str:
    return f"Use 1 to {longest} lower-case letters, digits and dashes. Begin with a letter, and do not end with a dash."


VAPP_NAME: Final = Shape(
    r"[a-z](?:[a-z0-9-]{0,29}[a-z0-9])?", "is not a valid vApp name", _name(31)
)
PART_NAME: Final = Shape(_PART_PATTERN, "is not a valid name", _name(21), RESERVED)
"""Of a VM or a zone."""
DISK_NAME: Final = Shape(_DISK_PATTERN, "is not a valid disk name", _name(20))
DISK_REFERENCE: Final = Shape(
    rf"{_PART_PATTERN}\.{_DISK_PATTERN}", "is not a disk of a VM", "Write it like db.data."
)
PARAMETER_NAME: Final = Shape(
    r"[a-z][a-z0-9_]{0,39}",
    "is not a valid parameter name",
    "Use 1 to 40 lower-case letters, digits and underscores. Begin with a letter.",
)
CLASS_NAME: Final = Shape(_ID_PATTERN, "is not a valid class name", _name(ID_LENGTH))
"""Of a class of data (`cardholder-data`) or of conflicts."""
ID: Final = Shape(_ID_PATTERN, "is not a valid id", _name(ID_LENGTH))
"""Of a flow or a detector."""
LABEL: Final = Shape(
    r"[a-z](?:[a-z0-9_.-]{0,61}[a-z0-9])?",
    "is not a valid label name",
    "Use 1 to 63 lower-case letters, digits, dots, dashes and underscores. Begin with a letter.",
)
HOST_NAME: Final = Shape(
    r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}",
    "is not a valid host name",
    "Use 1 to 63 letters, digits and . _ -, beginning with a letter or a digit.",
)
END: Final = Shape(
    rf"(?:(?:vm|zone):)?{_PART_PATTERN}",
    "cannot be used in from/to",
    "Write the name of a VM or a zone, 'vm:NAME', 'zone:NAME', 'internet', or addresses like 192.168.7.0/24.",
)
"""One end of a flow as it is written: `web`, `dmz`, `vm:db`, `zone:db`, `internet`."""
PREFIX: Final = Shape(
    # The longest address in IPv6 has 45 characters (RFC 4291: the last two groups as in IPv4).
    r"(?:[0-9]{1,3}(?:\.[0-9]{1,3}){3}|[0-9A-Fa-f]{0,4}:[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:.]{0,41})(?:/[0-9]{1,3})?",
    "is not an address or a prefix of addresses",
    "Write it like 192.168.7.0/24, 192.168.7.10, fd00:7::/64 or 2001:db8::10.",
)
"""The other form of an end: addresses outside."""
PROFILE: Final = Shape(
    r"(?:[a-z][a-z0-9-]{0,40}|\./[A-Za-z0-9_+-][A-Za-z0-9_.+-]{0,60}(?:/[A-Za-z0-9_+-][A-Za-z0-9_.+-]{0,60}){0,5})(?:@[0-9A-Za-z][0-9A-Za-z.-]{0,19})?",
    "is not a valid profile name",
    "Write it like pci-dss, pci-dss@4.0.1 for a fixed version, or ./corp-baseline for a folder of your own.",
)
CONTROL: Final = Shape(
    r"[A-Za-z0-9][A-Za-z0-9.()-]{0,39}",
    "is not a valid id of a control",
    "Write it as the regulation does, in quotes: '1.2.5', 'SC-7(10)'.",
)
CONTROL_REFERENCE: Final = Shape(
    r"(?:[a-z][a-z0-9-]{0,40}/)?" + CONTROL.pattern,
    "is not a control",
    "Write its id, like '1.4.4', or with its profile, like pci-dss/1.4.4.",
)
DATE: Final = Shape(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", "is not a date", "Write it like 2026-12-31.")
PACKAGE: Final = Shape(
    r"[a-z0-9][a-z0-9+.-]{0,98}[a-z0-9+]",
    "is not a valid name of a Debian package",
    "Use lower-case letters, digits, '+', '-' and '.', for example libpq5.",
)
SNI: Final = Shape(
    r"(?:\*\.)?[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?){1,20}",
    "is not a valid host name",
    "Write it like pay.example or *.pay.example, in lower-case letters.",
)
URL: Final = Shape(
    r"https://[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?(?::[0-9]{1,5})?/[A-Za-z0-9._~%/+@=&?,:-]{1,400}",
    "is not an address that vcloud fetches images from",
    "Write an https:// address without user name. Write a space as %20.",
)
SHA256: Final = Shape(
    r"[0-9a-f]{64}",
    "is not a SHA-256 checksum",
    "Write 64 digits and letters a to f, as sha256sum prints them.",
)
MODE: Final = Shape(r"0?[0-7]{3}", "is not a valid file mode", "Write it like '0644'.")
SIZE: Final = Shape(
    r"[1-9][0-9]{0,7}[MGT](?:i?B)?",
    "is not a size",
    "Write it like 384M, 1G or 2T. A number alone counts MiB.",
)
DURATION: Final = Shape(
    r"[1-9][0-9]{0,8}[smhd]",
    "is not a duration",
    "Write it like 90s, 15m, 2h or 1d. A number alone counts seconds.",
)
SERVICE: Final = Shape(
    r"icmp|(?:tcp|udp)/[0-9]{1,5}(?:-[0-9]{1,5})?",
    "is not a service",
    "Write it like tcp/80, udp/53, tcp/8000-8010, icmp or all.",
)
PORTS: Final = Shape(
    r"[0-9]{1,5}(?:-[0-9]{1,5})?",
    "is not a port or a range of ports",
    "Write it like 8080 or '8000-8010'.",
)
UNIT: Final = Shape(
    r"[A-Za-z0-9_][A-Za-z0-9_.@:-]{0,199}",
    "is not a valid name of a systemd unit",
    "Write it like nginx, or like backup.timer for a unit that is no service.",
)
OWNER: Final = Shape(
    r"[a-z_][a-z0-9_-]{0,31}(?::[a-z_][a-z0-9_-]{0,31})?",
    "is not a valid owner of a file",
    "Write it like root:root.",
)
GUEST_PATH: Final = Shape(
    r"(?:/[A-Za-z0-9_.+@-]+)+",
    "is not a valid path in a guest",
    "Write an absolute path of letters, digits and _ . + @ - without '.' or '..' between slashes.",
)
LOCAL_PATH: Final = Shape(
    r"/?[A-Za-z0-9_.+@-]+(?:/[A-Za-z0-9_.+@-]+)*",
    "is not a path that vcloud supports",
    "Use letters, digits and _ . + @ - between the slashes.",
)
"""On this machine. The path becomes part of XML and of argument lists, so it may only have these
characters.
"""

parse_name = VAPP_NAME.parse

UNIT_KINDS: Final = frozenset(
    {"service", "socket", "target", "timer", "path", "mount", "automount", "swap", "slice", "scope"}
)
_SIZES: Final = {"M": 20, "G": 30, "T": 40}
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_KEY_TYPES: Final = frozenset(
    {
        "ssh-ed25519",
        "ssh-rsa",
        "ecdsa-sha2-nistp256",
        "ecdsa-sha2-nistp384",
        "ecdsa-sha2-nistp521",
        "sk-ssh-ed25519@openssh.com",
        "sk-ecdsa-sha2-nistp256@openssh.com",
    }
)
_SHORTEST_KEY: Final = 32
"""Bytes of a public key after its type."""
_NOWHERE: Final[tuple[Network, ...]] = (
    *NEVER_OUTSIDE4,
    *NEVER_OUTSIDE6,
    IPv6Network("::/128"),
    IPv6Network("fe80::/10"),
)
"""Addresses that no machine outside has. In IPv6 also those that no router forwards (RFC 4291)."""
_ADDRESS: Final = re.compile("[a-z0-9+]{1,10}://", re.IGNORECASE)


def parse_owner(value: object) -> str:
    """`user:group` by name. A user alone means the user and the group of that name."""
    text = OWNER.parse(value)
    return text if ":" in text else f"{text}:{text}"


def parse_unit(value: object) -> str:
    """A unit with its kind. As for systemctl, a name without a kind is that of a service."""
    text = UNIT.parse(value)
    return text if text.rpartition(".")[2] in UNIT_KINDS else f"{text}.service"


def parse_mode(value: object) -> int:
    """Permission bits. Set-user-id and the like are refused: a file from a vApp file must not give
    privileges.
    """
    if isinstance(value, int):
        raise FieldError(
            f"expected a file mode as text, but {shown(value)} is a number",
            f"Put it in quotes: '{value:04}'.",
        )
    return int(MODE.parse(value), 8)


def parse_text(value: object) -> str:
    """One line for people."""
    text = text_of(value)
    if len(text) > TEXT_LENGTH:
        raise FieldError(f"this text has {len(text)} characters; the maximum is {TEXT_LENGTH}")
    if not text.isprintable():
        raise FieldError(
            f"'{shown(text)}' contains characters that cannot be printed",
            "Write one line without control characters.",
        )
    return text


def parse_words(value: object) -> str:
    """One line for people that says something."""
    text = parse_text(value)
    if not text.strip():
        raise FieldError("this is empty", "Write it in a few words.")
    return text


def parse_script(value: object) -> str:
    """What a guest's shell runs."""
    text = parse_content(value, SCRIPT_LENGTH)
    if not text.strip():
        raise FieldError("the command is empty", "Write a shell command, or remove the entry.")
    return text


def parse_size(value: object, least: int = 1 << 20) -> int:
    """Bytes, from `384M`, `1G`, `2T` or a number of MiB. `1GB` and `1GiB` mean 1G, too."""
    # `type` and not `isinstance`: for Python, True is an int.
    if type(value) is int:
        # Shifting a number of very many digits would cost memory.
        size = value << 20 if value.bit_length() < 32 else LARGEST + 1
    else:
        text = SIZE.parse(value).rstrip("iB")
        size = int(text[:-1]) << _SIZES[text[-1]]
    if not least <= size <= LARGEST:
        raise FieldError(
            f"'{shown(value)}' is not between {format_size(least)} and {format_size(LARGEST)}"
        )
    return size


def parse_memory(value: object) -> int:
    """Bytes of a VM's memory."""
    return parse_size(value, SMALLEST_MEMORY)


def parse_disk_size(value: object) -> int:
    """Bytes of a data disk."""
    return parse_size(value, SMALLEST_DISK)


def format_size(size: int) -> str:
    """The shortest text that `parse_size` reads as so many bytes, which must be whole MiB."""
    unit = next(unit for unit in "TGM" if not size % (1 << _SIZES[unit]))
    return f"{size >> _SIZES[unit]}{unit}"


def parse_duration(value: object) -> int:
    """Seconds, from `90s`, `15m`, `2h`, `1d` or a number of seconds."""
    if type(value) is int:
        seconds = value
    else:
        text = DURATION.parse(value)
        seconds = int(text[:-1]) * _SECONDS[text[-1]]
    if not 1 <= seconds <= LONGEST:
        raise FieldError(f"'{shown(value)}' is not between 1s and {format_duration(LONGEST)}")
    return seconds


def format_duration(seconds: int) -> str:
    """The shortest text that `parse_duration` reads as so many seconds."""
    unit = next(unit for unit in "dhms" if not seconds % _SECONDS[unit])
    return f"{seconds // _SECONDS[unit]}{unit}"


def parse_date(value: object) -> date:
    """A day, as ISO 8601 writes it."""
    text = DATE.parse(value)
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise FieldError(f"there is no day '{text}'", DATE.wanted) from None


def parse_services(value: object) -> tuple[Service, ...]:
    """What one entry of a list of services means: a service, or all of them."""
    return ALL_SERVICES if value == ALL else (parse_service(value),)


def parse_service(value: object) -> Service:
    """`tcp/80`, `udp/53`, `tcp/8000-8010` or `icmp`."""
    text = str(value) if type(value) is int else text_of(value)
    protocol, _, ports = text.partition("/")
    if protocol == Protocol.ICMP and ports:
        raise FieldError(f"'{shown(text)}': ICMP has no ports", "Write icmp.")
    if re.fullmatch(PORTS.pattern, text):
        raise FieldError(
            f"{text} is a port without its protocol", f"Write the protocol, like tcp/{text}."
        )
    if meant := _meant(text.strip().lower()):
        raise FieldError(f"'{shown(text)}' {SERVICE.wrong}", f"Write {meant}.")
    SERVICE.parse(text)
    return Service(Protocol(protocol), *(parse_ports(ports) if ports else (0, 0)))


def _meant(text: str) -> str:
    """The service that the user probably means with a spelling of other tools; empty if that is
    unclear.
    """
    if text in ("any", "*", "-1", "tcp/udp", "everything", "ip"):
        return "all, or tcp/1-65535 for every port of TCP"
    if text in ("ping", "icmpv6", "ipv6-icmp", "icmp6"):
        return "icmp"
    if found := re.fullmatch(r"(tcp|udp)(?:[/: ](?:\*|all|any|-1))?", text):
        return f"{found[1]}/1-{LAST_PORT} for every port of {found[1].upper()}"
    ports = r"([0-9]{1,5})(?:[-:.]{1,2}([0-9]{1,5}))?"
    if found := re.fullmatch(rf"(tcp|udp)[/: ]{{1,3}}{ports}", text):
        protocol, first, last = found.groups()
    elif found := re.fullmatch(rf"{ports}[/: ](tcp|udp)", text):
        first, last, protocol = found.groups()
    else:
        return ""
    meant = f"{protocol}/{first}-{last}" if last else f"{protocol}/{first}"
    return meant if meant != text else ""


def parse_ports(value: object) -> tuple[int, int]:
    """First and last port, from `80` or `8000-8010`."""
    text = PORTS.parse(str(value) if type(value) is int else value)
    start, _, end = text.partition("-")
    first, last = int(start), int(end or start)
    if not 1 <= first <= LAST_PORT or not 1 <= last <= LAST_PORT:
        raise FieldError(f"'{text}': ports go from 1 to {LAST_PORT}")
    if first > last:
        raise FieldError(f"the range '{text}' ends before it begins", f"Write {last}-{first}.")
    return first, last


def parse_prefix(value: object) -> str:
    """Addresses outside, as they are written: a prefix, or an address."""
    text = PREFIX.parse(value)
    try:
        found = ip_network(text, strict=False)
    except ValueError:
        raise FieldError(f"'{shown(text)}' {PREFIX.wrong}", PREFIX.wanted) from None
    first = ip_address(text.partition("/")[0])
    if found[0] != first:
        what = f"'{text}' is an address in a prefix, not the beginning of the prefix"
        raise FieldError(what, f"Write {found} for the whole prefix, or {first} for this address.")
    if not found.prefixlen:
        hint = "Write internet for public addresses, and a flow for each network of your own."
        raise FieldError(f"'{text}' would mean every address", hint)
    if any(covers(none, found) for none in _NOWHERE):
        what = f"no machine outside has an address of '{text}'"
        raise FieldError(what, "Write a prefix of addresses that packets can be sent to.")
    return text


def parse_guest_path(value: object) -> str:
    """An absolute, normalized path in a guest."""
    text = GUEST_PATH.parse(value)
    if {".", ".."} & set(text.split("/")) or len(text) > TEXT_LENGTH:
        raise FieldError(f"'{shown(text)}' {GUEST_PATH.wrong}", GUEST_PATH.wanted)
    return text


def parse_local_path(value: object) -> str:
    """A path on this machine."""
    if isinstance(value, str) and _ADDRESS.match(value):
        raise FieldError(
            f"'{shown(value)}' is an address, not a path",
            "Write an image from an address as {url: ..., sha256: ...}.",
        )
    text = LOCAL_PATH.parse(value)
    if len(text) > TEXT_LENGTH:
        raise FieldError(f"this path has {len(text)} characters; the maximum is {TEXT_LENGTH}")
    return text


def parse_source(value: object) -> str:
    """A path below the vApp file's folder: somebody else's vApp file must not read other files of
    this machine.
    """
    if isinstance(value, str) and _ADDRESS.match(value):
        raise FieldError(
            f"'{shown(value)}' is an address, not a path",
            "Download it, and write the path of the file.",
        )
    text = parse_local_path(value)
    if text.startswith("/") or ".." in text.split("/"):
        raise FieldError(
            f"'{shown(text)}' is not in the folder of the vApp file",
            "Copy the file there, and write its relative path without '..'.",
        )
    return text


def parse_public_key(value: object) -> str:
    """One line of a .pub file, without options."""
    text = parse_content(value).strip()
    kind, _, rest = text.partition(" ")
    blob, _, comment = rest.partition(" ")
    if "PRIVATE KEY" in text:
        raise FieldError(
            "this is a private key",
            "Remove it and make a new key pair, because this key is no longer secret. Write the public key (.pub) here.",
        )
    if (
        kind not in _KEY_TYPES
        or not comment.isprintable()
        or len(comment) > TEXT_LENGTH
        or not _has_key(kind, blob)
    ):
        raise FieldError(
            f"'{shown(text)}' is not an OpenSSH public key",
            "Write one line of a .pub file, such as 'ssh-ed25519 AAAA... you@there', without options.",
        )
    return text


def _has_key(kind: str, blob: str) -> bool:
    """Whether the base64 part begins with the same key type and has a key after it."""
    try:
        data = binascii.a2b_base64(blob, strict_mode=True)
    except (binascii.Error, ValueError):
        return False
    # The key begins with its type and the length of the type (RFC 4253, 6.6).
    head = len(kind).to_bytes(4, "big") + kind.encode()
    return data.startswith(head) and len(data) > len(head) + _SHORTEST_KEY


def flow_id(source: object, target: object, services: Sequence[Service]) -> str:
    """The id of a flow that has none."""
    words = (ALL,) if tuple(services) == ALL_SERVICES else services
    return derived_id(source, target, *words)


def derived_id(*parts: object) -> str:
    """The default id of a flow or a detector, made of the given parts. A long one ends in a hash."""
    text = re.sub("[^a-z0-9]+", "-", "-".join(map(str, parts)))
    # A flow from addresses would have an id that begins with a digit, but an id begins with a
    # letter.
    text = text if text[:1].isalpha() else f"from-{text.strip('-')}"
    if len(text) <= ID_LENGTH:
        return text
    from hashlib import sha256

    return f"{text[: ID_LENGTH - 9]}-{sha256(text.encode()).hexdigest()[:8]}"
