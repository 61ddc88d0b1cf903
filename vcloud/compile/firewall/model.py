"""The parts of the ruleset as values, which `templates/nftables/firewall.nft.j2` prints."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from vcloud.design.model import Flow, Nic
from vcloud.values import Service

COMMENT_LIMIT = 120
"""Bytes. nft's own limit is 128."""
# Three chains set these marks on a packet. Each chain requires the mark of the chain before it.
CHECKED_MARK = 2
"""Set by `hook_prerouting`: the packet came in by the NIC of its sender, with the source of its
sender.
"""
ROUTED_MARK = 1
"""Set by `hook_flows`: a flow allows the packet. The firewall's kernel forwards no packet without
this mark.
"""
LEAVING_MARK = 3
"""Set by `hook_forward`, and on the firewall's own packets. No packet leaves the firewall without
it.
"""
_PLAIN_ID = re.compile(r"[a-z0-9-]{1,64}")
# Matches everything but printable ASCII, and also the quote and the backslash, which could end a
# comment.
_UNSAFE = re.compile(r"[^ !#-\[\]-~]")


@dataclass(frozen=True, slots=True)
class Words:
    """nft's keywords for one version of IP."""

    suffix: str
    ip: str
    nfproto: str
    type: str
    icmp: str

    @property
    def version(self) -> int:
        return int(self.suffix)

    def applies_to(self, flow: Flow) -> bool:
        """Whether the flow has packets of this version of IP."""
        return flow.prefix is None or flow.prefix.version == self.version


IPV4 = Words("4", "ip", "ipv4", "ipv4_addr", "icmp")
IPV6 = Words("6", "ip6", "ipv6", "ipv6_addr", "icmpv6")


@dataclass(frozen=True, slots=True)
class VerdictMap:
    """A map from fields of a packet to a chain. A packet costs one look-up, however many elements
    the map has.
    """

    name: str
    type: str
    interval: bool
    original: str
    """The look-up for packets in the direction of the flow."""
    reply: str
    """The same look-up with source and target exchanged, for the answers; empty for a map that no
    answer is looked up in.
    """
    elements: tuple[str, ...]
    of_prefixes: bool = False
    """The key also holds the client's address, so that only clients of a prefix find an element."""


@dataclass(frozen=True, slots=True)
class Family:
    """The part of the ruleset for one version of IP."""

    words: Words
    uplink: str
    """The firewall's address on the uplink; empty where the uplink does not use this version of IP.
    """
    prefixes: tuple[str, ...]
    """Addresses that no machine outside has. A packet from the uplink with such a source is
    dropped, and no packet to such an address is sent to the uplink.
    """
    local: tuple[str, ...]
    """Ranges of addresses outside that `internet` does not mean."""
    nics: tuple[str, ...]
    """`interface . MAC . address` of every NIC of the VMs, as the firewall must see it."""
    same: tuple[str, ...]
    """`address . address`, twice the same address, for every NIC of the VMs."""
    gateways: tuple[str, ...]
    """`interface . address` of the firewall in every zone."""
    inside: tuple[VerdictMap, ...]
    """Flows between VMs."""
    egress: tuple[VerdictMap, ...]
    """Flows to the internet."""
    egress_prefixes: tuple[VerdictMap, ...]
    """Flows to prefixes outside."""
    ingress: tuple[VerdictMap, ...]
    """Flows from outside, by the services that they publish."""
    publish_prefixes: tuple[VerdictMap, ...]
    """Services that only clients of a prefix reach."""
    publishers: tuple[str, ...]
    """VMs that may be seen to send from a port that they publish: `address . protocol . ports`."""
    leaving: tuple[str, ...]
    """VMs that may reach the vApp's own published ports, because a flow allows them that port
    outside: `address . protocol . ports`. Empty if nothing is published.
    """
    group: str
    """A mask: these bits of a client's address decide in which group the client is counted."""
    client: str
    """A mask: these bits of an address tell clients apart."""


