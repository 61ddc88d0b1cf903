"""libvirt's XML of networks: those of a zone, and those that connect firewalls to the outside.

A zone's network is a bridge without an address of the host and without forwarding, so the host is
not part of the zone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address

from vcloud.compile.environment import render
from vcloud.design.model import Design, Network, Uplink, Zone
from vcloud.design.names import network_uuid
from vcloud.marks import NAMESPACE


@dataclass(frozen=True, slots=True)
class NatView:
    """A NAT network as its template prints it."""

    name: str
    uuid: str
    bridge: str
    gateway4: IPv4Address
    length4: int
    gateway6: str
    """Empty where the network has no IPv6."""
    length6: int


def zone_networks(zone: Zone) -> tuple[Network, ...]:
    """The VMs' side and, in an inspected zone, the firewall's side."""
    return (zone.network, zone.inner) if zone.inspected else (zone.network,)


def vapp_networks(design: Design) -> Iterator[tuple[Zone, Network]]:
    """All networks of a vApp, each with its zone."""
    for zone in design.zones:
        for network in zone_networks(zone):
            yield zone, network


def render_network(network: Network, marks: Mapping[str, str]) -> str:
    """The network's XML. `marks` are the attributes of vcloud's element in the metadata; empty for
    XML that is compared.
    """
    return render("libvirt/network.xml.j2", namespace=NAMESPACE, network=network, marks=marks)


def render_bridge_network(name: str, uuid: str, bridge: str) -> str:
    """A network on a bridge that somebody else has made."""
    return render("libvirt/bridge-network.xml.j2", name=name, uuid=uuid, bridge=bridge)


def render_nat_network(name: str, bridge: str, uplink: Uplink) -> str:
    """A network for which the host routes and does NAT, but answers neither DHCP nor DNS. The host
    has the uplink's gateway addresses.
    """
    view = NatView(
        name=name,
        uuid=network_uuid(name),
        bridge=bridge,
        gateway4=uplink.gateway4,
        length4=uplink.address4.network.prefixlen,
        gateway6=str(uplink.gateway6) if uplink.address6 and uplink.gateway6 else "",
        length6=uplink.address6.network.prefixlen if uplink.address6 else 0,
    )
    return render("libvirt/nat-network.xml.j2", view=view)
