"""A vApp's libvirt network filter: what a workload sends carries its own MAC address, or the host drops it at the VM's own port.

The bridge would believe any source address, and would send on to the sender what is meant for the VM that it belongs to. With the filter
the firewall can tell by card, MAC and address who sent a packet; the addresses it checks itself. Appliances have no filter: they forward
what others have sent. See https://libvirt.org/formatnwfilter.html.
"""

from __future__ import annotations

from vcloud.compile.environment import render
from vcloud.design.addressing import uuid_of


def filter_name(vapp: str) -> str:
    return f"vcloud-{vapp}"


def filter_uuid(vapp: str) -> str:
    """By which a filter of that name is known to be the vApp's, and not somebody else's."""
    return uuid_of("filter", vapp)


def render_filter(vapp: str) -> str:
    return render("libvirt/nwfilter.xml.j2", name=filter_name(vapp), uuid=filter_uuid(vapp))
