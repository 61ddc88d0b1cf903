"""UUIDs, MAC addresses and IP addresses as hashes of names.

Nothing is numbered in the order of the file: a new VM or zone does not change the addresses of the
others, on any host and in any run. Where two names have the same hash, the name that is later in
the alphabet takes the next free number.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://vcloud.dev/ns/1")
ZONE_BITS = 12
"""A zone is one of the 4,096 networks of size /20 in 10.0.0.0/8."""
HOST_BITS = 12
"""A zone has room for 4,093 VMs beside its gateway."""
FIRST_HOST = 2


def hash_number(bits: int, *path: str) -> int:
    """A number of that many bits that depends on nothing but the path."""
    text = "/".join(path).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:16], "big") >> (128 - bits)


def uuid_of(*path: str) -> str:
    return str(uuid.uuid5(NAMESPACE, "/".join(path)))


def mac_of(vapp: str, vm: str, zone: str) -> str:
    """A locally administered unicast address: the prefix `52:54:`, then 32 bits of hash."""
    number = hash_number(32, vapp, vm, zone, "mac")
    return "52:54:" + ":".join(f"{byte:02x}" for byte in number.to_bytes(4, "big"))


def device_name(prefix: str, *path: str) -> str:
    """A name for an interface on the host that fits IFNAMSIZ: two letters and ten hexadecimal
    digits.
    """
    return f"{prefix}{hash_number(40, *path):010x}"


def spread(names: Iterable[str], bits: int, first: int, last: int, *path: str) -> dict[str, int]:
    """A number between `first` and `last` (inclusive) for each name, all different. Raises
    ValueError when there are too few numbers.
    """
    ordered = sorted(names)
    if len(ordered) > last - first + 1:
        raise ValueError(f"{len(ordered)} names do not fit into {last - first + 1} numbers")
    taken: set[int] = set()
    numbers = {}
    for name in ordered:
        number = first + hash_number(bits, *path, name) % (last - first + 1)
        # The next number, and after the last one the first.
        while number in taken:
            number = first + (number - first + 1) % (last - first + 1)
        taken.add(number)
        numbers[name] = number
    return numbers


def zone_prefixes(vapp: str, zones: Iterable[str]) -> dict[str, tuple[IPv4Network, IPv6Network]]:
    """A /20 and a /64 for each zone. The IPv6 prefix is a unique local one (RFC 4193) that belongs
    to the vApp.
    """
    # fd, then 40 bits that RFC 4193 wants random; a hash keeps them the same everywhere.
    site = (0xFD << 120) | (hash_number(40, vapp, "site") << 80)
    return {
        zone: (
            IPv4Network(((10 << 24) | (slot << HOST_BITS), 32 - HOST_BITS)),
            IPv6Network((site | (slot << 64), 64)),
        )
        for zone, slot in spread(zones, 32, 0, 2**ZONE_BITS - 1, vapp, "zone").items()
    }


def vm_numbers(vapp: str, zone: str, vms: Iterable[str]) -> dict[str, int]:
    """The number of each VM in its zone. It is the same in IPv4 and IPv6."""
    # 0 is the network itself, 1 the gateway, and the last number of a /20 is the broadcast address.
    return spread(vms, 32, FIRST_HOST, 2**HOST_BITS - 2, vapp, zone, "vm")


def address_in(
    prefix4: IPv4Network, prefix6: IPv6Network, number: int
) -> tuple[IPv4Address, IPv6Address]:
    return prefix4[number], prefix6[number]
