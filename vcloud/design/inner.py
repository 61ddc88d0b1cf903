"""Finds flows that name addresses of the vApp's own zones as if they were outside."""

from __future__ import annotations

from collections.abc import Iterator

from vcloud.design.addressing import zone_prefixes
from vcloud.errors import Problem
from vcloud.spec.model import Vapp
from vcloud.values import covers


def inner_prefixes(vapp: Vapp) -> Iterator[Problem]:
    """One problem for each end of a flow that is a prefix within a zone. Such a flow would allow
    nothing.
    """
    ends = [
        (f"{flow.path}.{key}", prefix)
        for flow in vapp.flows
        for key, prefix in zip(("from", "to"), flow.prefixes, strict=True)
        if prefix
    ]
    for zone, prefixes in zone_prefixes(vapp.name, vapp.zones).items() if ends else ():
        for path, prefix in ends:
            if any(covers(ours, prefix) for ours in prefixes):
                what = f"'{prefix}' is in the zone '{zone}' of this vApp"
                hint = "Write the name of the VM or the zone."
                yield Problem(vapp.file, vapp.line_of(path), path, what, hint)
