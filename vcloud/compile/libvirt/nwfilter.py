"""A vApp's libvirt network filters: what frames the host lets a workload send.

The host drops every frame with another source MAC address than the VM's own. Without that the
bridge would believe any source address, and would send frames for the real owner of that address to
the sender. With it the firewall can rely on NIC and MAC address to know who sent a packet. The
firewall itself checks IP addresses.

In a zone that is not open, a VM reaches only the firewall. The host's own end of the bridge is a
neighbour, too: it has no address there, and yet Linux answers ARP for each address of the host, and
takes in what is sent to one. So the filter lets pass frames for the firewall's MAC addresses, ARP,
and IPv6 multicast, by which neighbours are found (the host's bridge has no IPv6). Broadcast frames
with IPv4 do not pass, because they, too, can hold a packet for an address of the host.

Appliances have no filter, because they forward frames of others. See
https://libvirt.org/formatnwfilter.html.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vcloud.compile.environment import render
from vcloud.design.model import Design
from vcloud.design.names import filter_name, filter_uuid

BROADCAST = "ff:ff:ff:ff:ff:ff"
IPV6_MULTICAST, IPV6_MULTICAST_MASK = "33:33:00:00:00:00", "ff:ff:00:00:00:00"
"""RFC 2464, section 7."""


@dataclass(frozen=True, slots=True)
class FilterRule:
    """One rule for the frames that a NIC sends. The first rule that fits decides."""

    verdict: str
    """`return`: the frame passes; `drop`."""
    forged: bool = False
    """Only frames whose source is not the NIC's own MAC address."""
    target: str = ""
    """Only frames to this MAC address; empty: to any."""
    mask: str = ""
    """The bits of `target` that count; empty: all."""
    protocol: str = ""
    """libvirt's name of the protocol in the frame; empty: any."""


FORGED = FilterRule("drop", forged=True)
OPEN_RULES = (FORGED, FilterRule("return"))
"""Neighbours in an open zone send each other what they like."""


def closed_rules(design: Design) -> tuple[FilterRule, ...]:
    """The rules for NICs in zones that are not open."""
    gateways = sorted({zone.gateway.mac for zone in design.zones})
    return (
        FORGED,
        *(FilterRule("return", target=mac) for mac in gateways),
        FilterRule("return", target=BROADCAST, protocol="arp"),
        FilterRule("return", target=IPV6_MULTICAST, mask=IPV6_MULTICAST_MASK, protocol="ipv6"),
        FilterRule("drop"),
    )


def render_filters(design: Design) -> Iterator[tuple[str, str]]:
    """Name and XML of each network filter of a vApp."""
    instance = design.instance.name
    yield (
        filter_name(instance),
        _render(filter_name(instance), filter_uuid(instance), closed_rules(design)),
    )
    if any(zone.open for zone in design.zones):
        name = filter_name(instance, open_zones=True)
        yield name, _render(name, filter_uuid(instance, open_zones=True), OPEN_RULES)


def _render(name: str, uuid: str, rules: tuple[FilterRule, ...]) -> str:
    return render("libvirt/nwfilter.xml.j2", name=name, uuid=uuid, rules=rules)


@dataclass(frozen=True, slots=True)
class FilterBinding:
    """A NIC of a running domain, and the network filter that libvirt applies to it."""

    domain: str
    uuid: str
    tap: str
    mac: str
    filter: str


def render_filter_binding(binding: FilterBinding) -> str:
    """See https://libvirt.org/formatnwfilter.html (filter bindings)."""
    return render("libvirt/filter-binding.xml.j2", binding=binding)
