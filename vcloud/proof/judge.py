"""From what was observed to a verdict. Pure.

A positive claim holds when the probe came through. A negative one holds only when three things are true at once: nothing came through,
the target would have answered (its twin did), and the firewall counted this very packet among those it dropped. If nothing came through but
the proof is incomplete, the outcome is `error`, never `pass`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vcloud.proof.checks import Check, Echo, Kind, Listener, Outcome
from vcloud.proof.firewall_report import FirewallReport

THROUGH = frozenset({"open", "refused", "answered", "delivered", "reset"})
"""Results that need a packet to reach the target and an answer to come back; a refusal is an answer."""
MALFORMED = "applayer error"
"""Suricata's reason where it drops what it cannot parse: some attacks are no valid HTTP to begin with."""
NO_ECHO = "no service there can be made to answer with it"
STOPPED = frozenset({"timeout", "unreachable", "stalled"})
RESULTS = THROUGH | STOPPED | {"sent", "error"}
"""All that `guest probe` can say."""
UNREADABLE = "unreadable"
"""Stands for an answer that is missing, or is none of these: its VM may be in anybody's hands."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What `guest probe` says of one probe."""

    result: str
    """One of `RESULTS`, or `UNREADABLE`."""
    port: int = 0
    """Source port."""
    answer: bytes = b""


@dataclass(frozen=True, slots=True)
class Alert:
    """One event of the IPS: the rule that matched, or the reason of a drop without one; protocol and port of an end; and whether it dropped."""

    rule: str
    protocol: str
    port: int
    blocked: bool


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything that was seen in one run."""

    answers: Mapping[str, Answer]
    """Check id -> answer; a check without one was not run."""
    twins: Mapping[Listener, Answer]
    """What each listener said to a client in its own VM."""
    before: FirewallReport
    after: FirewallReport
    """Both are `NOTHING` where either could not be read: a count that was not seen to grow proves nothing."""
    alerts: tuple[Alert, ...] | None = ()
    """None: the IPS's log could not be read."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Vantage -> why nothing could be sent from there."""
    uncounted: str = ""
    """Why the firewall's counts could not be read. A firewall that is there without our rules has none, which is no reason."""


@dataclass(frozen=True, slots=True)
class Verdict:
    check: Check
    outcome: Outcome
    detail: str


def judge(check: Check, seen: Observed) -> Verdict:
    """The verdict on one check."""
    answer = seen.answers.get(check.id)
    if check.probe is None or answer is None:
        return Verdict(check, Outcome.NOT_RUN, check.reason or seen.reasons.get(check.vantage, "no probe was sent"))
    if answer.result == UNREADABLE:
        return Verdict(check, Outcome.ERROR, "what was said of the probe where it was sent from cannot be read")
    if check.kind is Kind.SPOOFED:
        return _spoofed(check, answer, seen)
    if check.kind in (Kind.IPS, Kind.LEAK):
        return _inspected(check, answer, seen)
    if answer.result not in THROUGH | STOPPED:
        return Verdict(check, Outcome.ERROR, f"the probe itself failed: {answer.result}")
    return _positive(check, answer, seen) if check.passes else _negative(check, answer, seen)


def _positive(check: Check, answer: Answer, seen: Observed) -> Verdict:
    if answer.result in ("open", "answered", "delivered"):
        return Verdict(check, Outcome.PASS, answer.result)
    if answer.result == "refused":
        return Verdict(check, Outcome.FAIL, "the path is open but nothing listens")
    if check.listener is not None and _may_have_arrived(check, answer, seen):
        return _without_twin(check, answer, check.listener, seen)
    return Verdict(check, Outcome.FAIL, f"{answer.result}: the probe did not come through")


def _may_have_arrived(check: Check, answer: Answer, seen: Observed) -> bool:
    """Whether a datagram was swallowed by a service that answers no unknown one, or on the way: nobody can tell which.

    The firewall counts the packets of a flow and not those of a probe, so only what it denied is told of this very one.
    """
    assert check.probe is not None  # noqa: S101 - `judge` looked
    lost = check.probe.protocol == "udp" and answer.result == "timeout"
    return lost and not _twin_answered(check, seen) and not _denied(check, seen)


def _negative(check: Check, answer: Answer, seen: Observed) -> Verdict:
    if answer.result in THROUGH:
        return Verdict(check, Outcome.FAIL, f"{answer.result}: it came through")
    if check.listener is not None and not _twin_answered(check, seen):
        return _without_twin(check, answer, check.listener, seen)
    target = ", while the target answers" if check.listener else ""
    if check.kind is Kind.HOST:
        return Verdict(check, Outcome.PASS, f"{answer.result}: the host has no way to it{target}")
    if not _denied(check, seen):
        return Verdict(check, Outcome.ERROR, f"{answer.result}, but the firewall did not count the packet: it was lost on the way there")
    return Verdict(check, Outcome.PASS, f"dropped and counted by the firewall{target}")


