"""Compares the network in an appliance's kernel with what was delivered.

`guest report` prints one text for each item of the kernel's network: `route dmz 10.0.0.2/32`. It uses
the words of the identity document (images/base/guest/document.h) if the document has any for the
item. So the identity says which items must exist. No other item may exist, except those that the
kernel makes by itself.

To compare one more kind of item: let `guest report` print it, and add its claim to `CLAIM_OF`.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv6Interface,
    ip_address,
    ip_interface,
    ip_network,
)

from vcloud.untrusted import UnreadableError, as_text, items

Words = tuple[str, ...]
"""One item of the kernel's network: its kind, and the words that describe it."""
_PRINTABLE = re.compile(r"[!-~]+( [!-~]+)*")
LONGEST = 1024
"""Characters of one item."""
RULE_PRIORITY = 1000
"""Priority of the policy rules of an identity (images/base/guest/network.c)."""
MAIN_TABLE, LOCAL_TABLE = "254", "255"
VERSIONS = ("4", "6")
OWN_RULES: tuple[Words, ...] = (
    ("rule", "4", "0", "table", "255"),
    ("rule", "4", "32766", "table", "254"),
    ("rule", "4", "32767", "table", "253"),
    ("rule", "6", "0", "table", "255"),
    ("rule", "6", "32766", "table", "254"),
)
"""The policy rules that the kernel makes when it boots."""
OWN_QUEUES = frozenset({"noqueue", "pfifo_fast", "fq_codel", "fq", "mq"})
"""Queueing disciplines that the kernel gives a NIC by itself, with the handle 0."""
OWN_HOOKS = frozenset({"nf_conntrack", "nf_defrag_ipv4", "nf_defrag_ipv6", "nf_nat"})
"""Kernel modules that register netfilter hooks because vcloud's ruleset needs them."""
APPARMOR = ("apparmor_ip_postroute", "-")
"""A hook of the kernel itself, without a module. It checks packets that the machine's own programs
send.
"""
OWN_CHAIN: Words = ("1", "vcloud")
"""Family (inet) and table of vcloud's chains."""
KEPT_VERBS = frozenset(
    {"hostname", "nic", "sysctl", "addr", "neigh", "route", "rule", "route-mark", "disk"}
)
"""The directives that a guest stores unchanged for its next boot."""


class Claim(StrEnum):
    """One claim about the kernel's network. The value is part of the id of a check."""

    LINKS = "links"
    QUEUES = "traffic-control"
    ROUTING = "routing"
    SETTINGS = "settings"
    HOOKS = "hooks"
    FRAMES = "frames"


CLAIM_OF: Mapping[str, Claim] = {
    "link": Claim.LINKS,
    "program": Claim.LINKS,
    "proxy": Claim.LINKS,
    "qdisc": Claim.QUEUES,
    "filter": Claim.QUEUES,
    "up": Claim.ROUTING,
    "addr": Claim.ROUTING,
    "neigh": Claim.ROUTING,
    "route": Claim.ROUTING,
    "rule": Claim.ROUTING,
    "sysctl": Claim.SETTINGS,
    "hook": Claim.HOOKS,
    "frames": Claim.FRAMES,
}
"""First word of an item -> the claim that the item belongs to."""


def parse_network(report: object) -> tuple[Words, ...]:
    """The items at the key `network` of a report. Raises UnreadableError."""
    return tuple(map(_thing, items(report, "network")))


def _thing(value: object) -> Words:
    text = as_text(value)
    words = tuple(text.split(" "))
    if len(text) > LONGEST or not _PRINTABLE.fullmatch(text) or words[0] not in CLAIM_OF:
        raise UnreadableError("an item of the kernel's network is of an unknown kind")
    return words


def differences(
    identity: Sequence[str], found: Iterable[Words], *, frames: bool = False
) -> Mapping[Claim, tuple[str, ...]]:
    """What differs from an identity, claim by claim. A claim that holds has no differences.

    Args:
        identity: the lines that the guest was given.
        found: what it reports.
        frames: whether one program must read the frames of each NIC, as Suricata does.
    """
    wanted = Counter(_wanted(identity, frames=frames))
    # A foreign address is one difference. The routes that the kernel makes for it are not reported
    # as well.
    things = tuple(found)
    addresses = _addresses([*identity, *map(" ".join, things)])
    there = Counter(thing for thing in things if not _is_the_kernels(thing, addresses))
    missing, foreign = wanted - there, there - wanted
    named: dict[Claim, list[str]] = {claim: [] for claim in Claim}
    for thing in sorted(missing.elements()):
        named[CLAIM_OF[thing[0]]].append(_missing(thing, there))
    changed = {thing[:2] for thing in missing if thing[0] == "sysctl"}
    for thing in sorted(foreign.elements()):
        if thing[:2] not in changed:  # it is named above with both of its values
            named[CLAIM_OF[thing[0]]].append(f"foreign: {' '.join(thing)}")
    return {claim: tuple(texts) for claim, texts in named.items()}


def _missing(thing: Words, there: Iterable[Words]) -> str:
    if thing[0] != "sysctl":
        return f"missing: {' '.join(thing)}"
    value = next((" ".join(other[2:]) for other in there if other[:2] == thing[:2]), "unknown")
    return f"{thing[1]} is {value}, not {' '.join(thing[2:])}"


