"""Checks of the IPS. Pure.

For each rule there are two payloads: a test payload, which the rule must drop and log, and a
harmless payload that resembles it, which the rule must not match.

A payload is sent on a declared flow that crosses an inspected zone, to whatever service listens
there. Over TCP it has come through if the kernel of the other side acknowledges it; over UDP, if it
is answered. If data can leave the zones of a detector only in answers, the payload is sent in, to a
service that sends back what it receives, as vcloud's temporary listeners do. Then its echo must not
come out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vcloud.compile.ips.rules import ANY, SHIPPED, VAPP, ShippedRule
from vcloud.compile.ips.rules import PayloadPair as Payload
from vcloud.compile.leaks.channels import CHANNELS
from vcloud.compile.leaks.payloads import payloads_of
from vcloud.compile.leaks.rules import rule_sids
from vcloud.design.model import Design, Detector, Flow, FlowPath, Uplink
from vcloud.patterns.example import NoExampleError
from vcloud.proof.checks import (
    Check,
    Echo,
    Kind,
    Listener,
    Probe,
    World,
    address_of,
    destination,
    owner_of,
    spoken,
)
from vcloud.values import INTERNET, Action, Mode, Protocol

PAYLOAD_TIMEOUT_MS = 4000
TLS_PORT = 443
"""The port on which the IPS lets nothing but TLS leave."""


def inspection_checks(design: Design, uplink: Uplink, world: World) -> tuple[Check, ...]:
    """Two checks for each rule that a payload on a declared flow can match. None if the vApp has no
    IPS.
    """
    if design.ips is None:
        return ()
    return (*_ips_checks(design, uplink, world), *_leak_checks(design, uplink, world))


def _ips_checks(design: Design, uplink: Uplink, world: World) -> Iterator[Check]:
    """Checks of each shipped rule that inspects a declared flow: on one such flow, in turns over
    IPv4 and IPv6.
    """
    routes = [route for route in _routes(design) if _crosses(design, route[1])]
    for number, shipped in enumerate(SHIPPED):
        rule, payload = shipped.rule, shipped.payload
        fitting = [route for route in routes if _carries(shipped, route)]
        possible = [
            route
            for route in fitting
            if _answers(route[1], world) and (payload.port or _takes_anything(route))
        ]
        name = f"rule {rule.sid} ({rule.message})"
        if not fitting:
            continue
        if not possible:
            yield _not_possible(
                Kind.IPS,
                str(rule.sid),
                name,
                "its flows lead only to places where no known machine answers",
            )
            continue
        target = _Target(
            design,
            uplink,
            world,
            Kind.IPS,
            _proves(Kind.IPS, str(rule.sid)),
            possible[number % len(possible)],
            design.inspection.mode is Mode.PREVENT,
        )
        yield from target.pair(
            target.families[number % len(target.families)], (str(rule.sid),), name, payload
        )


def not_carried(design: Design) -> str:
    """Which rules of the IPS are not tested because no declared flow can carry their test payload;
    empty if there are none.
    """
    if design.ips is None:
        return ""
    routes = [route for route in _routes(design) if _crosses(design, route[1])]
    sids = [
        str(shipped.rule.sid)
        for shipped in SHIPPED
        if not any(_carries(shipped, route) for route in routes)
    ]
    return (
        f"{len(sids)} of {len(SHIPPED)} IPS rules, because no flow can carry their test packet ({', '.join(sids)})"
        if sids
        else ""
    )


def _carries(shipped: ShippedRule, route: Route) -> bool:
    """Whether the rule inspects connections of this flow."""
    flow, path, number = route
    service = flow.services[number]
    ends = ((shipped.rule.source, path.source), (shipped.rule.target, path.target))
    fits = all(end == ANY or (end == VAPP) == (nic is not None) for end, nic in ends)
    port = shipped.payload.port or service.first
    return (
        fits
        and service.protocol is shipped.payload.protocol
        and service.first <= port <= service.last
    )


def _leak_checks(design: Design, uplink: Uplink, world: World) -> Iterator[Check]:
    """Checks of each detector: by what a client in its zones sends out or, if no flow begins there,
    by what a server there answers.
    """
    sids = rule_sids(design.inspection.detectors)
    for detector in design.inspection.detectors:
        name = f"detector '{detector.id}'"
        found = _leak_route(design, detector, world)
        if found is None:
            yield _not_possible(
                Kind.LEAK,
                detector.id,
                name,
                "no declared flow that can carry its test packet crosses the border of its zones",
            )
            continue
        route, echoed = found
        try:
            upload, _, datagram = payloads_of(detector)
        except NoExampleError as error:
            yield _not_possible(Kind.LEAK, detector.id, name, error.what)
            continue
        plain = echoed or route[0].services[route[2]].protocol is Protocol.UDP
        rules = tuple(str(sids[detector.id, channel.name]) for channel in CHANNELS)
        target = _Target(
            design,
            uplink,
            world,
            Kind.LEAK,
            _proves(Kind.LEAK, detector.id),
            route,
            detector.action is Action.BLOCK,
        )
        for family in target.families:
            yield from target.pair(
                family, rules, name, datagram if plain else upload, echoed=echoed
            )


def _leak_route(design: Design, detector: Detector, world: World) -> tuple[Route, bool] | None:
    """The flow to test a detector on, and whether the data leaves in the answer."""
    usable = [
        route
        for route in _routes(design)
        if _takes_anything(route)
        and _answers(route[1], world)
        and _crosses(design, route[1])
        and not _excepted(design, detector, route)
    ]
    for protocol in (Protocol.TCP, Protocol.UDP):
        for ends, echoed in (((True, False), False), ((False, True), True)):
            for flow, path, number in usable:
                inside = tuple(
                    nic is not None and nic.zone in detector.zones
                    for nic in (path.source, path.target)
                )
                if inside == ends and flow.services[number].protocol is protocol:
                    return (flow, path, number), echoed
    return None


Route = tuple[Flow, FlowPath, int]
"""A flow, one of its paths, and which of its services."""


def _routes(design: Design) -> Iterator[Route]:
    for flow in design.flows:
        for number, service in enumerate(flow.services):
            if service.protocol is not Protocol.ICMP:
                yield from ((flow, path, number) for path in flow.paths)


def _takes_anything(route: Route) -> bool:
    """False for port 443 of the outside: a shipped rule drops whatever is not TLS there."""
    flow, path, number = route
    return path.target is not None or flow.services[number].first != TLS_PORT


def _crosses(design: Design, path: FlowPath) -> bool:
    """Whether traffic on the path passes the IPS. VMs of the same open zone reach each other
    directly.
    """
    zones = [nic.zone for nic in (path.source, path.target) if nic is not None]
    direct = len(zones) > len({*zones}) and design.zone(zones[0]).open
    return not direct and any(zone in design.inspection.zones for zone in zones)


def _excepted(design: Design, detector: Detector, route: Route) -> bool:
    """Whether data may leave on the route. That is so, too, if an excepted flow allows the same
    packets as the route's own flow.
    """
    flow, path, number = route
    service = flow.services[number]
    return any(
        other.protocol is service.protocol and other.first <= service.first <= other.last
        for free in design.flows
        if free.id in detector.excepted
        and any((one.source, one.target) == (path.source, path.target) for one in free.paths)
        for other in free.services
    )


def _answers(path: FlowPath, world: World) -> bool:
    return path.target is not None or (world.address4 is not None and world.address6 is not None)


@dataclass(frozen=True, slots=True)
class _Target:
    """A flow on which payloads are sent."""

    design: Design
    uplink: Uplink
    world: World
    kind: Kind
    proves: str
    route: Route
    blocked: bool

    @property
    def families(self) -> tuple[int, ...]:
        """The versions of IP over which the flow can be used."""
        _, path, _ = self.route
        return (4, 6) if path.source and path.target else spoken(self.uplink)

    def pair(
        self,
        family: int,
        rules: tuple[str, ...],
        name: str,
        payload: Payload,
        *,
        echoed: bool = False,
    ) -> Iterator[Check]:
        """The check that sends the test payload, and the check that sends the harmless one."""
        flow, path, number = self.route
        service = flow.services[number]
        port = payload.port or service.first
        target, at = destination(self.uplink, self.world, flow, number, path, port, family)
        assert target is not None  # noqa: S101 - callers checked `_answers` and `families`
        source = str(address_of(path.source, family)) if path.source else "-"
        ids = {
            passes: f"{self.kind}/{rules[0]}/{'near-miss' if passes else 'payload'}/{family}"
            for passes in (False, True)
        }
        for passes, content in ((False, payload.stopped), (True, payload.passed)):
            verb = (
                "lets a harmless look-alike pass"
                if passes
                else "drops and logs its payload"
                if self.blocked
                else "logs its payload"
            )
            yield Check(
                id=ids[passes],
                kind=self.kind,
                claim=f"{name} {verb} {'in an answer ' if echoed else ''}on flow {flow.id} over IPv{family}",
                vantage=owner_of(self.design, path.source).name if path.source else INTERNET,
                probe=Probe(service.protocol, source, target, at, content, PAYLOAD_TIMEOUT_MS),
                passes=passes,
                proves=self.proves,
                flow=flow.id,
                listener=self._listener(family, port),
                rules=rules,
                blocked=self.blocked,
                echo=Echo(ids[True], payload.passed) if echoed else None,
            )

    def _listener(self, family: int, port: int) -> Listener | None:
        flow, path, number = self.route
        if path.target is None:
            return None
        protocol = flow.services[number].protocol
        return Listener(
            owner_of(self.design, path.target).name,
            protocol,
            str(address_of(path.target, family)),
            port,
        )


def _not_possible(kind: Kind, key: str, name: str, reason: str) -> Check:
    """A check that will be reported as not run, with its reason."""
    claim = f"{name} stops its payload"
    return Check(
        f"{kind}/{key}",
        kind,
        claim,
        INTERNET,
        probe=None,
        passes=False,
        proves=_proves(kind, key),
        reason=reason,
    )


def _proves(kind: Kind, key: str) -> str:
    """The stable id of a rule of the IPS (by its sid) or of a detector (by its id)."""
    return f"{'rule' if kind is Kind.IPS else 'detector'}:{key}"
