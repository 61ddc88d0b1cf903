"""Domains, networks and network filters of a host: defines, starts, stops and removes them.

Each function can be repeated, so a command that was interrupted can simply be run again. To define
an object that exists redefines it. To start a running domain, or to stop or remove an object that
does not exist, does nothing.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from xml.etree import ElementTree

import libvirt

from vcloud.compile.libvirt.nwfilter import FilterBinding, render_filter_binding
from vcloud.compile.libvirt.record import render_vm_marks
from vcloud.errors import GuestError, HostError
from vcloud.hosts.agent import Agent
from vcloud.hosts.connection import Host, found_or_none, message_of, translated
from vcloud.hosts.metadata import parse, to_text
from vcloud.hosts.sealing import sealing_of
from vcloud.hosts.signing import signed
from vcloud.hosts.terms import refuse_other_devices, set_terms, with_terms
from vcloud.marks import CONNECTED_NAMESPACE, NAMESPACE, VmMarks
from vcloud.plan.facts import Facts, domain_facts
from vcloud.tenancy import Terms

METADATA_KEY = "vcloud"
CONNECTED_KEY = "vcloud-connected"
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
    """Removes a network filter. A host whose libvirt has no filters has nothing to remove."""
    if why_no_filters(host):
        return
    with translated(f"a network filter could not be removed from {host.name}"):
        there = found_or_none(host.connection.nwfilterLookupByUUIDString, uuid)
        if there is not None:
            there.undefine()


def define_domain(host: Host, name: str, xml: str) -> libvirt.virDomain:
    """Defines a domain without starting it."""
    with translated(f"'{name}' could not be defined on {host.name}"):
        # VALIDATE: without it, libvirt ignores elements that it does not know.
        xml = signed(host.operator, xml)
        return host.connection.defineXMLFlags(xml, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)


def definition_of(host: Host, name: str) -> Facts:
    """How libvirt reads the definition of a domain: with the devices and defaults that it adds."""
    with translated(f"the definition of '{name}' could not be read on {host.name}"):
        xml = _domain(host, name).XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    return domain_facts(parse(xml)).parts


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
        domain = redefine_domain(host, name, xml)
        if not domain.isActive():
            domain.create()


def resume_domain(host: Host, name: str) -> None:
    """Resumes a paused domain, and wakes one whose guest has suspended itself."""
    with translated(f"'{name}' could not be resumed on {host.name}"):
        domain = _domain(host, name)
        if domain.state()[0] == libvirt.VIR_DOMAIN_PMSUSPENDED:
            domain.pMWakeup()
        else:
            domain.resume()


def save_domain(host: Host, name: str) -> None:
    """Saves the memory of a running domain on the host and stops it, as `virsh managedsave` does.

    The next start of the domain continues from the saved memory.
    """
    with translated(f"the memory of '{name}' could not be saved on {host.name}"):
        domain = _domain(host, name)
        if domain.isActive():
            # RUNNING: a VM that somebody has paused runs after its restore, too.
            domain.managedSave(libvirt.VIR_DOMAIN_SAVE_RUNNING)


def restore_domain(host: Host, name: str, terms: Terms, generation: int, *, linked: bool) -> None:
    """Starts a domain from its saved memory and keeps the content of its console log. It gets these
    terms of tenancy, in place of those that it was saved with. `generation` is 0 where nobody signs
    them.

    Unless `linked`, all links of the domain are set down before its processors run.

    Raises HostError if libvirt refuses it. The domain may then exist in the paused state.
    """
    with translated(f"'{name}' could not be restored on {host.name}"):
        domain = _domain(host, name)
        # If the saved memory is missing, this call fails. Without this call, libvirt would
        # silently boot the guest from its disk.
        xml = domain.managedSaveGetXMLDesc(libvirt.VIR_DOMAIN_SAVE_IMAGE_XML_SECURE)
        xml = with_terms(_with_appended_log(xml), terms, generation)
        refuse_other_devices(host, domain, xml)
        domain.managedSaveDefineXML(signed(host.operator, xml))
        # Paused: the guest must not send a packet before its links are cut.
        domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
        host.require_lock()
        if not linked:
            cut_links(host, name)
        domain.resume()
    set_terms(host, name, terms, generation)


def set_clock(host: Host, name: str) -> bool:
    """Sets the clock of a running guest to the host's time. Returns whether it succeeded.

    The guest agent runs `date` if it may. The agent's own command guest-set-time is only the second
    choice: it reports a failure in every guest without hwclock, such as Debian 13.
    """
    with translated(f"'{name}' is not on {host.name}"):
        domain = _domain(host, name)
    now = host.clock.now()
    if now is None:
        return _sync_clock(domain)
    with contextlib.suppress(GuestError):
        agent = Agent(domain, host.require_lock)
        agent.wait(AGENT_TIMEOUT)
        now = host.clock.now() or now
        if agent.execute(["date", "--utc", f"--set=@{now:.6f}"], timeout=CLOCK_TIMEOUT).code == 0:
            return True
    # The time is read again, because the first attempt may have taken half a minute.
    now = host.clock.now() or now
    with contextlib.suppress(libvirt.libvirtError):
        domain.setTime({"seconds": int(now), "nseconds": int(now % 1 * 1e9)})
        return True
    return False


def _sync_clock(domain: libvirt.virDomain) -> bool:
    """Lets the guest read the clock that QEMU emulates for it, which follows the host's."""
    with contextlib.suppress(libvirt.libvirtError):
        domain.setTime(flags=libvirt.VIR_DOMAIN_TIME_SYNC)
        return True
    return False


