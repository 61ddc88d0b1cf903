"""Reads what `ips-report` prints in the IPS VM: which rules Suricata runs with, and the end of its
event log.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from vcloud.untrusted import (
    Json,
    UnreadableError,
    as_mapping,
    items,
    mapping,
    number,
    parse_json,
    port,
    text,
)


@dataclass(frozen=True, slots=True)
class IpsReport:
    """What the IPS runs with."""

    digest: str
    """The digest of its rules and settings; empty if it did not say one."""
    complete: bool
    """Suricata runs, and each of its engines has loaded all of its rules."""


NO_REPORT = IpsReport("", complete=False)
"""The report of an IPS that does not answer, or whose answer cannot be read."""


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the IPS's log: an alert, or a packet that was dropped."""

    time: str
    """When it happened, by the clock of the IPS. Of two texts the greater one is the later time."""
    kind: str
    """`alert` or `drop`. A packet that a rule drops causes both."""
    rule: str
    """The sid of the rule that matched (alerts), or Suricata's reason (drops)."""
    message: str
    """What the rule says; empty for drops."""
    blocked: bool
    protocol: str
    source: str
    source_port: int
    target: str
    target_port: int


@dataclass(frozen=True, slots=True)
class Alert:
    """An event as the proof uses it: what happened to the traffic of one protocol and port."""

    rule: str
    """As in `Event`."""
    protocol: str
    port: int
    blocked: bool


def parse_ips_report(output: bytes) -> IpsReport:
    """The report that `ips-report` printed; `NO_REPORT` if it printed something else."""
    try:
        report = as_mapping(parse_json(output))
        digest = text(report, "digest")
    except UnreadableError:
        return NO_REPORT
    return IpsReport(digest, complete=report.get("running") is True and _all_rules_loaded(report))


def _all_rules_loaded(report: Json) -> bool:
    """Suricata answers `ruleset-stats` with an entry per engine: {"id": 0, "rules_loaded": N,
    "rules_failed": 0, ...}.
    """
    try:
        engines = [
            (number(engine, "rules_loaded"), number(engine, "rules_failed"))
            for engine in items(mapping(report, "rules"), "message")
        ]
    except UnreadableError:
        return False
    return bool(engines) and all(loaded and not failed for loaded, failed in engines)


def parse_events(output: bytes) -> Iterator[Event]:
    """The alerts and drops that `ips-report events` printed. Other lines are skipped: Suricata may
    be halfway through the last one.
    """
    for line in output.splitlines():
        try:
            event = as_mapping(parse_json(line))
            if event.get("event_type") in ("alert", "drop"):
                yield _event(event, text(event, "event_type"))
        except UnreadableError:
            continue


def _event(event: Json, kind: str) -> Event:
    detail = mapping(event, kind)
    alert = kind == "alert"
    return Event(
        time=text(event, "timestamp", ""),
        kind=kind,
        rule=str(number(detail, "signature_id")) if alert else text(detail, "reason", ""),
        message=text(detail, "signature", "") if alert else "",
        blocked=not alert or text(detail, "action", "") == "blocked",
        protocol=text(event, "proto", "").lower(),
        source=text(event, "src_ip", ""),
        source_port=port(event, "src_port", 0),
        target=text(event, "dest_ip", ""),
        target_port=port(event, "dest_port", 0),
    )


def alerts_after(events: Iterable[Event], time: str) -> tuple[Alert, ...]:
    """The events later than `time` (all events, if that is empty), one for each port: either side
    may have sent what matched.
    """
    return tuple(
        Alert(event.rule, event.protocol, port, event.blocked)
        for event in events
        if not time or event.time > time
        for port in (event.source_port, event.target_port)
    )
