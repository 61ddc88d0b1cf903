"""What a host tells of a vApp that `vcloud up` has made, as values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from vcloud.compile.artifacts import (
    comparable_domain,
    comparable_filters,
    comparable_networks,
    compile_vapp,
)
from vcloud.compile.libvirt.devices import filter_of
from vcloud.compile.libvirt.host import HostFacts
from vcloud.compile.libvirt.network import vapp_networks
from vcloud.design.model import Design, Network, Uplink, Vm, Zone
from vcloud.design.names import root_volume
from vcloud.marks import NetworkMarks, VmMarks
from vcloud.plan.facts import DomainFacts, domain_facts, filters_facts, network_facts
from vcloud.plan.manifest import Manifest, Phase, VmImage
from vcloud.plan.state import DomainState, NetworkState, VappState
from vcloud.plan.wanted import wanted_manifest
from vcloud.views.render import UPLINK


def manifest_of(
    design: Design,
    accelerator: str = "tcg",
    uplink: Uplink = UPLINK,
    images: dict[str, VmImage] | None = None,
    salt: str = "",
) -> Manifest:
    """The wanted manifest. `images` maps VMs to builds of images that differ from the usual."""
    builds = {vm.name: build_of(vm) for vm in design.vms} | (images or {})
    return wanted_manifest(
        compile_vapp(design, uplink), accelerator, builds, "2026-01-02T03:04:05Z", "0.1.0", salt
    )


def build_of(vm: Vm, **changes: str) -> VmImage:
    """The build of a VM's image."""
    name = vm.image.name
    build = VmImage(
        f"digest of {name}", f"content of {name}", f"packages of {name}", "2026-01-01T00:00:00Z"
    )
    return replace(build, **changes)


def parsed(xml: str) -> Element:
    return ElementTree.fromstring(xml)  # noqa: S314 - vcloud rendered it


def facts_of(vm: Vm, *, running: bool) -> DomainFacts:
    """What libvirt would tell of a VM as vcloud defines it; of a running one also its ports."""
    facts = domain_facts(parsed(comparable_domain(vm, UPLINK, HostFacts("tcg"))))
    cards = {
        mac: replace(card, up=card.up or running, port=f"port of {mac}" if running else "")
        for mac, card in facts.cards.items()
    }
    return replace(facts, cards=cards)


def _domain(vm: Vm, number: int, manifest: Manifest) -> DomainState:
    return DomainState(
        vm.domain,
        vm.uuid,
        running=True,
        id=number,
        token=f"token of {vm.name}",
        sources={
            "vda": (f"/pool/{root_volume(vm.domain)}",),
            **{disk.target: (f"/pool/{disk.volume}",) for disk in vm.disks},
        },
        live=facts_of(vm, running=True),
        kept=facts_of(vm, running=False),
        marks=VmMarks(
            manifest.design.instance.name,
            vm.name,
            vm.role.value,
            digests=manifest.digests_of(vm.name),
        ),
    )


def _network(zone: Zone, network: Network, manifest: Manifest) -> NetworkState:
    instance = manifest.design.instance.name
    facts = network_facts(parsed(comparable_networks(manifest.design)[network.name]))
    return NetworkState(
        network.name,
        network.uuid,
        True,
        NetworkMarks(instance, zone.name, manifest.network_digest(network.name)),
        live=facts,
        kept=facts,
        ports=frozenset(
            f"port of {nic.mac}"
            for vm in manifest.design.vms
            for nic in vm.nics
            if nic.network == network.name
        ),
    )


def standing(design: Design) -> VappState:
    """The state that a finished run left."""
    manifest = replace(
        manifest_of(design),
        phase=Phase.READY,
        connected=tuple((vm.name, f"token of {vm.name}") for vm in design.vms),
        defined=tuple(
            (vm.name, tuple(facts_of(vm, running=False).parts.items())) for vm in design.vms
        ),
    )
    disks = [disk.volume for vm in design.vms for disk in vm.disks]
    return VappState(
        manifest,
        tuple(_domain(vm, number, manifest) for number, vm in enumerate(design.vms, 1)),
        tuple(_network(zone, network, manifest) for zone, network in vapp_networks(design)),
        filter=filters_facts(map(parsed, comparable_filters(design).values())),
        bindings=frozenset(
            (nic.tap, filter_of(vm, nic))
            for vm in design.vms
            for nic in vm.nics
            if filter_of(vm, nic)
        ),
        volumes=frozenset([*disks, *(root_volume(vm.domain) for vm in design.vms)]),
        folder="/pool",
    )


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
