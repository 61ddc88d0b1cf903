"""The small values of a vApp file: names, sizes, durations, services, ports, paths, text.

Each `parse_*` takes what the file holds at one place and returns the value, or raises `FieldError` saying what is wrong and what to write.
Sizes are bytes, durations seconds. Nothing here knows of pydantic or YAML, so the command line may use it cheaply.
"""

from __future__ import annotations

import binascii
import re
from typing import Final

from vcloud.documents.field import FieldError, matching, parse_content, shown, text_of
from vcloud.values import Protocol, Service

RESERVED: Final = frozenset(
    {
        *("firewall", "ips", "internet", "host", "uplink"),
        *("localhost", "ip6-localhost", "ip6-loopback", "ip6-allnodes", "ip6-allrouters"),
    }
)
"""Words with a meaning of their own beside the VMs and zones of a file; every Debian has the last ones in /etc/hosts."""
DISK_NAME_LENGTH: Final = 20
"""A disk's name is its virtio serial number, which has 20 bytes."""
TEXT_LENGTH: Final = 200
SCRIPT_LENGTH: Final = 64 << 10
LAST_PORT: Final = 65535
LONGEST: Final = 366 * 86400
"""Seconds."""
LARGEST: Final = 64 << 40
"""Bytes."""
SMALLEST_MEMORY: Final = 64 << 20
SMALLEST_DISK: Final = 16 << 20
"""Less leaves ext4 no room for data."""

NAME_PATTERN: Final = r"[a-z](?:[a-z0-9-]{0,29}[a-z0-9])?"
PART_PATTERN: Final = r"[a-z](?:[a-z0-9-]{0,19}[a-z0-9])?"
DISK_PATTERN: Final = r"[a-z](?:[a-z0-9-]{0,18}[a-z0-9])?"
ID_PATTERN: Final = r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?"
LABEL_PATTERN: Final = r"[a-z](?:[a-z0-9_.-]{0,61}[a-z0-9])?"
END_PATTERN: Final = rf"(?:(?:vm|zone):)?{PART_PATTERN}"
PROFILE_PATTERN: Final = r"[a-z][a-z0-9-]{0,40}(?:@[0-9A-Za-z][0-9A-Za-z.]{0,19})?"
PACKAGE_PATTERN: Final = r"[a-z0-9][a-z0-9+.-]{0,98}[a-z0-9+]"
OWNER_PATTERN: Final = r"[a-z_][a-z0-9_-]{0,31}(?::[a-z_][a-z0-9_-]{0,31})?"
MODE_PATTERN: Final = r"0?[0-7]{3}"
SHA256_PATTERN: Final = r"[0-9a-f]{64}"
URL_PATTERN: Final = r"https://[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?(?::[0-9]{1,5})?/[A-Za-z0-9._~%/+@=&?,:-]{1,400}"
SNI_PATTERN: Final = r"(?:\*\.)?[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?){1,20}"
SIZE_PATTERN: Final = r"[1-9][0-9]{0,7}[MGT]"
DURATION_PATTERN: Final = r"[1-9][0-9]{0,8}[smhd]"
SERVICE_PATTERN: Final = r"icmp|(?:tcp|udp)/[0-9]{1,5}(?:-[0-9]{1,5})?"
PORTS_PATTERN: Final = r"[0-9]{1,5}(?:-[0-9]{1,5})?"
DISK_REF_PATTERN: Final = rf"{PART_PATTERN}\.{DISK_PATTERN}"
ID_LENGTH: Final = 63
PARAMETER_PATTERN: Final = r"[a-z][a-z0-9_]{0,39}"
GUEST_PATH_PATTERN: Final = r"(?:/[A-Za-z0-9_.+@-]+)+"
LOCAL_PATH_PATTERN: Final = r"/?[A-Za-z0-9_.+@-]+(?:/[A-Za-z0-9_.+@-]+)*"

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
_ADDRESS: Final = re.compile("[a-z0-9+]{1,10}://", re.IGNORECASE)


def parse_name(value: object) -> str:
    """A vApp's name."""
    return matching(
        value,
        NAME_PATTERN,
        "a name for a vApp",
        "Up to 31 small letters, digits and dashes, beginning with a letter, not ending with a dash.",
    )


def parse_part(value: object) -> str:
    """The name of a VM or a zone."""
    text = matching(
        value, PART_PATTERN, "a name", "Up to 21 small letters, digits and dashes, beginning with a letter, not ending with a dash."
    )
    if text in RESERVED:
        raise FieldError(f"'{text}' is a reserved word", f"Choose another name; reserved are {', '.join(sorted(RESERVED))}.")
    return text


def parse_disk_name(value: object) -> str:
    return matching(
        value,
        DISK_PATTERN,
        "a name for a disk",
        "Up to 20 small letters, digits and dashes, beginning with a letter, not ending with a dash.",
    )


