"""What makes a booted image *this* VM: the document that `guest identity` applies in one go.

One directive a line (grammar: images/base/guest/identity.c). The lines here are a pure function of the design; the host key, the clock
and the random seed are added by `vcloud.apply` at the moment of delivery and are never rendered or stored.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

from vcloud.compile.firewall.ruleset import FIREWALL_SYSCTLS
from vcloud.design.model import Design, Nic, Role, Uplink, Vm, Zone
from vcloud.values import meeting_zones, zone_named

Address = IPv4Address | IPv6Address
HOST_KEY = "/etc/ssh/ssh_host_ed25519_key"
ANYWHERE = ("0.0.0.0/0", "::/0")
MEMORY_IMAGE_MAC = "02:00:00:00:00:01"
"""Of the card that the memory of a workload's template has. The guest gives the card of a VM that wakes the VM's own."""
FIRST_TABLE = 100
"""The routing table of a VM's first card, where it has several; the next card's follows."""
CARD_SYSCTLS = (("net/ipv6/conf/{}/accept_ra", "0"), ("net/ipv4/conf/{}/accept_redirects", "0"), ("net/ipv6/conf/{}/accept_redirects", "0"))
"""Of `all` cards, of those to come (`default`), and of each that is there: the kernel does not pass them on."""
WORKLOAD_SYSCTLS = (
    *((key.format(cards), value) for cards in ("all", "default") for key, value in CARD_SYSCTLS),
    # A connection between two inspected zones crosses the IPS twice; the second time its timestamps would look old to it.
    ("net/ipv4/tcp_timestamps", "0"),
)


def identity_lines(design: Design, vm: Vm, uplink: Uplink) -> tuple[str, ...]:
    """The identity of one VM without its secrets, in the order in which it must be applied."""
    return (
        f"hostname {vm.name}",
        f"machine-id {vm.machine_id}",
        *_network_lines(design, vm, uplink),
        *(f"disk {disk.name} {disk.mount}" for disk in vm.disks if disk.mount),
        *_file_lines(design, vm),
    )


def host_key_lines(private: bytes, public: str) -> tuple[str, ...]:
    """The VM's own SSH host key: made by vcloud and pinned, so that nobody has to trust on first use."""
    return (_file(HOST_KEY, 0o600, private), _file(f"{HOST_KEY}.pub", 0o644, f"{public}\n".encode()))


def card_lines(vm: Vm) -> tuple[str, ...]:
    """Makes the card that a VM has woken with its own; nothing to do where it was booted."""
    return tuple(f"mac {MEMORY_IMAGE_MAC} {nic.mac}" for nic in vm.nics[:1])


def hosts_file(design: Design, vm: Vm) -> bytes:
    """/etc/hosts: every VM by name and by tier, at the address at which this VM meets it."""
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback"]
    tiers = {other.tier for other in design.workloads}
    targets = [flow.target for flow in design.flows if _stands_for(flow.source, vm, tiers)]
    zones = {zone_named(target, tiers) for target in targets}
    led_to = {target.rpartition(":")[2] for target in targets if not zone_named(target, tiers)}
    for other in design.workloads:
        nic = _named_nic(vm, other, zones, led_to)
        names = other.name if other.name == other.tier else f"{other.name} {other.tier}"
        lines += [f"{address} {names}" for address in (nic.address4, nic.address6)]
    return ("\n".join(lines) + "\n").encode()


def _stands_for(end: str, vm: Vm, tiers: set[str]) -> bool:
    """Whether a flow's end means this VM."""
    zone = zone_named(end, tiers)
    return any(nic.zone == zone for nic in vm.nics) if zone else vm.tier == end.rpartition(":")[2]


def _named_nic(vm: Vm, other: Vm, zones: set[str], tiers: set[str]) -> Nic:
    """The card of `other` that its name stands for: where the two meet, unless flows lead to other zones of it only.

    `zones` and `tiers` are what flows from `vm` lead to.
    """
    met = meeting_nic(vm, other)
    if len(other.nics) == 1 or other.tier in tiers or met.zone in zones:
        return met
    return next((nic for nic in other.nics if nic.zone in zones), met)


def meeting_nic(vm: Vm, other: Vm) -> Nic:
    """The card of `other` that `vm` talks to: one in a common zone, else its first."""
    _, zone = meeting_zones([nic.zone for nic in vm.nics], [nic.zone for nic in other.nics])
    return next(nic for nic in other.nics if nic.zone == zone)


