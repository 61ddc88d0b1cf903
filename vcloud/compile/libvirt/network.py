"""A zone's libvirt network XML: a bridge with neither address nor forwarding, so the host is no part of the zone."""

from __future__ import annotations

from vcloud.compile.environment import render
from vcloud.compile.libvirt.domain import METADATA_NAMESPACE
from vcloud.design.model import Network, Zone


def zone_networks(zone: Zone) -> tuple[Network, ...]:
    """The VMs' side and, in an inspected zone, the firewall's side."""
    return (zone.network, zone.inner) if zone.inspected else (zone.network,)


def render_network(vapp: str, zone: Zone, network: Network) -> str:
    return render("libvirt/network.xml.j2", namespace=METADATA_NAMESPACE, vapp=vapp, zone=zone.name, network=network)
