"""The manifest: the description of a whole vApp that its host keeps, so that no local file is
needed to know the vApp again.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePath

from vcloud.design.model import Design, GuestFile, ImageRef, Uplink, Vm
from vcloud.marks import VmDigests


class Phase(StrEnum):
    """How far the last run of `vcloud up` came."""

    APPLYING = "applying"
    """The run began and did not end. Every domain and network must be looked at by itself."""
    READY = "ready"
    """The run ended. Everything that the manifest names is as the manifest says."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """One vApp on one host.

    File contents and run commands are kept as digests only, because more people may read libvirt's
    state than may read secrets.
    """

    phase: Phase
    design: Design
    uplink: Uplink
    accelerator: str
    """`kvm` or `tcg`."""
    images: tuple[tuple[str, str], ...]
    """(VM, image digest)."""
    vms: tuple[tuple[str, VmDigests], ...]
    """(VM, what it was made from)."""
    networks: tuple[tuple[str, str], ...]
    """(network, digest of its rendered XML)."""
    filter: str
    """Digest of the rendered XML of the vApp's network filter."""
    firewall: str
    """Digest of the ruleset."""
    ips: str
    """Digest of the IPS's files; empty without an IPS."""
    written: str
    """When it was written, in UTC (ISO 8601)."""
    vcloud: str
    """Version that wrote it."""
    ids: tuple[tuple[str, int], ...] = ()
    """(VM, libvirt's id of its domain) when `up` connected it. Every start gives a new id; with
    another id, nobody has raised its links.
    """

    def image_of(self, vm: str) -> str:
        return dict(self.images).get(vm, "")

    def digests_of(self, vm: str) -> VmDigests | None:
        return dict(self.vms).get(vm)

    def id_of(self, vm: str) -> int | None:
        return dict(self.ids).get(vm)

    def network_digest(self, name: str) -> str:
        return dict(self.networks).get(name, "")

    def vm(self, name: str) -> Vm | None:
        return next((vm for vm in self.design.vms if vm.name == name), None)

    def agrees_with(self, other: Manifest) -> bool:
        """Whether both are equal in everything but phase, time, writer and ids."""
        return (
            dataclasses.replace(
                self, phase=other.phase, written=other.written, vcloud=other.vcloud, ids=other.ids
            )
            == other
        )


def digest_of(*parts: object) -> str:
    """24 hex digits that change with the printed form of these values."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]


def redacted(design: Design) -> Design:
    """The design as a manifest keeps it: without secrets, and without paths of the operator's
    machine.

    File contents and run commands become their digests. Of the path of a recipe or a qcow2 only the
    last part stays, so that the manifests of two operators, who keep their files in different
    folders, are equal.
    """
    return dataclasses.replace(
        design,
        workloads=tuple(map(_redacted_vm, design.workloads)),
        firewall=_redacted_vm(design.firewall),
        ips=_redacted_vm(design.ips) if design.ips else None,
    )


def _redacted_vm(vm: Vm) -> Vm:
    files = tuple(
        GuestFile(file.path, _as_digest(file.content), file.mode, file.owner) for file in vm.files
    )
    return dataclasses.replace(
        vm,
        image=without_folders(vm.image),
        files=files,
        run=tuple(_as_digest(line.encode()).decode() for line in vm.run),
    )


def without_folders(image: ImageRef) -> ImageRef:
    """The reference with the last part of each path only."""
    return dataclasses.replace(
        image, name=_last(image.name), recipe=_last(image.recipe), source=_last(image.source)
    )


def _last(path: str) -> str:
    return PurePath(path).name


def _as_digest(content: bytes) -> bytes:
    return b"sha256:" + hashlib.sha256(content).hexdigest().encode()
