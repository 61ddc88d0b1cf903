"""Turns what was observed into verdicts. Pure.

A claim that a packet must pass holds if the probe came through. A claim that a packet must be
blocked holds only if three things are true: the probe did not come through; the target would have
answered, because its listener answers a probe from within its own VM; and the firewall counted
exactly this packet as dropped. If the probe did not come through but this proof is incomplete, the
outcome is `error`, never `pass`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from vcloud.proof.checks import Check, Echo, Kind, Listener, Outcome
from vcloud.proof.forged import judge_forged
from vcloud.proof.ips_report import Alert
from vcloud.proof.observed import (
    OPENED,
    STOPPED,
    THROUGH,
    UNREADABLE,
    Answer,
    Observed,
    Verdict,
)

NAMED = 3
"""A verdict names at most so many senders."""
MALFORMED = "applayer error"
"""Suricata's reason for dropping traffic that it cannot parse. Some attacks are not valid HTTP, so
Suricata drops them before any rule sees them.
"""
NO_ECHO = "the service there does not send back what it receives"
NO_ANSWER = "the service there does not answer datagrams that it does not understand"


def judge(check: Check, seen: Observed) -> Verdict:
    """The verdict on one check."""
    if check.probe is None:
        outcome = Outcome.NOT_TRIED if check.excused else Outcome.NOT_RUN
        return Verdict(check, outcome, check.reason, final=True)
    answer = seen.answers.get(check.id)
    if answer is None:
        return _not_sent(check, seen)
    return _in_turn(check, seen) if check.turns else _on_one(check, answer, seen)


def _not_sent(check: Check, seen: Observed) -> Verdict:
    places = [check.vantage, *([check.about.client] if check.about else [])]
    unsent = (
        "the connection for the forged error could not be opened"
        if check.about
        else "no probe was sent"
    )
    reason = next((seen.reasons[place] for place in places if place in seen.reasons), unsent)
    final = not seen.unusable.isdisjoint(places)
    return Verdict(check, Outcome.NOT_RUN, reason, final=final)


def _on_one(check: Check, answer: Answer, seen: Observed) -> Verdict:
    """The verdict on a check by the answer to one probe."""
    # An unreadable answer proves nothing, for any kind of check.
    if answer.result == UNREADABLE:
        return Verdict(
            check, Outcome.ERROR, f"{check.vantage} gave no readable answer about this probe"
        )
    if check.kind is Kind.SPOOFED:
        return judge_forged(check, answer, seen)
    if check.kind in (Kind.IPS, Kind.LEAK):
        return _inspected(check, answer, seen)
    if answer.result not in THROUGH | STOPPED:
        return Verdict(check, Outcome.ERROR, f"the probe could not be sent: {answer.result}")
    return _positive(check, answer, seen) if check.passes else _negative(check, answer, seen)


def _in_turn(check: Check, seen: Observed) -> Verdict:
    """The verdict on a connection to a published port whose connections the firewall gives to several
    VMs in turn.

    From outside it is not visible which VM got which connection. One round opens as many connections
    as there are VMs, so each VM gets one. All connections must open, so the worst one decides.
    """
    answers = [seen.answers.get(turn.check, Answer(UNREADABLE)) for turn in check.turns]
    worst = max(answers, key=_badness)
    opened = sum(answer.result in OPENED for answer in answers)
    vms = ", ".join(turn.listener.vm for turn in check.turns)
    told = f"{opened} of {len(answers)} connections opened, which go to {vms} in turn"
    silent = [turn for turn in check.turns if _ignores(check, turn.listener, seen)]
    if worst.result == "timeout" and len(answers) - opened <= len(silent):
        if any(turn.listener == check.listener for turn in silent):
            return Verdict(check, Outcome.NOT_TRIED, NO_ANSWER)
        return Verdict(check, Outcome.PASS, told)
    verdict = _on_one(check, worst, seen)
    return replace(verdict, detail=f"{verdict.detail}; {told}")


def _badness(answer: Answer) -> int:
    """How bad an answer is for a connection that must open. A refusal is worse than silence,
    because a lost packet cannot cause it.
    """
    if answer.result in OPENED:
        return 0
    if answer.result in STOPPED:
        return 1
    return 3 if answer.result in THROUGH else 2


def _refused(check: Check, seen: Observed) -> Verdict:
    """The verdict on a connection that must open but is refused. If the VM has no service of its
    own on the port, vcloud's temporary listener has ended, and the next round starts it again.
    """
    listeners = {turn.listener for turn in check.turns}
    if check.listener is not None:
        listeners.add(check.listener)
    if not listeners <= seen.busy:
        return Verdict(
            check, Outcome.ERROR, "the path is open, but vcloud's temporary listener has ended"
        )
    return Verdict(check, Outcome.FAIL, "the path is open, but nothing listens on that port")


def _positive(check: Check, answer: Answer, seen: Observed) -> Verdict:
    if answer.result in OPENED:
        return Verdict(check, Outcome.PASS, answer.result)
    if answer.result == "refused":
        return _refused(check, seen)
    if check.listener is not None and _may_have_arrived(check, answer, seen):
        if _is_ignored(check, answer, seen):
            return Verdict(check, Outcome.NOT_TRIED, NO_ANSWER)
        return _silent_target(check, answer, check.listener, seen)
    return Verdict(
        check,
        Outcome.FAIL,
        f"{answer.result}: the probe did not come through",
        excusable=answer.result in STOPPED,
    )


def _may_have_arrived(check: Check, answer: Answer, seen: Observed) -> bool:
    """Whether a UDP probe without an answer may have reached a service that ignores datagrams it
    does not understand.

    The firewall counts the packets of a whole flow, not those of one probe. Only for denied packets
    it counts sender and port.
    """
    lost = check.sent.protocol == "udp" and answer.result == "timeout"
    return lost and not _answers_locally(check.listener, seen) and not _denied(check, answer, seen)


def _is_ignored(check: Check, answer: Answer, seen: Observed) -> bool:
    """Whether a datagram got no answer because the service there ignores it."""
    return answer.result == "timeout" and _ignores(check, check.listener, seen)


def _ignores(check: Check, listener: Listener | None, seen: Observed) -> bool:
    """Whether a service of the VM's own listens on the UDP port, but does not answer this datagram
    from within the VM either.
    """
    datagram = check.sent.protocol == "udp"
    return datagram and listener in seen.busy and not _answers_locally(listener, seen)


def _negative(check: Check, answer: Answer, seen: Observed) -> Verdict:
    # The firewall refuses in the target's name. Its counts show that the refusal came from the
    # firewall.
    told = check.told and answer.result == "refused" and _denied(check, answer, seen)
    if answer.result in THROUGH and not told:
        return Verdict(check, Outcome.FAIL, f"{answer.result}: the packet came through")
    if check.listener is not None and not _answers_locally(check.listener, seen):
        return _silent_target(check, answer, check.listener, seen)
    target = ", while the target answers" if check.listener else ""
    # The firewall gets no packet from the host, so it has no count of it.
    if check.kind is Kind.HOST:
        return Verdict(check, Outcome.PASS, f"{answer.result}: the host cannot reach it{target}")
    if not _denied(check, answer, seen):
        return Verdict(check, Outcome.ERROR, f"{answer.result}, but {_uncounted(check, seen)}")
    done = "rejected" if told else "dropped"
    return Verdict(check, Outcome.PASS, f"{done} and counted by the firewall{target}")


def _silent_target(check: Check, answer: Answer, listener: Listener, seen: Observed) -> Verdict:
    """The verdict if no answer came, and the target's listener does not answer from within its own
    VM either.
    """
    if reason := seen.reasons.get(listener.vm):
        return Verdict(
            check,
            Outcome.NOT_RUN,
            f"{answer.result}, but it is unknown whether the target answers: {reason}",
            final=listener.vm in seen.unusable,
        )
    return Verdict(
        check,
        Outcome.ERROR,
        f"{answer.result}, but nothing answers on that port inside '{listener.vm}' either",
    )


def _inspected(check: Check, answer: Answer, seen: Observed) -> Verdict:
    """The verdict on a test payload or a harmless one. It depends on the IPS's log and, if the rule
    drops, also on whether the payload came through.
    """
    if seen.alerts is None:
        return Verdict(check, Outcome.ERROR, f"{answer.result}, but the IPS's log cannot be read")
    own = _alerts_on(check, answer, seen)
    fired = any(alert.rule in check.rules for alert in own)
    if check.passes:
        return _harmless(check, answer, own, seen, fired=fired)
    # The echo is judged first, because a service that never sends anything back looks like one
    # whose answer was stopped.
    if check.echo is not None and not _echoes(check, check.echo, seen):
        return _no_echo(check, check.echo, seen)
    through = _came_through(check, answer)
    if not check.blocked:
        return (
            Verdict(check, Outcome.PASS, "logged")
            if fired
            else Verdict(
                check,
                Outcome.FAIL,
                f"{answer.result}, and nothing was logged",
                excusable=True,  # the log may be late, and the payload may have been lost
            )
        )
    if through:
        return Verdict(
            check,
            Outcome.FAIL,
            "the payload came through and was " + ("only logged" if fired else "not logged"),
        )
    # If the probe was refused or its target was unreachable, the payload never reached the IPS.
    if answer.result not in _held(check):
        return Verdict(
            check, Outcome.ERROR, f"no connection could be opened for the payload: {answer.result}"
        )
    if any(alert.rule == MALFORMED for alert in own):
        return Verdict(
            check, Outcome.PASS, "dropped and logged as malformed, before the rule saw it"
        )
    if fired:
        return Verdict(check, Outcome.PASS, "dropped and logged")
    if others := _others(own):
        # If they drop the harmless payload as well, they drop the form of both.
        twin = seen.answers.get(check.twin)
        alike = twin is not None and bool(_others(_alerts_on(check, twin, seen)))
        return Verdict(
            check,
            Outcome.NOT_TRIED if alike else Outcome.ERROR,
            f"dropped, but this rule was not reached: other rules dropped it first: {others}",
        )
    return Verdict(check, Outcome.ERROR, "dropped, but not logged")


def _harmless(
    check: Check, answer: Answer, own: Sequence[Alert], seen: Observed, *, fired: bool
) -> Verdict:
    """The verdict on a harmless payload. It also passes if only another rule drops the payload."""
    if fired:
        return Verdict(check, Outcome.FAIL, "the rule matched the harmless test packet")
    if _came_through(check, answer):
        return Verdict(check, Outcome.PASS, "passed")
    if others := _others(own):
        return Verdict(
            check, Outcome.PASS, f"the rule ignored it; other rules dropped it: {others}"
        )
    if check.echo is not None:
        return _no_echo(check, check.echo, seen)
    if _is_ignored(check, answer, seen):
        return Verdict(check, Outcome.NOT_TRIED, NO_ANSWER)
    seconds = check.sent.timeout_ms / 1000
    return Verdict(
        check,
        Outcome.ERROR,
        f"harmless test packet got no answer in {seconds:g} s: {answer.result}",
    )


def _others(own: Sequence[Alert]) -> str:
    """The rules that dropped a payload, in a text, if its own rule did not match."""
    return ", ".join(sorted({alert.rule for alert in own if alert.blocked}))


def _no_echo(check: Check, echo: Echo, seen: Observed) -> Verdict:
    """The verdict if the harmless payload did not come back. A service of the VM's own need not
    send anything back; vcloud's temporary listener does.
    """
    if check.listener not in seen.busy:
        return Verdict(check, Outcome.NOT_RUN, NO_ECHO)
    harmless = seen.answers.get(echo.check)
    return Verdict(check, Outcome.NOT_TRIED, NO_ECHO, final=bool(harmless and harmless.answer))


def _came_through(check: Check, answer: Answer) -> bool:
    """Whether the payload reached the other side or, for a check with an echo, came back from
    there.
    """
    if check.echo is not None:
        return check.echo.data in answer.answer
    # Firewall and IPS only drop, so a datagram that was refused has arrived on the other side.
    return answer.result in (
        ("answered", "refused") if check.sent.protocol == "udp" else ("delivered",)
    )


def _held(check: Check) -> tuple[str, ...]:
    """The results of a probe that was sent and then stopped on the way, or whose answer was
    stopped.
    """
    if check.sent.protocol == "udp":
        return ("timeout",)
    return ("stalled", "reset", "delivered") if check.echo else ("stalled", "reset")


def _echoes(check: Check, echo: Echo, seen: Observed) -> bool:
    """Whether the service sent the harmless payload back. If another rule stopped an answer, the
    service has sent it.
    """
    found = seen.answers.get(echo.check)
    return found is not None and (
        echo.harmless in found.answer
        or any(alert.blocked for alert in _alerts_on(check, found, seen))
    )


def _alerts_on(check: Check, answer: Answer, seen: Observed) -> list[Alert]:
    """The events of the connection that a probe used. Another program may use the same source port
    at the same time, but not from the same address to the same target. The source address of a
    probe from outside may be translated on its way, so any address counts.
    """
    near = check.sent.source
    far = check.listener or Listener("", "", str(check.sent.target), check.sent.port)
    addresses = check.published or (far.address,)
    connection = (check.sent.protocol, answer.port, far.port)
    return [
        alert
        for alert in seen.alerts or ()
        if (alert.protocol, alert.port, alert.far_port) == connection
        and alert.far_address in addresses
        and near in ("-", alert.address)
    ]


def _answers_locally(listener: Listener | None, seen: Observed) -> bool:
    """Whether the target's listener answered a probe from within its own VM."""
    local = seen.local.get(listener) if listener else None
    return local is not None and local.result in ("open", "answered")


def _denied(check: Check, answer: Answer, seen: Observed) -> bool:
    """Whether the firewall counted this packet as denied. For a probe from outside, the probe
    program reports its address, because other machines outside may try the same ports.
    """
    sender = str(check.source) if check.source else answer.sender
    return sender in _denied_senders(check, seen)


def _denied_senders(check: Check, seen: Observed) -> set[str]:
    """The senders of packets to the probe's target and port that the firewall has denied during
    this round.
    """
    end = (str(check.sent.target), check.sent.protocol, check.sent.port)
    return {
        sender
        for (sender, *to), packets in seen.after.denied.items()
        if (*to,) == end and packets > seen.before.denied.get((sender, *end), 0)
    }


def _uncounted(check: Check, seen: Observed) -> str:
    """Why the firewall's counts do not prove that it dropped the packet."""
    if check.source is None and (others := sorted(_denied_senders(check, seen))):
        return (
            f"the firewall counted only packets of other senders ({', '.join(others[:NAMED])}): "
            "the packet was lost, or its source address was translated on its way"
        )
    return "the firewall did not count the packet: it was lost before it reached the firewall"