def kept_digest(identity: Iterable[str]) -> str:
    """The sha256 of the file in which a guest stores its identity for its next boot."""
    kept = []
    for line in identity:
        verb, *words = line.split(" ")
        if verb in KEPT_VERBS:
            kept.append(line)
        elif verb == "file":
            kept.append(f"had {words[0]}")
    return hashlib.sha256("".join(f"{line}\n" for line in kept).encode()).hexdigest()


def _wanted(identity: Iterable[str], *, frames: bool) -> Iterator[Words]:
    """The items that an identity makes, and those that every kernel has."""
    yield from OWN_RULES
    yield from (("link", "lo", "00:00:00:00:00:00", "-"), ("up", "lo"))
    settings: dict[str, Words] = {}
    for line in identity:
        match line.split(" "):
            case ["nic", mac, name]:
                yield from (("link", name, mac, "-"), ("up", name))
                if frames:
                    yield ("frames", name)
            case ["addr" | "neigh" | "route" as verb, *words]:
                yield (verb, *words)
            case ["sysctl", key, *value]:
                settings[key] = ("sysctl", key, *value)
            case ["rule", address, "table", table]:
                whole = ip_interface(address)
                version = str(whole.version)
                yield ("rule", version, str(RULE_PRIORITY), "from", str(whole), "table", table)
            case ["route-mark", mark]:
                for version in VERSIONS:
                    yield from _mark_rules(version, mark)
    yield from settings.values()


def _mark_rules(version: str, mark: str) -> Iterator[Words]:
    first = RULE_PRIORITY
    yield ("rule", version, str(first), "mark", mark, "table", MAIN_TABLE)
    yield ("rule", version, str(first + 1), "iif", "lo", "table", MAIN_TABLE)
    yield ("rule", version, str(first + 2), "blackhole")


Interface = IPv4Interface | IPv6Interface


def _addresses(lines: Iterable[str]) -> Mapping[str, tuple[Interface, ...]]:
    """NIC -> its addresses, from the lines of the identity and of a guest's report. Lines with an
    invalid address are skipped.
    """
    found: dict[str, tuple[Interface, ...]] = {}
    for line in lines:
        match line.split(" "):
            case ["addr", nic, address]:
                with suppress(ValueError):
                    found[nic] = (*found.get(nic, ()), ip_interface(address))
    return found


def _is_the_kernels(thing: Words, addresses: Mapping[str, tuple[Interface, ...]]) -> bool:
    """Whether the kernel makes this item by itself, so that it may exist but need not."""
    match thing:
        case ["qdisc", _, kind, "0"]:
            return kind in OWN_QUEUES
        case ["hook", _, _, _, _, _, "chain", *chain]:
            return tuple(chain[:2]) == OWN_CHAIN
        case ["hook", _, _, _, function, module]:
            return module in OWN_HOOKS or (function, module) == APPARMOR
        case ["addr", nic, address]:
            return (nic, address) in (("lo", "127.0.0.1/8"), ("lo", "::1/128")) or _is_link_local(
                address
            )
        case ["neigh", nic, address, mac, "noarp"]:
            return mac == _kernels_mac(nic, address, addresses.get(nic, ()))
        case ["route", nic, prefix, "kernel"]:
            return _is_link_local(prefix) or any(
                prefix == str(address.network) for address in addresses.get(nic, ())
            )
        case ["route", nic, prefix, "table", "255", "kernel"]:
            return prefix in _local_routes(addresses.get(nic, ())) or _is_link_local(prefix)
    return False


def _kernels_mac(nic: str, text: str, own: Iterable[Interface]) -> str:
    """The MAC address at which the kernel itself lets a NIC find an address without ARP or ND: that
    of the loopback, of a group (RFC 1112, RFC 2464) or of all. Empty if it asks for the address.
    """
    try:
        address = ip_address(text)
    except ValueError:
        return ""
    if nic == "lo":
        return "00:00:00:00:00:00"
    if address.is_multicast and address.version == 4:
        return (b"\x01\x00\x5e" + (int(address) & 0x7FFFFF).to_bytes(3)).hex(":")
    if address.is_multicast:
        return (b"\x33\x33" + address.packed[-4:]).hex(":")
    everybody = {IPv4Address("255.255.255.255")} | {
        one.network.broadcast_address for one in own if one.version == 4
    }
    return "ff:ff:ff:ff:ff:ff" if address in everybody else ""


def _local_routes(addresses: Iterable[Interface]) -> Iterator[str]:
    """The routes that the kernel puts into its local table for a NIC with these addresses."""
    yield from ("ff00::/8",)
    for address in addresses:
        if address.version == 4:
            yield str(address.network)  # of the loopback
        whole = address.max_prefixlen
        ends = (address.network[0], address.network[-1])
        yield from (f"{one}/{whole}" for one in (address.ip, *ends))


def _is_link_local(prefix: str) -> bool:
    try:
        return ip_network(prefix, strict=False).is_link_local and ":" in prefix
    except ValueError:
        return False
