"""The terms of tenancy in a domain's XML, and whether they count. The text of this module is part of the
hook (`vcloud.enforce.install`).

A signature stays good for ever. So terms that were true once could be put back, with `virsh metadata`
or with an old XML. Signed terms therefore have a generation, which grows (`vcloud.signature`), and
the host remembers the newest of each VM in its list of known VMs. It learns of it from each VM that
starts, runs or ends, and from the notices of `up`. Only what a trusted operator has signed counts.
"""

from __future__ import annotations

import json
import re
from typing import Any
from xml.etree.ElementTree import Element

from vcloud.enforce.hook_files import RefusedError, UnsignedError
from vcloud.enforce.hook_known import newest_known, note_newest
from vcloud.enforce.hook_operators import asks_for_signatures, why_not_signed
from vcloud.signature import NEWEST, QUESTION, generation_of
from vcloud.tenancy import NAMESPACE, Tenant, Unmanaged, document_of, terms_of

MARK = "{https://vcloud.dev/ns/1}vm"
"""What vcloud leaves in the metadata of each VM of a vApp, as in `vcloud.marks`."""
TERMS = f"{{{NAMESPACE}}}terms"
"""The vApp's terms there, as JSON."""
MOST_TERMS = 64 << 10
"""Characters."""
MOST_NOTICED = 1000
"""VMs of one notice."""
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def uuid_in(domain: Element) -> str:
    found = (domain.findtext("uuid") or "").strip().lower()
    if not _UUID.fullmatch(found):
        raise RefusedError("the domain has no UUID")
    return found


def tenant_in(name: str, domain: Element, lease: Any = None, *, runs: bool = False) -> Tenant:
    """Whose VM a domain is. Of the terms in its `lease` it is known that they were signed for it.
    Raises RefusedError where it claims to be a vApp's and has no terms that count, BrokenError where
    the host cannot tell whether they do.
    """
    marks, terms = domain.findall(f"metadata/{MARK}[@vapp]"), domain.findall(f"metadata/{TERMS}")
    if not marks and not terms:
        return Unmanaged(name)
    if len(terms) != 1 or len(terms[0]):
        raise RefusedError(
            f"'{name}' has the mark of a vApp and {len(terms)} terms of tenancy, not one"
        )
    try:
        found = terms_of(json.loads(short(terms[0].text or ""), object_pairs_hook=without_twins))
    except (ValueError, RecursionError) as error:
        raise RefusedError(f"the terms of tenancy of '{name}' cannot be read: {error}") from None
    if [mark.get("vapp") for mark in marks] != [found.vapp]:
        raise RefusedError(
            f"'{name}' has the terms of tenancy of '{found.vapp}', and is none of its VMs"
        )
    before = lease if isinstance(lease, dict) else {}
    as_leased = before.get("terms") == document_of(found) and before.get(
        "generation", 0
    ) == counted_generation(domain)
    if not as_leased and (why := why_not_signed(domain, terms[0], runs=runs)):
        raise UnsignedError(
            f"the terms of tenancy of '{name}' do not count: {why}; `vcloud up` signs them", found
        )
    refuse_older(name, domain)
    return found


def counted_generation(domain: Element) -> int:
    """The generation of the terms of a domain. It is 0 on a host that asks for no signatures: there
    anybody could have written it. Raises RefusedError where it is none, BrokenError.
    """
    if not asks_for_signatures():
        return 0
    try:
        return generation_of(domain.find(f"metadata/{TERMS}"))
    except ValueError as error:
        raise RefusedError(f"the terms of tenancy cannot be read: {error}") from None


def refuse_older(name: str, domain: Element) -> None:
    """Raises RefusedError where the terms of a domain, which are signed, are older than the newest
    that the host knows of its UUID: somebody has put back what was once true. Raises BrokenError.
    """
    newest = newest_known(uuid_in(domain))
    if newest and (found := counted_generation(domain)) < newest and asks_for_signatures():
        raise RefusedError(
            f"the terms of tenancy of '{name}' are older than the newest that this host knows (generation {found}, and {newest}): somebody has put them back; `vcloud up` gives it its own"
        )


def take_notice(vapp: str, domain: Element) -> None:
    """Keeps in mind what a question tells of VMs of the vApp: generations, and that they may start in
    this boot. The question is signed. Raises RefusedError where it is no notice, BrokenError.
    """
    text = domain.findtext(f"metadata/{QUESTION}") or ""
    if not text or not asks_for_signatures():
        return
    try:
        notice = json.loads(short(text), object_pairs_hook=without_twins)
        if not isinstance(notice, dict) or not {*notice} <= {"vms", "boot"}:
            raise ValueError("it is no object with the members 'vms' and 'boot'")
        found, admitted_in = notice.get("vms", {}), notice.get("boot", "")
        if not isinstance(admitted_in, str):
            raise ValueError("'boot' is no text")
        if not isinstance(found, dict) or len(found) > MOST_NOTICED:
            raise ValueError(f"'vms' is no object of at most {MOST_NOTICED} members")
        for uuid, generation in found.items():
            if not _UUID.fullmatch(uuid):
                raise ValueError("it names something that is no UUID")
            if type(generation) is not int or not 0 <= generation <= NEWEST:
                raise ValueError("it has a generation that is no whole number from 0 on")
    except (ValueError, RecursionError) as error:
        raise RefusedError(f"the notice of '{vapp}' cannot be read: {error}") from None
    note_newest(vapp, found, admitted_in)


def short(text: str) -> str:
    if len(text) > MOST_TERMS:
        raise ValueError(f"they are longer than {MOST_TERMS >> 10} KiB")
    return text


def without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The members of a JSON object, each of which is there once."""
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a member is there twice")
    return dict(pairs)
