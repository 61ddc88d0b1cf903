"""Designs from a compact description, without a vApp file in between.

    build_design(
        zones="dmz app lab:open",
        vms={"web": "dmz x2", "api": "app", "tool": "lab app"},
        flows='''
            checkout: internet -> web tcp/80=8080 tcp/443
            orders: web -> api tcp/8000 udp/53 icmp
            metrics: zone:app -> web tcp/9000-9010
            updates: api -> internet tcp/443
        ''',
    )

A zone may be `open` or `inspected`; `x2` makes `web-1` and `web-2`. Names of tiers, of VMs, `zone:NAME` and `internet` are ends of
flows. `80=8080` publishes port 80 as 8080; from `internet`, a port without `=` is published as itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network

from vcloud.design.addressing import address_in, device_name, mac_of, uuid_of, vm_numbers, zone_prefixes
from vcloud.design.model import Design, Flow, FlowPath, ImageRef, Inspection, Network, Nic, Ready, Role, Uplink, Vm, Zone
from vcloud.design.origin import FromFile, Product
from vcloud.values import Mode, Protocol, Service, guest_name

UPLINK = Uplink(
    network="",
    bridge="lab0",
    address4=IPv4Interface("198.18.1.10/16"),
    gateway4=IPv4Address("198.18.0.1"),
    address6=IPv6Interface("2001:db8:198:18::1:10/64"),
    gateway6=IPv6Address("2001:db8:198:18::1"),
)
_FLOW = re.compile(r"(?P<id>\S+): (?P<source>\S+) -> (?P<target>\S+) (?P<services>.+)")
_SERVICE = re.compile(r"(?P<protocol>tcp|udp)/(?P<first>\d+)(-(?P<last>\d+))?(=(?P<published>\d+))?")


def build_design(zones: str, vms: Mapping[str, str], flows: str = "", vapp: str = "shop") -> Design:
    """The design of a vApp in the notation of this module's docstring."""
    marks = {name: set(rest) for name, *rest in (word.split(":") for word in zones.split())}
    prefixes = zone_prefixes(vapp, marks)
    homes = dict(_homes(vms))
    numbers = {zone: vm_numbers(vapp, zone, [vm for vm, (_, where) in homes.items() if zone in where]) for zone in marks}
    built = {name: _zone(vapp, name, prefixes[name], given) for name, given in marks.items()}
    workloads = tuple(
        _vm(
            vapp,
            name,
            tier,
            Role.WORKLOAD,
            [_card(vapp, name, index, built[zone], numbers[zone][name]) for index, zone in enumerate(where)],
        )
        for name, (tier, where) in homes.items()
    )
    inspected = tuple(zone for zone in built.values() if zone.inspected)
    return Design(
        vapp=vapp,
        owner="retail",
        labels=(),
        file=f"{vapp}.yaml",
        authorized_keys=(),
        zones=tuple(built.values()),
        workloads=workloads,
        firewall=_firewall(vapp, tuple(built.values())),
        ips=_ips(vapp, inspected) if inspected else None,
        flows=tuple(_flows(flows, workloads)),
        inspection=Inspection(tuple(zone.name for zone in inspected), Mode.PREVENT, (), Product()),
    )


def with_flows(design: Design, flows: str) -> Design:
    """The same vApp with other flows."""
    return replace(design, flows=tuple(_flows(flows, design.workloads)))


def vm_named(design: Design, name: str) -> Vm:
    return next(vm for vm in design.vms if vm.name == name)


def _homes(vms: Mapping[str, str]) -> Iterator[tuple[str, tuple[str, list[str]]]]:
    """VM name -> tier and zones."""
    for tier, text in vms.items():
        words = text.split()
        count = next((int(word[1:]) for word in words if re.fullmatch(r"x\d+", word)), None)
        where = [word for word in words if not re.fullmatch(r"x\d+", word)]
        names = [tier] if count is None else [f"{tier}-{number}" for number in range(1, count + 1)]
        yield from ((name, (tier, where)) for name in names)


def _zone(vapp: str, name: str, prefixes: tuple[IPv4Network, IPv6Network], marks: set[str]) -> Zone:
    prefix4, prefix6 = prefixes
    inspected = "inspected" in marks
    network = _network(f"{vapp}.{name}")
    inner = _network(f"{vapp}.{name}.inner") if inspected else network
    mac, tap = mac_of(vapp, "firewall", name), device_name("vc", vapp, "firewall", name)
    gateway = Nic(name, inner.name, mac, guest_name("z-", name), tap, prefix4[1], prefix6[1], False, inspected)
    return Zone(name, "open" in marks, inspected, (), prefix4, prefix6, network, inner, gateway)


