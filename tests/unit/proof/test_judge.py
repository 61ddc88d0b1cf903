"""What observations mean. The rule above all: what was not proven did not pass."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.proof.samples import (
    ALIVE,
    ANSWER,
    DATAGRAM,
    DEAD,
    DENIED,
    FAR,
    FLOW,
    FROM_HOST,
    HARMLESS,
    HARMLESS_OF_ANSWER,
    HIT,
    INBOUND,
    LEAK,
    LISTENER,
    LOGGED,
    OTHER_RULE,
    OTHERS_HIT,
    SOURCE,
    SPOOFED,
    TARGET,
    UDP,
    outcome,
    report,
)
from vcloud.proof.checks import Check, Listener, Outcome, Probe
from vcloud.proof.firewall_report import NOTHING, Denied
from vcloud.proof.ips_report import Alert
from vcloud.proof.judge import judge
from vcloud.proof.observed import UNREADABLE, Answer, Observed

RESULTS = (
    "open",
    "refused",
    "answered",
    "delivered",
    "reset",
    "timeout",
    "unreachable",
    "stalled",
    "sent",
    "error",
    "nonsense",
)


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ("open", Outcome.PASS),
        ("answered", Outcome.PASS),
        ("delivered", Outcome.PASS),
        ("reset", Outcome.FAIL),
        ("timeout", Outcome.FAIL),
        ("unreachable", Outcome.FAIL),
        ("error", Outcome.ERROR),
    ],
)
def test_what_is_declared_must_come_through(result: str, expected: Outcome) -> None:
    assert outcome(FLOW, result, local=ALIVE) is expected


@pytest.mark.parametrize(("busy", "expected"), [(True, Outcome.FAIL), (False, Outcome.ERROR)])
def test_a_service_that_refuses_fails_and_a_listener_of_vclouds_own_has_ended(
    busy: bool, expected: Outcome
) -> None:
    listening = frozenset({LISTENER} if busy else ())
    seen = Observed({FLOW.id: Answer("refused")}, ALIVE, report(), report(), busy=listening)
    verdict = judge(FLOW, seen)
    assert (verdict.outcome, verdict.stays) == (expected, busy)


@pytest.mark.parametrize(
    ("local", "denied", "expected"),
    [
        (DEAD, 0, Outcome.ERROR),
        ({}, 0, Outcome.ERROR),
        (DEAD, 1, Outcome.FAIL),
        (ALIVE, 0, Outcome.FAIL),
        (ALIVE, 1, Outcome.FAIL),
    ],
)
def test_a_datagram_that_nobody_answers_is_no_pass(
    local: dict[Listener, Answer], denied: int, expected: Outcome
) -> None:
    """A flow's count would prove nothing: it may be that of another replica or a customer. A denied
    packet is counted by its own ends.
    """
    key: Denied = (str(SOURCE), str(TARGET), "udp", 22)
    after = replace(report(), denied={key: denied} if denied else {})
    assert outcome(UDP, "timeout", local=local, after=after) is expected


def test_a_datagram_to_a_vm_that_nobody_can_look_into_was_not_run() -> None:
    seen = Observed(
        {UDP.id: Answer("timeout")},
        {},
        report(),
        report(),
        reasons={LISTENER.vm: "it has no agent"},
    )
    assert judge(UDP, seen).outcome is Outcome.NOT_RUN


def test_a_silent_tcp_service_is_not_excused() -> None:
    assert outcome(FLOW, "timeout", local=DEAD, after=report()) is Outcome.FAIL


@pytest.mark.parametrize("result", ["timeout", "unreachable"])
@pytest.mark.parametrize(
    ("local", "denied", "expected"),
    [
        pytest.param(ALIVE, 1, Outcome.PASS, id="proven"),
        pytest.param(ALIVE, 0, Outcome.ERROR, id="lost before the firewall"),
        pytest.param(DEAD, 1, Outcome.ERROR, id="nobody listens"),
        pytest.param({}, 1, Outcome.ERROR, id="nobody was asked"),
        pytest.param(DEAD, 0, Outcome.ERROR, id="nothing at all"),
    ],
)
def test_silence_is_a_pass_only_with_its_twin_and_the_firewalls_count(
    result: str, local: dict[Listener, Answer], denied: int, expected: Outcome
) -> None:
    assert outcome(DENIED, result, local=local, after=report(denied=denied)) is expected


@pytest.mark.parametrize("result", ["open", "refused", "answered", "delivered", "reset"])
def test_whatever_comes_back_came_through(result: str) -> None:
    """A refusal too: the packet reached the target. No count and no twin can excuse it."""
    assert outcome(DENIED, result, local=ALIVE, after=report(denied=1)) is Outcome.FAIL


@pytest.mark.parametrize(
    ("result", "denied", "expected"),
    [
        ("refused", 1, Outcome.PASS),
        ("refused", 0, Outcome.FAIL),
        ("open", 1, Outcome.FAIL),
        ("timeout", 1, Outcome.PASS),
    ],
)
def test_where_the_firewall_rejects_a_refusal_is_its_own_if_it_has_counted_the_packet(
    result: str, denied: int, expected: Outcome
) -> None:
    told = replace(DENIED, told=True)
    assert outcome(told, result, local=ALIVE, after=report(denied=denied)) is expected


def test_what_was_counted_before_is_no_proof() -> None:
    seen = Observed({DENIED.id: Answer("timeout")}, ALIVE, report(denied=3), report(denied=3))
    assert judge(DENIED, seen).outcome is Outcome.ERROR


def test_a_packet_of_somebody_else_is_no_proof() -> None:
    other = replace(
        report(),
        denied={(str(SOURCE), str(TARGET), "tcp", 23): 5, (str(TARGET), str(SOURCE), "tcp", 22): 5},
    )
    assert outcome(DENIED, "timeout", local=ALIVE, after=other) is Outcome.ERROR


@pytest.mark.parametrize(("denied", "expected"), [(1, Outcome.PASS), (0, Outcome.ERROR)])
def test_from_outside_silence_needs_the_firewalls_count_of_that_port(
    denied: int, expected: Outcome
) -> None:
    assert outcome(INBOUND, "timeout", after=report(denied=denied)) is expected
    other = replace(INBOUND, probe=Probe("tcp", "-", TARGET, 23))
    assert outcome(other, "timeout", after=report(denied=denied)) is Outcome.ERROR


@pytest.mark.parametrize("sender", ["198.51.100.9", ""])
def test_from_outside_a_packet_of_somebody_else_on_the_same_port_is_no_proof(sender: str) -> None:
    """The probe was lost. Meanwhile a scanner of the internet tried that port."""
    answers = {INBOUND.id: Answer("timeout", 4000, sender=sender)}
    verdict = judge(INBOUND, Observed(answers, {}, report(), report(denied=1)))
    assert verdict.outcome is Outcome.ERROR
    assert f"only packets of other senders ({SOURCE})" in verdict.detail
    counted = replace(report(denied=1), denied={(sender or str(SOURCE), str(TARGET), "tcp", 22): 1})
    own = {INBOUND.id: Answer("timeout", 4000, sender=sender or str(SOURCE))}
    assert judge(INBOUND, Observed(own, {}, report(), counted)).outcome is Outcome.PASS


@pytest.mark.parametrize(
    ("result", "expected"),
    [("timeout", Outcome.PASS), ("unreachable", Outcome.PASS), ("refused", Outcome.FAIL)],
)
def test_the_host_must_find_no_way_to_what_answers(result: str, expected: Outcome) -> None:
    assert outcome(FROM_HOST, result, local=ALIVE) is expected
    assert outcome(FROM_HOST, "timeout", local=DEAD) is Outcome.ERROR


@pytest.mark.parametrize("check", [DENIED, FROM_HOST])
def test_where_nobody_could_look_whether_the_target_answers_it_was_not_run(check: Check) -> None:
    seen = Observed(
        {check.id: Answer("timeout")},
        {},
        report(),
        report(denied=1),
        reasons={LISTENER.vm: "it has no agent"},
    )
    verdict = judge(check, seen)
    assert verdict.outcome is Outcome.NOT_RUN
    assert "it has no agent" in verdict.detail


@pytest.mark.parametrize(
    ("result", "spoofed", "expected"),
    [
        ("sent", 1, Outcome.PASS),
        ("sent", 0, Outcome.FAIL),
        ("error", 1, Outcome.ERROR),
        ("error", 0, Outcome.ERROR),
    ],
)
def test_a_forged_packet_must_be_sent_and_counted_as_such(
    result: str, spoofed: int, expected: Outcome
) -> None:
    assert outcome(SPOOFED, result, after=report(spoofed=spoofed)) is expected


@pytest.mark.parametrize("result", ["stalled", "reset"])
@pytest.mark.parametrize(
    ("alerts", "expected"),
    [
        ((HIT,), Outcome.PASS),
        ((), Outcome.ERROR),
        ((OTHERS_HIT,), Outcome.ERROR),
        ((OTHER_RULE,), Outcome.ERROR),
    ],
)
def test_a_payload_must_be_dropped_and_logged_by_its_rule(
    result: str, alerts: tuple[Alert, ...], expected: Outcome
) -> None:
    assert outcome(LEAK, result, alerts=alerts) is expected


@pytest.mark.parametrize(
    ("result", "expected"),
    [("delivered", Outcome.FAIL), ("timeout", Outcome.ERROR), ("refused", Outcome.ERROR)],
)
def test_a_payload_that_came_through_fails_and_one_that_never_left_proves_nothing(
    result: str, expected: Outcome
) -> None:
    assert outcome(LEAK, result, alerts=(HIT,)) is expected


@pytest.mark.parametrize(
    ("result", "alerts", "expected"),
    [
        ("delivered", (), Outcome.PASS),
        ("delivered", (HIT,), Outcome.FAIL),
        ("stalled", (HIT,), Outcome.FAIL),
        ("stalled", (), Outcome.ERROR),
    ],
)
def test_a_harmless_payload_must_pass_unseen(
    result: str, alerts: tuple[Alert, ...], expected: Outcome
) -> None:
    assert outcome(HARMLESS, result, alerts=alerts) is expected


@pytest.mark.parametrize(("alerts", "expected"), [((HIT,), Outcome.PASS), ((), Outcome.FAIL)])
def test_a_rule_that_only_logs_must_log(alerts: tuple[Alert, ...], expected: Outcome) -> None:
    assert outcome(LOGGED, "delivered", alerts=alerts) is expected


@pytest.mark.parametrize(
    ("result", "alerts", "expected"),
    [
        ("timeout", (HIT,), Outcome.PASS),
        ("timeout", (), Outcome.ERROR),
        ("answered", (HIT,), Outcome.FAIL),
        ("refused", (), Outcome.FAIL),
        ("unreachable", (HIT,), Outcome.ERROR),
    ],
)
def test_a_datagram_must_be_dropped_and_logged(
    result: str, alerts: tuple[Alert, ...], expected: Outcome
) -> None:
    datagrams = tuple(replace(alert, protocol="udp") for alert in alerts)
    assert outcome(DATAGRAM, result, alerts=datagrams) is expected


@pytest.mark.parametrize(
    ("answer", "harmless", "alerts", "expected"),
    [
        (b"", b"4112", (HIT,), Outcome.PASS),
        (b"", b"4112", (), Outcome.ERROR),
        (b"4111", b"4112", (), Outcome.FAIL),
        (b"4111", b"4112", (HIT,), Outcome.FAIL),
        (b"", b"", (), Outcome.NOT_RUN),
        (b"", b"404", (HIT,), Outcome.NOT_RUN),
    ],
)
@pytest.mark.parametrize("result", ["delivered", "stalled", "reset"])
def test_an_answer_must_be_held_back_that_would_have_come(
    result: str, answer: bytes, harmless: bytes, alerts: tuple[Alert, ...], expected: Outcome
) -> None:
    answers = {
        ANSWER.id: Answer(result, 4000, answer),
        "leak/2": Answer("delivered", 4002, harmless),
    }
    seen = Observed(answers, {}, report(), report(), alerts)
    assert judge(ANSWER, seen).outcome is expected
    passes = Outcome.PASS if harmless == b"4112" else Outcome.NOT_RUN
    assert judge(HARMLESS_OF_ANSWER, seen).outcome is passes


@pytest.mark.parametrize(
    "check", [FLOW, DENIED, INBOUND, FROM_HOST, SPOOFED, LEAK, HARMLESS, LOGGED]
)
def test_what_was_not_sent_was_not_run_and_says_why(check: Check) -> None:
    full = report(denied=9, spoofed=9)
    verdict = judge(
        check, Observed({}, ALIVE, report(), full, (HIT,), {check.vantage: "its agent is silent"})
    )
    assert (verdict.outcome, verdict.detail) == (Outcome.NOT_RUN, "its agent is silent")


def test_what_cannot_be_sent_gives_its_own_reason() -> None:
    check = replace(LEAK, probe=None, reason="no declared flow can carry it")
    verdict = judge(check, Observed({}, {}, report(), report()))
    assert (verdict.outcome, verdict.detail) == (Outcome.NOT_RUN, "no declared flow can carry it")


@given(
    st.sampled_from([DENIED, INBOUND, SPOOFED, LEAK, LOGGED, ANSWER, DATAGRAM]),
    st.sampled_from(RESULTS),
    st.booleans(),
)
def test_no_negative_claim_passes_on_silence_alone(check: Check, result: str, alive: bool) -> None:
    """Whatever the probe says: without a count or a log entry of its own there is no pass."""
    assert outcome(check, result, local=ALIVE if alive else {}) is not Outcome.PASS


@given(st.sampled_from([FLOW, DENIED, INBOUND, SPOOFED, LEAK, HARMLESS, DATAGRAM]), st.booleans())
def test_a_probe_that_failed_by_itself_is_neither_pass_nor_failure(
    check: Check, alive: bool
) -> None:
    everything = report(denied=1, spoofed=1)
    assert outcome(check, "error", local=ALIVE if alive else {}, after=everything) is Outcome.ERROR


@pytest.mark.parametrize(
    "check", [FLOW, UDP, DENIED, INBOUND, FROM_HOST, SPOOFED, LEAK, HARMLESS, LOGGED, DATAGRAM]
)
def test_an_answer_that_cannot_be_read_is_an_error(check: Check) -> None:
    everything = report(denied=9, spoofed=9)
    assert outcome(check, UNREADABLE, local=ALIVE, after=everything, alerts=(HIT,)) is Outcome.ERROR


@pytest.mark.parametrize("check", [LEAK, HARMLESS, LOGGED, DATAGRAM])
@pytest.mark.parametrize("result", ["delivered", "stalled", "timeout"])
def test_without_the_log_of_the_ips_nothing_is_known_of_its_rules(
    check: Check, result: str
) -> None:
    assert (
        judge(check, Observed({check.id: Answer(result)}, {}, report(), report(), None)).outcome
        is Outcome.ERROR
    )


def test_a_forged_packet_of_which_the_firewall_says_nothing_is_an_error() -> None:
    seen = Observed(
        {SPOOFED.id: Answer("sent")}, {}, NOTHING, NOTHING, uncounted="the report cannot be read"
    )
    assert judge(SPOOFED, seen).outcome is Outcome.ERROR
    assert judge(SPOOFED, replace(seen, uncounted="")).outcome is Outcome.FAIL


@pytest.mark.parametrize(("protocol", "expected"), [("tcp", Outcome.PASS), ("udp", Outcome.ERROR)])
def test_an_event_of_the_other_protocol_on_that_port_is_somebody_elses(
    protocol: str, expected: Outcome
) -> None:
    assert outcome(LEAK, "stalled", alerts=(Alert("8", protocol, 4000, *FAR, True),)) is expected


@pytest.mark.parametrize(
    ("address", "expected"), [(str(SOURCE), Outcome.PASS), ("10.0.0.3", Outcome.ERROR)]
)
def test_an_event_of_the_same_port_of_another_vm_is_somebody_elses(
    address: str, expected: Outcome
) -> None:
    """From outside any address counts: it may have been translated on its way in."""
    probe = Probe("tcp", str(SOURCE), TARGET, 80, b"4111")
    event = Alert("8", "tcp", 4000, *FAR, True, address)
    assert outcome(replace(LEAK, probe=probe), "stalled", alerts=(event,)) is expected
    assert outcome(LEAK, "stalled", alerts=(event,)) is Outcome.PASS


@pytest.mark.parametrize(
    ("alerts", "expected"),
    [((), Outcome.ERROR), ((OTHER_RULE,), Outcome.PASS), ((HIT,), Outcome.FAIL)],
)
def test_a_harmless_payload_that_another_rule_stops_was_no_match_of_its_own(
    alerts: tuple[Alert, ...], expected: Outcome
) -> None:
    assert outcome(HARMLESS, "stalled", alerts=alerts) is expected


def test_an_answer_whose_harmless_payload_another_rule_stops_is_known_to_be_given() -> None:
    answers = {ANSWER.id: Answer("stalled", 4000), "leak/2": Answer("stalled", 4002)}
    seen = Observed(answers, {}, report(), report(), (HIT, Alert("9", "tcp", 4002, *FAR, True)))
    assert judge(ANSWER, seen).outcome is judge(HARMLESS_OF_ANSWER, seen).outcome is Outcome.PASS


@pytest.mark.parametrize(
    ("twin", "expected"),
    [((), Outcome.ERROR), ((Alert("9", "tcp", 4002, *FAR, True),), Outcome.NOT_TRIED)],
    ids=["the data alone", "the harmless payload, too"],
)
def test_what_other_rules_drop_first_did_not_reach_its_own_rule(
    twin: tuple[Alert, ...], expected: Outcome
) -> None:
    """It is no pass. If they drop the harmless payload as well, no such payload gets there."""
    check = replace(LEAK, twin="leak/2")
    answers = {check.id: Answer("stalled", 4000), "leak/2": Answer("stalled", 4002)}
    verdict = judge(check, Observed(answers, {}, report(), report(), (OTHER_RULE, *twin)))
    assert verdict.outcome is expected
    assert "other rules dropped it first: 9" in verdict.detail
