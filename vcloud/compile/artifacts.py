"""All texts that vcloud generates for a vApp on a host: what it defines in libvirt and what it
delivers to guests.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from vcloud.compile.firewall.ruleset import render_firewall
from vcloud.compile.guest.cloudinit import seed_files
from vcloud.compile.guest.identity import identity_lines
from vcloud.compile.ips.files import ips_digest, ips_files
from vcloud.compile.libvirt.domain import render_domain
from vcloud.compile.libvirt.host import BootFiles, HostFacts, placeholder_files
from vcloud.compile.libvirt.network import render_network, vapp_networks
from vcloud.compile.libvirt.nwfilter import render_filters
from vcloud.design.model import Design, Uplink, Vm
from vcloud.design.names import filter_name
from vcloud.marks import NetworkMarks, VmMarks


@dataclass(frozen=True, slots=True)
class Artifacts:
    """The texts that depend on the design and the uplink, but not on where the host keeps its
    files.
    """

    design: Design
    uplink: Uplink
    firewall: str
    """The firewall's whole nft ruleset."""
    ips: Mapping[str, bytes]
    """Absolute path in the IPS -> content; empty without an IPS."""
    identities: Mapping[str, tuple[str, ...]]
    """VM -> identity lines, without secrets."""

    @property
    def firewall_digest(self) -> str:
        return hashlib.sha256(self.firewall.encode()).hexdigest()

    @property
    def ips_digest(self) -> str:
        """The digest that the IPS itself reports for these files; empty without an IPS."""
        return ips_digest(self.ips) if self.ips else ""


def compile_vapp(design: Design, uplink: Uplink, *, keeps_files: bool = False) -> Artifacts:
    """`keeps_files` is as in `identity_lines`."""
    return Artifacts(
        design=design,
        uplink=uplink,
        firewall=render_firewall(design, uplink),
        ips=ips_files(design),
        identities={
            vm.name: identity_lines(design, vm, uplink, keeps_files=keeps_files)
            for vm in design.vms
        },
    )


def comparable_domain(vm: Vm, uplink: Uplink, host: HostFacts, cmdline: str = "") -> str:
    """The XML of one VM's domain without marks and without paths of the host. Its digest changes
    only if the machine itself changes.

    Placeholders stand for the paths of volumes, kernel and initrd: a path changes with the host's
    storage pool and with the digest of the image, and neither is a change of the machine. `cmdline`
    is the kernel command line of the VM's image.
    """
    boot = placeholder_files(own_kernel=bool(vm.image.recipe), cmdline=cmdline)
    text = render_domain(
        vm, uplink, host, boot, {disk.volume: disk.volume for disk in vm.disks}, {}
    )
    # A NIC gets another filter while its VM runs, so which one it has is compared by its binding.
    instance = vm.domain.partition(".")[0]
    return text.replace(filter_name(instance, open_zones=True), filter_name(instance))


def comparable_networks(design: Design) -> dict[str, str]:
    """Name -> XML of every libvirt network of the vApp. The XML depends on no host."""
    return {network.name: render_network(network, {}) for _, network in vapp_networks(design)}


def comparable_filters(design: Design) -> dict[str, str]:
    """Name -> XML of each libvirt network filter of the vApp. The XML depends on no host."""
    return dict(render_filters(design))


def rendered_files(
    artifacts: Artifacts,
    host: HostFacts,
    boots: Mapping[str, BootFiles],
    disk_paths: dict[str, str],
) -> Iterator[tuple[str, bytes]]:
    """Relative path and content of every text, for `vcloud render`.

    `boots` maps VMs to their files on the host, `disk_paths` maps the names of data volumes to
    their paths there.
    """
    design = artifacts.design
    for name, text in render_filters(design):
        yield f"filters/{name}.xml", text.encode()
    for zone, network in vapp_networks(design):
        yield (
            f"networks/{network.name}.xml",
            render_network(
                network, NetworkMarks(design.instance.name, zone.name).attributes()
            ).encode(),
        )
    for vm in design.vms:
        yield (
            f"domains/{vm.domain}.xml",
            render_domain(
                vm,
                artifacts.uplink,
                host,
                boots[vm.name],
                disk_paths,
                VmMarks(design.instance.name, vm.name, vm.role.value).attributes(),
            ).encode(),
        )
        if boots[vm.name].seed:
            yield from (
                (f"cloud-init/{vm.name}/{name}", content)
                # Without a host key: a key is made at the moment of delivery, and never rendered.
                for name, content in seed_files(design, vm, None).items()
            )
        else:
            yield (
                f"identities/{vm.name}",
                ("\n".join(artifacts.identities[vm.name]) + "\n").encode(),
            )
    yield "firewall/firewall.nft", artifacts.firewall.encode()
    for path, content in artifacts.ips.items():
        yield f"ips{path}", content