def _network(name: str) -> Network:
    return Network(name, uuid_of("network", name), device_name("vb", name))


def _card(vapp: str, vm: str, index: int, zone: Zone, number: int) -> Nic:
    address4, address6 = address_in(zone.prefix4, zone.prefix6, number)
    mac, tap = mac_of(vapp, vm, zone.name), device_name("vc", vapp, vm, zone.name)
    return Nic(zone.name, zone.network.name, mac, f"eth{index}", tap, address4, address6, not zone.open, zone.inspected)


def _appliance_card(vapp: str, role: Role, zone: str, network: str, ifname: str) -> Nic:
    mac, tap = mac_of(vapp, role, ifname), device_name("vc", vapp, role, ifname)
    return Nic(zone, network, mac, ifname, tap, None, None, False, role is Role.IPS)


def _firewall(vapp: str, zones: Sequence[Zone]) -> Vm:
    uplink = _appliance_card(vapp, Role.FIREWALL, "uplink", "", "uplink")
    return _vm(vapp, "firewall", "firewall", Role.FIREWALL, [*(zone.gateway for zone in zones), uplink])


def _ips(vapp: str, zones: Sequence[Zone]) -> Vm:
    sides = ((zone.name, prefix, network) for zone in zones for prefix, network in (("v-", zone.network), ("f-", zone.inner)))
    cards = (_appliance_card(vapp, Role.IPS, zone, network.name, guest_name(prefix, zone)) for zone, prefix, network in sides)
    return _vm(vapp, "ips", "ips", Role.IPS, list(cards))


def _vm(vapp: str, name: str, tier: str, role: Role, nics: Sequence[Nic]) -> Vm:
    return Vm(
        name=name,
        tier=tier,
        role=role,
        uuid=uuid_of("vm", vapp, name),
        domain=f"{vapp}.{name}",
        machine_id=uuid_of("machine", vapp, name).replace("-", ""),
        image=ImageRef(tier, f"/images/{tier}", "", "", ()),
        memory=384 << 20,
        cpus=1,
        nics=tuple(nics),
        disks=(),
        files=(),
        run=(),
        after=(),
        ready=Ready(0, "", 120),
        origin=Product(),
    )


def _flows(text: str, workloads: Sequence[Vm]) -> Iterator[Flow]:
    for line, row in enumerate(filter(None, map(str.strip, text.splitlines())), start=1):
        match = _FLOW.fullmatch(row)
        if match is None:
            raise ValueError(f"not a flow: {row!r}")
        source, target = match["source"], match["target"]
        services, published = zip(*map(_service, match["services"].split()), strict=True)
        yield Flow(
            id=match["id"],
            source=source,
            target=target,
            services=services,
            publish=published if source == "internet" else (),
            paths=tuple(_paths(source, target, workloads)),
            carries=(),
            why="a test",
            origin=FromFile("shop.yaml", line),
        )


def _service(text: str) -> tuple[Service, Service]:
    """The service and what it is published as."""
    if text == "icmp":
        return (Service(Protocol.ICMP, 0, 0),) * 2
    match = _SERVICE.fullmatch(text)
    if match is None:
        raise ValueError(f"not a service: {text!r}")
    protocol, first, last = Protocol(match["protocol"]), int(match["first"]), int(match["last"] or match["first"])
    published = int(match["published"] or first)
    return Service(protocol, first, last), Service(protocol, published, published + last - first)


def _paths(source: str, target: str, workloads: Sequence[Vm]) -> Iterator[FlowPath]:
    for one in _end(source, workloads):
        for other in _end(target, workloads):
            if one is not other:
                yield _path(one, other)


def _end(name: str, workloads: Sequence[Vm]) -> list[Vm | None]:
    if name == "internet":
        return [None]
    zone = name.removeprefix("zone:")
    if zone != name:
        return [vm for vm in workloads if any(nic.zone == zone for nic in vm.nics)]
    return [vm for vm in workloads if name in (vm.tier, vm.name)]


def _path(one: Vm | None, other: Vm | None) -> FlowPath:
    """The cards by which two ends meet: in a common zone if there is one, else their first."""
    if one is None or other is None:
        return FlowPath(one.nics[0] if one else None, other.nics[0] if other else None)
    zones = {nic.zone for nic in one.nics}
    there = next((nic for nic in other.nics if nic.zone in zones), other.nics[0])
    here = next((nic for nic in one.nics if nic.zone == there.zone), one.nics[0])
    return FlowPath(here, there)
