"""Domains, networks and network filters of a host: defines, starts, stops and removes them.

Each function can be repeated, so a command that was interrupted can simply be run again. To define
an object that exists redefines it. To start a running domain, or to stop or remove an object that
does not exist, does nothing.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from xml.etree import ElementTree

import libvirt

from vcloud.compile.libvirt.record import render_vm_marks
from vcloud.errors import GuestError, HostError
from vcloud.hosts.agent import Agent
from vcloud.hosts.connection import Host, found_or_none, message_of, translated
from vcloud.marks import NAMESPACE, VmMarks

METADATA_KEY = "vcloud"
SHUTDOWN_TIMEOUT = 30
"""Seconds that a guest gets to shut down before libvirt destroys the domain."""
AGENT_TIMEOUT = 10
"""Seconds to wait for the guest agent of a VM that was just restored from its saved memory."""
CLOCK_TIMEOUT = 30
"""Seconds that `date` may take in the guest."""
UNDEFINE_FLAGS = (
    libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
)
"""libvirt refuses to undefine a domain with a saved memory, snapshots or checkpoints unless these
flags are given.
"""


def make_network(host: Host, name: str, xml: str) -> None:
    """Defines a network, starts it and marks it to start with the host."""
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
        found_or_none(network.undefine)  # a transient network has disappeared when it was destroyed


def define_filter(host: Host, name: str, xml: str) -> None:
    """Defines a network filter, or redefines the filter of the same UUID.

    While libvirt redefines a filter, it takes the old rules off every NIC for a moment.
    """
    with translated(f"the network filter '{name}' could not be defined on {host.name}"):
        host.connection.nwfilterDefineXML(xml)


def why_no_filters(host: Host) -> str:
    """Why the host's libvirt has no network filters. Empty if it has them."""
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
    """Defines a domain without starting it."""
    with translated(f"'{name}' could not be defined on {host.name}"):
        return host.connection.defineXMLFlags(xml, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)


def attach_devices(host: Host, name: str, devices: Iterable[str]) -> None:
    """Attaches devices to a running domain only. The persistent definition of the domain has them
    already.
    """
    with translated(f"a device could not be plugged into '{name}' on {host.name}"):
        domain = _domain(host, name)
        for device in devices:
            domain.attachDeviceFlags(device, libvirt.VIR_DOMAIN_AFFECT_LIVE)


def start_domain(host: Host, name: str, xml: str) -> None:
    """Defines a domain and starts it. A running domain of that name keeps running as it is."""
    with translated(f"'{name}' could not be started on {host.name}"):
        domain = define_domain(host, name, xml)
        if not domain.isActive():
            domain.create()


def resume_domain(host: Host, name: str) -> None:
    """Resumes a paused domain."""
    with translated(f"'{name}' could not be resumed on {host.name}"):
        _domain(host, name).resume()


def save_domain(host: Host, name: str) -> None:
    """Saves the memory of a running domain on the host and stops it, as `virsh managedsave` does.

    The next start of the domain continues from the saved memory.
    """
    with translated(f"the memory of '{name}' could not be saved on {host.name}"):
        domain = _domain(host, name)
        if domain.isActive():
            domain.managedSave(libvirt.VIR_DOMAIN_SAVE_RUNNING)


def restore_domain(host: Host, name: str, *, linked: bool) -> None:
    """Starts a domain from its saved memory and keeps the content of its console log.

    Unless `linked`, all links of the domain are set down before its processors run.

    Raises HostError if libvirt refuses it. The domain may then exist in the paused state.
    """
    with translated(f"'{name}' could not be restored on {host.name}"):
        domain = _domain(host, name)
        # If the saved memory is missing, this call fails. Without this call, libvirt would
        # silently boot the guest from its disk.
        xml = domain.managedSaveGetXMLDesc(libvirt.VIR_DOMAIN_SAVE_IMAGE_XML_SECURE)
        domain.managedSaveDefineXML(_with_appended_log(xml))
        domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
        if not linked:
            cut_links(host, name)
        domain.resume()


def set_clock(host: Host, name: str) -> bool:
    """Sets the clock of a running guest to the time of this machine. Returns whether it succeeded.

    The guest agent runs `date` if it may. The agent's own command guest-set-time is only the second
    choice: it reports a failure in every guest without hwclock, such as Debian 13.
    """
    with translated(f"'{name}' is not on {host.name}"):
        domain = _domain(host, name)
    with contextlib.suppress(GuestError):
        agent = Agent(domain)
        agent.wait(AGENT_TIMEOUT)
        if (
            agent.execute(
                ["date", "--utc", f"--set=@{time.time():.6f}"], timeout=CLOCK_TIMEOUT
            ).code
            == 0
        ):
            return True
    now = time.time()
    with contextlib.suppress(libvirt.libvirtError):
        domain.setTime({"seconds": int(now), "nseconds": int(now % 1 * 1e9)})
        return True
    return False


