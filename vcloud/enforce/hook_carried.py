"""The classes of conflict that a host remembers (a Chinese wall with memory): what it has carried of one
stays closed to the other vApps of the class until root says that the host is clean. The text of this
module is part of the hook (`vcloud.enforce.install`).
"""

from __future__ import annotations

from collections.abc import Mapping, Set

from vcloud.enforce.hook_files import LEASES, broken_if, read_json, replace
from vcloud.tenancy import Tenant, Terms, carried_after

CARRIED = "carried"
"""The file beside the leases with the remembered classes."""


def carried() -> dict[str, frozenset[str]]:
    """The remembered classes of conflict, and whose VMs the host has carried of each. Raises
    BrokenError.
    """
    path = LEASES / CARRIED
    found = read_json(path)
    if found is None:
        return {}
    with broken_if(f"'{path}' is no list of vApps", TypeError, AttributeError):
        return {str(name): frozenset(map(str, vapps)) for name, vapps in found.items()}


def remember(tenant: Tenant | None, before: Mapping[str, frozenset[str]]) -> None:
    """Adds the classes that the host has to remember of a vApp. Raises BrokenError."""
    if not isinstance(tenant, Terms):
        return
    after = carried_after(tenant, before)
    if after != before:
        replace(CARRIED, {name: sorted(vapps) for name, vapps in after.items()})


def forget(classes: Set[str]) -> None:
    """The host is clean of these. Raises BrokenError."""
    before = carried()
    if not classes.isdisjoint(before):
        replace(
            CARRIED, {one: sorted(vapps) for one, vapps in before.items() if one not in classes}
        )
