"""What stands on a host, as values: the input of `vcloud.plan.diff`, filled by `vcloud.hosts.observe`."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from vcloud.design.model import Design, GuestFile, Uplink, Vm


class Phase(StrEnum):
    """`applying`: a run began and has not ended; what stands must be looked at piece by piece. `ready`: the manifest is the truth."""

    APPLYING = "applying"
    READY = "ready"


@dataclass(frozen=True, slots=True)
class VmDigests:
    """What a VM was made from, by the cost of a change."""

    root: str
    """Image, added packages and run commands: a change makes the VM anew."""
    hardware: str
    """CPUs, memory, cards, disks, accelerator: a change restarts it."""
    identity: str
    """Addresses, names, files, keys: a change is applied live."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """One vApp on one host, kept in libvirt, so that no local file is needed to know it again.

    File contents and run commands are kept as digests only: libvirt's readers are more than those who may read secrets.
    """

    phase: Phase
    design: Design
    uplink: Uplink
    accelerator: str
    images: tuple[tuple[str, str], ...]
    """(VM, image digest)."""
    vms: tuple[tuple[str, VmDigests], ...]
    firewall: str
    """Digest of the ruleset."""
    ips: str
    """Digest of the IPS's files; empty without an IPS."""
    written: str
    """When, in UTC (ISO 8601)."""
    vcloud: str
    """Version that wrote it."""
    ids: tuple[tuple[str, int], ...] = ()
    """(VM, libvirt's id of its domain) when `up` brought it in. Every start gives a new id: with another one, nobody has raised its links."""

    def image_of(self, vm: str) -> str:
        return dict(self.images).get(vm, "")

    def digests_of(self, vm: str) -> VmDigests | None:
        return dict(self.vms).get(vm)

    def id_of(self, vm: str) -> int | None:
        return dict(self.ids).get(vm)

    def agrees_with(self, other: Manifest) -> bool:
        """Equal in everything but phase, time, writer and ids."""
        return dataclasses.replace(self, phase=other.phase, written=other.written, vcloud=other.vcloud, ids=other.ids) == other


@dataclass(frozen=True, slots=True)
class DomainState:
    """A libvirt domain with a name as this vApp's VMs have."""

    name: str
    uuid: str
    running: bool
    paused: bool = False
    id: int = -1
    """libvirt's id, which every start changes; -1 while it is stopped."""
    saved: bool = False
    """It is stopped, and libvirt keeps its memory: it can go on where it was."""
    vapp: str = ""
    """Empty: somebody else's domain."""
    vm: str = ""
    role: str = ""
    digests: VmDigests | None = None
    """None until the VM is wholly made."""
    host_key: str = ""
    rules: str = ""
    """Of the firewall: the digest of the ruleset in force, as the firewall itself told it when it was loaded."""
    keeps_data: bool = False
    """Of a VM that is not wholly made: its data disks are older than this making of it."""

    def is_of(self, vapp: str) -> bool:
        """Whether it is a VM of the vApp: somebody's clone of one has its mark, and another name."""
        return self.vapp == vapp and self.name == f"{vapp}.{self.vm}"


@dataclass(frozen=True, slots=True)
class NetworkState:
    name: str
    uuid: str
    active: bool
    vapp: str = ""


@dataclass(frozen=True, slots=True)
class VappState:
    """Everything of one vApp on one host. `domains` and `networks` may be marked only by name when the manifest is `ready`."""

    manifest: Manifest | None
    domains: tuple[DomainState, ...]
    networks: tuple[NetworkState, ...]
    others: Mapping[str, str] = field(default_factory=dict)
    """UUID -> name of every domain of the host with a name that is none of this vApp's."""
    uplink_gone: bool = False
    """The libvirt network on which the firewall meets the outside is stopped or removed."""

    def renamed(self, vm: Vm) -> str:
        """The name that somebody gave a VM's domain; empty where it has its own, or none."""
        found = next((domain.name for domain in self.domains if domain.uuid == vm.uuid), "") or self.others.get(vm.uuid, "")
        return found if found != vm.domain else ""

    def brought_in(self, vm: Vm) -> bool:
        """Whether this VM runs since `vcloud up` looked after its links, its services and its rules."""
        domain = self.domain(vm.domain)
        return domain is not None and self.manifest is not None and domain.running and self.manifest.id_of(vm.name) == domain.id

    def saved(self) -> bool:
        """Whether every VM that the manifest names is stopped with its memory kept."""
        domains = [self.domain(vm.domain) for vm in self.manifest.design.vms] if self.manifest else []
        return bool(domains) and all(domain is not None and domain.saved for domain in domains)

    def domain(self, name: str) -> DomainState | None:
        return next((domain for domain in self.domains if domain.name == name), None)

    def network(self, name: str) -> NetworkState | None:
        return next((network for network in self.networks if network.name == name), None)


def digest_of(*parts: object) -> str:
    """A short, stable digest of printable values."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]


def redacted(design: Design) -> Design:
    """The design with file contents and run commands replaced by their digests."""
    return dataclasses.replace(design, workloads=tuple(map(_redacted_vm, design.workloads)))


def _redacted_vm(vm: Vm) -> Vm:
    files = tuple(GuestFile(file.path, _mark(file.content), file.mode, file.owner) for file in vm.files)
    return dataclasses.replace(vm, files=files, run=tuple(_mark(line.encode()).decode() for line in vm.run))


def _mark(content: bytes) -> bytes:
    return b"sha256:" + hashlib.sha256(content).hexdigest().encode()


def manifest_to_json(manifest: Manifest) -> bytes:
    text: bytes = _adapter().dump_json(manifest)
    return text


def manifest_from_json(text: bytes) -> Manifest | None:
    """None where the text is not a manifest of this release's format; the vApp is then looked at piece by piece."""
    try:
        manifest: Manifest = _adapter().validate_json(text)
    except ValueError:
        return None
    return manifest


@functools.cache
def _adapter() -> Any:
    from pydantic import TypeAdapter  # 0.1 s of import that most commands can do without

    return TypeAdapter(Manifest)
