"""Which vApps may share a host. One pure function decides it (`refusals`), for everybody who asks: the
plan, the hook that runs on hosts, and `verify`.

A rule of tenancy binds both sides: what runs on a host already may keep a newcomer away, and the
other way round. There is no soft rule, and no rule is skipped because it is the newcomer's.

The text of this module is part of the hook. So it imports only Python's standard library, runs on
Python 3.9, and believes nothing of what it reads (`terms_of`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Union

NAMESPACE = "https://vcloud.dev/ns/1/tenancy"
"""XML namespace of the element `terms` in the metadata of a domain: the terms as JSON."""
QUESTION_NAMESPACE = "https://vcloud.dev/ns/1/question"
"""XML namespace of the element `question` there. A domain with it asks the host's hook whether it
could start, and never starts. libvirt keeps one element of each namespace.
"""
FORMAT = 1
"""The newest format of terms that this release reads, and the one that it writes."""
DEDICATED, LABELLED, ANYONE = "dedicated", "labelled", "anyone"
SHARES = (DEDICATED, LABELLED, ANYONE)
ALLOW, DENY = "allow", "deny"
LONGEST = 200
"""Characters of a name, of a label's key and of its value."""
MOST = 100
"""Labels, selectors, pairs of a selector, and classes, of each kind."""

Selector = tuple[tuple[str, str], ...]
"""Labels that a vApp must have, all of them."""


@dataclass(frozen=True)
class Terms:
    """What a vApp demands of those beside it, and what they may know of it."""

    vapp: str
    labels: Selector = ()
    """Its own, its owner among them as `owner`."""
    share: str = LABELLED
    """One of `SHARES`: which others may run on its host. Those with certain labels, if `together` or
    `never` has any; none; or all.
    """
    together: tuple[Selector, ...] = ()
    """Others must match one of these; any other, if there are none."""
    never: tuple[Selector, ...] = ()
    """Others must match none of these."""
    conflicts: tuple[str, ...] = ()
    """Classes of which a host carries one vApp at a time (a Chinese wall)."""
    remembered: tuple[str, ...] = ()
    """Those of the classes that stay closed after the vApp has gone, until somebody says that the
    host is clean.
    """

    @property
    def demands(self) -> bool:
        """Whether there may be a vApp that it refuses to be beside."""
        return bool(
            self.share == DEDICATED
            or (self.share == LABELLED and (self.together or self.never))
            or self.conflicts
        )


@dataclass(frozen=True)
class Unmanaged:
    """A VM that vcloud does not manage."""

    name: str


Tenant = Union[Terms, Unmanaged]  # noqa: UP007 - Python 3.9 evaluates it


@dataclass(frozen=True)
class Policy:
    """What a host says about VMs that vcloud does not manage."""

    unmanaged: str = ALLOW
    """`allow`, or `deny` beside a dedicated vApp."""


