"""`vcloud list`: the vApps on all hosts, from what libvirt reports."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from vcloud.errors import HostError
from vcloud.fleet.fleet import open_lab
from vcloud.hosts.connection import Host, run_parallel
from vcloud.hosts.manifests import vapp_names
from vcloud.hosts.observe import observe_vapp
from vcloud.plan.copies import newest_copy
from vcloud.plan.manifest import Manifest
from vcloud.views.status import libvirt_status

OLDER_COPY = "older copy"
"""How the state of a superseded copy of a vApp begins."""
UNREACHABLE = "unreachable"
"""The state of what a host has that cannot be reached."""

_Row = tuple[dict[str, Any], Manifest | None]
"""What `list` shows of a copy of a vApp, and its manifest where it can be read."""


def all_vapps(connect: str | None) -> tuple[list[dict[str, Any]], dict[str, HostError]]:
    """A row for each vApp on the hosts, from what libvirt reports, and one for each host that cannot
    be asked; then the reasons of these by their names.

    No appliance is asked, so no vApp is called protected: `ready` only says that the last run has
    ended well.
    """
    with open_lab(connect) as lab:
        found = run_parallel([partial(_vapps_on, host) for host in lab.hosts])
        silent = {
            host.name: rows
            for host, rows in zip(lab.hosts, found, strict=True)
            if isinstance(rows, HostError)
        }
        unreachable = {**lab.unreachable, **silent}
        rows = [*itertools.chain(*(rows for rows in found if not isinstance(rows, HostError)))]
        return [
            *_with_superseded(rows),
            *(_row("", name, UNREACHABLE) for name in unreachable),
        ], unreachable


def _with_superseded(rows: Sequence[_Row]) -> Iterator[dict[str, Any]]:
    """The rows, of which those of superseded copies say so. Two copies of which neither is known to be
    the newest stay as they are.
    """
    copies: dict[str, dict[str, Manifest | None]] = {}
    for row, manifest in rows:
        copies.setdefault(row["vapp"], {})[row["host"]] = manifest
    for row, _ in rows:
        known = {host: one for host, one in copies[row["vapp"]].items() if one is not None}
        newest = newest_copy(known) if len(known) == len(copies[row["vapp"]]) else None
        if newest is not None and newest != row["host"]:
            yield row | {"state": f"{OLDER_COPY}, superseded by {newest}"}
        else:
            yield row


def _vapps_on(host: Host) -> list[_Row] | HostError:
    try:
        return _rows(host)
    except HostError as error:
        return error


def _rows(host: Host) -> list[_Row]:
    rows: list[_Row] = []
    for name in vapp_names(host):
        state = observe_vapp(host, name)
        found = libvirt_status(state, host.name) if state.manifest else None
        domains = [domain for domain in state.domains if domain.is_of(name)]
        row = _row(
            name,
            host.name,
            "unreadable"
            if state.unreadable
            else (found.phase if found.healthy else "problem")
            if found
            else "leftovers",
            len(found.vms) if found else len(domains),
            sum(domain.running for domain in domains),
            found.owner if found else "",
        )
        rows.append((row, state.manifest))
    return rows


def _row(
    vapp: str, host: str, state: str, vms: int = 0, running: int = 0, owner: str = ""
) -> dict[str, Any]:
    return {
        "vapp": vapp,
        "host": host,
        "state": state,
        "vms": vms,
        "running": running,
        "owner": owner,
    }