def _with_appended_log(xml: str) -> str:
    """The XML of the same domain, changed so that its console log is continued and not emptied."""
    root = parse(xml)
    for log in root.iter("log"):
        log.set("append", "on")
    return to_text(root)


def stop_domain(
    host: Host, name: str, *, graceful: bool, timeout: float = SHUTDOWN_TIMEOUT
) -> bool:
    """Stops a domain. With `graceful`, the guest is first asked to shut down, and gets `timeout`
    seconds to do it. Returns whether libvirt had to end it: it was destroyed.
    """
    with translated(f"'{name}' could not be stopped on {host.name}"):
        domain = found_or_none(host.connection.lookupByName, name)
        if domain is None or not domain.isActive():
            return False
        if graceful:
            _shut_down(domain, timeout)
        if not _runs(domain):
            return False
        host.require_lock()
        domain.destroy()
        return True


def _shut_down(domain: libvirt.virDomain, timeout: float) -> None:
    """Asks the guest to shut down: through its agent or, if no agent answers, through the ACPI
    power button. Waits for the end.
    """
    try:
        domain.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_GUEST_AGENT)
    except libvirt.libvirtError:
        domain.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)
    deadline = time.monotonic() + timeout
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
            host.require_lock()
        # A transient domain has disappeared when it was destroyed.
        found_or_none(domain.undefineFlags, UNDEFINE_FLAGS)


def network_users(host: Host, network: str) -> frozenset[str]:
    """The names of the domains with a NIC on a network. Counts both what runs and what is defined."""
    with translated(f"the NICs of the domains of {host.name} could not be read"):
        return frozenset(
            name
            for name, domain in domains_of(host)
            for source in domain.iterfind("devices/interface/source")
            if source.get("network") == network
        )


def domains_of(host: Host) -> Iterator[tuple[str, ElementTree.Element]]:
    """Name and XML of every domain of a host, first as it runs and then as it is defined."""
    for domain in host.connection.listAllDomains():
        for flags in (0, libvirt.VIR_DOMAIN_XML_INACTIVE):
            # None: it has been removed meanwhile.
            yield domain.name(), parse(found_or_none(domain.XMLDesc, flags) or "<domain/>")


def set_link(host: Host, name: str, interface_xml: str) -> None:
    """Sets the link of one NIC of a running domain up or down. The persistent definition does not
    change.
    """
    with translated(f"a link of '{name}' could not be set on {host.name}"):
        _domain(host, name).updateDeviceFlags(interface_xml, libvirt.VIR_DOMAIN_AFFECT_LIVE)


def keep_only(host: Host, name: str, interfaces: Mapping[str, str]) -> None:
    """Puts those NICs of a running domain that `interfaces` names (MAC address -> XML) right, and
    unplugs every other NIC. The persistent definition does not change.
    """
    with translated(f"the NICs of '{name}' could not be mended on {host.name}"):
        domain = _domain(host, name)
        for nic in parse(domain.XMLDesc()).iterfind("devices/interface"):
            mac = nic.find("mac")
            address = "" if mac is None else mac.get("address", "")
            if address not in interfaces:
                domain.detachDeviceFlags(to_text(nic), libvirt.VIR_DOMAIN_AFFECT_LIVE)
            else:
                domain.updateDeviceFlags(interfaces[address], libvirt.VIR_DOMAIN_AFFECT_LIVE)


def redefine_domain(host: Host, name: str, xml: str) -> libvirt.virDomain:
    """Gives a domain another definition, from its next start on. A running domain runs on as it is,
    and one that lost its definition has one again. The domain does not start with its host.
    """
    with translated(f"'{name}' could not be defined on {host.name}"):
        domain = define_domain(host, name, xml)
        if domain.autostart():
            domain.setAutostart(0)  # It would start with its host before its rules are there.
        return domain


