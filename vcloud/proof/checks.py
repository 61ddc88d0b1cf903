"""The claims about a vApp that packets test, as values. Pure: a function of the design, the uplink
and a seed.

A packet that gets no answer proves little: the target may be dead, or the packet may have got lost
on the way. So a claim that something is blocked also names a listener in the target VM. The
listener must answer a probe from within its own VM, and the firewall must have counted exactly this
packet as denied.

To test one more kind of traffic: add a `Kind` and a generator of checks here or in `network`, and
add to `vcloud.proof.judge` what its answers mean.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from ipaddress import IPv4Address

from vcloud.design.internet import leads_to
from vcloud.design.model import Design, Flow, FlowPath, Nic, Uplink
from vcloud.proof.frames import PORT, End, frame, unused_mac
from vcloud.proof.nics import VmNic, address_of, owner_of, sampled_nics, sent_from
from vcloud.proof.ports import SSH, allowed, undeclared_ports
from vcloud.proof.world import Address, World
from vcloud.values import INTERNET, Denied, Protocol, Service

HOST = "host"
FRAME = "frame"
TIMEOUT_MS = 2500


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
    NOT_TRIED = "not tried"
    """No probe can test the claim in this vApp. The report lists it; it is not a pass, and does not
    change the exit code.
    """


@dataclass(frozen=True, slots=True)
class Probe:
    """One packet exchange. Its fields are those of a line that the probe program reads."""

    protocol: str
    """tcp, udp, icmp, spoof-udp or spoof-tcp; or frame, whose payload is a whole Ethernet frame."""
    source: str
    """The address to send from; `-` leaves the choice to the kernel."""
    target: Address
    port: int
    payload: bytes = b""
    timeout_ms: int = TIMEOUT_MS
    card: str = ""
    """The network card that the probe leaves by, instead of the one that the routes choose; empty:
    the routes decide. For a frame: the card's MAC address, or `to:` and an IPv4 address, which
    means the card on whose segment the address is. Only the Python program supports it for other
    protocols.
    """


@dataclass(frozen=True, slots=True, order=True)
class Listener:
    """A port of a VM that must answer from within the VM. Without it, silence would prove nothing.
    A service of the VM that already listens on this port serves as the listener, too.
    """

    vm: str
    protocol: str
    address: str
    port: int


@dataclass(frozen=True, slots=True)
class Turn:
    """One of the connections that the firewall gives to several VMs in turn."""

    check: str
    """The id of the check that opens it."""
    listener: Listener
    """The listener of the VM that the check is about. Another VM may get the connection."""


@dataclass(frozen=True, slots=True)
class Echo:
    """The harmless payload that shows whether a service sends back what it receives."""

    check: str
    """The id of the check that sends it."""
    harmless: bytes
    """The data in it, which must come back."""
    data: bytes
    """The data in the payload of the check itself, which must come back or be stopped."""


@dataclass(frozen=True, slots=True)
class Connection:
    """A TCP connection that is open while an ICMP error about it is sent."""

    client: str
    """The place that opens it."""
    server: str
    source: str
    """The address that it is opened from, as of a `Probe`."""
    target: Address | None
    """None if no machine is known that would answer."""
    port: int
    inner: End | None
    """The address and port in the VM that serves it; None if the server is outside."""
    listener: Listener | None
    """The listener in that VM."""
    reason: str = ""
    """Why it cannot be opened, if there is no target."""
    excused: bool = False
    """The user cannot change that."""


@dataclass(frozen=True, slots=True)
class Check:
    """A claim and the probe that tests it."""

    id: str
    kind: Kind
    claim: str
    vantage: str
    """Where the probe is sent from: a VM's name, `internet` or `host`."""
    probe: Probe | None
    """None if no probe can be sent; `reason` says why."""
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
    beside: Address | None = None
    """Set if the host must drop the forged packet, but must let the same packet with the sender's
    own MAC address pass: the source address of that second packet. None: the firewall must drop the
    packet.
    """
    echo: Echo | None = None
    """The payload is sent in, the service sends it back, and the rules inspect that answer."""
    reason: str = ""
    """Why no probe can be sent."""
    excused: bool = False
    """No probe can be sent, and the user cannot change that. The outcome is `not tried`."""
    twin: str = ""
    """The id of a check that is always repeated together with this one."""
    flow: str = ""
    """The declared flow that carries the probe; empty if none does."""
    published: tuple[str, ...] = ()
    """Addresses of the VMs behind the published port that the payload is sent to. Any of these VMs
    may get the payload. Empty: the probe goes to its listener.
    """
    told: bool = False
    """The firewall answers the sender of a denied packet (`denied: reject`), with a refusal in the
    target's name.
    """
    about: Connection | None = None
    """The probe is an ICMP error about this connection of others. It gets its target and payload
    after the connection was opened.
    """
    to_mac: str = ""
    """The MAC address of the firewall's NIC at which that error arrives."""
    turns: tuple[Turn, ...] = ()
    """All connections to the published port of this check, its own among them, one for each VM that
    gets connections in turn. They are opened together. Empty: the probe goes to its listener.
    """

    @property
    def sent(self) -> Probe:
        """The probe of a check that has one."""
        assert self.probe is not None  # noqa: S101 - asked only where an answer was found
        return self.probe


