"""Claims about forged ICMP errors. Pure.

An ICMP error quotes a packet of the connection that it is about. A firewall that checks only the
quoted packet lets anybody send data to both ends of any connection. So each VM, and a machine
outside, sends an error about a connection of two others, and the firewall must count the error as
denied.

The connection must be open meanwhile, because every firewall drops an error about no connection.
The frame is made after the connection was opened, because only then the client's port is known
(`with_frame`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from vcloud.design.model import Design, Flow, FlowPath, Uplink, Vm
from vcloud.proof.checks import (
    FRAME,
    Check,
    Connection,
    Kind,
    Listener,
    Probe,
    destination,
    missing,
    uplink_versions,
    versions_of,
)
from vcloud.proof.frames import ANY_MAC, PORT, End, icmp_error
from vcloud.proof.nics import VmNic, address_of, owner_of, sampled, sampled_nics, sent_from
from vcloud.proof.world import Address, World
from vcloud.values import INTERNET, Protocol


def error_checks(design: Design, uplink: Uplink, world: World) -> Iterator[Check]:
    """For each version of IP, each NIC of each VM and the outside send an error about one connection of others,
    if a TCP flow allows one.
    """
    for family in (4, 6):
        every = tuple(_connections(design, uplink, world, family))
        for sender in sampled_nics(design):
            vm, nic = sender.vm, sender.nic
            to = design.zone(nic.zone).gateway.mac
            others = [one for one in every if vm.name not in (one.client, one.server)]
            if others:
                yield _check(sender, address_of(nic, family), nic.mac, to, others)
        gateway = uplink.gateway4 if family == 4 else uplink.gateway6
        inside = [one for one in every if INTERNET not in (one.client, one.server)]
        if inside and gateway and family in uplink_versions(uplink):
            card, to = f"to:{uplink.address4.ip}", design.firewall.nics[-1].mac
            yield _check(None, gateway, card, to, inside)


def without_errors(design: Design) -> list[str]:
    """The VMs that no check covers, because it is not known which VMs serve the connections of
    others.
    """
    tcp = [flow for flow in design.flows if Protocol.TCP in {one.protocol for one in flow.services}]
    every = [path for flow in tcp for path in _passing(design, flow)]
    known = [path for flow in tcp for path in _known(design, flow)]
    return [
        vm.name for vm in sampled(design) if _of_others(vm, every) and not _of_others(vm, known)
    ]


def _of_others(vm: Vm, paths: Sequence[FlowPath]) -> bool:
    return any(path.source not in vm.nics and path.target not in vm.nics for path in paths)


def _check(
    sender: VmNic | None, source: Address, card: str, to: str, others: Sequence[Connection]
) -> Check:
    """The check that sends an error about the first connection of others that can be opened. A
    sender of None is the outside.
    """
    possible = [one for one in others if one.target]
    about = (possible or others)[0]
    between = f"{about.client} and {about.server}"
    return Check(
        id=f"forged-error/{sender.key if sender else INTERNET}/{source.version}",
        kind=Kind.SPOOFED,
        claim=f"{sender.name if sender else INTERNET} cannot send an ICMP error about a connection between {between} over IPv{source.version}",
        vantage=sender.vm.name if sender else INTERNET,
        probe=Probe(FRAME, str(source), about.target, PORT, card=card) if about.target else None,
        passes=False,
        proves="ctl:forged-error",
        listener=about.listener,
        source=source,
        about=about if about.target else None,
        to_mac=to,
        reason=about.reason,
        excused=about.excused,
    )


def with_frame(check: Check, client: End) -> Check:
    """The check with its frame, after the connection that it is about was opened. `client` is the
    end that opened the connection, as its server sees it.
    """
    connection = check.about
    assert connection is not None  # noqa: S101 - such checks only
    assert connection.target is not None  # noqa: S101 - by `_check`
    assert check.source is not None  # noqa: S101
    server = End(connection.target, connection.port)
    # The error goes to the client, or to a server outside. For a published service, the quoted
    # packet has the VM's own address, because the firewall forwarded it to this address.
    sender, other = (client, connection.inner) if connection.inner else (server, client)
    card = check.sent.card
    mac = ANY_MAC if card.startswith("to:") else card
    frame = icmp_error(mac, check.to_mac, check.source, sender, other)
    return replace(check, probe=replace(check.sent, target=sender.address, payload=frame))


def _passing(design: Design, flow: Flow) -> list[FlowPath]:
    """The paths on which packets pass the firewall."""
    return [path for path in flow.paths if not design.are_neighbours(path.source, path.target)]


def _known(design: Design, flow: Flow) -> list[FlowPath]:
    """The paths on which it is known which VM serves a connection. If a flow from outside leads to
    several VMs, the firewall gives them the connections in turn, so it is not known.
    """
    published = [path for path in flow.paths if path.source is None]
    return _passing(design, flow) if len(published) < 2 else []


def _connections(design: Design, uplink: Uplink, world: World, family: int) -> Iterator[Connection]:
    """A connection on each path of each TCP flow. Connections between VMs come first, because they
    need no test server outside.
    """
    paths = [
        (flow, number, path)
        for flow in design.flows
        for number, service in enumerate(flow.services)
        if service.protocol is Protocol.TCP and family in versions_of(uplink, flow)
        for path in _known(design, flow)
    ]
    paths.sort(key=lambda item: None in (item[2].source, item[2].target))
    for flow, number, path in paths:
        yield _connection(design, uplink, world, flow, number, path, family)


def _connection(
    design: Design,
    uplink: Uplink,
    world: World,
    flow: Flow,
    number: int,
    path: FlowPath,
    family: int,
) -> Connection:
    port = flow.services[number].first
    target, at = destination(uplink, world, flow, number, path, port, family)
    client, server = (
        owner_of(design, nic).name if nic else INTERNET for nic in (path.source, path.target)
    )
    inner = End(address_of(path.target, family), port) if path.target else None
    listener = Listener(server, Protocol.TCP, str(inner.address), port) if inner else None
    source = sent_from(path.source, family)
    reason, excused = ("", False) if target else missing(uplink, world, flow, path)
    return Connection(client, server, source, target, at, inner, listener, reason, excused)
