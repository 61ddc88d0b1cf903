"""What the IPS does: what the vApp file asks for, and what controls of its profiles add."""

from __future__ import annotations

from collections.abc import Iterator

from vcloud.design.controls import origin_of
from vcloud.design.model import Detector, Inspection
from vcloud.design.origin import Origin, Product, file_line
from vcloud.profiles.model import Hardening
from vcloud.spec import model as spec
from vcloud.values import Mode


def inspection_of(vapp: spec.Vapp, hardening: Hardening) -> Inspection:
    """The IPS inspects the zones that the file or a control asks for, and every zone whose data a
    detector watches.
    """
    protection = vapp.protection
    detectors = (*_written(vapp), *_added(hardening))
    asked = {*(protection.ips.inspect if protection.ips else ())}
    asked.update(zone for detector in detectors for zone in detector.zones)
    by_file = {*asked} if protection.ips or protection.dlp else set[str]()
    asked.update(zone for zone, _ in hardening.inspected)
    return Inspection(
        tuple(zone for zone in vapp.zones if zone in asked),
        _mode(vapp, hardening),
        detectors,
        _origin(vapp, hardening, asks=bool(by_file)),
        tuple((zone, origin_of(ref)) for zone, ref in hardening.inspected),
    )


def _mode(vapp: spec.Vapp, hardening: Hardening) -> Mode:
    """Where the file says nothing, the IPS prevents. Where a control asks for that, a file that says
    otherwise was refused before.
    """
    ips = vapp.protection.ips
    return Mode.PREVENT if ips is None or hardening.mode is Mode.PREVENT else ips.mode


def _origin(vapp: spec.Vapp, hardening: Hardening, *, asks: bool) -> Origin:
    """Why there is an IPS. `asks`: the file itself asks for one."""
    if hardening.inspected and not asks:
        return origin_of(min(ref for _, ref in hardening.inspected))
    line = vapp.protection.line
    return file_line(vapp.file, line) if line else Product()


def _written(vapp: spec.Vapp) -> Iterator[Detector]:
    for rule in vapp.protection.dlp:
        yield Detector(
            id=rule.id,
            kind="regex" if rule.regex else rule.detect.name,
            regex=rule.regex,
            at_least=rule.count,
            zones=tuple(rule.leaving),
            excepted=tuple(rule.excepted),
            action=rule.action,
            origin=file_line(vapp.file, rule.line),
        )


def _added(hardening: Hardening) -> Iterator[Detector]:
    for one in hardening.detectors:
        yield Detector(
            id=one.id,
            kind=one.kind,
            regex=one.regex,
            at_least=one.at_least,
            zones=one.zones,
            excepted=one.excepted,
            action=one.action,
            origin=origin_of(one.control),
        )