def flow_checks(design: Design, uplink: Uplink, world: World) -> Iterator[Check]:
    """For each path and each version of IP, a probe that must come through. For a range of ports
    there are two, at its first and its last port.

    The probes of one port follow each other, because one rule of the firewall distributes all
    connections to a published range among the VMs in turn. So each VM gets one connection to each
    of these ports.
    """
    for flow in design.flows:
        for number, service in enumerate(flow.services):
            ports = sorted({service.first, service.last})
            for port, family in itertools.product(ports, (4, 6)):
                yield from _with_turns(
                    _path_check(design, uplink, world, flow, number, path, port, family)
                    for path in flow.paths
                    if family in versions_of(uplink, flow)
                )


def _with_turns(checks: Iterable[Check]) -> Iterator[Check]:
    """The checks of one port of a flow. Those from outside are connections to the same published
    port.
    """
    every = tuple(checks)
    turns = tuple(
        Turn(check.id, check.listener)
        for check in every
        if check.vantage == INTERNET and check.listener
    )
    for check in every:
        shared = check.vantage == INTERNET and len(turns) > 1
        yield replace(check, turns=turns) if shared else check


def _path_check(
    design: Design,
    uplink: Uplink,
    world: World,
    flow: Flow,
    number: int,
    path: FlowPath,
    port: int,
    family: int,
) -> Check:
    protocol = flow.services[number].protocol
    vantage = owner_of(design, path.source).name if path.source else INTERNET
    target, at = destination(uplink, world, flow, number, path, port, family)
    listener = None
    if path.target and protocol is not Protocol.ICMP:
        vm = owner_of(design, path.target)
        listener = Listener(vm.name, protocol, str(address_of(path.target, family)), port)
    goal = owner_of(design, path.target).name if path.target else INTERNET
    label = str(Service(protocol, port, port))
    reason, excused = ("", False) if target else missing(uplink, world, flow, path)
    return Check(
        id=f"flow/{flow.id}/{vantage}/{goal}/{label}/{family}",
        kind=Kind.FLOW,
        claim=f"{vantage} reaches {goal} on {label} over IPv{family}",
        vantage=vantage,
        probe=Probe(protocol, sent_from(path.source, family), target, at) if target else None,
        passes=True,
        proves=f"flow:{flow.id}",
        flow=flow.id,
        listener=listener,
        source=address_of(path.source, family) if path.source else None,
        reason=reason,
        excused=excused,
    )


def uplink_versions(uplink: Uplink) -> tuple[int, ...]:
    """The versions of IP that the uplink has. No check is made about the outside over another
    version.
    """
    return (4,) if uplink.address6 is None else (4, 6)


def versions_of(uplink: Uplink, flow: Flow) -> tuple[int, ...]:
    """The versions of IP in which the flow can have packets."""
    if flow.prefix:
        return tuple(one for one in uplink_versions(uplink) if one == flow.prefix.version)
    outside = any(path.source is None or path.target is None for path in flow.paths)
    return uplink_versions(uplink) if outside else (4, 6)


def servers_of(uplink: Uplink, world: World, flow: Flow) -> World:
    """The test servers to which a flow to the outside leads."""
    return World(
        tuple(server for server in world.servers if leads_to(flow, uplink, server.address))
    )


def destination(
    uplink: Uplink, world: World, flow: Flow, number: int, path: FlowPath, port: int, family: int
) -> tuple[Address | None, int]:
    """The address and port that the probe is sent to. The address is None if no machine is known
    that would answer.
    """
    if path.target is None:
        led_to = servers_of(uplink, world, flow)
        return led_to.answering(family, flow.services[number].protocol, port), port
    if path.source is None:
        interface = uplink.address4 if family == 4 else uplink.address6
        if not _sends_from(uplink, flow, family):
            interface = None
        # A published range keeps its order, so the port keeps its distance from the first one.
        published = flow.publish[number].first + port - flow.services[number].first
        return (interface.ip if interface else None), published
    return address_of(path.target, family), port


def _sends_from(uplink: Uplink, flow: Flow, family: int) -> bool:
    """Whether the place outside that sends probes is one of the flow's clients. Of this place only
    one thing is known: it is in the network of the uplink's gateway.
    """
    gateway = uplink.gateway4 if family == 4 else uplink.gateway6
    return flow.prefix is None or (gateway is not None and gateway in flow.prefix)


def missing(uplink: Uplink, world: World, flow: Flow, path: FlowPath) -> tuple[str, bool]:
    """Why no probe can be sent on a path of a flow, and whether the user cannot change that."""
    if path.source is None:
        return f"no probe is sent from {flow.source}", True
    led_to = servers_of(uplink, world, flow)
    if world.servers and not led_to.servers:
        where = "on the internet" if flow.target == INTERNET else f"in {flow.target}"
        return f"the test server outside is not {where}", True
    return world.missing, bool(world.servers)


