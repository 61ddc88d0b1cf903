"""Domains and networks of a host: define, start, stop, remove.

Each function is idempotent, so that an interrupted run can simply be repeated: defining what is defined redefines it, starting what runs
and stopping what is gone do nothing.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from xml.etree import ElementTree

import libvirt

from vcloud.errors import GuestError, HostError
from vcloud.hosts.agent import Agent
from vcloud.hosts.connection import Host, found_or_none, message_of, translated
from vcloud.marks import NAMESPACE, VmMarks

METADATA_KEY = "vcloud"
SHUTDOWN_TIMEOUT = 30
AGENT_PATIENCE = 10
"""Seconds for the agent of a guest that has just gone on from its saved memory."""
CLOCK_TIMEOUT = 30
WHOLLY = (
    libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
)


def make_network(host: Host, name: str, xml: str) -> None:
    """Defines a network, starts it and lets it start with the host."""
    with translated(f"the network '{name}' could not be made on {host.name}"):
        network = host.connection.networkDefineXML(xml)
        if not network.isActive():
            network.create()
        network.setAutostart(1)


def remove_network(host: Host, name: str) -> None:
    with translated(f"the network '{name}' could not be removed from {host.name}"):
        network = found_or_none(host.connection.networkLookupByName, name)
        if network is None:
            return
        if network.isActive():
            network.destroy()
        found_or_none(network.undefine)  # one that was not kept went when it ended


def define_filter(host: Host, name: str, xml: str) -> None:
    """Defines a network filter, in place of one of the same UUID. libvirt takes the old one off every NIC for a moment while it does."""
    with translated(f"the network filter '{name}' could not be defined on {host.name}"):
        host.connection.nwfilterDefineXML(xml)


def why_no_filters(host: Host) -> str:
    """Why the host's libvirt has no network filters; empty where it has them."""
    try:
        host.connection.numOfNWFilters()
    except libvirt.libvirtError as error:
        return message_of(error)
    return ""


def remove_filter(host: Host, uuid: str) -> None:
    with translated(f"a network filter could not be removed from {host.name}"):
        there = found_or_none(host.connection.nwfilterLookupByUUIDString, uuid)
        if there is not None:
            there.undefine()


def define_domain(host: Host, name: str, xml: str) -> libvirt.virDomain:
    """Defines a domain, and starts nothing."""
    with translated(f"'{name}' could not be defined on {host.name}"):
        return host.connection.defineXMLFlags(xml, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)


def plug(host: Host, name: str, devices: Iterable[str]) -> None:
    """Plugs devices into a running domain. Its definition has them already."""
    with translated(f"a device could not be plugged into '{name}' on {host.name}"):
        domain = _present(host, name)
        for device in devices:
            domain.attachDeviceFlags(device, libvirt.VIR_DOMAIN_AFFECT_LIVE)


def start_domain(host: Host, name: str, xml: str) -> None:
    """Defines a domain and starts it; a running one of that name is left as it is."""
    with translated(f"'{name}' could not be started on {host.name}"):
        domain = define_domain(host, name, xml)
        if not domain.isActive():
            domain.create()


def resume_domain(host: Host, name: str) -> None:
    """Lets a paused domain go on."""
    with translated(f"'{name}' could not be resumed on {host.name}"):
        _present(host, name).resume()


def save_domain(host: Host, name: str) -> None:
    """Stops a running domain and keeps its memory on the host, as `virsh managedsave`: its next start goes on where it was."""
    with translated(f"the memory of '{name}' could not be saved on {host.name}"):
        domain = _present(host, name)
        if domain.isActive():
            domain.managedSave(libvirt.VIR_DOMAIN_SAVE_RUNNING)


def restore_domain(host: Host, name: str, *, linked: bool) -> None:
    """Lets a domain go on from its saved memory, with its console's log continued; unless `linked`, with every link cut before it runs.

    Raises HostError when libvirt refuses it; the domain may then be there, paused.
    """
    with translated(f"'{name}' could not be restored on {host.name}"):
        domain = _present(host, name)
        xml = domain.managedSaveGetXMLDesc(libvirt.VIR_DOMAIN_SAVE_IMAGE_XML_SECURE)  # fails where libvirt itself would boot in silence
        domain.managedSaveDefineXML(_with_its_log(xml))
        domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
        if not linked:
            cut_links(host, name)
        domain.resume()


def set_clock(host: Host, name: str) -> bool:
    """Whether the guest agent of a running domain has set its clock to the time of here.

    By `date` where the agent may run it: guest-set-time says that it has failed wherever the guest has no hwclock, as Debian 13.
    """
    with translated(f"'{name}' is not on {host.name}"):
        domain = _present(host, name)
    with contextlib.suppress(GuestError):
        agent = Agent(domain)
        agent.wait(AGENT_PATIENCE)
        if agent.execute(["date", "--utc", f"--set=@{time.time():.6f}"], timeout=CLOCK_TIMEOUT).code == 0:
            return True
    now = time.time()
    with contextlib.suppress(libvirt.libvirtError):
        domain.setTime({"seconds": int(now), "nseconds": int(now % 1 * 1e9)})
        return True
    return False


