"""A picture of a lab for Graphviz or Mermaid: hosts, the vApps on them, and which vApps keep each
other away from their hosts.

Names come from hosts and from other people's VMs, so each is escaped for its language.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from vcloud.compile.environment import render
from vcloud.tenancy import HostTenants, Terms, refusals, told_demands

SHOWN = 60
"""Letters of a name that are drawn."""
_MERMAID = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,:;'=_()/-")
"""Characters that mean nothing to Mermaid between quotes. Others are written as their numbers."""


Escape = Callable[[str], str]
"""Makes a text harmless in one of the two languages."""


@dataclass(frozen=True, slots=True)
class Tenant:
    """A vApp on a host, or a VM there that vcloud does not manage."""

    name: str
    vms: int
    """Those that run."""
    terms: Terms | None = None
    """None: vcloud does not manage it, or it does not run."""
    managed: bool = True


@dataclass(frozen=True, slots=True)
class LabHost:
    """A host, and who is there."""

    name: str
    labels: tuple[tuple[str, str], ...] = ()
    tenants: tuple[Tenant, ...] = ()
    error: str = ""
    """Why it cannot be asked. Then nothing else is known."""


@dataclass(frozen=True, slots=True)
class Box:
    id: str
    lines: tuple[str, ...]
    managed: bool


@dataclass(frozen=True, slots=True)
class Group:
    """A host with the boxes on it."""

    id: str
    lines: tuple[str, ...]
    reachable: bool
    boxes: tuple[Box, ...]


@dataclass(frozen=True, slots=True)
class Arrow:
    """From a vApp to one that it keeps away from its host."""

    source: str
    target: str
    label: str


def render_lab_dot(hosts: Sequence[LabHost]) -> str:
    return _render("graph/lab.dot.j2", hosts, _for_dot)


def render_lab_mermaid(hosts: Sequence[LabHost]) -> str:
    return _render("graph/lab.mmd.j2", hosts, _for_mermaid)


def _render(template: str, hosts: Sequence[LabHost], safe: Escape) -> str:
    return render(template, groups=list(_groups(hosts, safe)), arrows=list(_arrows(hosts, safe)))


def _groups(hosts: Iterable[LabHost], safe: Escape) -> Iterator[Group]:
    for number, host in enumerate(hosts):
        labels = " ".join(f"{key}={value}" for key, value in host.labels)
        below = f"cannot be asked: {host.error}" if host.error else labels
        boxes = tuple(
            Box(_id(number, place), tuple(map(safe, _lines(tenant))), tenant.managed)
            for place, tenant in enumerate(host.tenants)
        )
        lines = tuple(map(safe, filter(None, (host.name, below))))
        yield Group(f"h{number}", lines, not host.error, boxes)


def _id(host: int, place: int) -> str:
    return f"h{host}_{place}"


def _lines(tenant: Tenant) -> Iterator[str]:
    yield tenant.name[:SHOWN]
    if not tenant.managed:
        yield "not vcloud's"
        return
    yield "does not run" if not tenant.vms else f"{tenant.vms} VM{'s' * (tenant.vms != 1)}"
    # The reason is always the vApp itself, whose name is above.
    for demand in told_demands(tenant.terms) if tenant.terms else ():
        yield f"keeps away {demand.rpartition(', because')[0]}"


def _arrows(hosts: Sequence[LabHost], safe: Escape) -> Iterator[Arrow]:
    """One for each rule between two vApps. A dedicated vApp keeps all others away, and its box says
    so: arrows to all of them would show nothing else any more.
    """
    ids = {
        tenant.terms: _id(number, place)
        for number, host in enumerate(hosts)
        for place, tenant in enumerate(host.tenants)
        if tenant.terms
    }
    for one, other in itertools.combinations(sorted(ids, key=lambda terms: terms.vapp), 2):
        for refusal in refusals(one, HostTenants((other,))):
            if refusal.rule != "tenancy.share":
                source, target = (one, other) if refusal.of == one.vapp else (other, one)
                yield Arrow(ids[source], ids[target], safe(refusal.reason))


def _for_dot(text: str) -> str:
    shown = "".join(char if char.isprintable() else "?" for char in text)
    return shown.replace("\\", "\\\\").replace('"', '\\"')


def _for_mermaid(text: str) -> str:
    return "".join(char if char in _MERMAID else f"#{ord(char)};" for char in text)
