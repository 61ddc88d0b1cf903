"""Why a packet passes or not, from a design alone: which flow or which control decides, what the IPS
looks at on the way, and where each of these comes from.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vcloud.design.internet import LOCAL4, LOCAL6
from vcloud.design.model import Design, Detector, Flow, FlowPath, Nic, Vm
from vcloud.errors import UsageError
from vcloud.values import (
    INTERNET,
    Protocol,
    Service,
    covers,
    is_outside,
    is_prefix,
    prefix_of,
    share_a_port,
    tiers_at,
)

DEFAULT_DENY = "ctl:default-deny"
NEIGHBOURS = "neighbours"


@dataclass(frozen=True, slots=True)
class Answer:
    """What happens to a packet from one end to another."""

    source: str
    target: str
    service: str
    passes: bool
    decides: str
    """The stable id of what decides: `flow:ID`, `ctl:NAME`; or `neighbours` in an open zone."""
    origin: str
    """The line of the file or the control that it comes from."""
    why: str
    inspected: tuple[str, ...]
    """What the IPS does on the way, a sentence each."""
    controls: tuple[str, ...]
    """The controls that what decides is evidence for."""

    @property
    def text(self) -> str:
        word = "passes" if self.passes else "is dropped"
        why = f": {self.why}" if self.why else ""
        return (
            f"{self.source} -> {self.target} {self.service} {word} by {self.decides} "
            f"({self.origin}){why}"
        )

    def as_data(self) -> dict[str, object]:
        return {
            "from": self.source,
            "to": self.target,
            "service": self.service,
            "passes": self.passes,
            "decides": self.decides,
            "origin": self.origin,
            "why": self.why,
            "inspection": list(self.inspected),
            "controls": list(self.controls),
        }


def explain(design: Design, source: str, service: Service, target: str) -> tuple[Answer, ...]:
    """An answer for each pair of VMs that the ends mean. From outside, the service is a published
    port.

    Raises:
        UsageError: an end means nothing in this vApp, or both ends are outside it.
    """
    ours, theirs = _end(design, source), _end(design, target)
    if ours is None and theirs is None:
        raise UsageError(
            "both ends are outside the vApp", "Name a VM or a zone of the vApp at one end."
        )
    pairs = [
        (one, other)
        for one in (ours if ours is not None else (None,))
        for other in (theirs if theirs is not None else (None,))
        if one is None or one is not other
    ]
    if not pairs:
        raise UsageError(
            f"'{source}' is one VM, which needs no flow to itself", "Name another end."
        )
    return tuple(_answer(design, one, other, source, service, target) for one, other in pairs)


def _end(design: Design, end: str) -> tuple[Vm, ...] | None:
    """The VMs that an end means; None for the outside. Raises UsageError."""
    if is_outside(end):
        if is_prefix(end):
            try:
                prefix_of(end)
            except ValueError:
                raise UsageError(f"'{end}' is no prefix of addresses") from None
        return None
    exact = tuple(vm for vm in design.workloads if vm.name == end)
    zones = {vm.tier: [nic.zone for nic in vm.nics] for vm in design.workloads}
    known = {*zones, *(zone.name for zone in design.zones)}
    if exact:
        return exact
    if end.rpartition(":")[2] in known:
        tiers = tiers_at(end, zones)
        if found := tuple(vm for vm in design.workloads if vm.tier in tiers):
            return found
    names = sorted({*known, *(vm.name for vm in design.workloads), INTERNET})
    raise UsageError(
        f"the vApp has no VM or zone '{end}' with a VM in it", f"Known: {', '.join(names[:20])}."
    )


def _answer(
    design: Design, one: Vm | None, other: Vm | None, source: str, service: Service, target: str
) -> Answer:
    names = (one.name if one else source, other.name if other else target, str(service))
    if _in_open_zone(design, one, other):
        why = "both are in an open zone, so nothing stands between them"
        return Answer(*names, True, NEIGHBOURS, "the zone is open", why, (), ())
    found = next(_allowing(design, one, other, source, service, target), None)
    if found:
        flow, path, number = found
        decides = f"flow:{flow.id}"
        return Answer(
            *names,
            passes=True,
            decides=decides,
            origin=str(flow.origin),
            why=flow.why,
            inspected=tuple(_looks(design, flow, path, number)),
            controls=design.controls.proved_by(decides),
        )
    return Answer(
        *names,
        passes=False,
        decides=DEFAULT_DENY,
        origin=str(design.origin_of(DEFAULT_DENY)),
        why="no flow allows it",
        inspected=(),
        controls=design.controls.proved_by(DEFAULT_DENY),
    )


def _allowing(
    design: Design, one: Vm | None, other: Vm | None, source: str, service: Service, target: str
) -> Iterator[tuple[Flow, FlowPath, int]]:
    """Flows that allow the packet, the one that the firewall counts it for first: exact ports go
    before ranges, then the first id in the alphabet.
    """
    found = []
    for flow in design.flows:
        outside = flow.source if one is None else flow.target if other is None else ""
        # Every client that reaches the uplink may use what is published to the internet.
        is_any_client = one is None and outside == INTERNET
        if outside and not is_any_client and not _leads(outside, source if one is None else target):
            continue
        services = flow.publish if one is None else flow.services
        for path in flow.paths:
            if not (_is_at(path.source, one) and _is_at(path.target, other)):
                continue
            for number, allowed in enumerate(services):
                if share_a_port([allowed], [service]) and _covers(allowed, service):
                    found.append((allowed.last - allowed.first, flow.id, flow, path, number))
    for _, _, flow, path, number in sorted(found, key=lambda one: one[:2]):
        yield flow, path, number


def _covers(allowed: Service, service: Service) -> bool:
    if service.protocol is Protocol.ICMP:
        return True
    return allowed.first <= service.first and service.last <= allowed.last


def _leads(flow_end: str, asked: str) -> bool:
    """Whether a flow's end outside means all that was asked for."""
    if flow_end == asked:
        return True
    one, other = prefix_of(flow_end), prefix_of(asked)
    if one is None:
        # `internet` means public addresses only; what the host adds to the others is not known here.
        local = LOCAL4 if other is None or other.version == 4 else LOCAL6
        return other is not None and not any(
            covers(one, other) or covers(other, one) for one in local
        )
    return other is not None and covers(one, other)


