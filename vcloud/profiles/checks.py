"""What a vApp file must say or must not say, by the demands of controls. Each function yields the
path, the sentence and the way out of each place that breaks a demand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from vcloud.profiles import model
from vcloud.profiles.around import Around, concerns
from vcloud.profiles.model import Reach
from vcloud.spec.model import Flow
from vcloud.values import (
    App,
    Mode,
    Protocol,
    Service,
    is_outside,
    share_a_port,
    tiers_at,
)

Found = Iterator[tuple[str, str, str]]
QUIC: Final = Service(Protocol.UDP, 443, 443)
"""Where HTTP/3 is served (RFC 9114)."""


def flows_say(around: Around, demand: model.FlowsSay) -> Found:
    ways = {
        "why": "Write why: with what the flow is for.",
        "id": "Write id: with a name that stays, such as checkout.",
    }
    for flow, _ in around.flows:
        for key in demand.keys:
            if key not in flow.model_fields_set or not getattr(flow, key).strip():
                yield flow.path, f"flow '{flow.id}' says no {key}", ways[key]


def insecure(around: Around, demand: model.Insecure) -> Found:
    """On flows without such data these services are not refused, but inspected (`harden`)."""
    for flow, paths in around.flows:
        found = listed_services(flow.services, (*demand.services, *demand.beside_data))
        if found and around.touches(flow, paths, demand.data):
            listed = ", ".join(map(str, found))
            what = f"flow '{flow.id}' allows {listed}, and such data is at an end of it: everybody in between can read and change what is sent there"
            yield (
                f"{flow.path}.service",
                what,
                "Use a service with encryption, or keep such data away from both ends.",
            )


def listed_services(
    services: tuple[Service, ...], listed: tuple[Service, ...]
) -> tuple[Service, ...]:
    """Those services that have a port of a list, also in a range."""
    return tuple(one for one in services if share_a_port([one], listed))


def not_published(around: Around, demand: model.NotPublished) -> Found:
    zones = {*around.zones(demand.zones, demand.data)}
    for flow, _ in around.from_outside():
        nics = [zone for tier in tiers_at(flow.target, around.tiers) for zone in around.tiers[tier]]
        if reached := sorted(zones.intersection(nics)):
            what = f"flow '{flow.id}' leads from outside to VMs in zone '{reached[0]}', which stores such data"
            yield (
                f"{flow.path}.to",
                what,
                "Publish a VM of another zone, and let only that one reach the data.",
            )


def not_open(around: Around, demand: model.NotOpen) -> Found:
    for name in around.zones(demand.zones, demand.data):
        if around.vapp.zones[name].open:
            what = f"zone '{name}' is open: its VMs reach each other past the firewall, also with false addresses"
            yield f"zones.{name}.open", what, "Remove open, and write a flow for what they need."


def not_beside(around: Around, demand: model.NotBeside) -> Found:
    inner = {*around.zones(demand.zones, demand.data)}
    outer = {path.target.zone for _, paths in around.from_outside() for path in paths} - inner
    for tier, zones in around.tiers.items():
        if inner.intersection(zones) and (beside := sorted(outer.intersection(zones))):
            what = f"VM '{tier}' has NICs in a zone with such data and in zone '{beside[0]}', to which flows from outside lead: it could pass packets on"
            yield f"vms.{tier}.zone", what, "Give it a NIC in one of these zones only."


def encrypted(around: Around, demand: model.Encrypted) -> Found:
    known = " or ".join(demand.apps)
    for flow, _ in around.flows:
        if not crosses_outside(flow.source, flow.target):
            continue
        if not concerns(tuple(flow.carries), demand.data):
            continue
        for service, app in zip(flow.services, flow.apps, strict=True):
            if app not in demand.apps:
                what = f"flow '{flow.id}' carries such data outside, and {service} carries {app or 'what nobody says'}"
                yield f"{flow.path}.service", what, f"Use a service with app: {known}."


def crosses_outside(source: str, target: str) -> bool:
    return is_outside(source) or is_outside(target)


def few_ports(around: Around, demand: model.FewPorts) -> Found:
    zones = {*around.zones(demand.zones, demand.data)}
    for flow, paths in around.flows:
        leaving = any(path.source.zone in zones and path.target.zone not in zones for path in paths)
        if not leaving or (demand.to is Reach.OUTSIDE and not is_outside(flow.target)):
            continue
        for protocol in (Protocol.TCP, Protocol.UDP):
            ports = sum(
                one.last - one.first + 1 for one in flow.services if one.protocol is protocol
            )
            if ports > demand.most:
                what = f"flow '{flow.id}' allows {ports} ports of {protocol} out of a zone with such data; at most {demand.most} are necessary for one purpose"
                yield f"{flow.path}.service", what, "Write only the ports that are used."


def web(around: Around, demand: model.Web) -> Found:
    for flow, service, app in published_services(around):
        if app is None and service.protocol is Protocol.TCP:
            what = f"flow '{flow.id}' does not say what {service} from outside carries, so nobody knows whether it is a web application"
            yield flow.path, what, "Write app: http, or what it carries."
    yield from _mode(around, demand.mode)


def unreadable(around: Around) -> Found:
    """Published services that may be web applications, and that the IPS cannot read: TLS, and QUIC,
    which encrypts as well.
    """
    for flow, service, app in published_services(around):
        kind = "TLS" if app is App.TLS else "QUIC" if share_a_port([service], [QUIC]) else ""
        if kind:
            what = f"flow '{flow.id}' publishes {service} for {kind}, and the IPS of this release cannot read {kind} to find attacks on a web application"
            yield (
                f"{flow.path}.service",
                what,
                "If something in front of the vApp finds such attacks, write an exception that names it.",
            )


def published_services(around: Around) -> Iterator[tuple[Flow, Service, App | None]]:
    """Each service that the outside reaches, and what it carries."""
    for flow, _ in around.from_outside():
        yield from ((flow, *one) for one in zip(flow.services, flow.apps, strict=True))


def inspect(around: Around, demand: model.Inspect) -> Found:
    yield from _mode(around, demand.mode)


def _mode(around: Around, least: Mode) -> Found:
    ips = around.vapp.protection.ips
    if ips is not None and ips.mode is Mode.DETECT and least is Mode.PREVENT:
        what = "the IPS would only log attacks here, and let them pass"
        yield "protection.ips.mode", what, "Write mode: prevent, or remove mode."


def leaks(around: Around, demand: model.Leaks) -> Found:
    """A detector of the file with the name of the control's data must look for the same."""
    for one in around.vapp.protection.dlp:
        if one.detect.name == demand.detect and one.regex != demand.regex:
            what = f"the profile looks for other data by the name '{demand.detect}'"
            yield f"{one.path}.detect", what, "Give the pattern another name."


CHECKS: Final[dict[type[model.Demand], Callable[[Around, Any], Found]]] = {
    model.FlowsSay: flows_say,
    model.Insecure: insecure,
    model.NotPublished: not_published,
    model.NotOpen: not_open,
    model.NotBeside: not_beside,
    model.Encrypted: encrypted,
    model.FewPorts: few_ports,
    model.Web: web,
    model.Inspect: inspect,
    model.Leaks: leaks,
}
"""Kind of demand -> what it checks. A rule for hosts checks nothing of the file."""
