"""Which claims about a vApp are tested by packets, as values. Pure: a function of the design, the uplink and a seed.

A negative claim is worth nothing when the target is dead or the packet got lost, so each carries its twin: the target's listener must
answer on the spot (`twin`), and the firewall must have counted exactly this packet among the denied.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address

from vcloud.compile.guest.identity import meeting_nic
from vcloud.design.model import Design, Flow, FlowPath, Nic, Uplink, Vm
from vcloud.values import Protocol, Service

Address = IPv4Address | IPv6Address
OUTSIDE = "internet"
HOST = "host"
SSH = 22
DANGEROUS = (SSH, 23, 445, 3389)
RANDOM_PORTS = 2
OUTSIDE_PORTS = 4
"""Of each protocol, that every VM tries towards the outside."""
TIMEOUT_MS = 2500
MAX_PER_TIER = 2
"""Replicas of a tier that take part in negative probes; every one takes part in the positive ones."""
NO_SERVER = "there is no test server outside on this host"
"""Why nothing is sent to the outside: what a broken firewall let out would reach a place that is not ours."""


class Kind(StrEnum):
    CONFIG = "config"
    FLOW = "flow"
    DENIED = "denied"
    SPOOFED = "spoofed"
    HOST = "host"
    IPS = "ips"
    LEAK = "leak"


class Outcome(StrEnum):
    PASS = "pass"  # noqa: S105 - not a password
    FAIL = "fail"
    ERROR = "error"
    NOT_RUN = "not run"


@dataclass(frozen=True, slots=True)
class Probe:
    """One packet exchange; the fields of a line of `guest probe`."""

    protocol: str
    """tcp, udp, icmp, spoof-udp or spoof-tcp."""
    source: str
    """An address to send from, or `-`."""
    target: Address
    port: int
    payload: bytes = b""
    timeout_ms: int = TIMEOUT_MS


@dataclass(frozen=True, slots=True, order=True)
class Listener:
    """A port that must answer in a VM for the probe to mean anything; a service that listens there already is as good."""

    vm: str
    protocol: str
    address: str
    port: int


@dataclass(frozen=True, slots=True)
class Echo:
    """The near miss that shows whether a service gives back what it gets."""

    check: str
    """Its id."""
    payload: bytes


@dataclass(frozen=True, slots=True)
class Check:
    """A claim and the probe that tests it."""

    id: str
    kind: Kind
    claim: str
    vantage: str
    """A VM's name, `internet` or `host`."""
    probe: Probe | None
    """None: nothing can be sent, for `reason`."""
    passes: bool
    """The probe must come through; otherwise it must be stopped."""
    flow: str = ""
    listener: Listener | None = None
    source: Address | None = None
    """The address under which the firewall sees the sender; None from outside."""
    rules: tuple[str, ...] = ()
    """Sids of the IPS of which one must fire, or for a near miss none."""
    blocked: bool = True
    """A rule that fires drops; otherwise it only logs, and the payload must come through."""
    card: str = ""
    """The firewall's card at which a forged packet arrives."""
    echo: Echo | None = None
    """The payload goes in; what the rule is about is the answer, which gives it back."""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class World:
    """What answers in the outside world; None where nothing known does. What would be sent there is then `not run`."""

    address4: Address | None
    address6: Address | None


def network_checks(design: Design, uplink: Uplink, world: World, seed: int) -> tuple[Check, ...]:
    """All checks that need no payload."""
    return (
        *_flow_checks(design, uplink, world),
        *_denied_checks(design, seed),
        *_outside_checks(design, uplink, world, seed),
        *_spoof_checks(design),
        *_host_checks(design),
    )


def left_out(design: Design, uplink: Uplink) -> str:
    """What no check tries, in one line for people; empty where that is nothing."""
    pairs, tried = (len(vms) * (len(vms) - 1) for vms in (design.workloads, _sample(design)))
    parts = []
    if tried < pairs:
        parts.append(
            f"{pairs - tried} of {pairs} ordered pairs of VMs for what must not pass, where {MAX_PER_TIER} replicas of a tier stand for all"
        )
    if open_zones := [zone.name for zone in design.zones if zone.open]:
        parts.append(f"what neighbours in open zones send each other past the firewall and the IPS ({', '.join(open_zones)})")
    if uplink.address6 is None:
        parts.append("IPv6 to and from the outside, which the uplink does not speak")
    return "; ".join(parts)