def _without_twin(check: Check, answer: Answer, listener: Listener, seen: Observed) -> Verdict:
    """Nothing came back, but who knows whether there was anything to come to?"""
    if reason := seen.reasons.get(listener.vm):
        return Verdict(check, Outcome.NOT_RUN, f"{answer.result}, but nobody could look whether the target answers: {reason}")
    return Verdict(check, Outcome.ERROR, f"{answer.result}, but its twin failed: nothing answers on that port inside the VM either")


def _spoofed(check: Check, answer: Answer, seen: Observed) -> Verdict:
    if answer.result != "sent":
        return Verdict(check, Outcome.ERROR, f"the forged packet could not be sent: {answer.result}")
    if seen.uncounted:
        return Verdict(check, Outcome.ERROR, f"the forged packet was sent, but the firewall's counts cannot be read: {seen.uncounted}")
    key = (check.card, str(check.source))
    if seen.after.spoofed.get(key, 0) > seen.before.spoofed.get(key, 0):
        return Verdict(check, Outcome.PASS, "dropped and counted as a forged source")
    return Verdict(check, Outcome.FAIL, "the forged packet was not stopped as such")


def _inspected(check: Check, answer: Answer, seen: Observed) -> Verdict:
    """A rule that only logs is told by its log alone; one that drops also by what came through."""
    if seen.alerts is None:
        return Verdict(check, Outcome.ERROR, f"{answer.result}, but the IPS's log cannot be read")
    own = _alerts_on(check, answer, seen)
    fired = any(alert.rule in check.rules for alert in own)
    if check.passes:
        return _near_miss(check, answer, own, fired=fired)
    if check.echo is not None and not _echoes(check, check.echo, seen):
        return Verdict(check, Outcome.NOT_RUN, NO_ECHO)
    through = _came_through(check, answer)
    if not check.blocked:
        return Verdict(check, Outcome.PASS, "logged") if fired else Verdict(check, Outcome.FAIL, f"{answer.result}, and nothing was logged")
    if through:
        return Verdict(check, Outcome.FAIL, "it came through" + (" and was only logged" if fired else " unseen"))
    if answer.result not in _held(check):
        return Verdict(check, Outcome.ERROR, f"no connection to send it on: {answer.result}")
    if any(alert.rule == MALFORMED for alert in own):
        return Verdict(check, Outcome.PASS, "dropped and logged as malformed before the rule was asked")
    return Verdict(check, Outcome.PASS, "dropped and logged") if fired else Verdict(check, Outcome.ERROR, "dropped, but not logged")


def _near_miss(check: Check, answer: Answer, own: Sequence[Alert], *, fired: bool) -> Verdict:
    """What another rule stops may still be no match of this one."""
    if fired:
        return Verdict(check, Outcome.FAIL, "the near miss was taken for the real thing")
    if _came_through(check, answer):
        return Verdict(check, Outcome.PASS, "passed")
    if others := sorted({alert.rule for alert in own if alert.blocked}):
        return Verdict(check, Outcome.PASS, f"not taken for the real thing; it is stopped by {', '.join(others)}")
    if check.echo is not None:
        return Verdict(check, Outcome.NOT_RUN, NO_ECHO)
    return Verdict(check, Outcome.ERROR, f"the near miss did not pass: {answer.result}")


def _came_through(check: Check, answer: Answer) -> bool:
    assert check.probe is not None  # noqa: S101 - `judge` looked
    if check.echo is not None:
        return check.probe.payload in answer.answer
    return answer.result in (("answered", "refused") if check.probe.protocol == "udp" else ("delivered",))


def _held(check: Check) -> tuple[str, ...]:
    """The results of a probe that left and was held back, or whose answer was."""
    assert check.probe is not None  # noqa: S101 - `judge` looked
    if check.probe.protocol == "udp":
        return ("timeout",)
    return ("stalled", "reset", "delivered") if check.echo else ("stalled", "reset")


def _echoes(check: Check, echo: Echo, seen: Observed) -> bool:
    """Whether the service gave the near miss back. One that another rule stopped on its way out was given back, too."""
    found = seen.answers.get(echo.check)
    return found is not None and (echo.payload in found.answer or any(alert.blocked for alert in _alerts_on(check, found, seen)))


def _alerts_on(check: Check, answer: Answer, seen: Observed) -> list[Alert]:
    """The events of the connection of a probe."""
    assert check.probe is not None  # noqa: S101 - `judge` looked
    return [alert for alert in seen.alerts or () if (alert.protocol, alert.port) == (check.probe.protocol, answer.port)]


def _twin_answered(check: Check, seen: Observed) -> bool:
    twin = seen.twins.get(check.listener) if check.listener else None
    return twin is not None and twin.result in ("open", "answered")


def _denied(check: Check, seen: Observed) -> bool:
    """Whether the firewall counted this packet among the denied. Whoever sends from outside may have several addresses."""
    assert check.probe is not None  # noqa: S101 - `judge` looked
    end = (str(check.probe.target), check.probe.protocol, check.probe.port)
    if check.source is None:
        return seen.after.denied_to(*end) > seen.before.denied_to(*end)
    key = (str(check.source), *end)
    return seen.after.denied.get(key, 0) > seen.before.denied.get(key, 0)
