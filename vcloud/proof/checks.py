"""The claims about a vApp that packets test, as values. Pure: a function of the design, the uplink
and a seed.

A packet that gets no answer proves little: the target may be dead, or the packet may have got lost
on the way. So a claim that something is blocked also names a listener in the target VM. The
listener must answer a probe from within its own VM, and the firewall must have counted exactly this
packet as denied.

To test one more kind of traffic: add a `Kind`, a generator of checks here, and what its answers
mean in `vcloud.proof.judge`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address

from vcloud.compile.guest.identity import meeting_nic
from vcloud.design.addressing import hash_number
from vcloud.design.model import Design, Flow, FlowPath, Nic, Uplink, Vm
from vcloud.values import INTERNET, Protocol, Service

Address = IPv4Address | IPv6Address
HOST = "host"
SSH = 22
DANGEROUS = (SSH, 23, 445, 3389)
"""TCP ports that attackers look for first."""
RANDOM_PORTS = 2
"""Random ports of each protocol, in addition to the ports that the file names."""
FIRST_RANDOM, LAST_RANDOM = 1024, 65534
OUTSIDE_PORTS = 4
"""Ports of each protocol that every VM tries to reach outside."""
TIMEOUT_MS = 2500
MAX_PER_TIER = 2
"""Replicas of a tier that take part in probes of what is denied. All replicas take part in probes
of declared flows.
"""
NO_SERVER = "this host's inventory entry names no test server outside"
"""Why nothing is sent to the outside: if the firewall is broken, the packets would reach machines
of other people.
"""


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
    """One packet exchange. Its fields are those of a line that the probe program reads."""

    protocol: str
    """tcp, udp, icmp, spoof-udp or spoof-tcp."""
    source: str
    """The address to send from; `-` leaves the choice to the kernel."""
    target: Address
    port: int
    payload: bytes = b""
    timeout_ms: int = TIMEOUT_MS


@dataclass(frozen=True, slots=True, order=True)
class Listener:
    """A port of a VM that must answer, so that silence can mean anything. A service of the VM that
    listens there already is as good.
    """

    vm: str
    protocol: str
    address: str
    port: int


@dataclass(frozen=True, slots=True)
class Echo:
    """The harmless payload that shows whether a service sends back what it receives."""

    check: str
    """The id of the check that sends it."""
    payload: bytes


@dataclass(frozen=True, slots=True)
class Check:
    """A claim and the probe that tests it."""

    id: str
    kind: Kind
    claim: str
    vantage: str
    """Where the probe is sent from: a VM's name, `internet` or `host`."""
    probe: Probe | None
    """None: nothing can be sent, for `reason`."""
    passes: bool
    """True: the probe must come through. False: it must be stopped."""
    proves: str
    """The stable id of what the check proves: `flow:ID`, `ctl:NAME` (as in the ruleset), `rule:SID`
    or `detector:ID`.
    """
    listener: Listener | None = None
    source: Address | None = None
    """The address that the firewall sees as the sender's; None from outside."""
    rules: tuple[str, ...] = ()
    """Sids of the IPS. One of them must match a test payload, and none a harmless payload."""
    blocked: bool = True
    """True: the rules drop what they match. False: they only log it, and the payload must come
    through.
    """
    nic: str = ""
    """The firewall's NIC at which a forged packet arrives."""
    echo: Echo | None = None
    """The payload is sent in, the service sends it back, and the rules inspect that answer."""
    reason: str = ""
    """Why nothing can be sent."""
    flow: str = ""
    """The declared flow that carries the probe; empty if none does."""


@dataclass(frozen=True, slots=True)
class World:
    """The test servers outside, which answer on every port. None: there is none, and what would be
    sent there is `not run`.
    """

    address4: Address | None
    address6: Address | None


def network_checks(design: Design, uplink: Uplink, world: World, seed: int) -> tuple[Check, ...]:
    """All checks that need no payload. `seed` chooses the random ports."""
    return (
        *_flow_checks(design, uplink, world),
        *_denied_checks(design, seed),
        *_outside_checks(design, uplink, world, seed),
        *_spoof_checks(design),
        *_host_checks(design),
    )


def left_out(design: Design, uplink: Uplink) -> str:
    """What no check tests, in one line for people; empty if everything is tested."""
    pairs, tried = (len(vms) * (len(vms) - 1) for vms in (design.workloads, _sample(design)))
    parts = []
    if tried < pairs:
        parts.append(
            f"{pairs - tried} of {pairs} ordered pairs of VMs for what must not pass (only {MAX_PER_TIER} replicas of a tier are tested)"
        )
    if open_zones := [zone.name for zone in design.zones if zone.open]:
        parts.append(
            f"traffic between VMs of the same open zone, which passes neither the firewall nor the IPS ({', '.join(open_zones)})"
        )
    if uplink.address6 is None:
        parts.append("IPv6 to and from the outside, because the uplink has no IPv6")
    return "; ".join(parts)


