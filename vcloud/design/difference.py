"""What differs in the protection of two designs of one vApp, as a person reads a diff."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from vcloud.design.model import Design, Detector
from vcloud.design.origin import Product
from vcloud.design.placement import HostRule


def protection_difference(before: Design, after: Design) -> tuple[str, ...]:
    """Lines that begin with `+`, `-` or `~`. What only has another origin does not differ."""
    return (
        *_signed(_flows(before), _flows(after)),
        *_inspected(before, after),
        *_mode(before, after),
        *_signed(_detectors(before), _detectors(after)),
        *_signed(_host_rules(before), _host_rules(after)),
    )


def _signed(before: dict[object, str], after: dict[object, str]) -> Iterator[str]:
    yield from (f"- {text}" for key, text in before.items() if key not in after)
    yield from (f"+ {text}" for key, text in after.items() if key not in before)


def _flows(design: Design) -> dict[object, str]:
    return {
        (
            flow.id,
            flow.source,
            flow.target,
            flow.services,
            flow.publish,
            flow.apps,
        ): f"flow {flow.id}: {flow.source} -> {flow.target} {_listed(map(str, flow.services))}"
        for flow in design.flows
    }


def _inspected(before: Design, after: Design) -> Iterator[str]:
    old, new = before.inspection, after.inspection
    for zone in old.zones:
        if zone not in new.zones:
            yield f"- the IPS inspects zone {zone} ({old.origin_in(zone)})"
    for zone in new.zones:
        if zone not in old.zones:
            yield f"+ the IPS inspects zone {zone} ({new.origin_in(zone)})"


def _mode(before: Design, after: Design) -> Iterator[str]:
    old, new = before.inspection.mode, after.inspection.mode
    if before.ips and after.ips and old is not new:
        yield f"~ mode of the IPS: {old} -> {new}"


def _detectors(design: Design) -> dict[object, str]:
    def text(one: Detector) -> str:
        at_least = f", at least {one.at_least}" if one.at_least > 1 else ""
        excepted = f", except {_listed(one.excepted)}" if one.excepted else ""
        name = one.regex if one.regex else one.kind
        return f"detector {one.id}: {one.action} {name} leaving {_listed(one.zones)}{at_least}{excepted} ({one.origin})"

    return {replace(one, origin=Product()): text(one) for one in design.inspection.detectors}


def _host_rules(design: Design) -> dict[object, str]:
    def text(one: HostRule) -> str:
        return f"host: {one.kind} {one.label or ''} {_listed(one.values)} ({one.origin})"

    return {replace(one, origin=Product()): text(one) for one in design.placement.rules}


def _listed(items: Iterable[str]) -> str:
    return ", ".join(items)