def _flow_checks(design: Design, uplink: Uplink, world: World) -> Iterator[Check]:
    for flow in design.flows:
        for number, service in enumerate(flow.services):
            for path in flow.paths:
                yield from _path_checks(design, uplink, world, flow, number, service, path)


def _path_checks(
    design: Design, uplink: Uplink, world: World, flow: Flow, number: int, service: Service, path: FlowPath
) -> Iterator[Check]:
    """A positive probe per address family, and for a range at both of its ends."""
    families = (4, 6) if path.source and path.target else spoken(uplink)
    for port, family in itertools.product(sorted({service.first, service.last}), families):
        vantage = owner_of(design, path.source).name if path.source else OUTSIDE
        target, at = destination(uplink, world, flow, number, path, port, family)
        listener = None
        if path.target and service.protocol is not Protocol.ICMP:
            vm = owner_of(design, path.target)
            listener = Listener(vm.name, service.protocol, str(address_of(path.target, family)), port)
        goal = owner_of(design, path.target).name if path.target else OUTSIDE
        label = str(Service(service.protocol, port, port))
        yield Check(
            id=f"flow/{flow.id}/{vantage}/{goal}/{label}/{family}",
            kind=Kind.FLOW,
            claim=f"{vantage} reaches {goal} on {label} over IPv{family}",
            vantage=vantage,
            probe=Probe(service.protocol, _from(path.source, family), target, at) if target else None,
            passes=True,
            flow=flow.id,
            listener=listener,
            source=address_of(path.source, family) if path.source else None,
            reason="" if target else NO_SERVER,
        )


def spoken(uplink: Uplink) -> tuple[int, ...]:
    """The versions of IP that the uplink speaks: nothing is claimed of the outside over another."""
    return (4,) if uplink.address6 is None else (4, 6)


def destination(
    uplink: Uplink, world: World, flow: Flow, number: int, path: FlowPath, port: int, family: int
) -> tuple[Address | None, int]:
    """Address and port that the prober aims at; None where no address is known that would answer."""
    if path.target is None:
        return (world.address4 if family == 4 else world.address6), port
    if path.source is None:
        interface = uplink.address4 if family == 4 else uplink.address6
        published = flow.publish[number].first + port - flow.services[number].first
        return (interface.ip if interface else None), published
    return address_of(path.target, family), port


def allowed(design: Design, source: Nic | None, target: Nic | None) -> set[Service]:
    """Every service that some flow allows between two ends."""
    return {
        service
        for flow in design.flows
        for path in flow.paths
        if path.source == source and path.target == target
        for service in flow.services
    }


def undeclared_ports(design: Design, allowed_services: set[Service], protocol: Protocol, seed: int) -> list[int]:
    """Ports worth trying: all that the file names anywhere, some that attackers like, some at random; minus what is allowed."""
    named = {
        port for flow in design.flows for service in flow.services if service.protocol is protocol for port in (service.first, service.last)
    }
    drawn = random.Random(f"{seed}/{design.vapp}/{protocol}").sample(range(1024, 65535), RANDOM_PORTS)  # noqa: S311 - a repeatable draw, no secret
    candidates = sorted(named | set(drawn) | (set(DANGEROUS) if protocol is Protocol.TCP else {53}))
    return [port for port in candidates if not any(s.protocol is protocol and s.first <= port <= s.last for s in allowed_services)]


def _denied_checks(design: Design, seed: int) -> Iterator[Check]:
    for one, other in itertools.permutations(_sample(design), 2):
        there = meeting_nic(one, other)
        here = next((nic for nic in one.nics if nic.zone == there.zone), one.nics[0])
        if here.zone == there.zone and design.zone(here.zone).open:
            continue
        services = allowed(design, here, there)
        for protocol in Protocol:
            if protocol is Protocol.ICMP:
                ports = [] if any(service.protocol is Protocol.ICMP for service in services) else [0]
            else:
                ports = undeclared_ports(design, services, protocol, seed)
            for port, family in itertools.product(ports, (4, 6)):
                yield _denied(one, other, here, there, protocol, port, family)


def _denied(one: Vm, other: Vm, here: Nic, there: Nic, protocol: Protocol, port: int, family: int) -> Check:
    target = address_of(there, family)
    label = str(Service(protocol, port, port))
    return Check(
        id=f"denied/{one.name}/{other.name}/{label}/{family}",
        kind=Kind.DENIED,
        claim=f"{one.name} does not reach {other.name} on {label} over IPv{family}",
        vantage=one.name,
        probe=Probe(protocol, _from(here, family), target, port),
        passes=False,
        listener=None if protocol is Protocol.ICMP else Listener(other.name, protocol, str(target), port),
        source=address_of(here, family),
    )


