"""All detectors of a design as rules, scripts and groups of addresses. The package's docstring has
the reasons.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from vcloud.compile.ips.rules import ANY, Rule
from vcloud.compile.leaks.channels import CHANNELS, Channel
from vcloud.compile.leaks.exceptions import SID_BITS, exceptions_of
from vcloud.compile.leaks.kinds import kind_of
from vcloud.compile.leaks.undecoded import undecoded_rules
from vcloud.design.addressing import spread
from vcloud.design.model import Design, Detector
from vcloud.values import Action

FIRST_RULE, LAST_RULE = 1200000, 1269999


@dataclass(frozen=True, slots=True)
class LeakRules:
    """The rules and scripts made of the detectors of a design."""

    lines: tuple[str, ...]
    scripts: tuple[tuple[str, str], ...]
    """File name and text of each Lua script."""
    groups: tuple[tuple[str, str], ...]
    """Name and list of each group of addresses that is too long for a rule."""


def leak_rules(design: Design) -> LeakRules:
    """Rules and scripts of all detectors, sorted by detector. The same design gives the same bytes."""
    detectors = sorted(design.inspection.detectors, key=lambda detector: detector.id)
    sids = rule_sids(detectors)
    exceptions = exceptions_of(design, detectors)
    pairs = [(detector, channel) for detector in detectors for channel in CHANNELS]
    # The rules that mark exceptions are alerts, so they run before the rules that drop
    # (`action-order` in suricata.yaml).
    lines = [rule.text("alert") for rule in exceptions.rules]
    lines += [
        _rule(
            detector, channel, sids[detector.id, channel.name], exceptions.bits.get(detector.id, "")
        )
        for detector, channel in pairs
    ]
    inside = {detector.id: zones_as_addresses(detector.zones) for detector in detectors}
    ends = {name: (zones, f"!{zones}") for name, zones in inside.items()}
    lines += [
        rule.text(_action(detector))
        for detector, rule in undecoded_rules(detectors, ends, exceptions.bits)
    ]
    scripts = {
        name: text
        for detector in detectors
        for name, text in kind_of(detector).scripts(detector).items()
    }
    return LeakRules(
        tuple(lines), tuple(sorted(scripts.items())), tuple(sorted(exceptions.groups.items()))
    )


def rule_sids(detectors: Iterable[Detector]) -> dict[tuple[str, str], int]:
    """The sid of each detector's rule for each channel: (detector id, channel name) -> sid. A sid
    does not change when other detectors are added or removed.
    """
    keys = {
        f"{detector.id}/{channel.name}": (detector.id, channel.name)
        for detector in detectors
        for channel in CHANNELS
    }
    return {
        keys[key]: sid for key, sid in spread(keys, SID_BITS, FIRST_RULE, LAST_RULE, "leak").items()
    }


def zones_as_addresses(zones: Iterable[str]) -> str:
    """A set of zones as a rule names it, by the variables of `vars.yaml`."""
    names = ["$" + zone_variable(zone) for zone in sorted(zones)]
    return names[0] if len(names) == 1 else f"[{','.join(names)}]"


def zone_variable(zone: str) -> str:
    return "ZONE_" + zone.upper().replace("-", "_")


def _rule(detector: Detector, channel: Channel, sid: int, exempt: str) -> str:
    inside = zones_as_addresses(detector.zones)
    unless = f"flowbits:isnotset,{exempt};" if exempt else ""
    rule = Rule(
        sid=sid,
        message=f"leak of {detector.id} ({channel.name})",
        protocol=channel.protocol,
        source=inside,
        target=f"!{inside}",
        ports=ANY,
        options=" ".join(
            filter(None, (unless, channel.options, kind_of(detector).search(detector, channel)))
        ),
        kind="vcloud-leak",
        metadata=f"detector {detector.id}, channel {channel.name}",
    )
    return rule.text(_action(detector))


def _action(detector: Detector) -> str:
    return "drop" if detector.action is Action.BLOCK else "alert"