def _with_its_log(xml: str) -> str:
    """The same domain, whose console's log is not begun anew."""
    root = ElementTree.fromstring(xml)  # noqa: S314 - libvirt's own XML
    for log in root.iter("log"):
        log.set("append", "on")
    return ElementTree.tostring(root, encoding="unicode")


def stop_domain(host: Host, name: str, *, gently: bool) -> None:
    """Stops a domain: `gently` asks the guest first and waits."""
    with translated(f"'{name}' could not be stopped on {host.name}"):
        domain = found_or_none(host.connection.lookupByName, name)
        if domain is None or not domain.isActive():
            return
        if gently:
            _ask_to_shut_down(domain)
        if _runs(domain):
            domain.destroy()


def _ask_to_shut_down(domain: libvirt.virDomain) -> None:
    """By the agent or, where none answers, by the power button."""
    try:
        domain.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_GUEST_AGENT)
    except libvirt.libvirtError:
        domain.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)
    deadline = time.monotonic() + SHUTDOWN_TIMEOUT
    while _runs(domain) and time.monotonic() < deadline:
        time.sleep(0.2)


def _runs(domain: libvirt.virDomain) -> bool:
    """Also of a domain that somebody has undefined while it ran: it is gone when it ends."""
    return bool(found_or_none(domain.isActive))


def forget_memory(host: Host, name: str) -> None:
    """Discards what `virsh managedsave` kept of a stopped domain: it would start with the hardware of that moment."""
    with translated(f"the saved memory of '{name}' could not be discarded on {host.name}"):
        domain = found_or_none(host.connection.lookupByName, name)
        if domain is not None and not domain.isActive() and domain.hasManagedSaveImage():
            domain.managedSaveRemove()


def remove_domain(host: Host, name: str) -> None:
    """Destroys and undefines a domain; its volumes are somebody else's work."""
    with translated(f"'{name}' could not be removed from {host.name}"):
        domain = found_or_none(host.connection.lookupByName, name)
        if domain is None:
            return
        if domain.isActive():
            domain.destroy()
        found_or_none(domain.undefineFlags, WHOLLY)  # one that was not kept went when it ended


def set_link(host: Host, name: str, interface_xml: str) -> None:
    """Raises or cuts the link of one card of a running domain; the definition keeps its own state."""
    with translated(f"a link of '{name}' could not be set on {host.name}"):
        _present(host, name).updateDeviceFlags(interface_xml, libvirt.VIR_DOMAIN_AFFECT_LIVE)


def cut_links(host: Host, name: str) -> None:
    """Cuts every link of a running domain, whatever its cards look like."""
    with translated(f"the links of '{name}' could not be cut on {host.name}"):
        domain = found_or_none(host.connection.lookupByName, name)
        if domain is None or not domain.isActive():
            return
        for card in ElementTree.fromstring(domain.XMLDesc()).iter("interface"):  # noqa: S314 - libvirt's own XML
            link = card.find("link")
            if link is not None and link.get("state") == "down":
                continue
            if link is None:
                link = ElementTree.SubElement(card, "link")
            link.set("state", "down")
            domain.updateDeviceFlags(ElementTree.tostring(card, encoding="unicode"), libvirt.VIR_DOMAIN_AFFECT_LIVE)


def mark_domain(host: Host, name: str, marks: VmMarks) -> None:
    """Writes vcloud's mark into the domain's metadata: into the definition, if the domain has one, and into the running domain."""
    element = ElementTree.Element("vm", marks.attributes())
    with translated(f"'{name}' could not be marked on {host.name}"):
        domain = _present(host, name)
        flags = libvirt.VIR_DOMAIN_AFFECT_LIVE if domain.isActive() else 0
        flags |= libvirt.VIR_DOMAIN_AFFECT_CONFIG if domain.isPersistent() else 0
        text = ElementTree.tostring(element, encoding="unicode")
        domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, text, METADATA_KEY, NAMESPACE, flags)


def agent_of(host: Host, name: str) -> Agent:
    """The guest agent of a domain. Raises HostError when there is no such domain."""
    with translated(f"'{name}' is not on {host.name}"):
        return Agent(_present(host, name))


def is_running(host: Host, name: str) -> bool:
    with translated(f"'{name}' could not be looked at on {host.name}"):
        domain = found_or_none(host.connection.lookupByName, name)
        return domain is not None and bool(domain.isActive())


def _present(host: Host, name: str) -> libvirt.virDomain:
    domain = found_or_none(host.connection.lookupByName, name)
    if domain is None:
        raise HostError(f"there is no domain '{name}' on {host.name}", "vcloud status shows what is there.")
    return domain