def _flow_checks(design: Design, uplink: Uplink, world: World) -> Iterator[Check]:
    for flow in design.flows:
        for number, service in enumerate(flow.services):
            for path in flow.paths:
                yield from _path_checks(design, uplink, world, flow, number, service, path)


def _path_checks(
    design: Design,
    uplink: Uplink,
    world: World,
    flow: Flow,
    number: int,
    service: Service,
    path: FlowPath,
) -> Iterator[Check]:
    """A probe that must come through for each version of IP; two for a range of ports, at its first
    and its last port.
    """
    families = (4, 6) if path.source and path.target else spoken(uplink)
    for port, family in itertools.product(sorted({service.first, service.last}), families):
        vantage = owner_of(design, path.source).name if path.source else INTERNET
        target, at = destination(uplink, world, flow, number, path, port, family)
        listener = None
        if path.target and service.protocol is not Protocol.ICMP:
            vm = owner_of(design, path.target)
            listener = Listener(
                vm.name, service.protocol, str(address_of(path.target, family)), port
            )
        goal = owner_of(design, path.target).name if path.target else INTERNET
        label = str(Service(service.protocol, port, port))
        yield Check(
            id=f"flow/{flow.id}/{vantage}/{goal}/{label}/{family}",
            kind=Kind.FLOW,
            claim=f"{vantage} reaches {goal} on {label} over IPv{family}",
            vantage=vantage,
            probe=Probe(service.protocol, _from(path.source, family), target, at)
            if target
            else None,
            passes=True,
            proves=f"flow:{flow.id}",
            flow=flow.id,
            listener=listener,
            source=address_of(path.source, family) if path.source else None,
            reason="" if target else NO_SERVER,
        )


def spoken(uplink: Uplink) -> tuple[int, ...]:
    """The versions of IP that the uplink has. Nothing is claimed about the outside over another
    version.
    """
    return (4,) if uplink.address6 is None else (4, 6)


def destination(
    uplink: Uplink, world: World, flow: Flow, number: int, path: FlowPath, port: int, family: int
) -> tuple[Address | None, int]:
    """The address and port that the probe is sent to. The address is None if no machine is known
    that would answer.
    """
    if path.target is None:
        return (world.address4 if family == 4 else world.address6), port
    if path.source is None:
        interface = uplink.address4 if family == 4 else uplink.address6
        published = flow.publish[number].first + port - flow.services[number].first
        return (interface.ip if interface else None), published
    return address_of(path.target, family), port


def allowed(design: Design, source: Nic | None, target: Nic | None) -> set[Service]:
    """Every service that some flow allows from `source` to `target`; None is the outside."""
    return {
        service
        for flow in design.flows
        for path in flow.paths
        if path.source == source and path.target == target
        for service in flow.services
    }


def undeclared_ports(
    design: Design, allowed_services: set[Service], protocol: Protocol, seed: int
) -> list[int]:
    """Ports to try: those that the file names anywhere, some that attackers like, some random ones;
    without those that are allowed.
    """
    named = {
        port
        for flow in design.flows
        for service in flow.services
        if service.protocol is protocol
        for port in (service.first, service.last)
    }
    candidates = sorted(
        named
        | random_ports(seed, design.vapp, protocol)
        | (set(DANGEROUS) if protocol is Protocol.TCP else {53})
    )
    return [
        port
        for port in candidates
        if not any(s.protocol is protocol and s.first <= port <= s.last for s in allowed_services)
    ]


def random_ports(seed: int, vapp: str, protocol: Protocol) -> set[int]:
    """`RANDOM_PORTS` different ports, the same for the same arguments on every machine."""
    ports: set[int] = set()
    draws = itertools.count()
    while len(ports) < RANDOM_PORTS:
        ports.add(
            FIRST_RANDOM
            + hash_number(64, str(seed), vapp, protocol, str(next(draws)))
            % (LAST_RANDOM - FIRST_RANDOM + 1)
        )
    return ports


def _denied_checks(design: Design, seed: int) -> Iterator[Check]:
    for one, other in itertools.permutations(_sample(design), 2):
        there = meeting_nic(one, other)
        here = next((nic for nic in one.nics if nic.zone == there.zone), one.nics[0])
        if here.zone == there.zone and design.zone(here.zone).open:
            continue
        services = allowed(design, here, there)
        for protocol in Protocol:
            if protocol is Protocol.ICMP:
                ports = (
                    [] if any(service.protocol is Protocol.ICMP for service in services) else [0]
                )
            else:
                ports = undeclared_ports(design, services, protocol, seed)
            for port, family in itertools.product(ports, (4, 6)):
                yield _denied(one, other, here, there, protocol, port, family)


