"""What is asked again, for how long, and what several tries mean together."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcloud.proof.checks import Check, Kind, Outcome, Probe
from vcloud.proof.observed import Verdict
from vcloud.proof.rounds import (
    CONTROL_MS,
    LONGEST_MS,
    ROUND_TRIPS,
    ROUNDS,
    added,
    asked_next,
    controls,
    in_sum,
    paced,
)

PROBE = Probe("tcp", "-", ip_address("10.0.0.2"), 80, timeout_ms=2000)
FLOW = Check("flow", Kind.FLOW, "web reaches db", "web", PROBE, True, "flow:orders")
DENIED = replace(FLOW, id="denied", kind=Kind.DENIED, passes=False)
HARMLESS = replace(FLOW, id="harmless", kind=Kind.LEAK)
PAYLOAD = replace(HARMLESS, id="payload", passes=False, twin="harmless")
PASS, FAIL, ERROR, NOT_RUN, NOT_TRIED = Outcome
outcomes = st.sampled_from(list(Outcome))


def tried(check: Check, *seen: Outcome, final: bool = False) -> tuple[Verdict, ...]:
    """What a busy machine may have caused; with `final` the last one stays."""
    last = len(seen) if final else 0
    return tuple(
        Verdict(check, outcome, f"seen {number}", final=number == last, excusable=number != last)
        for number, outcome in enumerate(seen, 1)
    )


def test_at_first_all_are_asked_and_then_what_did_not_pass() -> None:
    checks = [FLOW, DENIED]
    assert asked_next(checks, {}) == checks
    tries = added({}, (*tried(FLOW, PASS), *tried(DENIED, ERROR)))
    assert asked_next(checks, tries) == [DENIED]
    assert asked_next(checks, added(tries, tried(DENIED, PASS))) == []


@pytest.mark.parametrize("outcome", [FAIL, ERROR, NOT_RUN, NOT_TRIED])
def test_what_asking_again_cannot_change_is_not_asked_again(outcome: Outcome) -> None:
    assert asked_next([FLOW], {"flow": tried(FLOW, outcome)}) == [FLOW]
    assert asked_next([FLOW], {"flow": tried(FLOW, outcome, final=True)}) == []


def test_a_payload_is_asked_again_with_its_harmless_twin_and_not_the_other_way_round() -> None:
    checks = [HARMLESS, PAYLOAD, FLOW]
    tries = added({}, (*tried(HARMLESS, PASS), *tried(PAYLOAD, ERROR), *tried(FLOW, PASS)))
    assert asked_next(checks, tries) == [HARMLESS, PAYLOAD]
    again = added(tries, (*tried(HARMLESS, FAIL), *tried(PAYLOAD, PASS)))
    assert in_sum(again["harmless"], 0).outcome is PASS, "it had passed already"
    again = added(tries, (*tried(HARMLESS, FAIL, final=True), *tried(PAYLOAD, PASS)))
    assert in_sum(again["harmless"], 0).outcome is FAIL, "no busy machine matches a rule"
    tries = added({}, (*tried(HARMLESS, ERROR), *tried(PAYLOAD, PASS)))
    assert asked_next(checks[:2], tries) == [HARMLESS]


def test_what_passed_at_a_later_try_says_so_and_what_passed_at_once_does_not() -> None:
    late = in_sum(tried(FLOW, FAIL, ERROR, PASS), 0)
    assert late.outcome is PASS
    assert late.detail == "seen 3 (at try 3; before: fail, seen 1)"
    assert in_sum(tried(FLOW, PASS), 0).detail == "seen 1"


@pytest.mark.parametrize(
    ("seen", "outcome"),
    [
        ((FAIL, FAIL, FAIL), FAIL),
        ((FAIL, FAIL, ERROR), ERROR),
        ((ERROR, FAIL, FAIL), ERROR),
        ((NOT_RUN, FAIL, FAIL), NOT_RUN),
        ((NOT_TRIED, NOT_TRIED, NOT_TRIED), NOT_TRIED),
        ((ERROR, NOT_RUN, ERROR), ERROR),
    ],
)
def test_only_what_failed_every_time_failed(seen: tuple[Outcome, ...], outcome: Outcome) -> None:
    assert in_sum(tried(FLOW, *seen), 0).outcome is outcome


@pytest.mark.parametrize(
    ("excusable", "outcome"), [(False, FAIL), (True, PASS)], ids=["seen", "silent"]
)
def test_a_failure_that_no_busy_machine_can_cause_is_not_forgiven(
    excusable: bool, outcome: Outcome
) -> None:
    """A failure stays unless its verdict says that a busy machine may have caused it."""
    for check in (FLOW, DENIED, HARMLESS):
        seen = (Verdict(check, FAIL, "seen", excusable=excusable), *tried(check, PASS))
        assert in_sum(seen, 0).outcome is outcome
        assert asked_next([check], {check.id: seen[:1]}) == ([check] if excusable else [])


@given(st.lists(outcomes, min_size=1, max_size=ROUNDS), st.integers(0, 3))
def test_nothing_passes_that_did_not_pass_at_its_last_try(seen: list[Outcome], lost: int) -> None:
    for check in (DENIED, PAYLOAD):
        assert (in_sum(tried(check, *seen), lost).outcome is PASS) == (seen[-1] is PASS)


def test_what_came_through_once_has_failed_whatever_was_seen_before() -> None:
    assert in_sum(tried(PAYLOAD, ERROR, FAIL, final=True), 0).outcome is FAIL


@pytest.mark.parametrize(
    ("check", "seen", "final", "outcome"),
    [
        (PAYLOAD, FAIL, False, ERROR),
        (PAYLOAD, ERROR, False, ERROR),
        (HARMLESS, FAIL, False, ERROR),
        (PAYLOAD, PASS, False, PASS),
        (PAYLOAD, FAIL, True, FAIL),
        (PAYLOAD, NOT_TRIED, False, NOT_TRIED),
        (DENIED, FAIL, False, FAIL),
    ],
)
def test_a_packet_that_the_ips_lost_makes_red_payloads_an_error(
    check: Check, seen: Outcome, final: bool, outcome: Outcome
) -> None:
    """Not what came through: a lost packet does not arrive."""
    tries = tried(check, seen, seen, seen) if not final else tried(check, seen, final=True)
    verdict = in_sum(tries, 5)
    assert verdict.outcome is outcome
    assert ("5 packets" in verdict.detail) == (
        outcome is ERROR and check.kind is Kind.LEAK and not final
    )
    assert in_sum(tries, 0).outcome is seen


@pytest.mark.parametrize(
    ("number", "round_trip", "waits"),
    [
        (0, 0, 2000),
        (0, 10, 2000),
        (0, 200, 200 * ROUND_TRIPS),
        (1, 10, 6000),
        (2, 10, LONGEST_MS),
        (0, CONTROL_MS, LONGEST_MS),
        (0, 10**9, LONGEST_MS),
    ],
)
def test_a_probe_waits_as_long_as_control_probes_show_within_bounds(
    number: int, round_trip: int, waits: int
) -> None:
    assert paced(FLOW, number, round_trip).sent.timeout_ms == waits


def test_each_place_has_its_first_declared_tcp_flow_as_a_control() -> None:
    other = replace(FLOW, id="other", vantage="api")
    datagram = replace(FLOW, vantage="db", probe=replace(PROBE, protocol="udp"))
    unsent = replace(FLOW, vantage="log", probe=None)
    found = controls([replace(DENIED, vantage="db"), datagram, unsent, FLOW, DENIED, other])
    assert found == {"web": FLOW, "api": other}
