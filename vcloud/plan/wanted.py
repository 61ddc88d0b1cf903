"""Makes the manifest of the wanted vApp, with the digest of everything that is rendered for it."""

from __future__ import annotations

from collections.abc import Mapping

from vcloud.compile.artifacts import (
    Artifacts,
    comparable_domain,
    comparable_filters,
    comparable_networks,
)
from vcloud.compile.libvirt.host import HostFacts
from vcloud.design.model import Design, Uplink, Vm
from vcloud.marks import VmDigests
from vcloud.plan.manifest import Manifest, Phase, VmImage, digest_of, redacted


def wanted_manifest(
    artifacts: Artifacts,
    accelerator: str,
    images: Mapping[str, VmImage],
    written: str,
    version: str,
    salt: str = "",
) -> Manifest:
    """The manifest that the host will hold after the run. `images` maps VM names to the builds of
    their images. `salt` is that of `Manifest`.
    """
    design = redacted(artifacts.design, salt)
    return Manifest(
        # The last step of a run, `record`, writes READY.
        phase=Phase.APPLYING,
        design=design,
        uplink=artifacts.uplink,
        accelerator=accelerator,
        images=tuple(sorted(images.items())),
        vms=tuple(
            (vm.name, _vm_digests(vm, artifacts, accelerator, images[vm.name], salt))
            for vm in design.vms
        ),
        networks=network_digests(design),
        filter=filter_digest(design),
        firewall=artifacts.firewall_digest,
        ips=artifacts.ips_digest,
        written=written,
        vcloud=version,
        salt=salt,
    )


def _vm_digests(
    vm: Vm, artifacts: Artifacts, accelerator: str, image: VmImage, salt: str
) -> VmDigests:
    """`vm` is redacted, so `root` is computed from the digests of run commands. `identity` is
    computed from the delivered lines, with the files' contents, and with the salt if a secret stands
    there.
    """
    lines = artifacts.identities[vm.name]
    return VmDigests(
        root=root_digest(image, vm),
        hardware=hardware_digest(vm, artifacts.uplink, accelerator),
        identity=digest_of(salt, lines) if _has_secret(vm) else digest_of(lines),
    )


def needs_salt(design: Design) -> bool:
    """Whether a file of the vApp holds a secret."""
    return any(map(_has_secret, design.workloads))


def _has_secret(vm: Vm) -> bool:
    return any(file.secret for file in vm.files)


def root_digest(image: VmImage, vm: Vm) -> str:
    """The digest of what a new root disk of the VM is made from. It covers the image's packages and
    not its bytes, because the bytes differ from build to build. Earlier releases did not know the
    packages and left them out.
    """
    known = (image.recipe, image.packages) if image.packages else (image.recipe,)
    return digest_of(*known, vm.run)


def hardware_digest(vm: Vm, uplink: Uplink, accelerator: str) -> str:
    """The digest of a VM's rendered domain XML, and of the sizes of its disks, which the XML does not
    hold.
    """
    xml = comparable_domain(vm, uplink, HostFacts(accelerator))
    disks = tuple((disk.volume, disk.size) for disk in vm.disks)
    return digest_of(xml, disks, vm.root) if vm.root else digest_of(xml, disks)


def network_digests(design: Design) -> tuple[tuple[str, str], ...]:
    """(network, digest of its rendered XML), in alphabetical order."""
    return tuple(
        sorted((name, digest_of(text)) for name, text in comparable_networks(design).items())
    )


def filter_digest(design: Design) -> str:
    """The digest of the rendered XML of the vApp's network filters."""
    return digest_of(*comparable_filters(design).values())
