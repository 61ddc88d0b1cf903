"""What the inventory says of one host, beside what the host itself tells (`vcloud host show`)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from vcloud.enforce.install import hook_digest, installed_digest, wanted_on
from vcloud.errors import HostError
from vcloud.fleet.fleet import open_fleet
from vcloud.hosts.accelerator import stored_accelerator
from vcloud.hosts.capabilities import capabilities_of
from vcloud.hosts.connection import Host
from vcloud.hosts.drained import is_drained
from vcloud.hosts.labels import labels_of
from vcloud.hosts.links import link_of
from vcloud.hosts.pool import StoragePool
from vcloud.hosts.preparing import look_at
from vcloud.hosts.tenancy import NOBODY, ask_hook, residents_of
from vcloud.plan.preparation import SeenHost
from vcloud.tenancy import Terms
from vcloud.values import HOST_FACTS

OURS, OTHERS, NONE, UNKNOWN = "this release's", "another release's", "none", "unknown"
"""What is told of a program that vcloud installs."""


@dataclass(frozen=True, slots=True)
class Installed:
    """A program of vcloud's on the host."""

    state: str
    """OURS, OTHERS, NONE or UNKNOWN."""
    digest: str = ""
    """SHA-256 in hex; empty where it is not known."""


@dataclass(frozen=True, slots=True)
class HostFacts:
    """One host."""

    name: str
    uri: str
    link: str
    """How commands reach its libvirt."""
    encrypted: bool | None
    """Whether what crosses the network is encrypted; None: it is this machine, nothing crosses it."""
    labels: dict[str, str]
    """Of the inventory."""
    facts: dict[str, str]
    """Those of `values.HOST_FACTS` that are known."""
    overcommit: float
    cpu_overcommit: float
    processors: int
    memory: int
    """Bytes."""
    free_memory: int
    """Bytes."""
    storage: dict[str, Any] | None
    """Folder of the storage pool, its bytes and those that are free; None: there is no pool yet."""
    versions: dict[str, str]
    """Of libvirt, QEMU, the kernel and the distribution; empty where it is not known."""
    hook: Installed
    """By its own word: libvirt asks it."""
    reporter: Installed
    trusted_operators: int | None
    """Keys whose signatures count there; None: the host asks for no signatures."""
    drained: bool = False
    """Whether no vApp is placed there (`vcloud host drain`)."""
    vapps: list[str] = field(default_factory=list)
    """Those that run there."""
    other_vms: list[str] = field(default_factory=list)
    """VMs that run there and are none of a vApp's."""

    def as_data(self) -> dict[str, Any]:
        return asdict(self)

    def rows(self) -> list[tuple[str, str]]:
        """For people."""
        storage = self.storage
        return [
            ("URI", self.uri),
            ("link", self.link),
            ("labels", " ".join(f"{key}={value}" for key, value in sorted(self.labels.items()))),
            *((fact, self.facts.get(fact, UNKNOWN)) for fact in HOST_FACTS),
            (
                "processors",
                f"{self.processors} (VMs may have {self.cpu_overcommit:g} CPUs for each)",
            ),
            (
                "memory",
                f"{self.free_memory >> 20} of {self.memory >> 20} MiB free (promised {self.overcommit:g} times)",
            ),
            (
                "storage",
                f"{storage['free'] >> 20} of {storage['size'] >> 20} MiB free in {storage['folder']}"
                if storage
                else "no pool yet; the first `vcloud up` makes it",
            ),
            *((what, version or UNKNOWN) for what, version in self.versions.items()),
            ("hook", f"{self.hook.state} {self.hook.digest[:12]}".rstrip()),
            ("reporter", f"{self.reporter.state} {self.reporter.digest[:12]}".rstrip()),
            (
                "trusted operators",
                "it asks for no signatures"
                if self.trusted_operators is None
                else str(self.trusted_operators),
            ),
            ("drained", "yes; no vApp is placed there" if self.drained else "no"),
            ("vApps that run", ", ".join(self.vapps) or "none"),
            ("other VMs that run", ", ".join(self.other_vms) or "none"),
        ]


def facts_of(name: str) -> HostFacts:
    """What is known of a host of the inventory, or of a URI. Raises UsageError, SpecError, HostError."""
    with open_fleet(name) as fleet:
        return _facts(fleet.home)


def _facts(host: Host) -> HostFacts:
    capabilities, known = capabilities_of(host), stored_accelerator(host)
    labels = labels_of(host, known.name if known else "").labels
    residents = residents_of(host)
    link, encrypted = link_of(host.ref)
    seen = _seen(host)
    return HostFacts(
        name=host.name,
        uri=host.ref.uri,
        link=link,
        encrypted=encrypted,
        labels=dict(host.ref.labels),
        facts={fact: labels[fact] for fact in HOST_FACTS if fact in labels},
        overcommit=capabilities.overcommit,
        cpu_overcommit=capabilities.cpu_overcommit,
        processors=capabilities.processors,
        memory=capabilities.memory,
        free_memory=capabilities.free_memory,
        storage=_storage(host),
        versions={
            "libvirt": str(capabilities.libvirt),
            "QEMU": str(capabilities.qemu),
            "kernel": host.versions.rpartition(" linux ")[2],
            "system": seen.release.name if seen and seen.release else "",
        },
        hook=_hook(host),
        reporter=_reporter(seen),
        trusted_operators=None if seen is None or seen.operators is None else len(seen.trusted),
        drained=is_drained(host),
        vapps=sorted({one.vapp for one in residents if isinstance(one, Terms)}),
        other_vms=sorted(one for one in residents if isinstance(one, str)),
    )


def _seen(host: Host) -> SeenHost | None:
    try:
        return look_at(host.shell, wanted_on())
    except HostError:
        return None


def _storage(host: Host) -> dict[str, Any] | None:
    pool = StoragePool.existing(host)
    return {"folder": pool.folder, "size": pool.size, "free": pool.free} if pool else None


def _hook(host: Host) -> Installed:
    try:
        answer = ask_hook(host, NOBODY)
    except HostError:
        return Installed(UNKNOWN)
    if not answer.exists:
        return Installed(NONE)
    return Installed(OURS if answer.digest == hook_digest() else OTHERS, answer.digest)


def _reporter(seen: SeenHost | None) -> Installed:
    path = wanted_on().reporter.path
    if seen is None or path in seen.hidden:
        return Installed(UNKNOWN)
    found = seen.found.get(path)
    if found is None:
        return Installed(NONE)
    if not found.digest:
        return Installed(UNKNOWN)
    return Installed(OURS if found.digest == installed_digest() else OTHERS, found.digest)
