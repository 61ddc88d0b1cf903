"""Turns what was observed into verdicts. Pure.

A claim that something must pass holds if the probe came through. A claim that something must be
blocked holds only if three things are true together: nothing came through; the target would have
answered, because its listener answers a probe from within its own VM; and the firewall counted
exactly this packet among those that it dropped. If nothing came through but this proof is
incomplete, the outcome is `error`, never `pass`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vcloud.proof.checks import Check, Echo, Kind, Listener, Outcome
from vcloud.proof.firewall_report import FirewallReport
from vcloud.proof.ips_report import Alert

THROUGH = frozenset({"open", "refused", "answered", "delivered", "reset"})
"""Results that are only possible if a packet reached the target and an answer came back. A refusal
is an answer.
"""
MALFORMED = "applayer error"
"""Suricata's reason for dropping traffic that it cannot parse. Some attacks are not valid HTTP, so
that no rule sees them.
"""
NO_ECHO = "the service there does not send back what it receives"
STOPPED = frozenset({"timeout", "unreachable", "stalled"})
RESULTS = THROUGH | STOPPED | {"sent", "error"}
"""All results that the probe program can report."""
UNREADABLE = "unreadable"
"""The result of a probe whose answer is missing or is not one of `RESULTS`. The VM that sent it may
be under an attacker's control.
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the probe program reports about one probe."""

    result: str
    """One of `RESULTS`, or `UNREADABLE`."""
    port: int = 0
    """The source port that the probe was sent from."""
    answer: bytes = b""
    """What the other side sent back."""


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything that one run of `verify` observed."""

    answers: Mapping[str, Answer]
    """Check id -> answer. A check without an answer was not run."""
    local: Mapping[Listener, Answer]
    """What each listener answered to a probe from within its own VM."""
    before: FirewallReport
    after: FirewallReport
    """Both are `NOTHING` if one of them could not be read: a count that was not seen to grow proves
    nothing.
    """
    alerts: tuple[Alert, ...] | None = ()
    """None: the IPS's log could not be read."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Vantage -> why nothing could be sent from there."""
    uncounted: str = ""
    """Why the firewall's counts could not be read; empty if they were read, also from a firewall
    that runs without vcloud's rules.
    """


@dataclass(frozen=True, slots=True)
class Verdict:
    check: Check
    outcome: Outcome
    detail: str


def inconclusive(check: Check, answer: Answer | None) -> bool:
    """Whether the probe should be sent once more, with more time.

    On a busy machine an answer may take longer than a probe waits. More time can only turn silence
    into an answer. So this concerns probes that must come through, and payloads that no connection
    was established for.
    """
    if answer is None or answer.result not in ("timeout", "stalled"):
        return False
    unsent = (
        check.kind in (Kind.IPS, Kind.LEAK)
        and answer.result == "timeout"
        and check.probe is not None
        and check.probe.protocol == "tcp"
    )
    return check.passes or unsent


def judge(check: Check, seen: Observed) -> Verdict:
    """The verdict on one check."""
    answer = seen.answers.get(check.id)
    if check.probe is None or answer is None:
        return Verdict(
            check,
            Outcome.NOT_RUN,
            check.reason or seen.reasons.get(check.vantage, "no probe was sent"),
        )
    if answer.result == UNREADABLE:
        return Verdict(
            check, Outcome.ERROR, f"{check.vantage} gave no readable answer about this probe"
        )
    if check.kind is Kind.SPOOFED:
        return _spoofed(check, answer, seen)
    if check.kind in (Kind.IPS, Kind.LEAK):
        return _inspected(check, answer, seen)
    if answer.result not in THROUGH | STOPPED:
        return Verdict(check, Outcome.ERROR, f"the probe could not be sent: {answer.result}")
    return _positive(check, answer, seen) if check.passes else _negative(check, answer, seen)


