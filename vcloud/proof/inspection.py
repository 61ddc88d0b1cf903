"""Checks of the IPS. Pure.

For each rule there are two payloads: a test payload, which the rule must drop and log, and a
harmless payload that resembles it, which the rule must not match.

A payload is sent on a declared flow that crosses an inspected zone, to the service that listens
there. It is written in the protocol that the flow carries, because the IPS drops anything else
before the rule could match. Over TCP, the payload has come through if the kernel of the other side acknowledges it; over
UDP, if an answer arrives. If data can leave the zones of a detector only in answers, the payload is
sent into the zone, to a service that sends back what it receives (vcloud's temporary listeners do).
Then the echo must be stopped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vcloud.compile.ips.apps import app_at, app_rules
from vcloud.compile.ips.ends import crosses
from vcloud.compile.ips.rules import ANY, SHIPPED, VAPP, ShippedRule
from vcloud.compile.ips.rules import PayloadPair as Payload
from vcloud.compile.leaks.channels import CHANNELS
from vcloud.compile.leaks.payloads import message_of, payloads_of, places_of
from vcloud.compile.leaks.rules import rule_sids
from vcloud.design.model import Design, Detector, Flow, FlowPath, Uplink
from vcloud.patterns.example import NoExampleError
from vcloud.proof.checks import (
    Check,
    Echo,
    Kind,
    Listener,
    Probe,
    destination,
    versions_of,
)
from vcloud.proof.nics import address_of, owner_of
from vcloud.proof.world import World
from vcloud.values import INTERNET, Action, App, Mode, Protocol, Service

PAYLOAD_TIMEOUT_MS = 4000
NO_FLOW = "no declared flow that can carry its test packet crosses the border of its zones"


def inspection_checks(design: Design, uplink: Uplink, world: World) -> tuple[Check, ...]:
    """Two checks for each rule that a payload on a declared flow can match; no checks if the vApp
    has no IPS.
    """
    if design.ips is None:
        return ()
    return (
        *_ips_checks(design, uplink, world),
        *_app_checks(design, uplink, world),
        *_leak_checks(design, uplink, world),
    )


def _ips_checks(design: Design, uplink: Uplink, world: World) -> Iterator[Check]:
    """Checks of each shipped rule that inspects a declared flow: on one such flow, in turns over
    IPv4 and IPv6.
    """
    routes = [route for route in _routes(design) if crosses(design, route[1])]
    for number, shipped in enumerate(SHIPPED):
        rule, sid = shipped.rule, str(shipped.rule.sid)
        fitting = [route for route in routes if _carries(shipped, route)]
        name = f"rule {sid} ({rule.message})"
        if fitting:
            yield from _ips_pair(
                design,
                uplink,
                world,
                fitting,
                number,
                _proves(Kind.IPS, sid),
                (sid,),
                name,
                shipped.payload,
            )


def _app_checks(design: Design, uplink: Uplink, world: World) -> Iterator[Check]:
    """Checks that each flow carries only its protocol: on one of its paths, in turns over IPv4 and
    IPv6.
    """
    flows = {flow.id: flow for flow in design.flows}
    for number, held in enumerate(app_rules(design).checks):
        flow = flows[held.flow]
        routes = [(flow, path, held.number) for path in flow.paths if crosses(design, path)]
        name = f"the rule that flow {flow.id} carries only {held.app}"
        yield from _ips_pair(
            design,
            uplink,
            world,
            routes,
            number,
            f"flow:{flow.id}",
            held.sids,
            name,
            held.payload,
        )


def _ips_pair(
    design: Design,
    uplink: Uplink,
    world: World,
    routes: Sequence[Route],
    number: int,
    proves: str,
    sids: tuple[str, ...],
    name: str,
    payload: Payload,
) -> Iterator[Check]:
    """The two checks of one rule, on one of its routes; or one check that says why the rule cannot
    be tested. The rule's number selects the route and the version of IP, so that all get their
    turn.
    """
    possible = [route for route in routes if _families(uplink, world, route, payload.port)]
    if not possible:
        excused = bool(world.servers)
        yield _not_possible(Kind.IPS, sids[0], name, world.missing, excused=excused)
        return
    route = possible[number % len(possible)]
    prevents = design.inspection.mode is Mode.PREVENT
    target = _Target(design, uplink, world, Kind.IPS, proves, route, prevents)
    families = target.families(payload.port)
    yield from target.pair(families[number % len(families)], sids, name, payload)


def not_carried(design: Design) -> str:
    """Which rules of the IPS are not tested because no declared flow can carry their test payload;
    empty if there are none.
    """
    if design.ips is None:
        return ""
    routes = [route for route in _routes(design) if crosses(design, route[1])]
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
        and app_at(flow, number, port) in (None, App.OTHER, shipped.payload.app)
    )


def _leak_checks(design: Design, uplink: Uplink, world: World) -> Iterator[Check]:
    """Checks of each detector: with data that a client in its zones sends out or, if no flow begins
    there, with data in the answer of a server there.
    """
    sids = rule_sids(design.inspection.detectors)
    for detector in design.inspection.detectors:
        name = f"detector '{detector.id}'"
        try:
            *_, data = payloads_of(detector)
            useful = _leak_routes(design, detector)
        except NoExampleError as error:
            yield _not_possible(Kind.LEAK, detector.id, name, error.what, excused=True)
            continue
        possible = [found for found in useful if _families(uplink, world, found[0])]
        if not possible:
            reason = world.missing if useful else NO_FLOW
            excused = not useful or bool(world.servers)
            yield _not_possible(Kind.LEAK, detector.id, name, reason, excused=excused)
            continue
        route, echoed, payload = possible[0]
        target = _leak_target(design, uplink, world, detector, route)
        rules = tuple(str(sids[detector.id, channel.name]) for channel in CHANNELS)
        for family in target.families():
            yield from target.pair(family, rules, name, payload, data if echoed else None)
        outwards = [
            found for found, echoed, _ in possible if not echoed and _takes(found, App.HTTP)
        ]
        yield from _place_checks(design, uplink, world, detector, outwards)


def _place_checks(
    design: Design, uplink: Uplink, world: World, detector: Detector, routes: Sequence[Route]
) -> Iterator[Check]:
    """Checks of each place that a detector searches and that a client can fill: on the first flow
    that can carry it, in turns over IPv4 and IPv6.
    """
    sids = rule_sids(design.inspection.detectors)
    every = {channel.name: str(sids[detector.id, channel.name]) for channel in CHANNELS}
    for number, (channel, payload) in enumerate(places_of(detector).items()):
        for route in routes:
            service = route[0].services[route[2]]
            families = _families(uplink, world, route, payload.port)
            if service.protocol is payload.protocol and families and _has_port(service, payload):
                target = _leak_target(design, uplink, world, detector, route)
                # If the detector's pattern is general, another rule of the detector may match
                # first.
                rules = tuple(dict.fromkeys((every[channel], *every.values())))
                name = f"detector '{detector.id}' ({channel})"
                yield from target.pair(families[number % len(families)], rules, name, payload)
                break


def _has_port(service: Service, payload: Payload) -> bool:
    return not payload.port or service.first <= payload.port <= service.last


def _leak_target(
    design: Design, uplink: Uplink, world: World, detector: Detector, route: Route
) -> _Target:
    return _Target(
        design,
        uplink,
        world,
        Kind.LEAK,
        _proves(Kind.LEAK, detector.id),
        route,
        detector.action is Action.BLOCK,
    )


def _leak_routes(design: Design, detector: Detector) -> list[tuple[Route, bool, Payload]]:
    """The flows on which a detector can be tested, the best first. The second value says whether
    the data leaves in an answer, the third is what is sent.

    Raises NoExampleError as `payloads_of`.
    """
    *_, data = payloads_of(detector)
    messages = {app: message_of(detector, app) for app in App}
    usable = [
        route
        for route in _routes(design)
        if crosses(design, route[1]) and not _excepted(design, detector, route)
    ]
    # HTTP comes first, because most rules of a detector search it. TCP comes before UDP, because an
    # acknowledgement is enough over TCP, while UDP needs an answer. Data that a client sends comes
    # before data in an answer.
    usable.sort(key=lambda route: not _takes(route, App.HTTP))
    found = []
    for protocol in (Protocol.TCP, Protocol.UDP):
        for ends, echoed in (((True, False), False), ((False, True), True)):
            for flow, path, number in usable:
                inside = tuple(
                    nic is not None and nic.zone in detector.zones
                    for nic in (path.source, path.target)
                )
                app = app_at(flow, number) or App.OTHER
                plain = protocol is Protocol.UDP or (echoed and app is App.OTHER)
                payload = data if plain else messages[app]
                if inside == ends and flow.services[number].protocol is protocol and payload:
                    found.append(((flow, path, number), echoed, payload))
    return found


Route = tuple[Flow, FlowPath, int]
"""A flow, one of its paths, and the index of one of its services."""


def _routes(design: Design) -> Iterator[Route]:
    for flow in design.flows:
        for number, service in enumerate(flow.services):
            if service.protocol is not Protocol.ICMP:
                yield from ((flow, path, number) for path in flow.paths)


def _takes(route: Route, app: App) -> bool:
    """Whether the flow carries messages of a protocol."""
    flow, _, number = route
    return app_at(flow, number) in (None, App.OTHER, app)


def _excepted(design: Design, detector: Detector, route: Route) -> bool:
    """Whether data may leave on the route: its own flow is excepted, or an excepted flow allows the
    same packets.
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


