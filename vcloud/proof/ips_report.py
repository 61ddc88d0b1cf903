"""Reads what `ips-report` prints in the IPS VM: Suricata's rules and pairs of NICs, everything in
the kernel's network, and the end of Suricata's event log.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from vcloud.proof.guest_network import Words, parse_network
from vcloud.untrusted import (
    Json,
    UnreadableError,
    as_list,
    as_mapping,
    items,
    mapping,
    number,
    parse_json,
    port,
    text,
)

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}[+-]\d{4}")
Wire = tuple[str, str, str]
"""NIC from which Suricata takes packets, NIC to which it forwards them, and the mode: `ips` if it
forwards only what its rules let pass.
"""


@dataclass(frozen=True, slots=True)
class IpsReport:
    """The configuration that the IPS runs with."""

    digest: str
    """The digest of its rules and settings; empty if the IPS did not report one."""
    complete: bool
    """Suricata runs, and each of its engines has loaded all of its rules."""
    lost: int = 0
    """Packets that Suricata has lost since it started, because its ring was full or it could not
    send them. It counts every 3 seconds.
    """
    rules: int = 0
    """Rules that Suricata has in memory."""
    wires: tuple[Wire, ...] = ()
    """The wires with which Suricata was started."""
    reloaded: str = ""
    """The time at which Suricata last read its rules, by the clock of the IPS; empty if Suricata
    did not report it. Of two such texts, the greater one is the later time.
    """
    changed: str = ""
    """When any of its files was last changed, in the same form."""
    identity: str = ""
    """The sha256 of the identity for the next boot; empty if there is none."""
    network: tuple[Words, ...] = ()
    """Everything in the kernel's network, one item each."""


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
    """The message of the rule; empty for drops."""
    blocked: bool
    protocol: str
    source: str
    source_port: int
    target: str
    target_port: int


@dataclass(frozen=True, slots=True)
class Alert:
    """An event, seen from one of its two ends."""

    rule: str
    """As in `Event`."""
    protocol: str
    port: int
    far_address: str
    far_port: int
    blocked: bool
    address: str = ""
    """The address of the end that has `port`."""


def parse_ips_report(output: bytes) -> IpsReport:
    """The report that `ips-report` printed; `NO_REPORT` if it cannot be read. An answer of
    Suricata's own in an unexpected form counts as no answer.
    """
    try:
        report = as_mapping(parse_json(output))
        digest, identity = text(report, "digest"), text(report, "identity")
        network = parse_network(report)
    except UnreadableError:
        return NO_REPORT
    engines = _engines(report)
    loads = bool(engines) and all(loaded and not failed for loaded, failed in engines)
    return IpsReport(
        digest,
        complete=report.get("running") is True and loads,
        lost=_lost(report),
        rules=min((loaded for loaded, _ in engines), default=0),
        wires=_wires(report),
        reloaded=_reloaded(report),
        changed=_time(report, "changed"),
        identity=identity,
        network=network,
    )


def _engines(report: Json) -> list[tuple[int, int]]:
    """How many rules each engine has loaded, and how many it could not load. Suricata answers
    `ruleset-stats` with an entry per engine: {"id": 0, "rules_loaded": N, "rules_failed": 0, ...}.
    """
    try:
        return [
            (number(engine, "rules_loaded"), number(engine, "rules_failed"))
            for engine in items(mapping(report, "rules"), "message")
        ]
    except UnreadableError:
        return []


def _lost(report: Json) -> int:
    """The number of lost packets in Suricata's `dump-counters`; 0 before it has counted for the
    first time.
    """
    try:
        capture = mapping(mapping(mapping(report, "counters"), "message"), "capture")
        unsent = number(mapping(capture, "afpacket"), "send_errors")
        return number(capture, "kernel_drops") + unsent
    except UnreadableError:
        return 0


def _wires(report: Json) -> tuple[Wire, ...]:
    """The pairs of NICs. Suricata answers `conf-get` with {"message": VALUE, "return": "OK"}; after
    the last pair it has no value.
    """
    found: list[Wire] = []
    try:
        for wire in items(report, "wires"):
            values = [
                text(answer, "message")
                for answer in as_list(wire)
                if text(answer, "return") == "OK"
            ]
            if len(values) != 3:
                break
            found.append((values[0], values[1], values[2]))
    except UnreadableError:
        return ()
    return tuple(found)


def _reloaded(report: Json) -> str:
    """The earliest time of all engines in Suricata's answer to `ruleset-reload-time`."""
    try:
        engines = items(mapping(report, "reloaded"), "message")
        return min((_time(as_mapping(engine), "last_reload") for engine in engines), default="")
    except UnreadableError:
        return ""


def _time(holder: Json, key: str) -> str:
    value = holder.get(key)
    return value if isinstance(value, str) and _TIME.fullmatch(value) else ""


def parse_events(output: bytes) -> Iterator[Event]:
    """The alerts and drops that `ips-report events` printed. Lines that cannot be read are skipped,
    because Suricata may still be writing the last one.
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
    """The events later than `time` (all events if it is empty), twice each: seen from the source
    and from the target, because a probe may be either of them.
    """
    return tuple(
        Alert(event.rule, event.protocol, port, _short(far), far_port, event.blocked, _short(near))
        for event in events
        if not time or event.time > time
        for near, port, far, far_port in (
            (event.source, event.source_port, event.target, event.target_port),
            (event.target, event.target_port, event.source, event.source_port),
        )
    )


def _short(address: str) -> str:
    """An address in its short form: Suricata writes all digits of IPv6. Empty if it is none."""
    try:
        return str(ip_address(address))
    except ValueError:
        return ""
