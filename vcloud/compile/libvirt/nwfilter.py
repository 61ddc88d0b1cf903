"""A vApp's libvirt network filter: the host drops every frame that a workload sends with another
source MAC address than its own.

Without the filter the bridge would believe any source address, and would send frames for the real
owner of that address to the sender. With it the firewall can rely on NIC and MAC address to know
who sent a packet. The firewall itself checks IP addresses. Appliances have no filter, because they
forward frames of others. See https://libvirt.org/formatnwfilter.html.
"""

from __future__ import annotations

from dataclasses import dataclass

from vcloud.compile.environment import render
from vcloud.design.names import filter_name, filter_uuid


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


def render_filter(instance: str) -> str:
    """The filter of an instance, by its name on the host."""
    return render("libvirt/nwfilter.xml.j2", name=filter_name(instance), uuid=filter_uuid(instance))