def _families(uplink: Uplink, world: World, route: Route, port: int = 0) -> tuple[int, ...]:
    """The versions of IP over which a probe can be sent on a route, to this port (0: the first of
    the service). For a target outside: those over which a test server answers.
    """
    flow, path, number = route
    service = flow.services[number]
    return tuple(
        family
        for family in versions_of(uplink, flow)
        if destination(uplink, world, flow, number, path, port or service.first, family)[0]
    )


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

    def families(self, port: int = 0) -> tuple[int, ...]:
        """As `_families`."""
        return _families(self.uplink, self.world, self.route, port)

    def pair(
        self,
        family: int,
        rules: tuple[str, ...],
        name: str,
        payload: Payload,
        echoed: Payload | None = None,
    ) -> Iterator[Check]:
        """The check that sends the test payload, and the check that sends the harmless one. `echoed`
        is the data in both, if the rules inspect the answer of a service that sends it back.
        """
        flow, path, number = self.route
        service = flow.services[number]
        port = payload.port or service.first
        target, at = destination(self.uplink, self.world, flow, number, path, port, family)
        assert target is not None  # noqa: S101 - callers checked `families`
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
                # The check with the harmless payload shows whether the service sends anything back.
                echo=Echo(ids[True], echoed.passed, echoed.passed if passes else echoed.stopped)
                if echoed
                else None,
                twin="" if passes else ids[True],
                published=() if path.source else self._published(family),
            )

    def _published(self, family: int) -> tuple[str, ...]:
        """The addresses of all VMs that the flow publishes."""
        flow, _, _ = self.route
        nics = [path.target for path in flow.paths if path.source is None and path.target]
        return tuple(dict.fromkeys(str(address_of(nic, family)) for nic in nics))

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


def _not_possible(kind: Kind, key: str, name: str, reason: str, *, excused: bool) -> Check:
    """A check that will be reported as not run or, if it is excused, as not tried, with its reason."""
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
        excused=excused,
    )


def _proves(kind: Kind, key: str) -> str:
    """The stable id of a rule of the IPS (by its sid) or of a detector (by its id)."""
    return f"{'rule' if kind is Kind.IPS else 'detector'}:{key}"
