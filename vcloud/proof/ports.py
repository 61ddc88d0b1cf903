"""Chooses the ports for probes that must be blocked. Pure."""

from __future__ import annotations

import itertools

from vcloud.design.addressing import hash_number
from vcloud.design.model import Design, Nic
from vcloud.values import Protocol, Service

SSH = 22
DANGEROUS = (SSH, 23, 445, 3389)
"""TCP ports that attackers look for first."""
RANDOM_PORTS = 2
"""Random ports of each protocol, in addition to the ports that the file names."""
FIRST_RANDOM, LAST_RANDOM = 1024, 65534


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
    """Ports to try: all that the file names, some that attackers often try, and some random ones;
    without the allowed ones.
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
