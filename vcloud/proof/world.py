"""The test servers outside that the user has named, as values. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from vcloud.values import Protocol, Service

Address = IPv4Address | IPv6Address
NO_SERVER = "no test server outside is known; name one with --outside or in the inventory"
"""The reason if no test server is known. Nothing else outside gets probes, because packets that a
broken firewall lets pass would reach machines of other people.
"""
OTHER_SERVER = "the test server outside does not answer there"
"""The reason if a test server is known, but does not answer on the port."""


@dataclass(frozen=True, slots=True)
class Server:
    """A test server outside."""

    address: Address
    services: tuple[Service, ...] = ()
    """The services on which it answers; empty: it answers on every port, and to echo requests."""

    def answers(self, protocol: Protocol, port: int) -> bool:
        """Whether it answers on a port (ICMP: 0)."""
        return not self.services or any(
            service.protocol is protocol and service.first <= port <= service.last
            for service in self.services
        )


@dataclass(frozen=True, slots=True)
class World:
    """The test servers outside. Without any, the checks of the outside are `not run`. With some,
    the checks that no server can answer are `not tried`.
    """

    servers: tuple[Server, ...] = ()

    def answering(self, family: int, protocol: Protocol, port: int) -> Address | None:
        """The address of a server that answers on this port over this version of IP."""
        found = (
            server.address
            for server in self.servers
            if server.address.version == family and server.answers(protocol, port)
        )
        return next(found, None)

    def nearest(self, family: int) -> Address | None:
        """The target for a packet to the outside that must be blocked."""
        found = (server.address for server in self.servers if server.address.version == family)
        return next(found, None)

    @property
    def missing(self) -> str:
        """Why no probe is sent to a port outside on which no server answers."""
        return OTHER_SERVER if self.servers else NO_SERVER