def _outside_checks(design: Design, uplink: Uplink, world: World, seed: int) -> Iterator[Check]:
    """From every VM to the outside and back on ports that no flow names.

    Where no server outside is known, the target is the uplink's gateway: outside too, and what a broken firewall lets out ends there.
    """
    for vm in _sample(design):
        nic = vm.nics[0]
        services = allowed(design, nic, None)
        for protocol in (Protocol.TCP, Protocol.UDP):
            for port, family in itertools.product(undeclared_ports(design, services, protocol, seed)[:OUTSIDE_PORTS], spoken(uplink)):
                target = (world.address4 or uplink.gateway4) if family == 4 else (world.address6 or uplink.gateway6)
                label = str(Service(protocol, port, port))
                yield Check(
                    id=f"denied/{vm.name}/{OUTSIDE}/{label}/{family}",
                    kind=Kind.DENIED,
                    claim=f"{vm.name} does not reach the outside on {label} over IPv{family}",
                    vantage=vm.name,
                    probe=Probe(protocol, _from(nic, family), target, port) if target else None,
                    passes=False,
                    source=address_of(nic, family),
                    reason="" if target else NO_SERVER,
                )
    yield from _inbound_checks(design, uplink, seed)


def _inbound_checks(design: Design, uplink: Uplink, seed: int) -> Iterator[Check]:
    published = {service for flow in design.flows for service in flow.publish}
    for port in undeclared_ports(design, published, Protocol.TCP, seed):
        for family, interface in ((4, uplink.address4), (6, uplink.address6)):
            if interface is None:
                continue
            yield Check(
                id=f"denied/{OUTSIDE}/uplink/tcp/{port}/{family}",
                kind=Kind.DENIED,
                claim=f"the outside finds tcp/{port} closed at the vApp's address over IPv{family}",
                vantage=OUTSIDE,
                probe=Probe(Protocol.TCP, "-", interface.ip, port),
                passes=False,
            )


def _spoof_checks(design: Design) -> Iterator[Check]:
    """Each VM sends once in another's name, towards a place that the other may reach."""
    for vm in _sample(design):
        nic = vm.nics[0]
        for family in (4, 6):
            victim = next((other for other in design.workloads if other.name != vm.name), None)
            if victim is None:
                return
            forged, target = address_of(victim.nics[0], family), address_of(design.zone(nic.zone).gateway, family)
            yield Check(
                id=f"spoofed/{vm.name}/{family}",
                kind=Kind.SPOOFED,
                claim=f"{vm.name} cannot send as {victim.name} over IPv{family}",
                vantage=vm.name,
                probe=Probe("spoof-udp", str(forged), target, 9),
                passes=False,
                source=forged,
                card=design.zone(nic.zone).gateway.ifname,
            )


def _host_checks(design: Design) -> Iterator[Check]:
    """The host has no address on any zone's bridge, so it must find no VM."""
    for vm in _sample(design):
        for family in (4, 6):
            target = address_of(vm.nics[0], family)
            yield Check(
                id=f"host/{vm.name}/{family}",
                kind=Kind.HOST,
                claim=f"the host does not reach {vm.name} over IPv{family}",
                vantage=HOST,
                probe=Probe(Protocol.TCP, "-", target, SSH),
                passes=False,
                listener=Listener(vm.name, Protocol.TCP, str(target), SSH),
            )


def _sample(design: Design) -> list[Vm]:
    tiers: dict[str, list[Vm]] = {}
    for vm in design.workloads:
        tiers.setdefault(vm.tier, []).append(vm)
    return [vm for members in tiers.values() for vm in members[:MAX_PER_TIER]]


def owner_of(design: Design, nic: Nic) -> Vm:
    return next(vm for vm in design.workloads if nic in vm.nics)


def address_of(nic: Nic, family: int) -> Address:
    """A workload's or gateway's address; these cards always have both."""
    address = nic.address4 if family == 4 else nic.address6
    assert address is not None  # noqa: S101 - by construction in vcloud.design.resolve
    return address


def _from(nic: Nic | None, family: int) -> str:
    return str(address_of(nic, family)) if nic else "-"
