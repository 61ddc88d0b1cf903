"""The target of a run: the vApp, compiled for its host and its accelerator."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from vcloud import __version__
from vcloud.apply.vm_images import VmImages
from vcloud.compile.artifacts import Artifacts, compile_vapp
from vcloud.design.model import Design
from vcloud.design.standing import in_standing_order
from vcloud.errors import HostError
from vcloud.hosts.accelerator import find_accelerator, stored_accelerator
from vcloud.hosts.connection import Host
from vcloud.hosts.cores import cores_for
from vcloud.hosts.uplink import uplink_for
from vcloud.hosts.volumes import VappVolumes
from vcloud.placement.place import Placement
from vcloud.plan.manifest import Manifest
from vcloud.plan.moving import with_files_of
from vcloud.plan.state import VappState
from vcloud.plan.wanted import needs_salt, wanted_manifest
from vcloud.reporter import Reporter


@dataclass(frozen=True, slots=True)
class Target:
    """A vApp compiled for its host, with the manifest that the run will write."""

    design: Design
    placement: Placement
    artifacts: Artifacts
    wanted: Manifest
    images: VmImages

    def with_images(self, images: VmImages) -> Target:
        """The same with other builds of images."""
        wanted = wanted_manifest(
            self.artifacts,
            self.wanted.accelerator,
            images.chosen,
            self.wanted.written,
            self.wanted.vcloud,
            self.wanted.salt,
        )
        wanted = replace(wanted, cores=self.wanted.cores, owned=self.wanted.owned)
        return replace(self, wanted=wanted, images=images)


def target_of(
    host: Host,
    design: Design,
    placement: Placement,
    state: VappState,
    accelerator: str,
    *,
    renew: bool = False,
    settled: VmImages | None = None,
    kept: Manifest | None = None,
) -> Target:
    """The target of a run. If the vApp exists, the design keeps the order of its parts. `renew` and
    `settled` are as in `VmImages.of`. With `kept`, the design is that of this manifest, so the guests
    keep their files, and the VMs their builds. Raises RefusedError if the host has too few cores for
    VMs that demand their own.
    """
    if state.manifest:
        design = in_standing_order(design, state.manifest.design)
    uplink = uplink_for(
        host, design.instance.name, state.manifest.uplink if state.manifest else None
    )
    artifacts = compile_vapp(design, uplink, keeps_files=kept is not None)
    images = (
        VmImages.kept(kept, state.images)
        if kept
        else VmImages.of(design, state.manifest, state.images, renew=renew, settled=settled)
    )
    wanted = wanted_manifest(
        artifacts,
        accelerator,
        images.chosen,
        datetime.now(UTC).isoformat(timespec="seconds"),
        __version__,
        salt_for(design, state.manifest),
    )
    wanted = with_files_of(wanted, kept) if kept else wanted
    cores = cores_for(host, design, dict(state.manifest.cores if state.manifest else ()))
    wanted = replace(wanted, cores=tuple(cores.pins.items()), owned=tuple(sorted(cores.owned)))
    return Target(design, placement, artifacts, wanted, images)


def salt_for(design: Design, have: Manifest | None) -> str:
    """The salt for the digests of a vApp: the one that it has, or a new one if it needs one."""
    known = have.salt if have else ""
    return known if known or not needs_salt(design) else secrets.token_hex(16)


def known_accelerator(host: Host, state: VappState, choice: str) -> str:
    """The accelerator that `up` will use; empty if only a test boot can find it out.

    The user's choice counts first, then the accelerator that the vApp runs under already, then the
    host's remembered KVM test boot.
    """
    if choice != "auto":
        return choice
    # An existing vApp keeps its accelerator, because another one would restart every VM.
    if state.manifest:
        return state.manifest.accelerator
    known = stored_accelerator(host)
    return known.name if known else ""


def proven_accelerator(
    host: Host,
    volumes: VappVolumes,
    images: VmImages,
    state: VappState,
    choice: str,
    reporter: Reporter,
) -> str:
    """The accelerator that `up` uses. If it depends on a KVM test boot and the host has no stored
    result of one, this function makes the test boot.

    Raises HostError if the user asked for KVM and it does not work.
    """
    if choice == "tcg" or (choice == "auto" and state.manifest):
        return known_accelerator(host, state, choice)
    known = stored_accelerator(host)
    if known is None:
        reporter.report(host.name, "trying KVM with a real kernel")
        # Every vApp has a firewall, so this kernel would be uploaded anyway.
        boot = images.upload(volumes, (images.design.firewall,), reporter)[
            images.design.firewall.name
        ]
        known = find_accelerator(host, boot.kernel, boot.initrd)
        reporter.report(host.name, known.name)
    if choice == "kvm" and known.name != "kvm":
        raise HostError(
            f"KVM does not work on {host.name}: {known.reason}"
            if known.proven
            else f"KVM could not be tested on {host.name}: {known.reason}",
            "Remove --accel, or use --accel tcg.",
        )
    reporter.note(f"accelerator of {host.name}: {known.name} ({known.reason})")
    return known.name
