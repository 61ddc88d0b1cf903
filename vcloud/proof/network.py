"""Makes all checks of the network that need no payload, including those of packets that must not
leave or enter the vApp. Pure.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from ipaddress import ip_address

from vcloud.design.internet import is_host_gateway
from vcloud.design.model import Design, Nic, Uplink
from vcloud.proof.checks import (
    Check,
    Kind,
    Probe,
    denied_checks,
    flow_checks,
    frame_checks,
    host_checks,
    is_told,
    spoof_checks,
    uplink_versions,
)
from vcloud.proof.errors import error_checks, without_errors
from vcloud.proof.nics import MAX_PER_TIER, address_of, sampled, sampled_nics, sent_from
from vcloud.proof.ports import allowed, undeclared_ports
from vcloud.proof.world import Address, World
from vcloud.values import INTERNET, Protocol, Service

OUTSIDE_PORTS = 4
"""Ports of each protocol that every VM tries to reach outside."""
METADATA = {4: ip_address("169.254.169.254"), 6: ip_address("fd00:ec2::254")}
"""Addresses of the metadata services of clouds, which give a machine its secrets."""


def network_checks(design: Design, uplink: Uplink, world: World, seed: int) -> tuple[Check, ...]:
    """All checks that need no payload. `seed` chooses the random ports."""
    return (
        *flow_checks(design, uplink, world),
        *denied_checks(design, seed),
        *_outside_checks(design, uplink, world, seed),
        *_local_checks(design, uplink),
        *spoof_checks(design),
        *frame_checks(design),
        *error_checks(design, uplink, world),
        *host_checks(design),
    )


def left_out(design: Design, uplink: Uplink) -> str:
    """What no check tests, in one line for users; empty if everything is tested."""
    pairs, tried = (len(vms) * (len(vms) - 1) for vms in (design.workloads, sampled(design)))
    parts = []
    if tried < pairs:
        parts.append(
            f"{pairs - tried} of {pairs} ordered pairs of VMs for traffic that must be blocked (only {MAX_PER_TIER} replicas of a tier are tested)"
        )
    if open_zones := [zone.name for zone in design.zones if zone.open]:
        parts.append(
            f"traffic between VMs of the same open zone, which passes neither the firewall nor the IPS ({', '.join(open_zones)})"
        )
    if vms := without_errors(design):
        parts.append(
            f"forged ICMP errors from {', '.join(vms)}, because it is not known which VM serves a connection from outside"
        )
    if uplink.address6 is None:
        parts.append("IPv6 to and from the outside, because the uplink has no IPv6")
    return "; ".join(parts)


def _outside_checks(design: Design, uplink: Uplink, world: World, seed: int) -> Iterator[Check]:
    """From every NIC of every VM to the outside and back, on ports that no flow names.

    If no test server outside is known, the target is the uplink's gateway. If the firewall is
    broken, the packets end there.
    """
    for one in sampled_nics(design):
        nic = one.nic
        services = allowed(design, nic, None)
        for protocol in (Protocol.TCP, Protocol.UDP):
            for port, family in itertools.product(
                undeclared_ports(design, services, protocol, seed)[:OUTSIDE_PORTS],
                uplink_versions(uplink),
            ):
                gateway = uplink.gateway4 if family == 4 else uplink.gateway6
                target = world.nearest(family) or gateway
                label = str(Service(protocol, port, port))
                yield Check(
                    id=f"denied/{one.key}/{INTERNET}/{label}/{family}",
                    kind=Kind.DENIED,
                    claim=f"{one.name} does not reach the outside on {label} over IPv{family}",
                    vantage=one.vm.name,
                    probe=Probe(protocol, sent_from(nic, family), target, port) if target else None,
                    passes=False,
                    proves="ctl:default-deny",
                    source=address_of(nic, family),
                    told=is_told(design, nic),
                    reason="" if target else world.missing,
                    excused=not target and bool(world.servers),
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


def _local_checks(design: Design, uplink: Uplink) -> Iterator[Check]:
    """From every NIC with a flow to the internet, to addresses that are not part of it: the host,
    its neighbours, and the metadata service of a cloud. The port is the first one that the flow
    allows.
    """
    for one in sampled_nics(design):
        nic = one.nic
        service = next(_internet_services(design, nic), None)
        for family in uplink_versions(uplink) if service else ():
            for name, target in _near(uplink, family):
                if service is None or _is_declared(design, nic, target):
                    continue
                label = str(Service(service.protocol, service.first, service.first))
                yield Check(
                    id=f"denied/{one.key}/{name.replace(' ', '-')}/{label}/{family}",
                    kind=Kind.DENIED,
                    claim=f"{one.name} does not reach {name} ({target}) on {label} over IPv{family}",
                    vantage=one.vm.name,
                    probe=Probe(service.protocol, sent_from(nic, family), target, service.first),
                    passes=False,
                    proves="ctl:not-internet",
                    source=address_of(nic, family),
                    told=is_told(design, nic),
                )


def _internet_services(design: Design, nic: Nic) -> Iterator[Service]:
    """Services of the flows from a NIC to the internet that have ports."""
    for flow in design.flows:
        if flow.target == INTERNET and any(path.source == nic for path in flow.paths):
            yield from (one for one in flow.services if one.protocol is not Protocol.ICMP)


def _near(uplink: Uplink, family: int) -> Iterator[tuple[str, Address]]:
    """Addresses that are not part of the internet, with their names: a metadata service, one
    address in each network of the host, and the host itself.
    """
    yield "a metadata service", METADATA[family]
    segment = uplink.address4 if family == 4 else uplink.address6
    networks = (*([segment.network] if segment else ()), *uplink.beside)
    gateway = uplink.gateway4 if family == 4 else uplink.gateway6
    for number, network in enumerate(one for one in networks if one.version == family):
        free = (one for one in network.hosts() if one not in (gateway, uplink.address4.ip))
        if target := next(free, None):
            yield f"network {number + 1} of the host", target
    if gateway and is_host_gateway(uplink, family):
        yield "the host", gateway


def _is_declared(design: Design, nic: Nic, target: Address) -> bool:
    """Whether a flow from the NIC to a prefix allows the address."""
    return any(
        flow.prefix is not None
        and target in flow.prefix
        and any(path.source == nic for path in flow.paths)
        for flow in design.flows
    )