@dataclass(frozen=True)
class HostTenants:
    """Who is on a host."""

    residents: tuple[Tenant, ...] = ()
    policy: Policy = Policy()
    carried: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Remembered class -> the vApps of this class that the host has carried since it was clean."""


@dataclass(frozen=True)
class Refusal:
    """Why a newcomer may not run on a host."""

    rule: str
    """The field of the vApp file that holds the rule, or `host.unmanaged`."""
    of: str
    """The vApp that has the rule."""
    reason: str
    """One sentence without an end."""


def refusals(newcomer: Tenant, host: HostTenants) -> tuple[Refusal, ...]:
    """Why the newcomer may not run on the host; nothing if it may. VMs of one vApp never refuse each
    other. The order is that of the residents, and for each the newcomer's own rules come first.
    """
    found: list[Refusal] = []
    for resident in host.residents:
        found += _between(newcomer, resident, host.policy)
    if isinstance(newcomer, Terms):
        found += _carried(newcomer, host.carried)
    return tuple(dict.fromkeys(found))


def carried_after(
    newcomer: Terms, carried: Mapping[str, frozenset[str]]
) -> dict[str, frozenset[str]]:
    """What the host has carried, once the newcomer runs there."""
    after = dict(carried)
    for one in newcomer.remembered:
        after[one] = after.get(one, frozenset()) | {newcomer.vapp}
    return after


def terms_of(document: Any) -> Terms:
    """The terms that a JSON document holds. Anybody may have written it. Raises ValueError."""
    found = _mapping(document, "the terms")
    if type(found.get("format")) is not int or found["format"] != FORMAT:
        raise ValueError(f"their format is {str(found.get('format'))[:20]!r}, not {FORMAT}")
    keys = {"vapp", "labels", "share", "together", "never", "conflicts", "remembered"}
    if unknown := sorted(map(str, found.keys() - keys - {"format"})):
        raise ValueError(f"unknown: {unknown[0][:40]!r}")
    share = found.get("share", LABELLED)
    if share not in SHARES:
        raise ValueError(f"'share' is none of {', '.join(SHARES)}")
    terms = Terms(
        _text(found.get("vapp"), "vapp"),
        _selector(found.get("labels", {}), "labels"),
        share,
        tuple(_selector(one, "together") for one in _list(found.get("together", []), "together")),
        tuple(_selector(one, "never") for one in _list(found.get("never", []), "never")),
        tuple(_text(one, "conflicts") for one in _list(found.get("conflicts", []), "conflicts")),
        tuple(_text(one, "remembered") for one in _list(found.get("remembered", []), "remembered")),
    )
    # A selector without labels would match everybody, which nobody means.
    if () in (*terms.together, *terms.never):
        raise ValueError("a selector has no labels")
    if not set(terms.remembered) <= set(terms.conflicts):
        raise ValueError("'remembered' names a class that is none of 'conflicts'")
    return terms


def document_of(terms: Terms) -> dict[str, Any]:
    """The terms as a JSON document, which `terms_of` reads."""
    return {
        "format": FORMAT,
        "vapp": terms.vapp,
        "labels": dict(terms.labels),
        "share": terms.share,
        "together": [dict(one) for one in terms.together],
        "never": [dict(one) for one in terms.never],
        "conflicts": list(terms.conflicts),
        "remembered": list(terms.remembered),
    }


def told_demands(terms: Terms) -> tuple[str, ...]:
    """Whom a vApp keeps away from its host, in sentences without an end."""
    if terms.share == DEDICATED:
        return (f"every other vApp, because '{terms.vapp}' is dedicated",)
    found = []
    if terms.share == LABELLED:
        if terms.together:
            wanted = " or ".join(map(_told, terms.together))
            found.append(f"vApps without {wanted}, because of '{terms.vapp}'")
        found += [f"vApps with {_told(one)}, because of '{terms.vapp}'" for one in terms.never]
    found += [f"other vApps of class '{one}', because of '{terms.vapp}'" for one in terms.conflicts]
    return tuple(found)


def _between(newcomer: Tenant, resident: Tenant, policy: Policy) -> Iterator[Refusal]:
    if isinstance(newcomer, Terms) and isinstance(resident, Terms):
        if newcomer.vapp != resident.vapp:
            yield from _demands(newcomer, resident)
            yield from _demands(resident, newcomer)
            yield from _conflicts(newcomer, resident)
        return
    for one, other in ((newcomer, resident), (resident, newcomer)):
        if isinstance(one, Terms) and isinstance(other, Unmanaged):
            yield from _unmanaged(one, other, policy)


def _demands(one: Terms, other: Terms) -> Iterator[Refusal]:
    """What one vApp has against another one."""
    if one.share == DEDICATED:
        reason = f"'{one.vapp}' shares its host with no other vApp, and '{other.vapp}' is one"
        yield Refusal("tenancy.share", one.vapp, reason)
    if one.share != LABELLED:
        return
    if one.together and not any(_matches(other, selector) for selector in one.together):
        wanted = " or ".join(map(_told, one.together))
        reason = f"'{one.vapp}' shares its host only with vApps that have {wanted}, and '{other.vapp}' has {_told(other.labels)}"
        yield Refusal("tenancy.with", one.vapp, reason)
    for selector in one.never:
        if _matches(other, selector):
            reason = f"'{one.vapp}' never shares its host with a vApp that has {_told(selector)}, and '{other.vapp}' has it"
            yield Refusal("tenancy.never", one.vapp, reason)


def _conflicts(one: Terms, other: Terms) -> Iterator[Refusal]:
    for name in one.conflicts:
        if name in other.conflicts:
            reason = f"'{one.vapp}' and '{other.vapp}' are both of conflict class '{name}'"
            yield Refusal("tenancy.conflicts", other.vapp, reason)


def _carried(newcomer: Terms, carried: Mapping[str, frozenset[str]]) -> Iterator[Refusal]:
    for name in newcomer.conflicts:
        for vapp in sorted(carried.get(name, frozenset()) - {newcomer.vapp}):
            reason = f"this host has carried '{vapp}' of conflict class '{name}', and stays closed to '{newcomer.vapp}' until `vcloud host scrub`"
            yield Refusal("tenancy.conflicts", vapp, reason)


def _unmanaged(vapp: Terms, vm: Unmanaged, policy: Policy) -> Iterator[Refusal]:
    if vapp.share == DEDICATED and policy.unmanaged == DENY:
        reason = f"'{vapp.vapp}' is dedicated, and this host denies VMs that vcloud does not manage beside it: '{vm.name}' is one"
        yield Refusal("host.unmanaged", vapp.vapp, reason)


def _matches(vapp: Terms, selector: Selector) -> bool:
    return set(selector) <= set(vapp.labels)


def _told(labels: Selector) -> str:
    return ", ".join(f"{key}={value}" for key, value in labels) or "no labels"


def _mapping(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict) or len(value) > MOST:
        raise ValueError(f"{what} is not an object of at most {MOST} members")
    return value


def _list(value: Any, what: str) -> Iterable[Any]:
    if not isinstance(value, list) or len(value) > MOST:
        raise ValueError(f"'{what}' is not a list of at most {MOST}")
    return value


def _text(value: Any, what: str, least: int = 1) -> str:
    if not isinstance(value, str) or not least <= len(value) <= LONGEST or not value.isprintable():
        raise ValueError(
            f"'{what}' has something that is no plain text of at most {LONGEST} letters"
        )
    return value


def _selector(value: Any, what: str) -> Selector:
    found = _mapping(value, f"'{what}'")
    return tuple(
        sorted((_text(key, what), _text(text, what, least=0)) for key, text in found.items())
    )
