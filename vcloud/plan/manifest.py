"""The manifest: the description of a whole vApp that its host keeps, so that no local file is
needed to know the vApp again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePath
from typing import Final

from vcloud.design.model import Design, ImageRef, Uplink, Vm
from vcloud.marks import VmDigests

SAVED: Final = "saved"
"""In place of the token of a VM that was connected before `vcloud save`. No domain has it."""


class Phase(StrEnum):
    """How far the last run of `vcloud up` came."""

    APPLYING = "applying"
    """The run began and did not end. Only the marks of each domain and network say what it was made
    from.
    """
    READY = "ready"
    """The run ended. Everything that the manifest names is as the manifest says."""


@dataclass(frozen=True, slots=True)
class VmImage:
    """One build of an image. A field is empty if its value is not known: an earlier release did not
    note it, or the build is not made yet.
    """

    recipe: str
    """SHA-256 in hex of the recipe and all that it depends on, or of a user's qcow2."""
    content: str = ""
    """SHA-256 in hex of the bytes. On a host, it is part of the name of the image's volumes."""
    packages: str = ""
    """Digest of the packages with their versions (`vcloud.packages`). Empty for a user's qcow2,
    whose packages are not known.
    """
    built: str = ""
    """When the build began, in UTC (ISO 8601)."""


@dataclass(frozen=True, slots=True)
class Move:
    """A move of a vApp from one host to another that has begun. It stands in the manifests on both hosts
    until the move has ended. `vcloud.plan.copies` says which of the two copies counts.
    """

    id: str
    """Random, so that a record of an earlier move is not taken for one of this move."""
    source: str
    """The name of the host that the vApp leaves."""
    destination: str
    """The name of the host that it goes to."""
    switched: bool = False
    """Whether the copy on the destination counts. The source's manifest decides. That on the
    destination says it only after the source's.
    """
    volumes: tuple[tuple[str, str], ...] = ()
    """(volume of a VM, SHA-256 in hex of its copy), of those that the destination has and that were
    verified there. Only these are deleted on the source.
    """
    host_keys: tuple[tuple[str, str], ...] = ()
    """(VM, the public half of its SSH host key)."""


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
    images: tuple[tuple[str, VmImage], ...]
    """(VM, the build of its image)."""
    vms: tuple[tuple[str, VmDigests], ...]
    """(VM, what it was made from)."""
    networks: tuple[tuple[str, str], ...]
    """(network, digest of its rendered XML)."""
    filter: str
    """Digest of the rendered XML of the vApp's network filters."""
    firewall: str
    """Digest of the ruleset."""
    ips: str
    """Digest of the IPS's files; empty without an IPS."""
    written: str
    """When it was written, in UTC (ISO 8601)."""
    vcloud: str
    """Version that wrote it."""
    connected: tuple[tuple[str, str], ...] = ()
    """(VM, the token that `up` put into the running domain when it connected the VM). If the domain
    has another token or none, `up` has not connected the VM since it was started. `vcloud save`
    writes `SAVED` in place of each token.
    """
    defined: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = ()
    """(VM, how libvirt read the definition that vcloud gave it): pairs of a part and its text."""
    ids: tuple[tuple[str, int], ...] = ()
    """(VM, libvirt's id of its domain), for VMs that an earlier release connected. Only releases
    without tokens wrote it.
    """
    lock: str = ""
    """UUID of the lock that the run held which wrote the manifest; empty in manifests of earlier
    releases.
    """
    cores: tuple[tuple[str, tuple[int, ...]], ...] = ()
    """(VM, the processor of the host to which each of its virtual CPUs is pinned), of the VMs that
    demand cores of their own.
    """
    owned: tuple[int, ...] = ()
    """All processors of these cores, in order."""
    generation: int = 0
    """Number of the run that claimed the vApp. Every run has a higher number than all before it. By
    the number, a guest refuses late commands of a run that was killed.
    """
    signed: tuple[tuple[str, int], ...] = ()
    """(VM, the generation of its terms of tenancy), of VMs whose terms an operator has signed. It is
    the generation of the run that signed them.
    """

    stopped: tuple[str, ...] = ()
    """The VMs that `vcloud stop` has stopped, and that nothing has started since."""

    replaced: tuple[str, ...] = ()
    """Hosts that a person has said to be dead when this copy was made or changed, by their names.
    What comes back there is older than this copy, whatever its generation is. A host is forgotten as
    soon as it was asked and has no copy any more.
    """
    salt: str = ""
    """Random text that every digest of a secret covers, so that nobody can compare such digests of
    two vApps, or guess a secret from a list. Empty if no file of the vApp ever held a secret.
    """
    move: Move | None = None
    """The move that has begun and has not ended; None if there is none."""

    def digests_of(self, vm: str) -> VmDigests | None:
        return dict(self.vms).get(vm)

    def image_of(self, vm: str) -> VmImage | None:
        return dict(self.images).get(vm)

    def token_of(self, vm: str) -> str:
        return dict(self.connected).get(vm, "")

    def has_served(self, vm: str) -> bool:
        """Whether a run has connected the VM, so that its disks may hold data."""
        return bool(self.token_of(vm)) or self.id_of(vm) is not None

    def signed_of(self, vm: str) -> int:
        """The generation of the VM's signed terms; 0 where none is known."""
        return dict(self.signed).get(vm, 0)

    def definition_of(self, vm: str) -> Mapping[str, str] | None:
        """How libvirt read the VM's definition; None if no run has noted it yet."""
        parts = dict(self.defined).get(vm)
        return None if parts is None else dict(parts)

    def cores_of(self, vm: str) -> tuple[int, ...]:
        return dict(self.cores).get(vm, ())

    def id_of(self, vm: str) -> int | None:
        return dict(self.ids).get(vm)

    def network_digest(self, name: str) -> str:
        return dict(self.networks).get(name, "")

    def vm(self, name: str) -> Vm | None:
        return next((vm for vm in self.design.vms if vm.name == name), None)

    def agrees_with(self, other: Manifest) -> bool:
        """Whether both are equal. Phase, time, writer, run and the day of profiles are not
        compared, nor what a run notes about the objects that it made, nor where the values of
        parameters come from. An earlier release noted no parameters.
        """
        controls = dataclasses.replace(self.design.controls, day=other.design.controls.day)
        ours, theirs = (
            [(one.name, one.value) for one in manifest.design.parameters]
            for manifest in (self, other)
        )
        agree = not ours or ours == theirs
        parameters = other.design.parameters if agree else self.design.parameters
        return (
            dataclasses.replace(
                self,
                design=dataclasses.replace(self.design, controls=controls, parameters=parameters),
                phase=other.phase,
                written=other.written,
                vcloud=other.vcloud,
                connected=other.connected,
                defined=other.defined,
                ids=other.ids,
                lock=other.lock,
                generation=other.generation,
                signed=other.signed,
                replaced=other.replaced,
                move=other.move,
            )
            == other
        )

    def saved(self, lock: str) -> Manifest:
        """The manifest that `vcloud save` writes before it cuts the first link. It holds this lock.

        No domain has the token `SAVED`, so the next `up` takes no VM for connected. But it still
        knows that the disks of these VMs may hold data.
        """
        served = [vm for vm, _ in (*self.connected, *self.ids)]
        tokens = tuple((vm, SAVED) for vm in dict.fromkeys(served))
        return dataclasses.replace(self, connected=tokens, ids=(), lock=lock)

    def claimed(
        self,
        lock: str,
        before: Manifest | None,
        seconds: int,
        redefined: Collection[str] = frozenset(),
        anew: Collection[str] = frozenset(),
        above: int = 0,
        replaced: Collection[str] = frozenset(),
        empty: Collection[str] = frozenset(),
    ) -> Manifest:
        """The manifest that a run writes when it begins. The run holds this lock.

        Until the run ends, only those VMs count as connected that were connected `before`. So if the
        run is killed, the next run connects the others. `seconds` is the time since 1970. With it, the
        number of the run is higher than all before it even if the manifest `before` is lost, or the
        host has forgotten the terms that it has seen. The clocks of two operators may differ, so the
        number is always higher than the highest that is known, from the manifest and from `above`.
        The run defines the VMs `redefined` again, so their definitions are unknown until it ends.
        The VMs `anew` get new root disks, which hold no data until the run connects them. The hosts
        `replaced` were said to be dead for this run, and the hosts `empty` have no copy.
        """
        said = before.without_replaced(empty).replaced if before else ()
        return dataclasses.replace(
            self,
            phase=Phase.APPLYING,
            connected=tuple(
                (vm, token) for vm, token in (before.connected if before else ()) if vm not in anew
            ),
            defined=tuple(
                (vm, parts)
                for vm, parts in (before.defined if before else ())
                if vm not in redefined
            ),
            ids=before.ids if before else (),
            lock=lock,
            generation=max(seconds, above + 1, before.generation + 1 if before else 0),
            signed=before.signed if before else (),
            replaced=tuple(sorted({*said, *replaced})),
            move=before.move if before else None,
        )

    def without_replaced(self, empty: Collection[str]) -> Manifest:
        """The manifest without what was said of these hosts, which have no copy of the vApp."""
        left = tuple(host for host in self.replaced if host not in empty)
        return dataclasses.replace(self, replaced=left)