def mend_definition(host: Host, name: str, xml: str) -> None:
    """Gives a running domain another definition, with the disks that it runs on: where somebody put
    a snapshot or a copy in the place of a disk, the next start finds what is written there.
    """
    with translated(f"'{name}' could not be defined on {host.name}"):
        running = _domain(host, name).XMLDesc()
    redefine_domain(host, name, with_disks_of(xml, running))


def with_disks_of(xml: str, running: str) -> str:
    """The XML of a domain, with the sources of those of its disks that the running domain has."""
    root = parse(xml)
    disks = {_target_of(disk): disk for disk in parse(running).iterfind("devices/disk")}
    for disk in root.iterfind("devices/disk"):
        used = disks.get(_target_of(disk))
        source = None if used is None else used.find("source")
        if used is None or source is None:
            continue
        disk.set("type", used.get("type", "file"))
        _replace(disk, "source", source)
        driver, form = disk.find("driver"), used.find("driver")
        if driver is not None and form is not None:
            driver.set("type", form.get("type", "qcow2"))
    return to_text(root)


def _target_of(disk: ElementTree.Element) -> str:
    target = disk.find("target")
    return "" if target is None else target.get("dev", "")


def _replace(parent: ElementTree.Element, tag: str, new: ElementTree.Element) -> None:
    old = parent.find(tag)
    if old is not None:
        parent[list(parent).index(old)] = new


def bind_filter(host: Host, binding: FilterBinding, *, anew: bool) -> None:
    """Lets libvirt filter a NIC whose binding somebody has removed. With `anew`, a NIC that is bound
    is bound once more: libvirt then writes its rules again.
    """
    with translated(f"the network filter could not be bound to '{binding.tap}' on {host.name}"):
        standing = found_or_none(host.connection.nwfilterBindingLookupByPortDev, binding.tap)
        if standing is not None:
            if not anew and standing.filterName() == binding.filter:
                return
            standing.delete()
        host.connection.nwfilterBindingCreateXML(render_filter_binding(binding), 0)


def cut_links(host: Host, name: str) -> None:
    """Sets every link of a running domain down, whatever NICs the domain has."""
    with translated(f"the links of '{name}' could not be cut on {host.name}"):
        domain = found_or_none(host.connection.lookupByName, name)
        if domain is None or not domain.isActive():
            return
        for nic in parse(domain.XMLDesc()).iter("interface"):
            link = nic.find("link")
            if link is not None and link.get("state") == "down":
                continue
            if link is None:
                link = ElementTree.SubElement(nic, "link")
            link.set("state", "down")
            # libvirt changes a NIC only by its full XML, in which nothing else may differ.
            domain.updateDeviceFlags(to_text(nic), libvirt.VIR_DOMAIN_AFFECT_LIVE)


def mark_domain(host: Host, name: str, marks: VmMarks) -> None:
    """Writes vcloud's marks into the metadata of a running domain and, if the domain is persistent,
    into its definition.
    """
    sealed = sealing_of(host).sealed_marks(marks)
    with translated(f"'{name}' could not be marked on {host.name}"):
        domain = _domain(host, name)
        # libvirt refuses a flag for something that the domain does not have: a stopped domain has
        # no live XML, a transient one no definition.
        flags = libvirt.VIR_DOMAIN_AFFECT_LIVE if domain.isActive() else 0
        flags |= libvirt.VIR_DOMAIN_AFFECT_CONFIG if domain.isPersistent() else 0
        domain.setMetadata(
            libvirt.VIR_DOMAIN_METADATA_ELEMENT,
            render_vm_marks(sealed),
            METADATA_KEY,
            NAMESPACE,
            flags,
        )


def set_token(host: Host, name: str) -> str:
    """Writes a new random token and libvirt's id into a running domain, and not into its definition.
    Returns the token.

    libvirt drops both when the domain stops, and keeps both when libvirtd restarts. A snapshot and a
    saved memory hold them, too. A domain that is reverted or restored gets another id, by which it
    is found out.
    """
    token = secrets.token_hex(8)
    with translated(f"'{name}' could not be marked on {host.name}"):
        domain = _domain(host, name)
        domain.setMetadata(
            libvirt.VIR_DOMAIN_METADATA_ELEMENT,
            f'<connected token="{token}" id="{domain.ID()}"/>',
            CONNECTED_KEY,
            CONNECTED_NAMESPACE,
            libvirt.VIR_DOMAIN_AFFECT_LIVE,
        )
    return token


def agent_of(host: Host, name: str) -> Agent:
    """The guest agent of a domain. Raises HostError if there is no such domain."""
    with translated(f"'{name}' is not on {host.name}"):
        return Agent(_domain(host, name), host.require_lock)


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
