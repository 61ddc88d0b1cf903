"""The terms of tenancy in the metadata of domains, with the signature of the operator."""

from __future__ import annotations

from xml.etree import ElementTree

import libvirt

from vcloud import tenancy
from vcloud.compile.libvirt.domain import render_terms, terms_text
from vcloud.errors import HostError
from vcloud.hosts.connection import Host, translated
from vcloud.hosts.metadata import parse, to_text
from vcloud.hosts.operator_key import signature_of
from vcloud.hosts.signing import TERMS, terms_element
from vcloud.signature import statement
from vcloud.tenancy import Terms

TERMS_KEY = "vcloud-tenancy"


def with_terms(xml: str, terms: Terms, generation: int) -> str:
    """The XML of the same domain with these terms of tenancy, and no others. `generation` is 0 where
    nobody signs them.
    """
    root = parse(xml)
    metadata = root.find("metadata")
    if metadata is None:
        metadata = ElementTree.SubElement(root, "metadata")
    for old in metadata.findall(TERMS):
        metadata.remove(old)
    metadata.append(terms_element(terms_text(terms), generation))
    return to_text(root)


def refuse_other_devices(host: Host, domain: libvirt.virDomain, xml: str) -> None:
    """Raises HostError where a saved VM has other disks or NICs than its definition: somebody has
    edited its saved memory.
    """
    saved, kept = (
        statement(parse(text), "")
        for text in (xml, domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
    )
    if saved != kept:
        raise HostError(
            f"the saved memory of '{domain.name()}' on {host.name} has other devices than the VM: somebody has edited one of the two",
            "`vcloud up --cold` discards the memory and boots the VM.",
        )


def set_terms(host: Host, name: str, terms: Terms, generation: int) -> None:
    """Gives a domain its vApp's terms of tenancy. Of a running one the host's hook reads them at once,
    wherever another VM is about to start. `generation` is 0 where nobody signs them.
    """
    with translated(f"the terms of tenancy could not be given to '{name}' on {host.name}"):
        domain = host.connection.lookupByName(name)
        flags = libvirt.VIR_DOMAIN_AFFECT_LIVE if domain.isActive() else 0
        flags |= libvirt.VIR_DOMAIN_AFFECT_CONFIG if domain.isPersistent() else 0
        signature = ""
        if host.operator is not None:
            # The definition, which vcloud has made. What somebody has plugged into the running VM is
            # not signed.
            kept = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
            message = statement(parse(kept), terms_text(terms), generation)
            signature = signature_of(host.operator, message)
        domain.setMetadata(
            libvirt.VIR_DOMAIN_METADATA_ELEMENT,
            render_terms(terms, generation, signature),
            TERMS_KEY,
            tenancy.NAMESPACE,
            flags,
        )
