"""What observations mean. The rule above all: what was not proven did not pass."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcloud.proof.checks import HOST, OUTSIDE, Check, Echo, Kind, Listener, Outcome, Probe
from vcloud.proof.firewall_report import NOTHING, Denied, FirewallReport
from vcloud.proof.judge import UNREADABLE, Alert, Answer, Observed, judge
from vcloud.verify.run import parse_alerts, parse_answers, parse_pid

SOURCE, TARGET = ip_address("10.0.0.2"), ip_address("10.0.16.2")
LISTENER = Listener("db", "tcp", str(TARGET), 22)
KEY: Denied = (str(SOURCE), str(TARGET), "tcp", 22)
ALIVE, DEAD = {LISTENER: Answer("open")}, {LISTENER: Answer("refused")}
FLOW = Check("flow/1", Kind.FLOW, "web reaches db", "web", Probe("tcp", str(SOURCE), TARGET, 22), True, "orders", LISTENER, SOURCE)
DENIED = Check("denied/1", Kind.DENIED, "web does not reach db", "web", Probe("tcp", str(SOURCE), TARGET, 22), False, "", LISTENER, SOURCE)
INBOUND = replace(DENIED, vantage=OUTSIDE, listener=None, source=None)
FROM_HOST = replace(DENIED, kind=Kind.HOST, vantage=HOST, source=None)
SPOOFED = replace(DENIED, kind=Kind.SPOOFED, probe=Probe("spoof-udp", str(SOURCE), TARGET, 9), listener=None, card="front")
LEAK = Check("leak/1", Kind.LEAK, "drops its payload", "web", Probe("tcp", "-", TARGET, 80, b"4111"), False, "orders", rules=("7", "8"))
NEAR_MISS = replace(LEAK, passes=True)
LOGGED = replace(LEAK, blocked=False)
NEAR_MISS_OF_ANSWER = replace(NEAR_MISS, id="leak/2", probe=Probe("tcp", "-", TARGET, 80, b"4112"), echo=Echo("leak/2", b"4112"))
ANSWER = replace(LEAK, echo=NEAR_MISS_OF_ANSWER.echo)
DATAGRAM = replace(LEAK, probe=Probe("udp", "-", TARGET, 80, b"4111"))
UDP = replace(FLOW, probe=Probe("udp", str(SOURCE), TARGET, 22))
HIT, OTHERS_HIT, OTHER_RULE = Alert("8", "tcp", 4000, True), Alert("8", "tcp", 4001, True), Alert("9", "tcp", 4000, True)
RESULTS = ("open", "refused", "answered", "delivered", "reset", "timeout", "unreachable", "stalled", "sent", "error", "nonsense")


def report(denied: int = 0, flow: int = 0, spoofed: int = 0) -> FirewallReport:
    forged = {("front", str(SOURCE)): spoofed, ("back", str(SOURCE)): 9, ("front", str(TARGET)): 9}
    return FirewallReport("digest", 0, 100, ("inet vcloud",), {"orders": flow}, {}, {KEY: denied} if denied else {}, forged)


def outcome(
    check: Check,
    result: str,
    *,
    twins: dict[Listener, Answer] | None = None,
    after: FirewallReport | None = None,
    alerts: tuple[Alert, ...] = (),
) -> Outcome:
    """The verdict where the probe left from port 4000 and the firewall began with nothing counted."""
    seen = Observed({check.id: Answer(result, 4000)}, twins or {}, report(), after or report(), alerts)
    return judge(check, seen).outcome


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ("open", Outcome.PASS),
        ("answered", Outcome.PASS),
        ("delivered", Outcome.PASS),
        ("refused", Outcome.FAIL),
        ("reset", Outcome.FAIL),
        ("timeout", Outcome.FAIL),
        ("unreachable", Outcome.FAIL),
        ("error", Outcome.ERROR),
    ],
)
def test_what_is_declared_must_come_through(result: str, expected: Outcome) -> None:
    assert outcome(FLOW, result, twins=ALIVE) is expected


@pytest.mark.parametrize("flow", [0, 9])
@pytest.mark.parametrize(
    ("twins", "denied", "expected"),
    [(DEAD, 0, Outcome.ERROR), ({}, 0, Outcome.ERROR), (DEAD, 1, Outcome.FAIL), (ALIVE, 0, Outcome.FAIL), (ALIVE, 1, Outcome.FAIL)],
)
def test_a_datagram_that_nobody_answers_is_no_pass_whatever_its_flow_has_carried(
    flow: int, twins: dict[Listener, Answer], denied: int, expected: Outcome
) -> None:
    """The flow's count may be the other family's, another replica's or a customer's; what was denied is told of this very datagram."""
    key: Denied = (str(SOURCE), str(TARGET), "udp", 22)
    after = replace(report(flow=flow), denied={key: denied} if denied else {})
    assert outcome(UDP, "timeout", twins=twins, after=after) is expected


def test_a_datagram_to_a_vm_that_nobody_can_look_into_was_not_run() -> None:
    seen = Observed({UDP.id: Answer("timeout")}, {}, report(), report(flow=1), reasons={LISTENER.vm: "it has no agent"})
    assert judge(UDP, seen).outcome is Outcome.NOT_RUN


def test_a_silent_tcp_service_is_not_excused() -> None:
    assert outcome(FLOW, "timeout", twins=DEAD, after=report(flow=1)) is Outcome.FAIL


@pytest.mark.parametrize("result", ["timeout", "unreachable"])
@pytest.mark.parametrize(
    ("twins", "denied", "expected"),
    [
        pytest.param(ALIVE, 1, Outcome.PASS, id="proven"),
        pytest.param(ALIVE, 0, Outcome.ERROR, id="lost before the firewall"),
        pytest.param(DEAD, 1, Outcome.ERROR, id="nobody listens"),
        pytest.param({}, 1, Outcome.ERROR, id="nobody was asked"),
        pytest.param(DEAD, 0, Outcome.ERROR, id="nothing at all"),
    ],
)
def test_silence_is_a_pass_only_with_its_twin_and_the_firewalls_count(
    result: str, twins: dict[Listener, Answer], denied: int, expected: Outcome
) -> None:
    assert outcome(DENIED, result, twins=twins, after=report(denied=denied)) is expected


@pytest.mark.parametrize("result", ["open", "refused", "answered", "delivered", "reset"])
def test_whatever_comes_back_came_through(result: str) -> None:
    """A refusal too: the packet reached the target. No count and no twin can excuse it."""
    assert outcome(DENIED, result, twins=ALIVE, after=report(denied=1)) is Outcome.FAIL


def test_what_was_counted_before_is_no_proof() -> None:
    seen = Observed({DENIED.id: Answer("timeout")}, ALIVE, report(denied=3), report(denied=3))
    assert judge(DENIED, seen).outcome is Outcome.ERROR


def test_a_packet_of_somebody_else_is_no_proof() -> None:
    other = replace(report(), denied={(str(SOURCE), str(TARGET), "tcp", 23): 5, (str(TARGET), str(SOURCE), "tcp", 22): 5})
    assert outcome(DENIED, "timeout", twins=ALIVE, after=other) is Outcome.ERROR


@pytest.mark.parametrize(("denied", "expected"), [(1, Outcome.PASS), (0, Outcome.ERROR)])
def test_from_outside_silence_needs_the_firewalls_count_of_that_port(denied: int, expected: Outcome) -> None:
    assert outcome(INBOUND, "timeout", after=report(denied=denied)) is expected
    other = replace(INBOUND, probe=Probe("tcp", "-", TARGET, 23))
    assert outcome(other, "timeout", after=report(denied=denied)) is Outcome.ERROR


@pytest.mark.parametrize(("result", "expected"), [("timeout", Outcome.PASS), ("unreachable", Outcome.PASS), ("refused", Outcome.FAIL)])
def test_the_host_must_find_no_way_to_what_answers(result: str, expected: Outcome) -> None:
    assert outcome(FROM_HOST, result, twins=ALIVE) is expected
    assert outcome(FROM_HOST, "timeout", twins=DEAD) is Outcome.ERROR


@pytest.mark.parametrize("check", [DENIED, FROM_HOST])
def test_where_nobody_could_look_whether_the_target_answers_it_was_not_run(check: Check) -> None:
    seen = Observed({check.id: Answer("timeout")}, {}, report(), report(denied=1), reasons={LISTENER.vm: "it has no agent"})
    verdict = judge(check, seen)
    assert verdict.outcome is Outcome.NOT_RUN
    assert "it has no agent" in verdict.detail


@pytest.mark.parametrize(
    ("result", "spoofed", "expected"),
    [("sent", 1, Outcome.PASS), ("sent", 0, Outcome.FAIL), ("error", 1, Outcome.ERROR), ("error", 0, Outcome.ERROR)],
)
def test_a_forged_packet_must_be_sent_and_counted_as_such(result: str, spoofed: int, expected: Outcome) -> None:
    assert outcome(SPOOFED, result, after=report(spoofed=spoofed)) is expected


@pytest.mark.parametrize("result", ["stalled", "reset"])
@pytest.mark.parametrize(
    ("alerts", "expected"), [((HIT,), Outcome.PASS), ((), Outcome.ERROR), ((OTHERS_HIT,), Outcome.ERROR), ((OTHER_RULE,), Outcome.ERROR)]
)
def test_a_payload_must_be_dropped_and_logged_by_its_rule(result: str, alerts: tuple[Alert, ...], expected: Outcome) -> None:
    assert outcome(LEAK, result, alerts=alerts) is expected


@pytest.mark.parametrize(("result", "expected"), [("delivered", Outcome.FAIL), ("timeout", Outcome.ERROR), ("refused", Outcome.ERROR)])
def test_a_payload_that_came_through_fails_and_one_that_never_left_proves_nothing(result: str, expected: Outcome) -> None:
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
def test_a_near_miss_must_pass_unseen(result: str, alerts: tuple[Alert, ...], expected: Outcome) -> None:
    assert outcome(NEAR_MISS, result, alerts=alerts) is expected


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
def test_a_datagram_must_be_dropped_and_logged(result: str, alerts: tuple[Alert, ...], expected: Outcome) -> None:
    datagrams = tuple(replace(alert, protocol="udp") for alert in alerts)
    assert outcome(DATAGRAM, result, alerts=datagrams) is expected


@pytest.mark.parametrize(
    ("answer", "near_miss", "alerts", "expected"),
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
    result: str, answer: bytes, near_miss: bytes, alerts: tuple[Alert, ...], expected: Outcome
) -> None:
    answers = {ANSWER.id: Answer(result, 4000, answer), "leak/2": Answer("delivered", 4002, near_miss)}
    seen = Observed(answers, {}, report(), report(), alerts)
    assert judge(ANSWER, seen).outcome is expected
    passes = Outcome.PASS if near_miss == b"4112" else Outcome.NOT_RUN
    assert judge(NEAR_MISS_OF_ANSWER, seen).outcome is passes


@pytest.mark.parametrize("check", [FLOW, DENIED, INBOUND, FROM_HOST, SPOOFED, LEAK, NEAR_MISS, LOGGED])
def test_what_was_not_sent_was_not_run_and_says_why(check: Check) -> None:
    full = report(denied=9, flow=9, spoofed=9)
    verdict = judge(check, Observed({}, ALIVE, report(), full, (HIT,), {check.vantage: "its agent is silent"}))
    assert (verdict.outcome, verdict.detail) == (Outcome.NOT_RUN, "its agent is silent")


def test_what_cannot_be_sent_gives_its_own_reason() -> None:
    check = replace(LEAK, probe=None, reason="no declared flow can carry it")
    verdict = judge(check, Observed({}, {}, report(), report()))
    assert (verdict.outcome, verdict.detail) == (Outcome.NOT_RUN, "no declared flow can carry it")


@given(st.sampled_from([DENIED, INBOUND, SPOOFED, LEAK, LOGGED, ANSWER, DATAGRAM]), st.sampled_from(RESULTS), st.booleans())
def test_no_negative_claim_passes_on_silence_alone(check: Check, result: str, alive: bool) -> None:
    """Whatever the probe says: without a count or a log entry of its own there is no pass."""
    assert outcome(check, result, twins=ALIVE if alive else {}) is not Outcome.PASS


@given(st.sampled_from([FLOW, DENIED, INBOUND, SPOOFED, LEAK, NEAR_MISS, DATAGRAM]), st.booleans())
def test_a_probe_that_failed_by_itself_is_neither_pass_nor_failure(check: Check, alive: bool) -> None:
    everything = report(denied=1, flow=1, spoofed=1)
    assert outcome(check, "error", twins=ALIVE if alive else {}, after=everything) is Outcome.ERROR


@pytest.mark.parametrize("check", [FLOW, UDP, DENIED, INBOUND, FROM_HOST, SPOOFED, LEAK, NEAR_MISS, LOGGED, DATAGRAM])
def test_an_answer_that_cannot_be_read_is_an_error(check: Check) -> None:
    everything = report(denied=9, flow=9, spoofed=9)
    assert outcome(check, UNREADABLE, twins=ALIVE, after=everything, alerts=(HIT,)) is Outcome.ERROR


@pytest.mark.parametrize("check", [LEAK, NEAR_MISS, LOGGED, DATAGRAM])
@pytest.mark.parametrize("result", ["delivered", "stalled", "timeout"])
def test_without_the_log_of_the_ips_nothing_is_known_of_its_rules(check: Check, result: str) -> None:
    assert judge(check, Observed({check.id: Answer(result)}, {}, report(), report(), None)).outcome is Outcome.ERROR


def test_a_forged_packet_of_which_the_firewall_says_nothing_is_an_error() -> None:
    seen = Observed({SPOOFED.id: Answer("sent")}, {}, NOTHING, NOTHING, uncounted="the report cannot be read")
    assert judge(SPOOFED, seen).outcome is Outcome.ERROR
    assert judge(SPOOFED, replace(seen, uncounted="")).outcome is Outcome.FAIL


def line(**fields: object) -> bytes:
    return json.dumps({"id": "0", "result": "open", "port": 5} | fields).encode()


DEEP = b"[" * 100_000
HOSTILE = [
    b"",
    b"\xff\x00",
    b"null",
    b"7",
    b"[]",
    b"{}",
    DEEP,
    b'{"id": "0", "result": "open", "port": ' + b"9" * 5000 + b"}",
    b'{"id": "0", "result": "open", "port": Infinity}',
    line(result="pass"),
    line(result="open\x1b[2J"),
    line(result=["open"]),
    line(port="5"),
    line(port=-1),
    line(port=1 << 70),
    line(port=None),
    line(answer=7),
    line(answer="a"),
    line(id="1"),
    line(id={"0": "0"}),
]


@pytest.mark.parametrize("output", HOSTILE, ids=lambda output: repr(output[:40]))
def test_an_answer_that_makes_no_sense_costs_that_probe_and_no_other(output: bytes) -> None:
    good = line(id="2", answer="aGVsbG8=")
    assert parse_answers(output + b"\n" + good, 3)[0] == Answer(UNREADABLE)
    assert parse_answers(output + b"\n" + good, 3)[2] == Answer("open", 5, b"hello")


def test_answers_are_those_that_were_asked_for() -> None:
    assert parse_answers(line() + b"\n" + line(id="1", result="timeout") + b"\n" + line(id="77"), 2) == (
        Answer("open", 5),
        Answer("timeout", 5),
    )


@pytest.mark.parametrize("output", [b"", b"[]", b"{}", b'{"pid": "x"}', b'{"pid": [1]}', b'{"pid": Infinity}', DEEP])
def test_a_listener_that_does_not_say_its_number_has_none(output: bytes) -> None:
    assert parse_pid(output) is None
    assert parse_pid(b'{"pid": 44, "bound": []}') == 44


@pytest.mark.parametrize(
    "event",
    [
        b"null",
        b"[1]",
        DEEP,
        b'{"event_type": "alert"}',
        b'{"event_type": "alert", "alert": []}',
        b'{"event_type": "alert", "alert": {"signature_id": 5}, "src_port": "x"}',
        b'{"event_type": ["drop"], "drop": 1}',
        b'{"event_type": "drop", "drop": 1}',
    ],
    ids=lambda event: repr(event[:60]),
)
def test_an_event_that_makes_no_sense_is_passed_over(event: bytes) -> None:
    whole = b'{"event_type": "drop", "proto": "TCP", "src_port": 7, "dest_port": 8, "drop": {"reason": "applayer error"}}'
    assert set(parse_alerts(event + b"\n" + whole)) >= {Alert("applayer error", "tcp", 7, True), Alert("applayer error", "tcp", 8, True)}
    assert len(parse_alerts(whole)) == 2


def test_a_half_written_event_at_the_end_of_the_log_is_left_for_the_next_time() -> None:
    whole = b'{"event_type": "alert", "proto": "TCP", "src_port": 7, "dest_port": 8, "alert": {"signature_id": 5, "action": "blocked"}}'
    assert parse_alerts(whole + b"\n" + whole[:-1]) == (Alert("5", "tcp", 7, True), Alert("5", "tcp", 8, True))


def test_events_of_earlier_runs_prove_nothing_today() -> None:
    """Ports come again; the IPS says by its own clock when it saw what."""

    def event(when: str, sid: int) -> bytes:
        return json.dumps(
            {"timestamp": when, "event_type": "alert", "proto": "TCP", "src_port": 4000, "alert": {"signature_id": sid}}
        ).encode()

    log = event("2030-01-01T00:00:01.000001+0000", 1) + b"\n" + event("2030-01-01T00:00:01.000002+0000", 2)
    assert {alert.rule for alert in parse_alerts(log)} == {"1", "2"}
    assert {alert.rule for alert in parse_alerts(log, "2030-01-01T00:00:01.000001+0000")} == {"2"}


@pytest.mark.parametrize(("protocol", "expected"), [("tcp", Outcome.PASS), ("udp", Outcome.ERROR)])
def test_an_event_of_the_other_protocol_on_that_port_is_somebody_elses(protocol: str, expected: Outcome) -> None:
    assert outcome(LEAK, "stalled", alerts=(Alert("8", protocol, 4000, True),)) is expected


@pytest.mark.parametrize(("alerts", "expected"), [((), Outcome.ERROR), ((OTHER_RULE,), Outcome.PASS), ((HIT,), Outcome.FAIL)])
def test_a_near_miss_that_another_rule_stops_was_no_match_of_its_own(alerts: tuple[Alert, ...], expected: Outcome) -> None:
    assert outcome(NEAR_MISS, "stalled", alerts=alerts) is expected


def test_an_answer_whose_near_miss_another_rule_stops_is_known_to_be_given() -> None:
    answers = {ANSWER.id: Answer("stalled", 4000), "leak/2": Answer("stalled", 4002)}
    seen = Observed(answers, {}, report(), report(), (HIT, Alert("9", "tcp", 4002, True)))
    assert judge(ANSWER, seen).outcome is judge(NEAR_MISS_OF_ANSWER, seen).outcome is Outcome.PASS
