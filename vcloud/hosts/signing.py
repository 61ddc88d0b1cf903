"""What an operator signs: the terms of tenancy of each VM, together with their generation and the VM's
name, UUID, disks and NICs (`vcloud.signature`). The hook of a host that has a list of operators
starts no VM of a vApp without such a signature.
"""

from __future__ import annotations

from xml.etree.ElementTree import Element

from vcloud import tenancy
from vcloud.hosts.metadata import parse, to_text
from vcloud.hosts.operator_key import Operator, signature_of, signer_of_message
from vcloud.signature import GENERATION, SIGNATURE, generation_of, statement

TERMS = f"{{{tenancy.NAMESPACE}}}terms"


def signed(operator: Operator | None, xml: str) -> str:
    """The XML of the same domain, with the operator's signature at its terms of tenancy. XML without
    terms, and all XML where nobody signs, stays as it is.
    """
    root = parse(xml) if operator is not None and tenancy.NAMESPACE in xml else None
    terms = None if root is None else root.find(f"metadata/{TERMS}")
    if operator is None or root is None or terms is None:
        return xml
    generation = generation_of(terms)
    terms.set(SIGNATURE, signature_of(operator, statement(root, terms.text or "", generation)))
    return to_text(root)


def terms_element(text: str, generation: int) -> Element:
    """The element of a domain's metadata that holds terms which are still to be signed. `generation`
    is 0 where nobody signs them.
    """
    element = Element(TERMS, {GENERATION: str(generation)} if generation else {})
    element.text = text
    return element


def signer_of(domain: Element) -> str:
    """The fingerprint of the key that has signed the terms of a domain as it is; empty where its
    terms have no signature, or one for something else. Whether the host trusts the key is not
    judged.
    """
    terms = domain.find(f"metadata/{TERMS}")
    signature = "" if terms is None else terms.get(SIGNATURE, "")
    if terms is None or not signature:
        return ""
    generation = generation_in(terms)
    if generation is None:
        return ""
    return signer_of_message(signature, statement(domain, terms.text or "", generation))


def generation_in(terms: Element | None) -> int | None:
    """The generation of an element with terms; None where somebody has written something else there."""
    try:
        return generation_of(terms)
    except ValueError:
        return None
