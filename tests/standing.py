"""What a host tells of a vApp that `vcloud up` has made, as values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from vcloud.compile.artifacts import compile_vapp
from vcloud.compile.libvirt.network import zone_networks
from vcloud.design.model import Design, Uplink
from vcloud.marks import NetworkMarks, VmMarks
from vcloud.plan.manifest import Manifest, Phase
from vcloud.plan.state import DomainState, NetworkState, VappState
from vcloud.plan.wanted import wanted_manifest
from vcloud.views.render import UPLINK


def manifest_of(
    design: Design,
    accelerator: str = "tcg",
    uplink: Uplink = UPLINK,
    images: dict[str, str] | None = None,
) -> Manifest:
    """The wanted manifest. `images` maps VMs to image digests that differ from the usual."""
    digests = {vm.name: f"digest of {vm.image.name}" for vm in design.vms} | (images or {})
    return wanted_manifest(
        compile_vapp(design, uplink), accelerator, digests, "2026-01-02T03:04:05Z", "0.1.0"
    )


def standing(design: Design) -> VappState:
    """The state that a finished run left."""
    manifest = replace(
        manifest_of(design),
        phase=Phase.READY,
        ids=tuple((vm.name, number) for number, vm in enumerate(design.vms, 1)),
    )
    domains = tuple(
        DomainState(
            vm.domain,
            vm.uuid,
            running=True,
            id=number,
            marks=VmMarks(
                design.instance.name, vm.name, vm.role.value, digests=manifest.digests_of(vm.name)
            ),
        )
        for number, vm in enumerate(design.vms, 1)
    )
    networks = tuple(
        NetworkState(
            net.name,
            net.uuid,
            True,
            NetworkMarks(design.instance.name, zone.name, manifest.network_digest(net.name)),
        )
        for zone in design.zones
        for net in zone_networks(zone)
    )
    return VappState(manifest, domains, networks)


def with_domain(
    state: VappState, name: str, change: Callable[[DomainState], DomainState]
) -> VappState:
    """The same but for one domain."""
    return replace(
        state,
        domains=tuple(
            change(domain) if domain.name == name else domain for domain in state.domains
        ),
    )


def without_domain(state: VappState, name: str) -> VappState:
    return replace(state, domains=tuple(domain for domain in state.domains if domain.name != name))