def _denied(
    one: Vm, other: Vm, here: Nic, there: Nic, protocol: Protocol, port: int, family: int
) -> Check:
    target = address_of(there, family)
    label = str(Service(protocol, port, port))
    return Check(
        id=f"denied/{one.name}/{other.name}/{label}/{family}",
        kind=Kind.DENIED,
        claim=f"{one.name} does not reach {other.name} on {label} over IPv{family}",
        vantage=one.name,
        probe=Probe(protocol, _from(here, family), target, port),
        passes=False,
        proves="ctl:default-deny",
        listener=None
        if protocol is Protocol.ICMP
        else Listener(other.name, protocol, str(target), port),
        source=address_of(here, family),
    )


def _outside_checks(design: Design, uplink: Uplink, world: World, seed: int) -> Iterator[Check]:
    """From every VM to the outside and back, on ports that no flow names.

    If no test server outside is known, the target is the uplink's gateway. It is outside too, and
    packets that a broken firewall lets out end there.
    """
    for vm in _sample(design):
        nic = vm.nics[0]
        services = allowed(design, nic, None)
        for protocol in (Protocol.TCP, Protocol.UDP):
            for port, family in itertools.product(
                undeclared_ports(design, services, protocol, seed)[:OUTSIDE_PORTS], spoken(uplink)
            ):
                target = (
                    (world.address4 or uplink.gateway4)
                    if family == 4
                    else (world.address6 or uplink.gateway6)
                )
                label = str(Service(protocol, port, port))
                yield Check(
                    id=f"denied/{vm.name}/{INTERNET}/{label}/{family}",
                    kind=Kind.DENIED,
                    claim=f"{vm.name} does not reach the outside on {label} over IPv{family}",
                    vantage=vm.name,
                    probe=Probe(protocol, _from(nic, family), target, port) if target else None,
                    passes=False,
                    proves="ctl:default-deny",
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
                id=f"denied/{INTERNET}/uplink/tcp/{port}/{family}",
                kind=Kind.DENIED,
                claim=f"the outside finds tcp/{port} closed at the vApp's address over IPv{family}",
                vantage=INTERNET,
                probe=Probe(Protocol.TCP, "-", interface.ip, port),
                passes=False,
                proves="ctl:default-deny",
            )


def _spoof_checks(design: Design) -> Iterator[Check]:
    """Each VM sends one packet with the address of another VM, to a target that the other VM may
    reach.
    """
    for vm in _sample(design):
        nic = vm.nics[0]
        for family in (4, 6):
            victim = next((other for other in design.workloads if other.name != vm.name), None)
            if victim is None:
                return
            forged, target = (
                address_of(victim.nics[0], family),
                address_of(design.zone(nic.zone).gateway, family),
            )
            yield Check(
                id=f"spoofed/{vm.name}/{family}",
                kind=Kind.SPOOFED,
                claim=f"{vm.name} cannot send as {victim.name} over IPv{family}",
                vantage=vm.name,
                probe=Probe("spoof-udp", str(forged), target, 9),
                passes=False,
                proves="ctl:antispoof",
                source=forged,
                nic=design.zone(nic.zone).gateway.ifname,
            )


def _host_checks(design: Design) -> Iterator[Check]:
    """The host has no address on the bridge of any zone, so it must not reach any VM."""
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
                proves="ctl:no-host-address",
                listener=Listener(vm.name, Protocol.TCP, str(target), SSH),
            )


def _sample(design: Design) -> list[Vm]:
    """All VMs, but of each tier no more than `MAX_PER_TIER`: the number of pairs grows with the
    square.
    """
    tiers: dict[str, list[Vm]] = {}
    for vm in design.workloads:
        tiers.setdefault(vm.tier, []).append(vm)
    return [vm for members in tiers.values() for vm in members[:MAX_PER_TIER]]


def owner_of(design: Design, nic: Nic) -> Vm:
    """The workload VM that has this NIC."""
    return next(vm for vm in design.workloads if nic in vm.nics)


def address_of(nic: Nic, family: int) -> Address:
    """The address of a workload's or gateway's NIC. These NICs always have one in both versions of
    IP.
    """
    address = nic.address4 if family == 4 else nic.address6
    assert address is not None  # noqa: S101 - by construction in vcloud.design.resolve
    return address


def _from(nic: Nic | None, family: int) -> str:
    return str(address_of(nic, family)) if nic else "-"