def parse_disk_ref(value: object) -> str:
    """A disk of a VM: `db.data`."""
    return matching(value, DISK_REF_PATTERN, "a disk of a VM", "Write it like db.data.")


def parse_parameter_name(value: object) -> str:
    return matching(
        value, PARAMETER_PATTERN, "a name for a parameter", "Up to 40 small letters, digits and underscores, beginning with a letter."
    )


def parse_class(value: object) -> str:
    """A class of data (`cardholder-data`) or of conflicts."""
    return matching(
        value,
        ID_PATTERN,
        "a name for a class",
        "Up to 63 small letters, digits and dashes, beginning with a letter, not ending with a dash.",
    )


def parse_id(value: object) -> str:
    """The id of a flow or a detector."""
    return matching(
        value, ID_PATTERN, "an id", "Up to 63 small letters, digits and dashes, beginning with a letter, not ending with a dash."
    )


def parse_label(value: object) -> str:
    """The key of a label."""
    return matching(
        value, LABEL_PATTERN, "a label's name", "Up to 63 small letters, digits, dots, dashes and underscores, beginning with a letter."
    )


def parse_end(value: object) -> str:
    """One end of a flow as it is written: `web`, `dmz`, `vm:db`, `zone:db`, `internet`."""
    return matching(value, END_PATTERN, "an end of a flow", "Write the name of a VM or a zone, 'vm:NAME', 'zone:NAME' or 'internet'.")


def parse_profile(value: object) -> str:
    return matching(value, PROFILE_PATTERN, "the name of a profile", "Write it like pci-dss, or pci-dss@4.0.1 to pin a version.")


def parse_package(value: object) -> str:
    return matching(value, PACKAGE_PATTERN, "the name of a Debian package", "Small letters, digits, '+', '-' and '.', for example libpq5.")


def parse_sni(value: object) -> str:
    return matching(value, SNI_PATTERN, "a host name", "Write it like pay.example or *.pay.example, in small letters.")


def parse_url(value: object) -> str:
    return matching(
        value,
        URL_PATTERN,
        "an address that an image may come from",
        "Write an https:// address without user name; spaces and the like as %20.",
    )


def parse_sha256(value: object) -> str:
    return matching(value, SHA256_PATTERN, "a SHA-256", "64 digits and letters a to f, as sha256sum prints it.")


def parse_owner(value: object) -> str:
    """`user:group` by name; a user alone stands for the user and the group of that name."""
    text = matching(value, OWNER_PATTERN, "an owner of a file", "Write it like root:root.")
    return text if ":" in text else f"{text}:{text}"


def parse_mode(value: object) -> int:
    """Permission bits; set-user-id and its like are not given away by a file that is put in place."""
    if isinstance(value, int):
        raise FieldError(f"a mode is text, {shown(value)} is a number", f"Put it in quotes: '{value:04}'.")
    return int(matching(value, MODE_PATTERN, "a mode", "Write it like '0644'."), 8)


def parse_text(value: object) -> str:
    """One line for people."""
    text = text_of(value)
    if len(text) > TEXT_LENGTH:
        raise FieldError(f"this text has {len(text)} characters, at most {TEXT_LENGTH} are allowed")
    if not text.isprintable():
        raise FieldError(f"'{shown(text)}' has characters that cannot be printed", "Keep it to one line without control characters.")
    return text


def parse_script(value: object) -> str:
    """What a guest's shell runs."""
    text = parse_content(value, SCRIPT_LENGTH)
    if not text.strip():
        raise FieldError("there is nothing to run")
    return text


def parse_size(value: object, least: int = 1 << 20) -> int:
    """Bytes, from `384M`, `1G`, `2T` or a number of MiB."""
    if type(value) is int:
        size = value << 20 if value.bit_length() < 32 else LARGEST + 1
    else:
        text = matching(value, SIZE_PATTERN, "a size", "Write it like 384M, 1G or 2T; a number alone counts MiB.")
        size = int(text[:-1]) << _SIZES[text[-1]]
    if not least <= size <= LARGEST:
        raise FieldError(f"'{shown(value)}' is not between {format_size(least)} and {format_size(LARGEST)}")
    return size


def parse_memory(value: object) -> int:
    """The memory of a VM."""
    return parse_size(value, SMALLEST_MEMORY)


def parse_disk_size(value: object) -> int:
    return parse_size(value, SMALLEST_DISK)


def format_size(size: int) -> str:
    """The shortest text that `parse_size` reads as so many bytes, which are whole MiB."""
    unit = next(unit for unit in "TGM" if not size % (1 << _SIZES[unit]))
    return f"{size >> _SIZES[unit]}{unit}"


