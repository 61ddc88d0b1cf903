"""The identity of a VM: the document with which the guest's program `guest identity` turns a booted
image into this VM.

Each line is one directive (grammar: images/base/guest/document.h). The lines are a pure function of
the design. `vcloud.apply` adds the host key, the clock and the entropy at the moment of delivery;
they are never rendered or stored. Lines about other VMs are sorted by tier, so the order of VMs in
the vApp file changes nothing. The order of zones matters, because it is the order of the firewall's
NICs. A vApp that exists keeps this order (`vcloud.design.standing`).
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address

from vcloud.compile.firewall.model import ROUTED_MARK
from vcloud.compile.firewall.ruleset import FIREWALL_NIC_SYSCTLS, FIREWALL_SYSCTLS
from vcloud.design.model import Design, Nic, Role, Uplink, Vm, Zone
from vcloud.values import meeting_zones, zone_named

Address = IPv4Address | IPv6Address
Settings = Iterable[tuple[str, str]]
HOST_KEY = "/etc/ssh/ssh_host_ed25519_key"
ANYWHERE = ("0.0.0.0/0", "::/0")
MEMORY_IMAGE_MAC = "02:00:00:00:00:01"
"""MAC address of the NIC in a workload's memory image. A VM that wakes gives this NIC its own MAC
address.
"""
FIRST_TABLE = 100
"""Routing table of the first NIC of a VM that has several. The tables of its other NICs have the
next numbers.
"""
NIC_SYSCTLS = (
    ("net/ipv6/conf/{}/accept_ra", "0"),
    ("net/ipv4/conf/{}/accept_redirects", "0"),
    ("net/ipv6/conf/{}/accept_redirects", "0"),
)
"""Set for `all`, for `default` (NICs that come later) and for each NIC by name: the kernel does not
copy a value from one to another.
"""
WORKLOAD_SYSCTLS = (
    *((key.format(nics), value) for nics in ("all", "default") for key, value in NIC_SYSCTLS),
    # A connection between two inspected zones crosses the IPS twice. The second time its timestamps
    # would look old to Suricata.
    ("net/ipv4/tcp_timestamps", "0"),
)
IPS_SYSCTLS = (
    ("net/ipv4/ip_forward", "0"),
    ("net/ipv6/conf/all/forwarding", "0"),
    ("net/ipv6/conf/all/disable_ipv6", "1"),
)
"""Only Suricata forwards packets there."""


def identity_lines(
    design: Design, vm: Vm, uplink: Uplink, *, keeps_files: bool = False
) -> tuple[str, ...]:
    """The identity of one VM without its secrets, in the order in which it must be applied.

    If it `keeps_files`, the guest keeps the files of the vApp file that it has. Then the design may be
    that of a manifest, which has no contents of files.
    """
    return (
        f"hostname {vm.name}",
        f"machine-id {vm.machine_id}",
        *_network_lines(design, vm, uplink),
        *(f"disk {disk.name} {disk.mount}" for disk in vm.disks if disk.mount),
        *_file_lines(design, vm, keeps_files=keeps_files),
    )


def host_key_lines(private: bytes, public: str) -> tuple[str, ...]:
    """The SSH host key of the VM. vcloud makes and pins the key, so that nobody has to trust an
    unknown key at the first login.
    """
    return (
        _file(HOST_KEY, 0o600, private),
        _file(f"{HOST_KEY}.pub", 0o644, f"{public}\n".encode()),
    )


def woken_nic_lines(vm: Vm) -> tuple[str, ...]:
    """Gives the NIC that a woken VM has from its memory image the MAC address of the VM's own NIC.
    In a booted VM it changes nothing.
    """
    return tuple(f"mac {MEMORY_IMAGE_MAC} {nic.mac}" for nic in vm.nics[:1])


def hosts_file(design: Design, vm: Vm) -> bytes:
    """/etc/hosts: every VM by name and by tier, with the address at which this VM reaches it."""
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback"]
    tiers = {other.tier for other in design.workloads}
    targets = [flow.target for flow in design.flows if _stands_for(flow.source, vm, tiers)]
    zones = {zone_named(target, tiers) for target in targets}
    led_to = {target.rpartition(":")[2] for target in targets if not zone_named(target, tiers)}
    for other in _by_tier(design.workloads):
        nic = _named_nic(vm, other, zones, led_to)
        names = other.name if other.name == other.tier else f"{other.name} {other.tier}"
        lines += [f"{address} {names}" for address in (nic.address4, nic.address6)]
    return ("\n".join(lines) + "\n").encode()


def _by_tier(vms: Iterable[Vm]) -> list[Vm]:
    """The VMs sorted by tier. The replicas of a tier keep their order."""
    return sorted(vms, key=lambda vm: vm.tier)


def _stands_for(end: str, vm: Vm, tiers: set[str]) -> bool:
    """Whether the end of a flow means this VM."""
    zone = zone_named(end, tiers)
    return any(nic.zone == zone for nic in vm.nics) if zone else vm.tier == end.rpartition(":")[2]


def _named_nic(vm: Vm, other: Vm, zones: set[str], tiers: set[str]) -> Nic:
    """The NIC whose address the name of `other` means in `vm`.

    It is the NIC over which the two VMs meet. But where flows from `vm` lead to `other` only in
    another zone, it is the NIC in that zone. `zones` and `tiers` are the ends to which flows from
    `vm` lead.
    """
    met = meeting_nic(vm, other)
    if len(other.nics) == 1 or other.tier in tiers or met.zone in zones:
        return met
    return next((nic for nic in other.nics if nic.zone in zones), met)


def meeting_nic(vm: Vm, other: Vm) -> Nic:
    """The NIC of `other` that `vm` talks to: in a common zone if there is one, else the first."""
    _, zone = meeting_zones([nic.zone for nic in vm.nics], [nic.zone for nic in other.nics])
    return next(nic for nic in other.nics if nic.zone == zone)


def _network_lines(design: Design, vm: Vm, uplink: Uplink) -> Iterator[str]:
    yield from (f"nic {nic.mac} {nic.ifname}" for nic in vm.nics)
    if vm.role is Role.FIREWALL:
        # This comes before the sysctls that switch forwarding on.
        yield f"route-mark {ROUTED_MARK}"
        yield from _sysctl_lines(FIREWALL_SYSCTLS, vm, (*NIC_SYSCTLS, *FIREWALL_NIC_SYSCTLS))
        yield from _uplink_lines(vm.nics[-1], uplink)
        for zone in design.zones:
            yield from _gateway_lines(design, zone)
    elif vm.role is Role.IPS:
        yield from _sysctl_lines(IPS_SYSCTLS, vm, ())
    else:
        yield from _sysctl_lines(WORKLOAD_SYSCTLS, vm, NIC_SYSCTLS)
        for index, nic in enumerate(vm.nics):
            yield from _nic_lines(design.zone(nic.zone), nic, index, alone=len(vm.nics) == 1)


def _sysctl_lines(whole: Settings, vm: Vm, for_each_nic: Settings) -> Iterator[str]:
    yield from (f"sysctl {key} {value}" for key, value in whole)
    yield from (
        f"sysctl {key.format(nic.ifname)} {value}" for nic in vm.nics for key, value in for_each_nic
    )


def _nic_lines(zone: Zone, nic: Nic, index: int, *, alone: bool) -> Iterator[str]:
    """One NIC of a workload. Only the first NIC has the default route. In a VM with several,
    packets leave by the NIC of their source.
    """
    table = FIRST_TABLE + index
    for address, gateway, prefix, anywhere in addresses_of(zone, nic):
        yield f"addr {nic.ifname} {address}/{length_of(zone, address)}"
        # The address is a /32 or /128, so the firewall is the VM's only neighbour. The VM gets its
        # MAC address and a route to it.
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
        # Packets leave by the NIC of their source address, because the firewall drops a source
        # address that arrives from another zone.
        yield f"rule {address} table {table}"


def _gateway_lines(design: Design, zone: Zone) -> Iterator[str]:
    """The firewall's NIC in a zone. The firewall has the address and MAC of every VM there, so it
    never asks by ARP or ND.
    """
    ifname = zone.gateway.ifname
    for address, *_ in addresses_of(zone, zone.gateway):
        yield f"addr {ifname} {address}/{length_of(zone, address)}"
    for vm in _by_tier(design.workloads):
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
    """For each version of IP: address of the NIC, address of the gateway, prefix of the zone, and
    the prefix of all addresses.
    """
    gateway = zone.gateway
    if nic.address4 is not None and gateway.address4 is not None:
        yield nic.address4, gateway.address4, str(zone.prefix4), ANYWHERE[0]
    if nic.address6 is not None and gateway.address6 is not None:
        yield nic.address6, gateway.address6, str(zone.prefix6), ANYWHERE[1]


def length_of(zone: Zone, address: Address) -> int:
    """The prefix length of an address. It is the zone's in an open zone, where VMs reach each other
    directly, and that of a single address elsewhere.
    """
    if not zone.open:
        return address.max_prefixlen
    return (zone.prefix4 if address.version == 4 else zone.prefix6).prefixlen


def _file_lines(design: Design, vm: Vm, *, keeps_files: bool) -> Iterator[str]:
    if vm.role is not Role.WORKLOAD:
        return
    yield _file("/etc/hosts", 0o644, hosts_file(design, vm))
    if design.authorized_keys:
        yield "dir /root/.ssh 0700 root:root"
        yield _file(
            "/root/.ssh/authorized_keys",
            0o600,
            "".join(f"{key}\n" for key in design.authorized_keys).encode(),
        )
    for file in vm.files:
        if keeps_files:
            # The guest removes the files that an identity does not name.
            yield f"had {file.path}"
        else:
            yield _file(file.path, file.mode, file.content, file.owner)


def _file(path: str, mode: int, content: bytes, owner: str = "root:root") -> str:
    return f"file {path} {mode:04o} {owner} {base64.b64encode(content).decode()}"
