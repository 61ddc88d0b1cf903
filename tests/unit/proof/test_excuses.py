"""What silence may be excused with, what no other try can change, and whose an event is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.proof.samples import (
    ALIVE,
    ANSWER,
    DATAGRAM,
    DENIED,
    FAR,
    FLOW,
    FROM_HOST,
    HARMLESS_OF_ANSWER,
    LEAK,
    LISTENER,
    LOGGED,
    SOURCE,
    SPOOFED,
    TARGET,
    UDP,
    outcome,
    report,
)
from vcloud.proof.checks import Check, Listener, Outcome
from vcloud.proof.ips_report import Alert
from vcloud.proof.judge import judge
from vcloud.proof.observed import Answer, Observed


@pytest.mark.parametrize(
    ("far", "expected"),
    [
        (FAR, Outcome.PASS),
        ((str(TARGET), 81), Outcome.ERROR),
        ((str(SOURCE), 80), Outcome.ERROR),
    ],
)
def test_an_event_of_the_same_port_towards_another_end_is_somebody_elses(
    far: tuple[str, int], expected: Outcome
) -> None:
    assert outcome(LEAK, "stalled", alerts=(Alert("8", "tcp", 4000, *far, True),)) is expected


def test_behind_a_published_port_the_ips_sees_the_address_of_the_vm() -> None:
    published = replace(LEAK, listener=Listener("db", "tcp", "10.0.32.2", 8080))
    inside, outside = (Alert("8", "tcp", 4000, *end, True) for end in (("10.0.32.2", 8080), FAR))
    assert outcome(published, "stalled", alerts=(inside,)) is Outcome.PASS
    assert outcome(published, "stalled", alerts=(outside,)) is Outcome.ERROR


@pytest.mark.parametrize(
    ("vm", "expected"),
    [("10.0.32.2", Outcome.PASS), ("10.0.32.3", Outcome.PASS), ("10.0.32.4", Outcome.ERROR)],
)
def test_behind_a_published_port_of_replicas_any_of_them_may_have_got_the_probe(
    vm: str, expected: Outcome
) -> None:
    published = replace(
        LEAK,
        listener=Listener("db-1", "tcp", "10.0.32.2", 8080),
        published=("10.0.32.2", "10.0.32.3"),
    )
    alert = Alert("8", "tcp", 4000, vm, 8080, blocked=True)
    assert outcome(published, "stalled", alerts=(alert,)) is expected


@pytest.mark.parametrize(
    ("busy", "back", "expected", "final"),
    [
        (True, b"404", Outcome.NOT_TRIED, True),
        (True, b"", Outcome.NOT_TRIED, False),
        (False, b"404", Outcome.NOT_RUN, False),
        (False, b"", Outcome.NOT_RUN, False),
    ],
)
def test_a_service_that_sends_nothing_back_leaves_its_detector_untried_and_our_listener_does_not(
    busy: bool, back: bytes, expected: Outcome, final: bool
) -> None:
    listener = Listener("db", "tcp", str(TARGET), 80)
    answers = {ANSWER.id: Answer("delivered", 4000), "leak/2": Answer("delivered", 4002, back)}
    seen = Observed(answers, {}, report(), report(), busy=frozenset({listener} if busy else ()))
    for check in (ANSWER, HARMLESS_OF_ANSWER):
        verdict = judge(replace(check, listener=listener), seen)
        assert (verdict.outcome, verdict.stays) == (expected, final)


@pytest.mark.parametrize(
    ("busy", "local", "flow", "harmless"),
    [
        (True, "timeout", Outcome.NOT_TRIED, Outcome.NOT_TRIED),
        (True, "answered", Outcome.FAIL, Outcome.ERROR),
        (False, "timeout", Outcome.ERROR, Outcome.ERROR),
    ],
)
def test_a_service_that_ignores_datagrams_leaves_its_flow_untried(
    busy: bool, local: str, flow: Outcome, harmless: Outcome
) -> None:
    """If it answers within its own VM, it is the path that is silent."""
    listener = replace(LISTENER, protocol="udp")
    for check, expected in ((UDP, flow), (replace(DATAGRAM, passes=True), harmless)):
        seen = Observed(
            {check.id: Answer("timeout", 4000)},
            {listener: Answer(local)},
            report(),
            report(),
            busy=frozenset({listener} if busy else ()),
        )
        assert judge(replace(check, listener=listener), seen).outcome is expected


@pytest.mark.parametrize(
    ("check", "result", "final"),
    [
        (DENIED, "open", True),
        (FROM_HOST, "refused", True),
        (LEAK, "delivered", True),
        (DENIED, "timeout", False),
        (LEAK, "stalled", False),
        (FLOW, "timeout", False),
        (FLOW, "refused", True),
        (FLOW, "reset", True),
        (FLOW, "unreachable", False),
        (SPOOFED, "sent", False),
        (LOGGED, "delivered", False),
    ],
)
def test_only_what_came_through_is_final(check: Check, result: str, final: bool) -> None:
    seen = Observed(
        {check.id: Answer(result, 4000)}, ALIVE, report(), report(), busy=frozenset(ALIVE)
    )
    verdict = judge(check, seen)
    assert (verdict.outcome is not Outcome.PASS, verdict.stays) == (True, final)


def test_what_is_excused_was_not_tried() -> None:
    check = replace(LEAK, probe=None, reason="no flow can carry it", excused=True)
    assert judge(check, Observed({}, {}, report(), report())).outcome is Outcome.NOT_TRIED


@pytest.mark.parametrize(
    ("result", "other", "own", "expected", "final"),
    [
        ("sent", 0, 1, Outcome.PASS, False),
        ("sent", 0, 0, Outcome.ERROR, False),
        ("sent", 1, 1, Outcome.FAIL, True),
        ("sent", 1, 0, Outcome.FAIL, True),
        ("error", 0, 1, Outcome.ERROR, False),
    ],
)
def test_a_frame_that_the_host_must_drop_needs_a_twin_that_the_firewall_has_seen(
    result: str, other: int, own: int, expected: Outcome, final: bool
) -> None:
    check = replace(SPOOFED, source=SOURCE, beside=TARGET)
    counts = {("front", str(SOURCE)): other, ("front", str(TARGET)): own}
    before = replace(report(), spoofed={})
    seen = Observed({check.id: Answer(result)}, {}, before, replace(before, spoofed=counts))
    verdict = judge(check, seen)
    assert (verdict.outcome, verdict.stays) == (expected, final)