def denied_checks(design: Design, seed: int) -> Iterator[Check]:
    """Between each NIC of one VM and each of another. A VM sends by the NIC of the source address,
    so packets between two VMs take other ways through the firewall from each NIC.
    """
    for one, other in itertools.permutations(sampled_nics(design), 2):
        if one.vm is other.vm or design.are_neighbours(one.nic, other.nic):
            continue
        services = allowed(design, one.nic, other.nic)
        for protocol in Protocol:
            if protocol is Protocol.ICMP:
                ports = (
                    [] if any(service.protocol is Protocol.ICMP for service in services) else [0]
                )
            else:
                ports = undeclared_ports(design, services, protocol, seed)
            for port, family in itertools.product(ports, (4, 6)):
                check = _denied(one, other, protocol, port, family)
                yield replace(check, told=is_told(design, one.nic))


def is_told(design: Design, nic: Nic) -> bool:
    """Whether the firewall answers packets from this NIC that no flow allows."""
    return design.zone(nic.zone).denied is Denied.REJECT


def _denied(one: VmNic, other: VmNic, protocol: Protocol, port: int, family: int) -> Check:
    target = address_of(other.nic, family)
    label = str(Service(protocol, port, port))
    return Check(
        id=f"denied/{one.key}/{other.key}/{label}/{family}",
        kind=Kind.DENIED,
        claim=f"{one.name} does not reach {other.name} on {label} over IPv{family}",
        vantage=one.vm.name,
        probe=Probe(protocol, sent_from(one.nic, family), target, port),
        passes=False,
        proves="ctl:default-deny",
        listener=None
        if protocol is Protocol.ICMP
        else Listener(other.vm.name, protocol, str(target), port),
        source=address_of(one.nic, family),
    )


def spoof_checks(design: Design) -> Iterator[Check]:
    """Each VM sends one packet with the address of another VM to the firewall, from each NIC: a
    packet to the gateway of a NIC's zone leaves by this NIC.
    """
    for one in sampled_nics(design):
        gateway = design.zone(one.nic.zone).gateway
        for family in (4, 6):
            victim = next((other for other in design.workloads if other.name != one.vm.name), None)
            if victim is None:
                return
            forged = address_of(victim.nics[0], family)
            yield Check(
                id=f"spoofed/{one.key}/{family}",
                kind=Kind.SPOOFED,
                claim=f"{one.name} cannot send as {victim.name} over IPv{family}",
                vantage=one.vm.name,
                # 9 is the port of the discard service; the packet must not get that far.
                probe=Probe("spoof-udp", str(forged), address_of(gateway, family), 9),
                passes=False,
                proves="ctl:antispoof",
                source=forged,
                nic=gateway.ifname,
            )


def frame_checks(design: Design) -> Iterator[Check]:
    """Each VM sends from each NIC a frame with a MAC address that it does not have, which the host must drop, and
    the same frame with its own, which must reach the firewall. Both claim a source that no VM has,
    so that the firewall counts what arrives.
    """
    taken = {nic.address4 for vm in design.workloads for nic in vm.nics}
    for one in sampled_nics(design):
        nic = one.nic
        zone = design.zone(nic.zone)
        gateway = IPv4Address(address_of(zone.gateway, 4))
        spare = (zone.prefix4[-number] for number in itertools.count(2))
        free = (address for address in spare if address not in taken and address != gateway)
        own, other = next(free), next(free)
        for forged, source in ((False, own), (True, other)):
            mac = unused_mac(nic.mac) if forged else nic.mac
            yield Check(
                id=f"spoofed/{one.key}/{'mac' if forged else 'own-mac'}/4",
                kind=Kind.SPOOFED,
                claim=f"{one.name} cannot send with "
                + ("another MAC address" if forged else "an address that no VM has"),
                vantage=one.vm.name,
                probe=Probe(
                    FRAME,
                    str(source),
                    gateway,
                    PORT,
                    frame(mac, zone.gateway.mac, source, gateway),
                    card=nic.mac,
                ),
                passes=False,
                proves="ctl:mac-filter" if forged else "ctl:antispoof",
                source=source,
                nic=zone.gateway.ifname,
                beside=own if forged else None,
                twin=f"spoofed/{one.key}/own-mac/4" if forged else "",
            )


def host_checks(design: Design) -> Iterator[Check]:
    """The host has no address on the bridge of any zone, so it must not reach any VM: neither by
    its own routes, nor through the zone's bridge.
    """
    for one in sampled_nics(design):
        bridge = design.zone(one.nic.zone).network.bridge
        for family, card in itertools.product((4, 6), ("", bridge)):
            target = address_of(one.nic, family)
            yield Check(
                id=f"host/{one.key}/{'bridge/' if card else ''}{family}",
                kind=Kind.HOST,
                claim=f"the host does not reach {one.name} "
                + (f"by the bridge of zone {one.nic.zone} " if card else "")
                + f"over IPv{family}",
                vantage=HOST,
                probe=Probe(Protocol.TCP, "-", target, SSH, card=card),
                passes=False,
                proves="ctl:no-host-address",
                listener=Listener(one.vm.name, Protocol.TCP, str(target), SSH),
            )
