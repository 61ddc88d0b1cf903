"""What observations mean. The rule above all: what was not proven did not pass."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcloud.proof.checks import HOST, Check, Echo, Kind, Listener, Outcome, Probe
from vcloud.proof.firewall_report import NOTHING, Denied, FirewallReport
from vcloud.proof.ips_report import Alert
from vcloud.proof.judge import UNREADABLE, Answer, Observed, inconclusive, judge
from vcloud.values import INTERNET

SOURCE, TARGET = ip_address("10.0.0.2"), ip_address("10.0.16.2")
LISTENER = Listener("db", "tcp", str(TARGET), 22)
KEY: Denied = (str(SOURCE), str(TARGET), "tcp", 22)
ALIVE, DEAD = {LISTENER: Answer("open")}, {LISTENER: Answer("refused")}
FLOW = Check(
    "flow/1",
    Kind.FLOW,
    "web reaches db",
    "web",
    Probe("tcp", str(SOURCE), TARGET, 22),
    True,
    "flow:orders",
    LISTENER,
    SOURCE,
)
DENIED = Check(
    "denied/1",
    Kind.DENIED,
    "web does not reach db",
    "web",
    Probe("tcp", str(SOURCE), TARGET, 22),
    False,
    "ctl:default-deny",
    LISTENER,
    SOURCE,
)
INBOUND = replace(DENIED, vantage=INTERNET, listener=None, source=None)
FROM_HOST = replace(DENIED, kind=Kind.HOST, vantage=HOST, source=None)
SPOOFED = replace(
    DENIED,
    kind=Kind.SPOOFED,
    probe=Probe("spoof-udp", str(SOURCE), TARGET, 9),
    listener=None,
    nic="front",
)
LEAK = Check(
    "leak/1",
    Kind.LEAK,
    "drops its payload",
    "web",
    Probe("tcp", "-", TARGET, 80, b"4111"),
    False,
    "detector:card",
    rules=("7", "8"),
)
HARMLESS = replace(LEAK, passes=True)
LOGGED = replace(LEAK, blocked=False)
HARMLESS_OF_ANSWER = replace(
    HARMLESS,
    id="leak/2",
    probe=Probe("tcp", "-", TARGET, 80, b"4112"),
    echo=Echo("leak/2", b"4112"),
)
ANSWER = replace(LEAK, echo=HARMLESS_OF_ANSWER.echo)
DATAGRAM = replace(LEAK, probe=Probe("udp", "-", TARGET, 80, b"4111"))
UDP = replace(FLOW, probe=Probe("udp", str(SOURCE), TARGET, 22))
HIT, OTHERS_HIT, OTHER_RULE = (
    Alert("8", "tcp", 4000, True),
    Alert("8", "tcp", 4001, True),
    Alert("9", "tcp", 4000, True),
)
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


def report(denied: int = 0, spoofed: int = 0) -> FirewallReport:
    forged = {("front", str(SOURCE)): spoofed, ("back", str(SOURCE)): 9, ("front", str(TARGET)): 9}
    return FirewallReport("digest", ("inet vcloud",), {KEY: denied} if denied else {}, forged)


def outcome(
    check: Check,
    result: str,
    *,
    local: dict[Listener, Answer] | None = None,
    after: FirewallReport | None = None,
    alerts: tuple[Alert, ...] = (),
) -> Outcome:
    """The verdict where the probe left from port 4000 and the firewall began with nothing counted."""
    seen = Observed(
        {check.id: Answer(result, 4000)}, local or {}, report(), after or report(), alerts
    )
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
    assert outcome(FLOW, result, local=ALIVE) is expected


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


@pytest.mark.parametrize(
    ("check", "result", "again"),
    [
        (FLOW, "timeout", True),
        (FLOW, "open", False),
        (FLOW, "refused", False),
        (HARMLESS, "stalled", True),
        (HARMLESS, "delivered", False),
        (LEAK, "timeout", True),
        (LEAK, "stalled", False),
        (DATAGRAM, "timeout", False),
        (DENIED, "timeout", False),
        (SPOOFED, "sent", False),
    ],
)
def test_silence_is_asked_again_only_where_an_answer_would_be_good_news(
    check: Check, result: str, again: bool
) -> None:
    """A packet that must be blocked is not sent twice: its silence is what should be."""
    assert inconclusive(check, Answer(result)) is again
    assert not inconclusive(check, None)


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
    assert outcome(LEAK, "stalled", alerts=(Alert("8", protocol, 4000, True),)) is expected


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
    seen = Observed(answers, {}, report(), report(), (HIT, Alert("9", "tcp", 4002, True)))
    assert judge(ANSWER, seen).outcome is judge(HARMLESS_OF_ANSWER, seen).outcome is Outcome.PASS
