"""Verdicts as text, data and JUnit XML, and the exit code that they mean. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any
from xml.etree import ElementTree

from vcloud.errors import Exit
from vcloud.proof.checks import Outcome
from vcloud.proof.judge import Verdict

LONGEST = 400
"""Characters of a detail, part of which a VM may have said."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What one run of `verify` found."""

    verdicts: tuple[Verdict, ...]
    left_out: str
    """What no check tries, in one line; empty where that is nothing."""


def exit_code(verdicts: Sequence[Verdict]) -> Exit:
    """4 when a check failed; 5 when one could not be made, or there was none at all: nothing checked is not a pass."""
    outcomes = {verdict.outcome for verdict in verdicts}
    if Outcome.FAIL in outcomes:
        return Exit.CHECK_FAILED
    if not outcomes or outcomes & {Outcome.ERROR, Outcome.NOT_RUN}:
        return Exit.NOT_CHECKED
    return Exit.DONE


def plain(text: str) -> str:
    """The text as it may be shown on a terminal and stand in XML, whoever said it: printable, and no longer than `LONGEST`."""
    return "".join(char if char.isprintable() else " " for char in text[:LONGEST])


def summary(verdicts: Sequence[Verdict], left_out: str = "") -> str:
    counts = Counter(verdict.outcome for verdict in verdicts)
    told = f"{len(verdicts)} checks: " + ", ".join(f"{counts[outcome]} {outcome}" for outcome in Outcome if counts[outcome])
    return told + (f"\nnot tried: {left_out}" if left_out else "")


def rows(verdicts: Sequence[Verdict], all_checks: bool) -> list[tuple[str, str, str, str]]:
    """Every check; or a line per kind for those that passed, one per reason for those that were not run, and one for each other."""
    if all_checks:
        return [(verdict.check.kind, verdict.outcome, verdict.check.claim, plain(verdict.detail)) for verdict in verdicts]
    lines = []
    for kind, group in groupby(sorted(verdicts, key=lambda verdict: verdict.check.kind), key=lambda verdict: verdict.check.kind):
        members = list(group)
        passed = [verdict for verdict in members if verdict.outcome is Outcome.PASS]
        if passed:
            lines.append((str(kind), str(Outcome.PASS), f"{len(passed)} of {len(members)}", f"for example: {passed[0].check.claim}"))
        lines += [
            (str(kind), str(alike[0].outcome), _claim(alike, len(members)), plain(alike[0].detail))
            for alike in _alike([verdict for verdict in members if verdict.outcome is not Outcome.PASS])
        ]
    return lines


def _alike(verdicts: Sequence[Verdict]) -> Iterator[list[Verdict]]:
    """Each verdict by itself, but those together that were not run for the same reason."""
    groups: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        groups.setdefault(verdict.detail if verdict.outcome is Outcome.NOT_RUN else f"id {verdict.check.id}", []).append(verdict)
    yield from groups.values()


def _claim(alike: Sequence[Verdict], count: int) -> str:
    claim = alike[0].check.claim
    return claim if len(alike) == 1 else f"{len(alike)} of {count}, for example: {claim}"


def as_data(verdicts: Sequence[Verdict], left_out: str = "") -> dict[str, Any]:
    checks = [
        {
            "id": v.check.id,
            "kind": v.check.kind.value,
            "claim": v.check.claim,
            "from": v.check.vantage,
            "outcome": v.outcome.value,
            "detail": plain(v.detail),
        }
        for v in verdicts
    ]
    counts = Counter(verdict.outcome for verdict in verdicts)
    return {
        "summary": {outcome.value: counts[outcome] for outcome in Outcome},
        "exit": int(exit_code(verdicts)),
        "not_tried": left_out,
        "checks": checks,
    }


def junit_xml(verdicts: Sequence[Verdict]) -> bytes:
    """One suite per kind of check; what could not be checked is an error there, what was not run is skipped with its reason."""
    root = ElementTree.Element("testsuites")
    for kind, group in groupby(sorted(verdicts, key=lambda verdict: verdict.check.kind), key=lambda verdict: verdict.check.kind):
        members = list(group)
        suite = ElementTree.SubElement(root, "testsuite", name=kind, tests=str(len(members)))
        for attribute, outcome in (("failures", Outcome.FAIL), ("errors", Outcome.ERROR), ("skipped", Outcome.NOT_RUN)):
            suite.set(attribute, str(sum(verdict.outcome is outcome for verdict in members)))
        for verdict in members:
            case = ElementTree.SubElement(suite, "testcase", classname=kind, name=verdict.check.claim)
            if verdict.outcome is not Outcome.PASS:
                tag = {Outcome.FAIL: "failure", Outcome.ERROR: "error", Outcome.NOT_RUN: "skipped"}[verdict.outcome]
                ElementTree.SubElement(case, tag, message=plain(verdict.detail))
    result: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return result