def _network_lines(design: Design, vm: Vm, uplink: Uplink) -> Iterator[str]:
    yield from (f"nic {nic.mac} {nic.ifname}" for nic in vm.nics)
    if vm.role is Role.FIREWALL:
        yield from (f"sysctl {key} {value}" for key, value in FIREWALL_SYSCTLS)
        yield from _uplink_lines(vm.nics[-1], uplink)
        for zone in design.zones:
            yield from _gateway_lines(design, zone)
    elif vm.role is Role.WORKLOAD:
        yield from (f"sysctl {key} {value}" for key, value in WORKLOAD_SYSCTLS)
        yield from (f"sysctl {key.format(nic.ifname)} {value}" for nic in vm.nics for key, value in CARD_SYSCTLS)
        for index, nic in enumerate(vm.nics):
            yield from _card_lines(design.zone(nic.zone), nic, index, alone=len(vm.nics) == 1)


def _card_lines(zone: Zone, nic: Nic, index: int, *, alone: bool) -> Iterator[str]:
    """A workload's card. Only the first carries the default route; where there are others, each address leaves by the card it belongs to."""
    table = FIRST_TABLE + index
    for address, gateway, prefix, anywhere in addresses_of(zone, nic):
        length = prefix.rpartition("/")[2] if zone.open else str(address.max_prefixlen)
        yield f"addr {nic.ifname} {address}/{length}"
        if not zone.open:
            yield f"neigh {nic.ifname} {gateway} {zone.gateway.mac}"
            yield f"route {nic.ifname} {gateway}/{address.max_prefixlen}"
        if index == 0:
            yield f"route {nic.ifname} {anywhere} via {gateway}"
        elif not zone.open:
            yield f"route {nic.ifname} {prefix} via {gateway} src {address}"
        if alone:
            continue
        if zone.open:
            yield f"route {nic.ifname} {prefix} table {table}"
        yield f"route {nic.ifname} {anywhere} via {gateway} table {table}"
        yield f"rule {address} table {table}"


def _gateway_lines(design: Design, zone: Zone) -> Iterator[str]:
    """The firewall's card in a zone: it knows every VM there by address and MAC and asks nobody."""
    ifname = zone.gateway.ifname
    for address, _, prefix, _ in addresses_of(zone, zone.gateway):
        yield f"addr {ifname} {address}/{prefix.rpartition('/')[2] if zone.open else address.max_prefixlen}"
    for vm in design.workloads:
        for nic in vm.nics:
            if nic.zone != zone.name:
                continue
            for address, *_ in addresses_of(zone, nic):
                yield f"neigh {ifname} {address} {nic.mac}"
                if not zone.open:
                    yield f"route {ifname} {address}/{address.max_prefixlen}"


def _uplink_lines(nic: Nic, uplink: Uplink) -> Iterator[str]:
    yield f"addr {nic.ifname} {uplink.address4}"
    yield f"route {nic.ifname} {ANYWHERE[0]} via {uplink.gateway4}"
    if uplink.address6 is not None and uplink.gateway6 is not None:
        yield f"addr {nic.ifname} {uplink.address6}"
        yield f"route {nic.ifname} {ANYWHERE[1]} via {uplink.gateway6}"


def addresses_of(zone: Zone, nic: Nic) -> Iterator[tuple[Address, Address, str, str]]:
    """Per address family: the card's address, the gateway's, the zone's prefix and the default destination."""
    gateway = zone.gateway
    if nic.address4 is not None and gateway.address4 is not None:
        yield nic.address4, gateway.address4, str(zone.prefix4), ANYWHERE[0]
    if nic.address6 is not None and gateway.address6 is not None:
        yield nic.address6, gateway.address6, str(zone.prefix6), ANYWHERE[1]


def _file_lines(design: Design, vm: Vm) -> Iterator[str]:
    if vm.role is not Role.WORKLOAD:
        return
    yield _file("/etc/hosts", 0o644, hosts_file(design, vm))
    if design.authorized_keys:
        yield "dir /root/.ssh 0700 root:root"
        yield _file("/root/.ssh/authorized_keys", 0o600, "".join(f"{key}\n" for key in design.authorized_keys).encode())
    yield from (_file(file.path, file.mode, file.content, file.owner) for file in vm.files)


def _file(path: str, mode: int, content: bytes, owner: str = "root:root") -> str:
    return f"file {path} {mode:04o} {owner} {base64.b64encode(content).decode()}"
