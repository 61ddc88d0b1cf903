"""The target of a run: the vApp, compiled for its host and for the accelerator that really works
there.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from vcloud import __version__
from vcloud.apply.vm_images import VmImages
from vcloud.compile.artifacts import Artifacts, compile_vapp
from vcloud.design.model import Design
from vcloud.errors import HostError
from vcloud.hosts.accelerator import find_accelerator, stored_accelerator
from vcloud.hosts.connection import Host
from vcloud.hosts.uplink import uplink_for
from vcloud.hosts.volumes import VappVolumes
from vcloud.placement.place import Placement
from vcloud.plan.manifest import Manifest
from vcloud.plan.state import VappState
from vcloud.plan.wanted import wanted_manifest
from vcloud.reporter import Reporter


@dataclass(frozen=True, slots=True)
class Target:
    """A compiled vApp on its host, with the manifest that will say so."""

    design: Design
    placement: Placement
    artifacts: Artifacts
    wanted: Manifest
    images: VmImages


def target_of(
    host: Host, design: Design, placement: Placement, state: VappState, accelerator: str
) -> Target:
    uplink = uplink_for(
        host, design.instance.name, state.manifest.uplink if state.manifest else None
    )
    artifacts = compile_vapp(design, uplink)
    images = VmImages.of(design)
    wanted = wanted_manifest(
        artifacts,
        accelerator,
        images.digests,
        datetime.now(UTC).isoformat(timespec="seconds"),
        __version__,
    )
    return Target(design, placement, artifacts, wanted, images)


def expected_accelerator(host: Host, state: VappState, choice: str) -> str:
    """The accelerator that `up` will use, as far as that is known without starting a VM.

    The user's choice counts first, then the accelerator that the vApp runs under already, then the
    host's remembered KVM test boot.
    """
    if choice != "auto":
        return choice
    known = None if state.manifest else stored_accelerator(host)
    return state.manifest.accelerator if state.manifest else known.name if known else "tcg"


def proven_accelerator(
    host: Host,
    volumes: VappVolumes,
    images: VmImages,
    state: VappState,
    choice: str,
    reporter: Reporter,
) -> str:
    """As expected, or by booting a kernel under KVM where this host has never been asked.

    Raises HostError where KVM is asked for and does not work.
    """
    if choice == "tcg" or (choice == "auto" and state.manifest):
        return expected_accelerator(host, state, choice)
    known = stored_accelerator(host)
    if known is None:
        reporter.report(host.name, "trying KVM with a real kernel")
        boot = images.upload(volumes, (images.design.firewall,), reporter)[
            images.design.firewall.name
        ]
        known = find_accelerator(host, boot.kernel, boot.initrd)
        reporter.report(host.name, known.name)
    if choice == "kvm" and known.name != "kvm":
        raise HostError(
            f"KVM does not work on {host.name}: {known.reason}",
            "Leave --accel away, or take --accel tcg.",
        )
    reporter.note(f"accelerator of {host.name}: {known.name} ({known.reason})")
    return known.name