def digest_of(*parts: object) -> str:
    """A digest of the printed form of these values, as 24 hex digits."""
    # `repr` keeps the border between two values: ("ab", "c") and ("a", "bc") differ.
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]


def redacted(design: Design, salt: str = "") -> Design:
    """The design as a manifest keeps it: without secrets, and without paths of the operator's
    machine.

    File contents and run commands become their digests. The digest of a content in which a secret
    stands covers the salt, too. Of the path of a recipe or a qcow2 only the
    last part stays, so that the manifests of two operators, who keep their files in different
    folders, are equal.
    """
    return dataclasses.replace(
        design,
        workloads=tuple(_redacted_vm(vm, salt) for vm in design.workloads),
        firewall=_redacted_vm(design.firewall, salt),
        ips=_redacted_vm(design.ips, salt) if design.ips else None,
    )


def _redacted_vm(vm: Vm, salt: str) -> Vm:
    files = tuple(
        dataclasses.replace(
            file,
            content=_salted(file.content, salt) if file.secret else _as_digest(file.content),
            run=_as_digest(file.run.encode()).decode() if file.run else "",
        )
        for file in vm.files
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


def _salted(content: bytes, salt: str) -> bytes:
    if not salt:
        raise ValueError("a digest of a secret needs a salt")
    return b"salted:" + hmac.digest(salt.encode(), content, "sha256").hex().encode()
