"""Turns libvirt's XML of a domain, a network or a filter into facts: parts with a name and a text.

Two readings of one object are compared by their facts. The facts leave out what libvirt adds to a
running object by itself (aliases, addresses on the PCI bus, the chain of a disk's backing files,
labels that its security driver chooses), and vcloud's marks. Everything else is a fact, also an element that
vcloud does not know. So a device or a setting that somebody added shows as an extra part.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element

from vcloud.values import processors_in

Facts = Mapping[str, str]
"""Part (`memory`, `disk vdb`, `interface 52:54:00:12:34:56`) -> all that libvirt says of it."""

ADDED_ELEMENTS = frozenset({"alias", "address", "backingStore", "mirror", "link"})
"""Elements within a device that libvirt adds to a running domain. `link` is compared separately
(`Card.up`), because `vcloud up` changes it.
"""
ADDED_ATTRIBUTES = frozenset(
    {
        ("source", "index"),
        ("source", "portid"),
        ("console", "tty"),
        ("target", "state"),
        ("log", "append"),
    }
)
"""(element, attribute) that libvirt adds to a running domain. vcloud itself changes `append` when
it restores a saved memory.
"""
NOT_OF_THE_DEFINITION = frozenset({"metadata", "title", "description", "resource"})
"""Top elements of a domain that change nothing of what vcloud defines."""
TUNING = "iotune"
"""Limits of a disk. They are a part of their own, because the rest of a disk says whose data it has."""
PINS = frozenset({"vcpupin", "emulatorpin"})
"""Elements within `cputune` that say which processors of the host a VM may use."""
EMULATOR = "emulator"
"""All of QEMU that is no virtual CPU."""
RUNTIME_SOURCES = frozenset({"serial", "console", "channel"})
"""Devices whose source libvirt chooses when the domain starts, if the definition names none."""


@dataclass(frozen=True, slots=True)
class Card:
    """One NIC of a domain: what libvirt says of it beside its facts."""

    up: bool
    """Whether its link is up."""
    network: str
    """The libvirt network of the NIC; empty if it has none."""
    tap: str
    port: str
    """UUID of its port in the network, while the domain runs. A network that was stopped and
    started has forgotten its ports, and then the tap of the NIC is on no bridge.
    """


@dataclass(frozen=True, slots=True)
class DomainFacts:
    """One reading of a domain: of the running domain, or of its definition."""

    parts: Facts = field(default_factory=dict)
    cards: Mapping[str, Card] = field(default_factory=dict)
    """MAC address -> NIC."""
    pins: Mapping[str, frozenset[int]] = field(default_factory=dict)
    """Number of a virtual CPU, or `EMULATOR` -> the processors of the host that it may use. They are
    no part, because vcloud keeps running VMs off the cores of others.
    """


NO_FACTS = DomainFacts()


def domain_facts(domain: Element) -> DomainFacts:
    """The facts of a domain's XML."""
    parts: dict[str, str] = {}
    for number, element in enumerate(domain):
        if element.tag == "devices":
            parts.update(_device_parts(element))
        elif element.tag == "cputune" and all(child.tag in PINS for child in element):
            continue
        elif element.tag not in NOT_OF_THE_DEFINITION and not _is_chosen_label(element):
            parts[_free(parts, element.tag, number)] = _text(element)
    return DomainFacts(parts, dict(_cards(domain)), dict(_pins(domain)))


def _is_chosen_label(element: Element) -> bool:
    """Whether it is the label that the host's security driver has given a running domain by itself.
    A label that somebody wrote is static, or none (https://libvirt.org/formatdomain.html#security-label).
    """
    return element.tag == "seclabel" and element.get("type") == "dynamic"


def network_facts(network: Element) -> Facts:
    """The facts of a network's XML. libvirt adds a MAC address for the bridge."""
    parts: dict[str, str] = {}
    for number, element in enumerate(network):
        if element.tag not in ("metadata", "mac"):
            parts[_free(parts, element.tag, number)] = _text(element)
    return parts


def filters_facts(filters: Iterable[Element]) -> Facts:
    """The facts of the XML of network filters. The order of their rules counts."""
    parts: dict[str, str] = {}
    for nwfilter in filters:
        name = nwfilter.get("name", "")
        parts[name] = " ".join(sorted(f"{key}={value}" for key, value in nwfilter.items()))
        for number, element in enumerate(nwfilter):
            parts[f"{name} {element.tag} {number}"] = _text(element)
    return parts


def _device_parts(devices: Element) -> Iterator[tuple[str, str]]:
    seen: dict[str, str] = {}
    for number, device in enumerate(devices):
        if device.tag == "controller" and device.get("type") == "pci":
            continue  # A VM that woke from a memory image has more ports than its definition.
        name = _free(seen, _device_name(device), number)
        seen[name] = _text(device)
        tuning = device.find(TUNING)
        if tuning is not None:
            seen[f"{name} {TUNING}"] = _text(tuning)
    yield from seen.items()


def _device_name(device: Element) -> str:
    """The kind of a device, and the value that distinguishes it from others of its kind."""
    for path, key in (("mac", "address"), ("target", "dev"), ("target", "name")):
        found = device.find(path)
        if found is not None and found.get(key):
            return f"{device.tag} {found.get(key)}"
    kind = device.get("type") if device.tag in ("controller", "input") else ""
    return f"{device.tag} {kind}".strip()


def _free(taken: Mapping[str, str], name: str, number: int) -> str:
    """The name of a part. If the name is taken, the part's position in the XML is added."""
    return f"{name} ({number})" if name in taken else name


def _text(element: Element) -> str:
    """The content of an element, in a form that does not depend on the order of attributes and
    children.
    """
    runtime = element.tag in RUNTIME_SOURCES
    return _canonical(element, runtime=runtime)


def _canonical(element: Element, *, runtime: bool) -> str:
    attributes = {
        key: value for key, value in element.items() if (element.tag, key) not in ADDED_ATTRIBUTES
    }
    # For a running domain, libvirt replaces the type of a NIC by that of its network, and adds the
    # bridge.
    if element.tag == "interface" and element.find("source[@network]") is not None:
        attributes["type"] = "network"
    if element.tag == "source" and "network" in attributes:
        attributes.pop("bridge", None)
    children = sorted(
        _canonical(child, runtime=runtime)
        for child in element
        if child.tag not in ADDED_ELEMENTS | PINS | {TUNING}
        and not (runtime and child.tag == "source")
    )
    words = [f"{key}={value}" for key, value in sorted(attributes.items())]
    text = " ".join((element.text or "").split())
    inner = " ".join(filter(None, [*words, text, *children]))
    return f"{element.tag.rpartition('}')[2]}({inner})"


def _pins(domain: Element) -> Iterator[tuple[str, frozenset[int]]]:
    for tag in PINS:
        for pin in domain.iterfind(f"cputune/{tag}"):
            try:
                processors = processors_in(pin.get("cpuset", ""))
            except ValueError:
                processors = frozenset()
            yield pin.get("vcpu", EMULATOR), processors


def _cards(domain: Element) -> Iterator[tuple[str, Card]]:
    for nic in domain.iterfind("devices/interface"):
        mac, source, target, link = (nic.find(tag) for tag in ("mac", "source", "target", "link"))
        if mac is not None:
            yield (
                mac.get("address", ""),
                Card(
                    up=link is None or link.get("state") != "down",
                    network="" if source is None else source.get("network", ""),
                    tap="" if target is None else target.get("dev", ""),
                    port="" if source is None else source.get("portid", ""),
                ),
            )
