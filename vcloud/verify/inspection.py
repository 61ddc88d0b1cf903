"""Checks of the IPS: for each of its rules a harmless payload that must be dropped and logged, and a near miss that must pass. Pure.

A payload is sent on a declared flow that crosses an inspected zone, to whatever listens there: what counts is whether the other side's
kernel acknowledges it. Payloads that a server must send (answers) need a port that no service of the VM holds.
"""

from __future__ import annotations

from collections.abc import Iterator

from vcloud.compile.dlp import PLACES, dlp_probes, rule_sids
from vcloud.compile.example import NoExampleError
from vcloud.compile.ips_rules import ANY, SHIPPED, VAPP, ShippedRule
from vcloud.compile.ips_rules import Probe as Payload
from vcloud.design.model import Action, Design, Detector, Flow, FlowPath, Mode, Protocol, Uplink
from vcloud.verify.checks import OUTSIDE, Check, Kind, Listener, Probe, World, address_of, destination, owner_of

PAYLOAD_TIMEOUT_MS = 4000
FAMILIES = (4, 6)
TLS_PORT = 443


def inspection_checks(design: Design, uplink: Uplink, world: World) -> tuple[Check, ...]:
    """Two checks per rule that a client's payload can trigger; nothing without an IPS."""
    if design.ips is None:
        return ()
    return (*_ips_checks(design, uplink, world), *_leak_checks(design, uplink, world))


def _ips_checks(design: Design, uplink: Uplink, world: World) -> Iterator[Check]:
    """Each shipped rule that some declared flow could carry, on one such flow, in IPv4 and IPv6 by turns."""
    routes = [route for route in _routes(design) if _crosses(design, route[1])]
    for number, shipped in enumerate(SHIPPED):
        rule, payload = shipped.rule, shipped.probe
        fitting = [route for route in routes if _carries(shipped, route)]
        possible = [route for route in fitting if _answers(route[1], world) and (payload.port or _takes_anything(route))]
        name = f"rule {rule.sid} ({rule.message})"
        if not fitting:
            continue
        if not possible or payload.request or payload.protocol is not Protocol.TCP:
            yield _not_possible(Kind.IPS, str(rule.sid), name, "its payload is an answer, which no service of the vApp can be made to give")
            continue
        blocked = design.inspection.mode is Mode.PREVENT
        route = possible[number % len(possible)]
        yield from _pair(design, uplink, world, Kind.IPS, route, FAMILIES[number % 2], (str(rule.sid),), name, payload, blocked)


def _carries(shipped: ShippedRule, route: Route) -> bool:
    """Whether the rule looks at connections of this flow at all."""
    flow, path, number = route
    service = flow.services[number]
    ends = ((shipped.rule.source, path.source), (shipped.rule.target, path.target))
    fits = all(end == ANY or (end == VAPP) == (card is not None) for end, card in ends)
    return fits and service.protocol is shipped.probe.protocol and shipped.probe.port in (0, service.first)


def _leak_checks(design: Design, uplink: Uplink, world: World) -> Iterator[Check]:
    """Each detector, by what a client in its zones sends out of them."""
    sids = rule_sids(design.inspection.detectors)
    for detector in design.inspection.detectors:
        name = f"detector '{detector.id}'"
        route = next(
            (
                route
                for route in _routes(design)
                if route[0].services[route[2]].protocol is Protocol.TCP
                and _takes_anything(route)
                and _leaves(detector, route)
                and _answers(route[1], world)
            ),
            None,
        )
        if route is None:
            yield _not_possible(Kind.LEAK, detector.id, name, "no declared flow begins in its zones and leaves them")
            continue
        try:
            payload = dlp_probes(detector)[0]
        except NoExampleError as error:
            yield _not_possible(Kind.LEAK, detector.id, name, error.what)
            continue
        rules = tuple(str(sids[detector.id, place.name]) for place in PLACES)
        for family in FAMILIES:
            yield from _pair(design, uplink, world, Kind.LEAK, route, family, rules, name, payload, detector.action is Action.BLOCK)


Route = tuple[Flow, FlowPath, int]
"""A flow, one of its paths, and which of its services."""


def _routes(design: Design) -> Iterator[Route]:
    for flow in design.flows:
        for number, service in enumerate(flow.services):
            if service.protocol is not Protocol.ICMP:
                yield from ((flow, path, number) for path in flow.paths)


def _takes_anything(route: Route) -> bool:
    """Not port 443 of the outside, where a rule lets only TLS through."""
    flow, path, number = route
    return path.target is not None or flow.services[number].first != TLS_PORT


def _crosses(design: Design, path: FlowPath) -> bool:
    return any(card is not None and card.zone in design.inspection.zones for card in (path.source, path.target))


def _leaves(detector: Detector, route: Route) -> bool:
    flow, path, _ = route
    inside = [card is not None and card.zone in detector.zones for card in (path.source, path.target)]
    return inside == [True, False] and flow.id not in detector.excepted


def _answers(path: FlowPath, world: World) -> bool:
    return path.target is not None or world.address4 is not None


def _pair(
    design: Design,
    uplink: Uplink,
    world: World,
    kind: Kind,
    route: Route,
    family: int,
    rules: tuple[str, ...],
    name: str,
    payload: Payload,
    blocked: bool,
) -> Iterator[Check]:
    flow, path, number = route
    port = flow.services[number].first
    target, at = destination(uplink, world, flow, number, path, port, family)
    if target is None:
        return
    vantage = owner_of(design, path.source).name if path.source else OUTSIDE
    listener = Listener(owner_of(design, path.target).name, "tcp", str(address_of(path.target, family)), port) if path.target else None
    source = str(address_of(path.source, family)) if path.source else "-"
    for passes, content in ((False, payload.stopped), (True, payload.passed)):
        verb = "lets the near miss pass" if passes else "drops and logs its payload" if blocked else "logs its payload"
        yield Check(
            id=f"{kind}/{rules[0]}/{'near-miss' if passes else 'payload'}/{family}",
            kind=kind,
            claim=f"{name} {verb} on flow {flow.id} over IPv{family}",
            vantage=vantage,
            probe=Probe("tcp", source, target, at, content, PAYLOAD_TIMEOUT_MS),
            passes=passes,
            flow=flow.id,
            listener=listener,
            rules=rules,
            blocked=blocked,
        )


def _not_possible(kind: Kind, key: str, name: str, reason: str) -> Check:
    """A check that is reported as not run, with its reason."""
    return Check(id=f"{kind}/{key}", kind=kind, claim=f"{name} stops its payload", vantage=OUTSIDE, probe=None, passes=False, reason=reason)
