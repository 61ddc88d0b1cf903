"""Decides which checks are repeated and how long their probes wait, and joins the verdicts of several
tries. Pure.

On a busy machine a packet or its answer may be late or lost, or a program may not answer. So a
failure that this can cause is tried again, in at most `ROUNDS` rounds, each with more time than the
last. It counts only if the check fails in every round. Any other failure counts at once, and later
rounds cannot change it (`Verdict.stays`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from vcloud.proof.checks import Check, Kind, Outcome
from vcloud.proof.observed import Verdict
from vcloud.values import Protocol

ROUNDS = 3
PATIENCE = 3
"""In each round a probe waits so many times longer than in the round before."""
ROUND_TRIPS = 25
"""A probe waits at least so many times as long as the slowest control probe takes."""
CONTROL_MS = 5_000
"""How long a control probe waits. A round trip that is longer counts as this long."""
LONGEST_MS = 15_000
"""No probe waits longer."""

Tries = Mapping[str, Sequence[Verdict]]
"""Check id -> its verdicts so far, the first one first."""


def asked_next(checks: Sequence[Check], tries: Tries) -> list[Check]:
    """The checks of the next round: those without a final verdict, their twins, and those whose
    connections go to the same VMs in turn.
    """
    unsettled = [check for check in checks if not _settled(tries.get(check.id, ()))]
    ids = {check.id for check in unsettled} | {check.twin for check in unsettled}
    ids |= {turn.check for check in unsettled for turn in check.turns}
    return [check for check in checks if check.id in ids]


def added(tries: Tries, verdicts: Iterable[Verdict]) -> dict[str, tuple[Verdict, ...]]:
    """The tries with those of one more round. A check that had a final verdict was repeated only
    because another check needed it. Its verdict does not change, unless it now has a failure that
    stays.
    """
    found = {key: tuple(earlier) for key, earlier in tries.items()}
    for verdict in verdicts:
        earlier = found.get(verdict.check.id, ())
        if not _settled(earlier) or (verdict.stays and verdict.outcome is Outcome.FAIL):
            found[verdict.check.id] = (*earlier, verdict)
    return found


def _settled(tries: Sequence[Verdict]) -> bool:
    return any(verdict.outcome is Outcome.PASS or verdict.stays for verdict in tries)


def in_sum(tries: Sequence[Verdict], lost: int) -> Verdict:
    """The verdict on a check that was tried at least once.

    Args:
        tries: its verdicts, the first one first.
        lost: how many packets the IPS has lost during the run.
    """
    first, last = tries[0], tries[-1]
    stays = [verdict for verdict in tries if verdict.stays]
    if stays:
        failed = (verdict for verdict in stays if verdict.outcome is Outcome.FAIL)
        return next(failed, stays[0])
    if last.outcome is Outcome.PASS:
        told = f"{last.detail} (at try {len(tries)}; before: {first.outcome}, {first.detail})"
        return last if last is first else replace(last, detail=told)
    decided = (Outcome.PASS, Outcome.FAIL)
    unproven = next(
        (verdict for verdict in reversed(tries) if verdict.outcome not in decided), last
    )
    if lost and last.check.kind in (Kind.IPS, Kind.LEAK) and unproven.outcome in _RED:
        told = f"this could not be measured, because the IPS lost {lost} packets: {unproven.detail}"
        return replace(unproven, outcome=Outcome.ERROR, detail=told)
    return replace(unproven, detail=f"{unproven.detail} (in {len(tries)} tries)")


_RED = (Outcome.FAIL, Outcome.ERROR)


def controls(checks: Iterable[Check]) -> dict[str, Check]:
    """Place -> the check whose probe measures the round trip from there: the first declared TCP
    flow. Not every place has one.
    """
    found: dict[str, Check] = {}
    for check in checks:
        if check.kind is Kind.FLOW and check.probe and check.probe.protocol == Protocol.TCP:
            found.setdefault(check.vantage, check)
    return found


def paced(check: Check, number: int, round_trip_ms: int) -> Check:
    """The check with the timeout of its probe for a round (0, 1, ...). `round_trip_ms` is the time
    of the slowest control probe.
    """
    asked = check.sent.timeout_ms * PATIENCE**number
    waits = min(LONGEST_MS, max(asked, ROUND_TRIPS * min(round_trip_ms, CONTROL_MS)))
    return replace(check, probe=replace(check.sent, timeout_ms=waits))
