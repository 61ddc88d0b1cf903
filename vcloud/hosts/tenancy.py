"""Asks the hook of a host whether VMs of a vApp could start there.

The question is a domain that the hook refuses in every case, with its answer as the reason
(`vcloud.enforce.qemu_hook`). Whoever may use libvirt can ask. So the answer comes from what really
decides at each start, with all that only root can read there, and from nothing else.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
import uuid
from collections.abc import Mapping
from xml.etree import ElementTree

import libvirt

from vcloud import tenancy
from vcloud.compile.libvirt.domain import NO_NOTICE, render_question
from vcloud.design.model import Design
from vcloud.design.names import domain_name
from vcloud.enforce.install import hook_digest
from vcloud.enforce.qemu_hook import NO, UNKNOWN, UNSIGNED, YES
from vcloud.errors import HostError, VcloudError
from vcloud.hosts.connection import Host, found_or_none, message_of, said_by_hook, translated
from vcloud.hosts.metadata import parse
from vcloud.hosts.signing import signed
from vcloud.placement.capabilities import HookAnswer
from vcloud.placement.place import INSTALL_HOOK
from vcloud.printable import on_one_line
from vcloud.signature import NEWEST
from vcloud.tenancy import ANYONE, Terms, terms_of

NOBODY = Terms("nobody", share=ANYONE)
"""Terms that demand nothing, to ask whether there is a hook."""
PREFIX = "vcloud-question-"
"""Of the domain that asks for a vApp. A fixed name: a host without the hook really starts it, and
libvirt keeps a log of each name.
"""
PATIENCE, POLL = 10, 0.1
"""Seconds to wait while somebody else asks for the same vApp, and between two attempts."""
ANSWER = re.compile(
    rf"hook ([0-9a-f]{{64}})(?:, generation ([0-9]{{1,16}}))?: ({YES}|{NO}|{UNSIGNED}|{UNKNOWN}): ?(.*)",
    re.DOTALL,
)


def ask_hook(host: Host, terms: Terms, notice: Mapping[str, int] = NO_NOTICE) -> HookAnswer:
    """Whether a VM with these terms could start on the host now. The `notice` (UUIDs of VMs of the
    vApp, with the generations of their newest terms) is heeded if the host trusts the user's
    operator: no older terms of these VMs count there any more, and they may start in this boot of
    the host. Raises HostError.
    """
    name, deadline = PREFIX + terms.vapp, time.monotonic() + PATIENCE
    question = signed(
        host.operator,
        render_question(
            name, str(uuid.uuid4()), terms, notice, _boot_where_known(host) if notice else ""
        ),
    )
    while True:
        try:
            # AUTODESTROY: if this process ends, so does what a host without the hook has started.
            started = host.connection.createXML(
                question,
                libvirt.VIR_DOMAIN_START_PAUSED | libvirt.VIR_DOMAIN_START_AUTODESTROY,
            )
            break
        except libvirt.libvirtError as error:
            if said := said_by_hook(error):
                return _answer(host, said)
            taken = error.get_error_code() == libvirt.VIR_ERR_OPERATION_FAILED
            if not taken or time.monotonic() > deadline:
                raise HostError(
                    f"the hook of {host.name} could not be asked: {message_of(error)}",
                    "`vcloud doctor` looks at that host.",
                ) from error
        time.sleep(POLL)
    with translated(f"the question to the hook of {host.name} could not be ended"):
        found_or_none(started.destroy)
    return HookAnswer(exists=False)


def boot_of(host: Host) -> str:
    """What names the host's boot. Raises HostError."""
    done = host.shell.run(["cat", "/proc/sys/kernel/random/boot_id"])
    if done.code != 0:
        said = on_one_line(done.stderr.decode(errors="replace").strip())
        raise HostError(f"the boot of {host.name} cannot be read: {said}")
    return done.stdout.decode(errors="replace").strip()


def _boot_where_known(host: Host) -> str:
    """Empty where vcloud cannot log in to the host. It then still tells the hook of newer terms."""
    with contextlib.suppress(HostError):
        return boot_of(host)
    return ""


def _answer(host: Host, said: str) -> HookAnswer:
    found = ANSWER.match(said)
    if found is None:
        raise HostError(
            f"the hook of {host.name} is that of another release, or broken: {said}",
            "On that host, as root: vcloud doctor --fix.",
        )
    digest, newest, kind, why = found.groups()
    return HookAnswer(
        True,
        "" if kind == YES else why,
        kind != UNKNOWN,
        digest,
        kind != UNSIGNED,
        min(int(newest or 0), NEWEST),
    )


def kept_together(host: Host, design: Design) -> tuple[str, ...]:
    """What is wrong with those that run beside a vApp with demands, or with the host that should keep
    them away; each with a way out.
    """
    if not design.terms.demands:
        return ()
    try:
        answer = ask_hook(host, design.terms)
    except VcloudError as error:
        return (f"{error.what}; {error.hint}",)
    # Who has no trusted key is told of the neighbours all the same.
    if answer.refusal and answer.trusts:
        return (f"{answer.refusal}; stop one of the two",)
    if not answer.exists:
        return (
            f"nothing on {host.name} keeps other VMs away from those of this vApp; {INSTALL_HOOK}",
        )
    if answer.digest != hook_digest():
        return (
            f"the hook of {host.name} is not that of this release, so nobody knows what it does; {INSTALL_HOOK}",
        )
    return ()


def somebody_demands(host: Host, vapp: str) -> bool:
    """Whether another vApp runs on the host that may refuse to be beside this one. Terms that cannot
    be read may be any. Raises HostError.
    """
    texts = [_terms(domain) for domain in _others(host, vapp)]
    return any(map(_may_demand, filter(None, texts)))


def residents_of(host: Host) -> list[Terms | str]:
    """Who runs on the host: the terms of each VM, or the name of one that has none or whose terms
    cannot be read. Raises HostError.
    """
    found: list[Terms | str] = []
    for domain in _others(host, ""):
        try:
            terms = terms_of(json.loads(parse(_terms(domain)).text or ""))
            found.append(
                terms if domain.name().startswith(domain_name(terms.vapp, "")) else domain.name()
            )
        except (ValueError, RecursionError, ElementTree.ParseError):
            found.append(domain.name())
    return found


def is_alone(host: Host, vapp: str) -> bool:
    """Whether no VM runs on the host that is none of the vApp's. Raises HostError."""
    return not _others(host, vapp)


def _others(host: Host, vapp: str) -> list[libvirt.virDomain]:
    with translated(f"the domains of {host.name} could not be listed"):
        running = host.connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
    own = domain_name(vapp, "") if vapp else None
    return [one for one in running if own is None or not one.name().startswith(own)]


def _terms(domain: libvirt.virDomain) -> str:
    """The element with the terms of a domain; empty where it has none, or is gone."""
    with contextlib.suppress(libvirt.libvirtError):
        return str(domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, tenancy.NAMESPACE))
    return ""


def _may_demand(element: str) -> bool:
    try:
        return terms_of(json.loads(parse(element).text or "")).demands
    except (ValueError, RecursionError):
        return True
