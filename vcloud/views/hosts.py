"""The hosts of a lab: what each has, who runs there, to whom it is closed, and whose signatures it
trusts (`vcloud host`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from vcloud.compile.lab_graph import LabHost, Tenant
from vcloud.enforce.install import hook_digest
from vcloud.errors import HostError, UsageError
from vcloud.fleet.fleet import Fleet, open_lab
from vcloud.hosts.accelerator import stored_accelerator
from vcloud.hosts.capabilities import capabilities_of
from vcloud.hosts.connection import Host, run_parallel
from vcloud.hosts.drained import is_drained
from vcloud.hosts.labels import labels_of
from vcloud.hosts.manifests import read_manifest, vapp_names
from vcloud.hosts.observe import has_vapp
from vcloud.hosts.operator_key import Operator, fingerprint_of, load_operator, public_key_in
from vcloud.hosts.operators import Trusted, revoke, scrub, trust, trusted_on
from vcloud.hosts.tenancy import NOBODY, ask_hook, residents_of
from vcloud.placement.place import INSTALL_HOOK
from vcloud.plan.manifest import Manifest
from vcloud.tenancy import Terms, told_demands


@dataclass(frozen=True, slots=True)
class HostRow:
    """What is told of one host."""

    name: str
    error: str = ""
    """Why it cannot be asked. Then nothing else is known."""
    processors: int = 0
    cpus: int = 0
    """CPUs of all VMs that run there."""
    memory: int = 0
    """Bytes."""
    free_memory: int = 0
    """Bytes."""
    labels: tuple[tuple[str, str], ...] = ()
    """Those of the inventory, and the facts that are known."""
    vapps: tuple[str, ...] = ()
    """The vApps that run there, and other VMs by their names in brackets."""
    closed_to: tuple[str, ...] = ()
    """Whom those that run there keep away, in sentences without an end."""
    drained: bool = False
    """Whether no vApp is placed there (`vcloud host drain`)."""


def host_rows(connect: str | None) -> list[HostRow]:
    """A row for each host that the user means. Raises UsageError, SpecError, HostError where none
    lets us in.
    """
    with open_lab(connect) as lab:
        found = run_parallel([partial(_row, host) for host in lab.hosts])
    silent = [HostRow(name, error=error.what) for name, error in lab.unreachable.items()]
    return sorted([*found, *silent], key=lambda row: row.name)


def _row(host: Host) -> HostRow:
    try:
        capabilities, residents = capabilities_of(host), residents_of(host)
        known = stored_accelerator(host)
        labels = labels_of(host, known.name if known else "").labels
        drained = is_drained(host)
    except HostError as error:
        return HostRow(host.name, error=error.what)
    terms = sorted({one for one in residents if isinstance(one, Terms)}, key=lambda one: one.vapp)
    others = sorted(f"({one})" for one in residents if isinstance(one, str))
    return HostRow(
        host.name,
        "",
        capabilities.processors,
        sum(vm.cpus for vm in capabilities.running),
        capabilities.memory,
        capabilities.free_memory,
        tuple(sorted(labels.items())),
        (*(one.vapp for one in terms), *others),
        tuple(demand for one in terms for demand in told_demands(one)),
        drained,
    )


def lab_picture(connect: str | None) -> list[LabHost]:
    """What `vcloud graph --lab` draws: the hosts that the user means, and who is there. Raises
    UsageError, SpecError, HostError where none lets us in.
    """
    with open_lab(connect) as lab:
        found = run_parallel([partial(_pictured, host) for host in lab.hosts])
    silent = [LabHost(name, error=error.what) for name, error in lab.unreachable.items()]
    return sorted([*found, *silent], key=lambda host: host.name)


def _pictured(host: Host) -> LabHost:
    try:
        residents, standing = residents_of(host), vapp_names(host)
        known = stored_accelerator(host)
        labels = labels_of(host, known.name if known else "").labels
        running = Counter(one for one in residents if isinstance(one, Terms))
        names = {terms.vapp for terms in running}
        stopped = [_stopped(host, vapp) for vapp in standing if vapp not in names]
    except HostError as error:
        return LabHost(host.name, error=error.what)
    vapps = [Tenant(terms.vapp, number, terms) for terms, number in running.items()]
    others = [Tenant(one, 1, managed=False) for one in residents if isinstance(one, str)]
    return LabHost(
        host.name,
        tuple(sorted(labels.items())),
        (
            *sorted([*vapps, *stopped], key=lambda one: one.name),
            *sorted(others, key=lambda one: one.name),
        ),
    )


def _stopped(host: Host, vapp: str) -> Tenant:
    """A vApp of which no VM runs. Its rules bind others when it starts again."""
    manifest = read_manifest(host, vapp)
    return Tenant(vapp, 0, manifest.design.terms if isinstance(manifest, Manifest) else None)


@dataclass(frozen=True, slots=True)
class TrustRow:
    """A host, and the operators whom it trusts."""

    host: str
    trusted: tuple[Trusted, ...] | None
    """None: the host asks for no signatures."""


@contextmanager
def _open_all(connect: str | None) -> Iterator[Fleet]:
    """All hosts that the user means. Raises HostError where one of them does not let us in."""
    with open_lab(connect) as lab:
        if lab.unreachable:
            raise next(iter(lab.unreachable.values()))
        yield lab


def _trust_row(host: Host) -> TrustRow:
    return TrustRow(host.name, trusted_on(host))


def trust_rows(connect: str | None) -> list[TrustRow]:
    """Raises HostError where a host cannot be asked."""
    with _open_all(connect) as lab:
        return run_parallel([partial(_trust_row, host) for host in lab.hosts])


def trust_operator(connect: str | None, key: Path | None) -> list[TrustRow]:
    """Lets every host trust the operator of a public key; None: the user's own operator on each
    host. Raises UsageError, HostError.
    """
    with _open_all(connect) as lab:
        wanted = {host.name: _line_of(host, key) for host in lab.hosts}
        for host in lab.hosts:
            line = wanted[host.name]
            trust(host, Trusted(line, fingerprint_of(public_key_in(line) or b"")))
        for host in lab.hosts:
            answer = ask_hook(host, NOBODY)
            if not answer.exists or answer.digest != hook_digest():
                raise HostError(
                    f"the list of {host.name} is written, and nothing there asks for signatures: it has no hook, or another release's",
                    INSTALL_HOOK,
                )
        return [_trust_row(host) for host in lab.hosts]


def revoke_operator(connect: str | None, fingerprint: str) -> list[TrustRow]:
    """Takes an operator off the list of every host. Raises UsageError where no host trusts it,
    HostError.
    """
    with _open_all(connect) as lab:
        before = {host.name: trusted_on(host) for host in lab.hosts}
        if all(
            fingerprint not in {one.fingerprint for one in found or ()} for found in before.values()
        ):
            raise UsageError(
                f"no host trusts the key {fingerprint}",
                "`vcloud host trust --list` shows the keys.",
            )
        for host in lab.hosts:
            revoke(host, fingerprint)
        return [_trust_row(host) for host in lab.hosts]


def scrub_hosts(connect: str | None, name: str) -> dict[str, dict[str, list[str]]]:
    """Lets the hosts forget what they have carried of a class of conflict; an empty name means all
    classes. Host -> class -> vApps that it has forgotten.

    Raises UsageError where something of such a vApp is still on the host, HostError.
    """
    with _open_all(connect) as lab:
        known = {host.name: scrub(host, name, only_look=True) for host in lab.hosts}
        for host in lab.hosts:
            for vapp in sorted({one for vapps in known[host.name].values() for one in vapps}):
                if has_vapp(host, vapp):
                    raise UsageError(
                        f"{host.name} is not clean: something of '{vapp}' is still there",
                        f"Remove it first, with its data disks: vcloud down {vapp} --connect {host.name}.",
                    )
        return {host.name: scrub(host, name, only_look=False) for host in lab.hosts}


def _line_of(host: Host, key: Path | None) -> str:
    """The public key, as a line of OpenSSH's."""
    if key is None:
        own: Operator | None = host.operator
        if own is None:
            raise UsageError(
                "no operator's key is given",
                "Make one: mkdir -p ~/.config/vcloud; ssh-keygen -t ed25519 -f ~/.config/vcloud/operator. Or name a public key.",
            )
        return own.line
    try:
        text = key.read_text(errors="replace")[:16384].strip()
    except OSError as error:
        raise UsageError(f"'{key}' cannot be read: {error.strerror}") from None
    if public_key_in(text) is not None and len(text.splitlines()) == 1:
        return text
    return load_operator(key).line