def _positive(check: Check, answer: Answer, seen: Observed) -> Verdict:
    if answer.result in ("open", "answered", "delivered"):
        return Verdict(check, Outcome.PASS, answer.result)
    if answer.result == "refused":
        return Verdict(check, Outcome.FAIL, "the path is open, but nothing listens on that port")
    if check.listener is not None and _may_have_arrived(check, answer, seen):
        return _silent_target(check, answer, check.listener, seen)
    return Verdict(check, Outcome.FAIL, f"{answer.result}: the probe did not come through")


def _may_have_arrived(check: Check, answer: Answer, seen: Observed) -> bool:
    """Whether a UDP probe without an answer may have reached a service that ignores datagrams it
    does not understand.

    The firewall counts the packets of a whole flow, not those of one probe. Only for denied packets
    does it say from which sender to which port they went.
    """
    assert check.probe is not None  # noqa: S101 - `judge` looked
    lost = check.probe.protocol == "udp" and answer.result == "timeout"
    return lost and not _answers_locally(check, seen) and not _denied(check, seen)


def _negative(check: Check, answer: Answer, seen: Observed) -> Verdict:
    if answer.result in THROUGH:
        return Verdict(check, Outcome.FAIL, f"{answer.result}: it came through")
    if check.listener is not None and not _answers_locally(check, seen):
        return _silent_target(check, answer, check.listener, seen)
    target = ", while the target answers" if check.listener else ""
    if check.kind is Kind.HOST:
        return Verdict(check, Outcome.PASS, f"{answer.result}: the host cannot reach it{target}")
    if not _denied(check, seen):
        return Verdict(
            check,
            Outcome.ERROR,
            f"{answer.result}, but the firewall did not count the packet: it was lost before it reached the firewall",
        )
    return Verdict(check, Outcome.PASS, f"dropped and counted by the firewall{target}")


def _silent_target(check: Check, answer: Answer, listener: Listener, seen: Observed) -> Verdict:
    """The verdict if nothing came back, and the target's listener does not answer within its own VM
    either.
    """
    if reason := seen.reasons.get(listener.vm):
        return Verdict(
            check,
            Outcome.NOT_RUN,
            f"{answer.result}, but it is unknown whether the target answers: {reason}",
        )
    return Verdict(
        check,
        Outcome.ERROR,
        f"{answer.result}, but nothing answers on that port inside '{listener.vm}' either",
    )


def _spoofed(check: Check, answer: Answer, seen: Observed) -> Verdict:
    if answer.result != "sent":
        return Verdict(
            check, Outcome.ERROR, f"the forged packet could not be sent: {answer.result}"
        )
    if seen.uncounted:
        return Verdict(
            check,
            Outcome.ERROR,
            f"the forged packet was sent, but the firewall's counts cannot be read: {seen.uncounted}",
        )
    key = (check.nic, str(check.source))
    if seen.after.spoofed.get(key, 0) > seen.before.spoofed.get(key, 0):
        return Verdict(check, Outcome.PASS, "dropped and counted as a forged source")
    return Verdict(
        check, Outcome.FAIL, "the firewall did not drop the packet as one with a forged source"
    )


def _inspected(check: Check, answer: Answer, seen: Observed) -> Verdict:
    """The verdict on a test payload or a harmless one: by the IPS's log and, if the rule drops,
    also by what came through.
    """
    if seen.alerts is None:
        return Verdict(check, Outcome.ERROR, f"{answer.result}, but the IPS's log cannot be read")
    own = _alerts_on(check, answer, seen)
    fired = any(alert.rule in check.rules for alert in own)
    if check.passes:
        return _harmless(check, answer, own, fired=fired)
    if check.echo is not None and not _echoes(check, check.echo, seen):
        return Verdict(check, Outcome.NOT_RUN, NO_ECHO)
    through = _came_through(check, answer)
    if not check.blocked:
        return (
            Verdict(check, Outcome.PASS, "logged")
            if fired
            else Verdict(check, Outcome.FAIL, f"{answer.result}, and nothing was logged")
        )
    if through:
        return Verdict(
            check,
            Outcome.FAIL,
            "it came through and was " + ("only logged" if fired else "not logged"),
        )
    if answer.result not in _held(check):
        return Verdict(
            check, Outcome.ERROR, f"there was no connection to send it on: {answer.result}"
        )
    if any(alert.rule == MALFORMED for alert in own):
        return Verdict(
            check, Outcome.PASS, "dropped and logged as malformed, before the rule saw it"
        )
    return (
        Verdict(check, Outcome.PASS, "dropped and logged")
        if fired
        else Verdict(check, Outcome.ERROR, "dropped, but not logged")
    )


