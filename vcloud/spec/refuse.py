"""What a file may say but this release cannot enforce. Nothing of it is accepted and ignored: `plan` and `up` refuse it by name."""

from __future__ import annotations

from collections.abc import Iterator

from vcloud.errors import Problem
from vcloud.spec.model import Vapp

_WAY_OUT = "Remove it to go on without; a later release will enforce it."


def refusals(vapp: Vapp) -> tuple[Problem, ...]:
    """One problem for each thing that is valid and cannot be enforced yet, in file order."""
    return tuple(sorted(Problem(vapp.file, vapp.line_of(path), path, what, _WAY_OUT) for path, what in _unenforced(vapp)))


def _unenforced(vapp: Vapp) -> Iterator[tuple[str, str]]:
    for index, profile in enumerate(vapp.protection.profiles):
        yield f"protection.profiles[{index}]", f"this release has no profiles, so it cannot enforce '{profile}'"
    if vapp.tenancy:
        yield "tenancy", "this release cannot keep other vApps away from the hosts of this one"
    if vapp.placement:
        yield "placement", "this release runs a vApp on the host it is given, and cannot choose one"
    if vapp.dr:
        yield "dr", "this release cannot replicate a vApp to another site"
    for flow in vapp.flows:
        if flow.tls:
            yield f"{flow.path}.tls", f"this release cannot check the TLS server name of flow '{flow.id}'"