@dataclass(frozen=True, slots=True)
class FlowChain:
    """The chain in which every packet of a flow is counted and accepted.

    The chain sets the mark on the connection. An ICMP error about the connection is assigned to the
    flow by this mark.
    """

    name: str
    mark: str
    comment: str


@dataclass(frozen=True, slots=True)
class Published:
    """A service on the uplink's addresses, and the statements that send its connections to VMs."""

    chain: str
    key: str
    interval: bool
    statements: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SourcePorts:
    """The source ports that the outside sees of connections that begin at a VM: none is a published
    port.
    """

    protocol: str
    original: str
    """Ports from which a VM sends."""
    shown: str
    """A port among these stays as it is, any other one becomes one of these."""


@dataclass(frozen=True, slots=True)
class Ruleset:
    """Everything that the template prints."""

    vapp: str
    uplink: str
    """Name of the firewall's NIC on the uplink."""
    checked_mark: str
    routed_mark: str
    leaving_mark: str
    before_defragmentation: int
    """Priority of the chain that sees fragments. The kernel puts them together at -400."""
    fragments_of_vm: int
    """Fragments that each NIC of a VM may send in a second."""
    fragments_outside: int
    """Those that may come from outside in a second."""
    macs: tuple[str, ...]
    """`interface . MAC` of every NIC of the VMs."""
    families: tuple[Family, ...]
    flows: tuple[FlowChain, ...]
    marks: tuple[str, ...]
    published: tuple[Published, ...]
    publish_maps: tuple[VerdictMap, ...]
    source_ports: tuple[SourcePorts, ...]
    rejecting: tuple[str, ...]
    """The firewall's NICs in zones with `denied: reject`."""
    most_of_vm: int
    """Connections that one address of a VM may have begun at a time."""
    most_of_clients: int
    """TCP connections that the known clients of one group may have begun at a time."""
    most_of_strangers: int
    """Those that its other clients may have begun, before they are known."""
    most_resumed: int
    """Those that its clients may go on with after the firewall has forgotten them."""
    most_datagrams: int
    """What the clients of one group may have begun that is not TCP."""
    hurried: tuple[tuple[str, int], ...]
    """States of TCP in nft's words, and the seconds after which the kernel forgets a stranger's
    connection in that state while half of the strangers' room is taken.
    """
    client_groups: int
    rate_of_vm: int
    """Connections that one address of a VM may begin in a second."""
    burst_of_vm: int
    """Connections that it may begin at once after a pause."""


def in_order(elements: Iterable[str]) -> tuple[str, ...]:
    """The elements of a set or a map, sorted, so that the order of the file changes nothing. Their
    order means nothing to nft.
    """
    return tuple(sorted(elements))


def flow_comment(flow: Flow) -> str:
    """`flow:<id>`, by which a rule and its counter are assigned to a flow of the design. The design
    knows the flow's line in the vApp file.
    """
    return harmless(f"flow:{flow.id}")


def chain_name(flow: Flow) -> str:
    """The name of a flow's chain. It has a prefix, because nft reserves words such as `fwd`. An id
    with other characters is replaced by `_` and its hash; no plain id begins with an underscore.
    """
    if _PLAIN_ID.fullmatch(flow.id):
        return f"flow_{flow.id}"
    return f"flow__{hashlib.sha256(flow.id.encode()).hexdigest()[:16]}"


def ports_of(service: Service) -> str:
    return (
        str(service.first) if service.first == service.last else f"{service.first}-{service.last}"
    )


def address_of(nic: Nic | None, words: Words) -> str:
    address = nic and (nic.address4 if words is IPV4 else nic.address6)
    return str(address) if address else ""


def harmless(text: str) -> str:
    """The text without any character that could end an nft comment, and short enough for one."""
    return _UNSAFE.sub("_", text)[:COMMENT_LIMIT]
