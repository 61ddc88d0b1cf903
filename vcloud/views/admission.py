"""`vcloud host admit`: after a boot of a host, lets the VMs of its vApps start there again, but for those
of vApps that have a newer copy on another host.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from vcloud.enforce.install import hook_digest
from vcloud.errors import HostError, UsageError
from vcloud.fleet.fleet import Fleet, open_lab
from vcloud.hosts.connection import Host, run_parallel
from vcloud.hosts.manifests import read_manifest, vapp_names
from vcloud.hosts.operators import may_ask_for_signatures
from vcloud.hosts.tenancy import ask_hook, boot_of
from vcloud.placement.place import INSTALL_HOOK, TRUST
from vcloud.plan.copies import gives_way, newest_copy
from vcloud.plan.formats import Unreadable
from vcloud.plan.manifest import Manifest

Copies = Mapping[str, Manifest | Unreadable]
"""Host -> its manifest of a vApp."""


@dataclass(frozen=True, slots=True)
class Admission:
    """One vApp on one host."""

    host: str
    vapp: str
    admitted: bool
    why: str = ""
    """Why it was not admitted, with the way out; or why nobody has to admit it."""


def admit_hosts(connect: str | None, name: str) -> tuple[list[Admission], list[str]]:
    """Admits the vApps of a host for its boot; an empty name means all hosts. Compares them with all
    hosts that can be reached. Returns what became of each vApp, and the names of the hosts that could
    not be reached.

    Raises UsageError where no host has that name or no operator's key is given, HostError.
    """
    with open_lab(connect) as lab:
        wanted = lab.hosts if lab.hosts and not name else (lab.named(name),)
        copies = _copies(lab)
        return (
            [
                _admitted(host, vapp, found)
                for host in wanted
                for vapp, found in sorted(copies.items())
                if host.name in found
            ],
            sorted(lab.unreachable),
        )


def _copies(lab: Fleet) -> dict[str, dict[str, Manifest | Unreadable]]:
    """vApp -> host -> the manifest there. Raises HostError."""
    found: dict[str, dict[str, Manifest | Unreadable]] = {}
    for host, manifests in zip(
        lab.hosts, run_parallel([partial(_manifests, host) for host in lab.hosts]), strict=True
    ):
        for vapp, manifest in manifests.items():
            found.setdefault(vapp, {})[host.name] = manifest
    return found


def _manifests(host: Host) -> dict[str, Manifest | Unreadable]:
    found = {vapp: read_manifest(host, vapp) for vapp in vapp_names(host)}
    return {vapp: manifest for vapp, manifest in found.items() if manifest is not None}


def why_not_admitted(vapp: str, host: str, copies: Copies) -> str:
    """Why the host's copy of a vApp must not start, with the way out; empty if it may."""
    known = {name: one for name, one in copies.items() if isinstance(one, Manifest)}
    if unreadable := sorted({*copies} - {*known}):
        return f"the copy on {unreadable[0]} cannot be read, so nobody knows which one is newer; see `vcloud status {vapp} -c {unreadable[0]}`"
    newest = newest_copy(known)
    if newest == host:
        return ""
    if gives_way(host, known):
        return "it is a copy of a move that has not ended, and does not count; `vcloud up` ends the move"
    down = f"`vcloud down {vapp} -c {host}` removes the copy on {host} with its data disks"
    if newest is None or host not in known[newest].replaced:
        down = (
            f"if both are wanted, `vcloud host admit {host} -c {host}` lets this one start; {down}"
        )
    if newest is None:
        others = ", ".join(sorted({*known} - {host}))
        return f"nobody knows whether this copy or that on {others} is newer; {down}"
    return f"a newer copy is on {newest}; {down}, and `vcloud up` works on the newer one"


def _admitted(host: Host, vapp: str, copies: Copies) -> Admission:
    """Raises UsageError, HostError."""
    if not may_ask_for_signatures(host):
        why = f"{host.name} trusts no operators, so its VMs start after a boot as ever"
        return Admission(host.name, vapp, admitted=True, why=why)
    manifest = copies[host.name]
    if (why := why_not_admitted(vapp, host.name, copies)) or not isinstance(manifest, Manifest):
        return Admission(host.name, vapp, admitted=False, why=why)
    if host.operator is None:
        raise UsageError(
            f"no operator's key is given, and {host.name} believes only operators", TRUST
        )
    boot_of(host)  # Without it, nothing can be admitted.
    notice = {vm.uuid: manifest.signed_of(vm.name) for vm in manifest.design.vms}
    answer = ask_hook(host, manifest.design.terms, notice)
    if not answer.exists:
        raise HostError(
            f"{host.name} has no hook, so nothing there asks for admission", INSTALL_HOOK
        )
    if answer.digest != hook_digest():
        raise HostError(f"the hook of {host.name} is not that of this release", INSTALL_HOOK)
    if not answer.trusts or not answer.knows:
        raise HostError(f"{host.name} admits nothing: {answer.refusal}", TRUST)
    if answer.newest < max(notice.values(), default=0):
        raise HostError(f"{host.name} admits nothing: {answer.refusal}", INSTALL_HOOK)
    return Admission(host.name, vapp, admitted=True)