def parse_duration(value: object) -> int:
    """Seconds, from `90s`, `15m`, `2h`, `1d` or a number of seconds."""
    if type(value) is int:
        seconds = value
    else:
        text = matching(value, DURATION_PATTERN, "a duration", "Write it like 90s, 15m, 2h or 1d; a number alone counts seconds.")
        seconds = int(text[:-1]) * _SECONDS[text[-1]]
    if not 1 <= seconds <= LONGEST:
        raise FieldError(f"'{shown(value)}' is not between 1s and {format_duration(LONGEST)}")
    return seconds


def format_duration(seconds: int) -> str:
    """The shortest text that `parse_duration` reads as so many seconds."""
    unit = next(unit for unit in "dhms" if not seconds % _SECONDS[unit])
    return f"{seconds // _SECONDS[unit]}{unit}"


def parse_service(value: object) -> Service:
    """`tcp/80`, `udp/53`, `tcp/8000-8010` or `icmp`."""
    text = str(value) if type(value) is int else text_of(value)
    protocol, _, ports = text.partition("/")
    if protocol == Protocol.ICMP and ports:
        raise FieldError(f"'{shown(text)}': ICMP has no ports", "Write icmp.")
    if re.fullmatch(PORTS_PATTERN, text):
        raise lacking_protocol(text)
    matching(text, SERVICE_PATTERN, "a service", "Write it like tcp/80, udp/53, tcp/8000-8010 or icmp.")
    return Service(Protocol(protocol), *(parse_ports(ports) if ports else (0, 0)))


def lacking_protocol(ports: object) -> FieldError:
    """What to say where only ports stand for a service."""
    return FieldError(f"{shown(ports)} is a port without its protocol", f"Write the protocol, like tcp/{shown(ports)}.")


def parse_ports(value: object) -> tuple[int, int]:
    """First and last port, from `80` or `8000-8010`."""
    text = matching(
        str(value) if type(value) is int else value, PORTS_PATTERN, "a port or a range of ports", "Write it like 8080 or '8000-8010'."
    )
    start, _, end = text.partition("-")
    first, last = int(start), int(end or start)
    if not 1 <= first <= LAST_PORT or not 1 <= last <= LAST_PORT:
        raise FieldError(f"'{text}': ports go from 1 to {LAST_PORT}")
    if first > last:
        raise FieldError(f"the range '{text}' is the wrong way round", f"Write {last}-{first}.")
    return first, last


def parse_guest_path(value: object) -> str:
    """An absolute, normalized path in a guest."""
    wanted = "Write an absolute path of letters, digits and _ . + @ - without '.' or '..' as a part."
    text = matching(value, GUEST_PATH_PATTERN, "a path for a guest", wanted)
    if {".", ".."} & set(text.split("/")) or len(text) > TEXT_LENGTH:
        raise FieldError(f"'{shown(text)}' is not a path for a guest", wanted)
    return text


def parse_local_path(value: object) -> str:
    """A path on this machine; letters, digits and a few signs only, because it ends up in XML and in argv."""
    if isinstance(value, str) and _ADDRESS.match(value):
        raise FieldError(f"'{shown(value)}' is an address, not a path", "An image from an address is written {url: ..., sha256: ...}.")
    text = matching(value, LOCAL_PATH_PATTERN, "a path that vcloud takes", "Use letters, digits and _ . + @ - between the slashes.")
    if len(text) > TEXT_LENGTH:
        raise FieldError(f"this path has {len(text)} characters, at most {TEXT_LENGTH} are allowed")
    return text


def parse_source(value: object) -> str:
    """A path beside the vApp file: a file from a stranger must not read what lies elsewhere on this machine."""
    if isinstance(value, str) and _ADDRESS.match(value):
        raise FieldError(f"'{shown(value)}' is an address, not a path", "Fetch it, and name the file that you have then.")
    text = parse_local_path(value)
    if text.startswith("/") or ".." in text.split("/"):
        raise FieldError(
            f"'{shown(text)}' does not lie beside the vApp file", "Copy it there, and name it by a relative path without '..'."
        )
    return text


def parse_public_key(value: object) -> str:
    """One line of a .pub file, without options."""
    text = parse_content(value).strip()
    kind, _, rest = text.partition(" ")
    blob, _, comment = rest.partition(" ")
    if "PRIVATE KEY" in text:
        raise FieldError("this is a private key", "Remove it from the file and replace that key; only public keys (.pub) belong here.")
    if kind not in _KEY_TYPES or not comment.isprintable() or len(comment) > TEXT_LENGTH or not _holds_key(kind, blob):
        raise FieldError(
            f"'{shown(text)}' is not an OpenSSH public key",
            "Give one line of a .pub file, such as 'ssh-ed25519 AAAA... you@there', without options.",
        )
    return text


def _holds_key(kind: str, blob: str) -> bool:
    """Whether the base64 part begins with the same key type, and has a body."""
    try:
        data = binascii.a2b_base64(blob, strict_mode=True)
    except (binascii.Error, ValueError):
        return False
    return data.startswith(len(kind).to_bytes(4, "big") + kind.encode()) and len(data) > len(kind) + 4 + 32
