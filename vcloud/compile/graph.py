"""A picture of the vApp for Graphviz or Mermaid: zones and VMs are boxes, flows are arrows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vcloud.compile.environment import render
from vcloud.design.model import Design, Flow, Vm, Zone
from vcloud.values import App

INTERNET = "internet"
BEYOND = "internet_beyond"
"""A second box for the internet, at which arrows end that go out. It is drawn only if other flows
come in, so that all arrows point in one direction.
"""


@dataclass(frozen=True, slots=True)
class Box:
    """One tier of VMs. `id` is an identifier in both languages."""

    id: str
    label: str
    note: str


@dataclass(frozen=True, slots=True)
class Group:
    """A zone with the tiers that have their first NIC in it."""

    id: str
    label: str
    inspected: bool
    boxes: tuple[Box, ...]


@dataclass(frozen=True, slots=True)
class Arrow:
    source: str
    target: str
    label: str
    watched: bool
    """A leak detector searches the flow."""


def render_dot(design: Design) -> str:
    return _render("graph/vapp.dot.j2", design)


def render_mermaid(design: Design) -> str:
    return _render("graph/vapp.mmd.j2", design)


def _render(template: str, design: Design) -> str:
    arrows = list(_arrows(design))
    clouds = [
        end
        for end in (INTERNET, BEYOND)
        if end == INTERNET or any(end == arrow.target for arrow in arrows)
    ]
    return render(
        template,
        vapp=design.vapp,
        clouds=clouds,
        groups=list(_groups(design)),
        arrows=arrows,
        ips=design.ips,
    )


def _groups(design: Design) -> Iterator[Group]:
    tiers = _tiers(design)
    for zone in design.zones:
        boxes = tuple(
            _box(tier, vms) for tier, vms in tiers.items() if vms[0].nics[0].zone == zone.name
        )
        yield Group(f"zone_{_safe(zone.name)}", _zone_label(zone), zone.inspected, boxes)


def _tiers(design: Design) -> dict[str, list[Vm]]:
    tiers: dict[str, list[Vm]] = {}
    for vm in design.workloads:
        tiers.setdefault(vm.tier, []).append(vm)
    return tiers


def _box(tier: str, vms: list[Vm]) -> Box:
    count = f" x {len(vms)}" if len(vms) > 1 else ""
    also = [nic.zone for nic in vms[0].nics[1:]]
    note = f"{vms[0].image.name}, {vms[0].memory >> 20} MiB" + (
        f", also in {', '.join(also)}" if also else ""
    )
    return Box(f"vm_{_safe(tier)}", tier + count, note)


def _zone_label(zone: Zone) -> str:
    return (
        zone.name
        + (f" (holds {', '.join(zone.holds)})" if zone.holds else "")
        + (" (open)" if zone.open else "")
    )


def _arrows(design: Design) -> Iterator[Arrow]:
    # The key is the MAC address, because a NIC does not know its VM.
    tiers = {nic.mac: f"vm_{_safe(vm.tier)}" for vm in design.workloads for nic in vm.nics}
    outside = (
        BEYOND
        if any(path.source is None for flow in design.flows for path in flow.paths)
        else INTERNET
    )
    for flow in design.flows:
        label, watched = _flow_label(flow), _is_watched(design, flow)
        sources = {tiers[path.source.mac] if path.source else INTERNET for path in flow.paths}
        targets = {tiers[path.target.mac] if path.target else outside for path in flow.paths}
        for source in sorted(sources):
            for target in sorted(targets):
                yield Arrow(source, target, label, watched)


def _is_watched(design: Design, flow: Flow) -> bool:
    """Whether a detector searches what leaves its zones on this flow, in either direction."""
    for detector in design.inspection.detectors:
        if flow.id not in detector.excepted:
            for path in flow.paths:
                inside = [
                    nic is not None and nic.zone in detector.zones
                    for nic in (path.source, path.target)
                ]
                if inside[0] != inside[1]:
                    return True
    return False


def _flow_label(flow: Flow) -> str:
    published = (
        " from port " + ", ".join(str(port).partition("/")[2] for port in flow.publish)
        if flow.publish
        else ""
    )
    services = (
        f"{service} {app}" if app and app is not App.OTHER else str(service)
        for service, app in zip(flow.services, flow.apps, strict=True)
    )
    outside = f" ({flow.prefix})" if flow.prefix else ""
    return f"{flow.id}: " + ", ".join(services) + published + outside


def _safe(name: str) -> str:
    return name.replace("-", "_")
