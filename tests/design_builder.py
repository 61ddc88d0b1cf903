"""Designs from a compact description, resolved as the designs of vApp files are, but without the
checks of a file.

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

A zone may be `open`, `inspected`, or `reject` what no flow allows; `x2` makes `web-1` and `web-2`. Names of tiers, `zone:NAME` and
`internet` are ends of flows. `80=8080` publishes port 80 as 8080. A port without `=` in a flow from
`internet` is published as itself. Tests may so describe what the checks would refuse, such as two
flows that publish one port.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from typing import Any

from vcloud.design.model import Design, Role, Uplink, Vm
from vcloud.design.resolve import MEMORY, RecipeFacts, resolve
from vcloud.documents.document import Document
from vcloud.spec.model import Vapp
from vcloud.values import Denied, is_outside

UPLINK = Uplink(
    network="",
    bridge="lab0",
    address4=IPv4Interface("198.18.1.10/16"),
    gateway4=IPv4Address("198.18.0.1"),
    address6=IPv6Interface("2001:db8:198:18::1:10/64"),
    gateway6=IPv6Address("2001:db8:198:18::1"),
)
_FLOW = re.compile(r"(?P<id>\S+): (?P<source>\S+) -> (?P<target>\S+) (?P<services>.+)")
_SERVICE = re.compile(
    r"(?P<protocol>tcp|udp)/(?P<first>\d+)(-(?P<last>\d+))?(=(?P<published>\d+))?"
)
_COUNT = re.compile(r"x(\d+)")
APPLIANCES = {role: f"/images/{role}" for role in (Role.FIREWALL, Role.IPS)}


def build_design(zones: str, vms: Mapping[str, str], flows: str = "", vapp: str = "shop") -> Design:
    """The design of a vApp in the notation of this module's docstring."""
    marks = {name: set(rest) for name, *rest in (word.split(":") for word in zones.split())}
    inspected = [name for name, given in marks.items() if "inspected" in given]
    return _design(
        {
            "name": vapp,
            "zones": {
                name: {"open": "open" in given, "denied": "reject" if "reject" in given else "drop"}
                for name, given in marks.items()
            },
            "vms": {tier: _tier(text) for tier, text in vms.items()},
            "flows": list(_flows(flows)),
            "protection": {"ips": {"inspect": inspected}} if inspected else {},
        }
    )


def with_flows(design: Design, flows: str) -> Design:
    """The same vApp with other flows."""
    tiers: dict[str, list[Vm]] = {}
    for vm in design.workloads:
        tiers.setdefault(vm.tier, []).append(vm)
    zones = " ".join(
        zone.name
        + ":open" * zone.open
        + ":inspected" * zone.inspected
        + ":reject" * (zone.denied is Denied.REJECT)
        for zone in design.zones
    )
    other = build_design(
        zones, {tier: _notation(members) for tier, members in tiers.items()}, flows, design.vapp
    )
    return replace(design, flows=other.flows)


def vm_named(design: Design, name: str) -> Vm:
    return next(vm for vm in design.vms if vm.name == name)


def _design(tree: dict[str, Any]) -> Design:
    vapp = Vapp.model_validate({"vcloud": 1, "owner": "retail", **tree}).locate(
        Document("shop.yaml")
    )
    recipes = {vm.image_folder: RecipeFacts({}, MEMORY) for vm in vapp.vms.values()}
    return resolve(vapp, recipes, APPLIANCES)


def _tier(text: str) -> dict[str, Any]:
    counts = [int(word[1:]) for word in text.split() if _COUNT.fullmatch(word)]
    zones = [word for word in text.split() if not _COUNT.fullmatch(word)]
    return {"image": "base", "zone": zones} | ({"count": counts[0]} if counts else {})


def _notation(vms: list[Vm]) -> str:
    zones = " ".join(nic.zone for nic in vms[0].nics)
    return zones if vms[0].name == vms[0].tier else f"{zones} x{len(vms)}"


def _flows(text: str) -> Iterator[dict[str, Any]]:
    for row in filter(None, map(str.strip, text.splitlines())):
        match = _FLOW.fullmatch(row)
        if match is None:
            raise ValueError(f"not a flow: {row!r}")
        services, published = map(list, zip(*map(_service, match["services"].split()), strict=True))
        flow = {
            "id": match["id"],
            "from": match["source"],
            "to": match["target"],
            "service": services,
            "why": "a test",
        }
        yield flow | ({"publish": published} if is_outside(match["source"]) else {})


def _service(text: str) -> tuple[str, str]:
    """The service, and the ports that it is published as."""
    if text in ("icmp", "all"):
        return text, "1"
    match = _SERVICE.fullmatch(text)
    if match is None:
        raise ValueError(f"not a service: {text!r}")
    first, last = int(match["first"]), int(match["last"] or match["first"])
    published = int(match["published"] or first)
    return text.partition("=")[0], str(
        published
    ) if first == last else f"{published}-{published + last - first}"
