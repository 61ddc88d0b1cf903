"""Published services: to which VMs the connections from outside go, and the maps that let them pass."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address

from vcloud.compile.firewall.maps import disjoint
from vcloud.compile.firewall.model import (
    Published,
    SourcePorts,
    VerdictMap,
    Words,
    address_of,
    chain_name,
    in_order,
    ports_of,
)
from vcloud.design.model import Flow
from vcloud.values import Network, Protocol, Service, covers, is_outside


def ingress_maps(flows: Sequence[Flow], words: Words) -> Iterator[VerdictMap]:
    """The maps that let connections to published services pass. The published port is part of the
    key, so a connection to a port that is no longer published finds no element. If a flow comes
    from a prefix, the client's address is part of the key, too.

    No two flows publish the same port to the same client, so ranges do not overlap.
    """
    found: dict[str, list[str]] = {}
    for flow in filter(words.applies_to, flows):
        for published, service in _services(flow):
            name = "prefixes" if flow.prefix else "ports" if _is_one(service) else "ranges"
            client = f"{_range(flow.prefix)} . " if flow.prefix else ""
            for target in filter(None, (address_of(path.target, words) for path in flow.paths)):
                key = f"{target} . {service.protocol} . {ports_of(published)} . {ports_of(service)}"
                found.setdefault(name, []).append(f"{client}{key} : goto {chain_name(flow)}")
    ports = f"{words.type} . inet_proto . inet_service . inet_service"
    # `ct original proto-dst` is the port before DNAT: the published one.
    original = f"{words.ip} daddr . meta l4proto . ct original proto-dst . th dport"
    reply = f"{words.ip} saddr . meta l4proto . ct original proto-dst . th sport"
    for name, elements in sorted(found.items()):
        named = name == "prefixes"
        yield VerdictMap(
            f"ingress_{name}{words.suffix}",
            f"{words.type} . {ports}" if named else ports,
            name != "ports",
            f"{words.ip} saddr . {original}" if named else original,
            f"{words.ip} daddr . {reply}" if named else reply,
            in_order(elements),
            named,
        )


def _services(flow: Flow) -> Iterator[tuple[Service, Service]]:
    """Pairs of each published service and the service of the VM."""
    yield from zip(flow.publish, flow.services if flow.publish else (), strict=True)


def _is_one(service: Service) -> bool:
    return service.first == service.last


def _range(prefix: Network) -> str:
    return f"{prefix[0]}-{prefix[-1]}"


def published_by(flows: Sequence[Flow], versions: tuple[Words, ...]) -> Iterator[Published]:
    for flow in flows:
        for number, (published, service) in enumerate(_services(flow)):
            if published.protocol is Protocol.ICMP:
                raise ValueError("ICMP has no port that could be published")
            statements = (_dnat(flow, published, service, words) for words in versions)
            yield Published(
                chain=_publishing_chain(flow, number),
                key="" if flow.prefix else f"{published.protocol} . {ports_of(published)}",
                interval=not _is_one(published),
                statements=tuple(filter(None, statements)),
            )


def _publishing_chain(flow: Flow, number: int) -> str:
    return f"publish_{number}_{chain_name(flow)}"


def publish_maps(published: Sequence[Published]) -> Iterator[VerdictMap]:
    """Services that every client outside reaches."""
    for name, interval in (("publish_ports", False), ("publish_ranges", True)):
        elements = in_order(
            f"{service.key} : goto {service.chain}"
            for service in published
            if service.key and service.interval is interval
        )
        if elements:
            yield VerdictMap(
                name, "inet_proto . inet_service", interval, "meta l4proto . th dport", "", elements
            )


def publish_prefixes(flows: Sequence[Flow], words: Words) -> Iterator[VerdictMap]:
    """Services that only clients of a prefix reach."""
    elements = in_order(
        f"{_range(flow.prefix)} . {published.protocol} . {ports_of(published)} : goto {_publishing_chain(flow, number)}"
        for flow in flows
        if flow.prefix and words.applies_to(flow)
        for number, (published, _) in enumerate(_services(flow))
    )
    if elements:
        yield VerdictMap(
            f"publish_prefixes{words.suffix}",
            f"{words.type} . inet_proto . inet_service",
            True,
            f"{words.ip} saddr . meta l4proto . th dport",
            "",
            elements,
        )


def leaving(
    flows: Sequence[Flow],
    excepted: Container[str],
    own: IPv4Address | IPv6Address,
    words: Words,
) -> tuple[str, ...]:
    """Who may reach what the vApp publishes at its own address, if something is: VMs that a flow
    leads outside to that port.

    `excepted` are ids of flows that are exceptions of leak detectors. The IPS does not know the
    vApp's own address, so it would not search what a VM sends there on such a flow. So they lead
    nobody there, and neither does another flow whose packets they have, too.
    """
    if not any(flow.publish and flow.prefix is None for flow in flows):
        return ()
    there = [
        flow
        for flow in flows
        if is_outside(flow.target) and (flow.prefix is None or own in flow.prefix)
    ]
    unsearched = [flow for flow in there if flow.id in excepted]
    ranges: dict[tuple[str, str], list[tuple[int, int, str]]] = {}
    for flow in there:
        if flow.id not in excepted:
            hidden = _ports_by_source((one for one in unsearched if _hides(one, flow)), words)
            for its, ports in _ports_by_source((flow,), words).items():
                free = disjoint(
                    (
                        *((first, last, "hidden") for first, last in hidden.get(its, ())),
                        *((first, last, "") for first, last in ports),
                    )
                )
                ranges.setdefault(its, []).extend(one for one in free if not one[2])
    return in_order(
        f"{source} . {protocol} . {first}-{last}"
        for (source, protocol), its in ranges.items()
        for first, last, _ in disjoint(its)
    )


def _hides(excepted: Flow, flow: Flow) -> bool:
    """Whether packets of a flow are not searched where an excepted flow has them, too. The exception
    leaves out a prefix that is in its own (`compile.leaks.exceptions`).
    """
    inner, outer = flow.prefix, excepted.prefix
    left_out = inner is not None and (outer is None or (outer != inner and covers(outer, inner)))
    return not left_out


def _ports_by_source(
    flows: Iterable[Flow], words: Words
) -> dict[tuple[str, str], list[tuple[int, int]]]:
    """First and last ports of the services of these flows, by the address of a VM and protocol."""
    found: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for flow in flows:
        for source in filter(None, (address_of(path.source, words) for path in flow.paths)):
            for service in flow.services:
                if service.protocol is not Protocol.ICMP:
                    its = found.setdefault((source, service.protocol), [])
                    its.append((service.first, service.last))
    return found


def source_ports(flows: Sequence[Flow]) -> Iterator[SourcePorts]:
    """For each protocol of which a port is published.

    If a VM sent to a client outside from a published port, then what this client sends to that port
    would be an answer for the VM, and not reach the VM that publishes it. The kernel's table of
    connections cannot tell the two apart. Ports below 1024 stay below it if one is free there: some
    servers ask for that.
    """
    for protocol in (Protocol.TCP, Protocol.UDP):
        taken = [
            (published.first, published.last, "")
            for flow in flows
            for published, _ in _services(flow)
            if published.protocol is protocol
        ]
        low, high = _longest_free(taken, 1, 1023), _longest_free(taken, 1024, 65535)
        if taken and (low or high):
            yield SourcePorts(protocol, "0-1023", low or high)
            yield SourcePorts(protocol, "1024-65535", high or low)


def publishers(flows: Sequence[Flow], words: Words) -> tuple[str, ...]:
    """Who may be seen to send from a published port: the VMs that it leads to, where it has the same
    number there. Such a program may speak first to a client that it knows.
    """
    found: dict[tuple[str, str], list[tuple[int, int, str]]] = {}
    for flow in flows:
        same = [one for one, service in _services(flow) if one == service]
        for target in filter(None, (address_of(path.target, words) for path in flow.paths)):
            for one in same:
                found.setdefault((target, one.protocol), []).append((one.first, one.last, ""))
    return in_order(
        f"{target} . {protocol} . {first}-{last}"
        for (target, protocol), its in found.items()
        for first, last, _ in disjoint(its)
    )


def _longest_free(taken: Iterable[tuple[int, int, str]], first: int, last: int) -> str:
    """The most ports in a row among these that are not taken; empty if there are none."""
    free = [one for one in disjoint((*taken, (first, last, "free"))) if one[2]]
    start, end, _ = max(free, key=lambda one: one[1] - one[0], default=(0, -1, ""))
    return f"{start}-{end}" if end >= start else ""


def _dnat(flow: Flow, published: Service, service: Service, words: Words) -> str:
    """New connections go to the VMs of the flow in turn. The ports of a range keep their order."""
    targets = in_order(
        address for path in flow.paths if (address := address_of(path.target, words))
    )
    if not targets or not words.applies_to(flow):
        return ""
    turns = ", ".join(f"{number} : {address}" for number, address in enumerate(targets))
    to = targets[0] if len(targets) == 1 else f"numgen inc mod {len(targets)} map {{ {turns} }}"
    shift = service.first - published.first
    if shift == 0:
        port = ""
    elif published.first == published.last:
        port = f" : {service.first}"
    else:
        # nft cannot add a number to a port, so the map has an entry for each port.
        pairs = ", ".join(
            f"{port} : {port + shift}" for port in range(published.first, published.last + 1)
        )
        port = f" : {published.protocol} dport map {{ {pairs} }}"
    return f"meta nfproto {words.nfproto} meta l4proto {published.protocol} dnat {words.ip} to {to}{port}"