def _harmless(check: Check, answer: Answer, own: Sequence[Alert], *, fired: bool) -> Verdict:
    """The verdict on a harmless payload. If another rule drops it, this rule may still have been
    right to ignore it.
    """
    if fired:
        return Verdict(check, Outcome.FAIL, "the rule matched the harmless test packet")
    if _came_through(check, answer):
        return Verdict(check, Outcome.PASS, "passed")
    if others := sorted({alert.rule for alert in own if alert.blocked}):
        return Verdict(
            check, Outcome.PASS, f"the rule ignored it; other rules stopped it: {', '.join(others)}"
        )
    if check.echo is not None:
        return Verdict(check, Outcome.NOT_RUN, NO_ECHO)
    assert check.probe is not None  # noqa: S101 - `judge` looked
    seconds = check.probe.timeout_ms / 1000
    return Verdict(
        check,
        Outcome.ERROR,
        f"harmless test packet got no answer in {seconds:g} s: {answer.result}",
    )


def _came_through(check: Check, answer: Answer) -> bool:
    """Whether the payload reached the other side or, if its echo is what counts, came back from
    there.
    """
    assert check.probe is not None  # noqa: S101 - `judge` looked
    if check.echo is not None:
        return check.probe.payload in answer.answer
    return answer.result in (
        ("answered", "refused") if check.probe.protocol == "udp" else ("delivered",)
    )


def _held(check: Check) -> tuple[str, ...]:
    """The results of a probe that was sent and then stopped on the way, or whose answer was
    stopped.
    """
    assert check.probe is not None  # noqa: S101 - `judge` looked
    if check.probe.protocol == "udp":
        return ("timeout",)
    return ("stalled", "reset", "delivered") if check.echo else ("stalled", "reset")


def _echoes(check: Check, echo: Echo, seen: Observed) -> bool:
    """Whether the service sent the harmless payload back. It did so, too, if another rule stopped
    that answer on its way.
    """
    found = seen.answers.get(echo.check)
    return found is not None and (
        echo.payload in found.answer
        or any(alert.blocked for alert in _alerts_on(check, found, seen))
    )


def _alerts_on(check: Check, answer: Answer, seen: Observed) -> list[Alert]:
    """The events of the connection that a probe used."""
    assert check.probe is not None  # noqa: S101 - `judge` looked
    return [
        alert
        for alert in seen.alerts or ()
        if (alert.protocol, alert.port) == (check.probe.protocol, answer.port)
    ]


def _answers_locally(check: Check, seen: Observed) -> bool:
    """Whether the target's listener answered a probe from within its own VM."""
    local = seen.local.get(check.listener) if check.listener else None
    return local is not None and local.result in ("open", "answered")


def _denied(check: Check, seen: Observed) -> bool:
    """Whether the firewall counted this packet as denied. A sender outside may have several
    addresses, so any sender counts then.
    """
    assert check.probe is not None  # noqa: S101 - `judge` looked
    end = (str(check.probe.target), check.probe.protocol, check.probe.port)
    if check.source is None:
        return seen.after.denied_to(*end) > seen.before.denied_to(*end)
    key = (str(check.source), *end)
    return seen.after.denied.get(key, 0) > seen.before.denied.get(key, 0)
