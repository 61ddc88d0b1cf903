"""A zone's libvirt network XML: a bridge with neither address nor forwarding, so the host is no part of the zone."""

from __future__ import annotations

from collections.abc import Mapping

from vcloud.compile.environment import render
from vcloud.design.model import Network, Zone
from vcloud.marks import NAMESPACE


def zone_networks(zone: Zone) -> tuple[Network, ...]:
    """The VMs' side and, in an inspected zone, the firewall's side."""
    return (zone.network, zone.inner) if zone.inspected else (zone.network,)


def render_network(network: Network, marks: Mapping[str, str]) -> str:
    """The network's XML. `marks` are the attributes of vcloud's element in the metadata; none for a text that is compared."""
    return render("libvirt/network.xml.j2", namespace=NAMESPACE, network=network, marks=marks)