def _is_at(nic: Nic | None, vm: Vm | None) -> bool:
    return nic is None if vm is None else nic in vm.nics


def _in_open_zone(design: Design, one: Vm | None, other: Vm | None) -> bool:
    return bool(
        one
        and other
        and any(design.are_neighbours(here, there) for here in one.nics for there in other.nics)
    )


def _looks(design: Design, flow: Flow, path: FlowPath, number: int) -> Iterator[str]:
    """What the IPS does with a flow's connections on a path."""
    inspection = design.inspection
    zones = dict.fromkeys(nic.zone for nic in (path.source, path.target) if nic)
    inspected = [zone for zone in zones if zone in inspection.zones]
    if not inspected:
        yield "the IPS does not inspect it"
        return
    for zone in inspected:
        verb = "stops attacks" if inspection.mode == "prevent" else "only logs attacks"
        yield f"the IPS inspects zone {zone} and {verb} ({inspection.origin_in(zone)})"
    app = flow.apps[number]
    if app is not None:
        yield f"the connection must begin as {app} ({flow.origin})"
    for detector in inspection.detectors:
        if searched := _searched(flow, path, detector):
            yield searched


def _searched(flow: Flow, path: FlowPath, detector: Detector) -> str:
    inside = [nic is not None and nic.zone in detector.zones for nic in (path.source, path.target)]
    if inside[0] == inside[1]:
        return ""
    if flow.id in detector.excepted:
        return f"detector {detector.id} excepts this flow ({detector.origin})"
    verb = "blocks" if detector.action == "block" else "logs"
    return f"detector {detector.id} {verb} what it finds ({detector.origin})"