def _with_appended_log(xml: str) -> str:
    """The XML of the same domain, changed so that its console log is continued and not emptied."""
    root = ElementTree.fromstring(xml)  # noqa: S314 - libvirt's own XML
    for log in root.iter("log"):
        log.set("append", "on")
    return ElementTree.tostring(root, encoding="unicode")


def stop_domain(host: Host, name: str, *, graceful: bool) -> None:
    """Stops a domain. With `graceful`, the guest is first asked to shut down, and gets some time to
    do it.
    """
    with translated(f"'{name}' could not be stopped on {host.name}"):
        domain = found_or_none(host.connection.lookupByName, name)
        if domain is None or not domain.isActive():
            return
        if graceful:
            _shut_down(domain)
        if _runs(domain):
            domain.destroy()


def _shut_down(domain: libvirt.virDomain) -> None:
    """Asks the guest to shut down: through its agent or, if no agent answers, through the ACPI
    power button. Waits for the end.
    """
    try:
        domain.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_GUEST_AGENT)
    except libvirt.libvirtError:
        domain.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)
    deadline = time.monotonic() + SHUTDOWN_TIMEOUT
    while _runs(domain) and time.monotonic() < deadline:
        time.sleep(0.2)


def _runs(domain: libvirt.virDomain) -> bool:
    """Whether a domain runs. False if it does not exist, as a transient domain does not after its
    end.
    """
    return bool(found_or_none(domain.isActive))


def discard_saved_memory(host: Host, name: str) -> None:
    """Deletes the memory that `virsh managedsave` stored for a stopped domain.

    Otherwise the domain would start with the virtual hardware that it had when its memory was
    saved.
    """
    with translated(f"the saved memory of '{name}' could not be discarded on {host.name}"):
        domain = found_or_none(host.connection.lookupByName, name)
        if domain is not None and not domain.isActive() and domain.hasManagedSaveImage():
            domain.managedSaveRemove()


def remove_domain(host: Host, name: str) -> None:
    """Destroys and undefines a domain. It does not delete the domain's volumes."""
    with translated(f"'{name}' could not be removed from {host.name}"):
        domain = found_or_none(host.connection.lookupByName, name)
        if domain is None:
            return
        if domain.isActive():
            domain.destroy()
        # A transient domain has disappeared when it was destroyed.
        found_or_none(domain.undefineFlags, UNDEFINE_FLAGS)


def set_link(host: Host, name: str, interface_xml: str) -> None:
    """Sets the link of one NIC of a running domain up or down. The persistent definition does not
    change.
    """
    with translated(f"a link of '{name}' could not be set on {host.name}"):
        _domain(host, name).updateDeviceFlags(interface_xml, libvirt.VIR_DOMAIN_AFFECT_LIVE)


def cut_links(host: Host, name: str) -> None:
    """Sets every link of a running domain down, whatever NICs the domain has."""
    with translated(f"the links of '{name}' could not be cut on {host.name}"):
        domain = found_or_none(host.connection.lookupByName, name)
        if domain is None or not domain.isActive():
            return
        for nic in ElementTree.fromstring(domain.XMLDesc()).iter("interface"):  # noqa: S314 - libvirt's own XML
            link = nic.find("link")
            if link is not None and link.get("state") == "down":
                continue
            if link is None:
                link = ElementTree.SubElement(nic, "link")
            link.set("state", "down")
            domain.updateDeviceFlags(
                ElementTree.tostring(nic, encoding="unicode"), libvirt.VIR_DOMAIN_AFFECT_LIVE
            )


def mark_domain(host: Host, name: str, marks: VmMarks) -> None:
    """Writes vcloud's marks into the metadata of a running domain and, if the domain is persistent,
    into its definition.
    """
    with translated(f"'{name}' could not be marked on {host.name}"):
        domain = _domain(host, name)
        flags = libvirt.VIR_DOMAIN_AFFECT_LIVE if domain.isActive() else 0
        flags |= libvirt.VIR_DOMAIN_AFFECT_CONFIG if domain.isPersistent() else 0
        domain.setMetadata(
            libvirt.VIR_DOMAIN_METADATA_ELEMENT,
            render_vm_marks(marks.attributes()),
            METADATA_KEY,
            NAMESPACE,
            flags,
        )


def agent_of(host: Host, name: str) -> Agent:
    """The guest agent of a domain. Raises HostError if there is no such domain."""
    with translated(f"'{name}' is not on {host.name}"):
        return Agent(_domain(host, name))


def is_running(host: Host, name: str) -> bool:
    with translated(f"the state of '{name}' could not be read on {host.name}"):
        domain = found_or_none(host.connection.lookupByName, name)
        return domain is not None and bool(domain.isActive())


def _domain(host: Host, name: str) -> libvirt.virDomain:
    domain = found_or_none(host.connection.lookupByName, name)
    if domain is None:
        raise HostError(
            f"there is no domain '{name}' on {host.name}", "`vcloud status` shows what exists."
        )
    return domain
