"""Reads what `ip -json` says of a machine: its network cards, and the networks beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_interface

from vcloud.untrusted import UnreadableError, as_list, as_mapping, number, parse_json, text
from vcloud.values import Network

ADDRESSES = ("ip", "-json", "address")
ROUTES = (("ip", "-json", "-4", "route"), ("ip", "-json", "-6", "route"))
"""The commands whose output is read here."""


@dataclass(frozen=True, slots=True)
class Card:
    """A network card of a machine."""

    name: str
    addresses: tuple[IPv4Address | IPv6Address, ...]
    """Those that are not for the machine or the link alone."""
    networks: tuple[Network, ...]
    """The networks of these addresses, or of the other ends of their wires."""


def cards_in(listing: bytes) -> Iterator[Card]:
    """Each network card that `ip -json address` lists. Raises UnreadableError."""
    for card in map(as_mapping, as_list(parse_json(listing or b"[]"))):
        addresses = map(as_mapping, as_list(card.get("addr_info", [])))
        found = []
        for address in (one for one in addresses if one.get("scope") == "global"):
            local, length = text(address, "local"), number(address, "prefixlen")
            # Where the other end of a wire has an address of its own, the length is that of its network.
            peer = text(address, "address") if "address" in address else local
            found.append((_address(local).ip, _address(f"{peer}/{length}").network))
        ips, networks = [ip for ip, _ in found], [network for _, network in found]
        yield Card(text(card, "ifname"), tuple(ips), tuple(networks))


def networks_without_router(listing: bytes) -> Iterator[Network]:
    """The networks that a machine reaches without a router, as `ip -json route` lists them. Raises
    UnreadableError.
    """
    for route in map(as_mapping, as_list(parse_json(listing or b"[]"))):
        target = text(route, "dst")
        if target == "default" or route.get("type", "unicast") != "unicast":
            continue
        if not route.keys() & {"gateway", "via", "nexthops"}:
            yield _address(target).network


def _address(written: str) -> IPv4Interface | IPv6Interface:
    try:
        return ip_interface(written)
    except ValueError:
        raise UnreadableError(f"'{written[:80]}' is no address") from None
