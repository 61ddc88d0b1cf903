"""Verdicts as text, data and JUnit XML, and the exit code that they mean. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from typing import Any
from xml.etree import ElementTree

from vcloud.errors import Exit
from vcloud.verify.checks import Outcome
from vcloud.verify.judge import Verdict


def exit_code(verdicts: Sequence[Verdict]) -> Exit:
    """4 when a check failed; 5 when one could not be made, or there was none at all: nothing checked is not a pass."""
    outcomes = {verdict.outcome for verdict in verdicts}
    if Outcome.FAIL in outcomes:
        return Exit.CHECK_FAILED
    if not outcomes or outcomes & {Outcome.ERROR, Outcome.NOT_RUN}:
        return Exit.NOT_CHECKED
    return Exit.DONE


def summary(verdicts: Sequence[Verdict]) -> str:
    counts = Counter(verdict.outcome for verdict in verdicts)
    return f"{len(verdicts)} checks: " + ", ".join(f"{counts[outcome]} {outcome}" for outcome in Outcome if counts[outcome])


def rows(verdicts: Sequence[Verdict], all_checks: bool) -> list[tuple[str, str, str, str]]:
    """Every check, or a line per kind for those that passed and a line of its own for each that did not."""
    if all_checks:
        return [(verdict.check.kind, verdict.outcome, verdict.check.claim, verdict.detail) for verdict in verdicts]
    lines = []
    for kind, group in groupby(sorted(verdicts, key=lambda verdict: verdict.check.kind), key=lambda verdict: verdict.check.kind):
        members = list(group)
        passed = [verdict for verdict in members if verdict.outcome is Outcome.PASS]
        if passed:
            lines.append((str(kind), str(Outcome.PASS), f"{len(passed)} of {len(members)}", f"for example: {passed[0].check.claim}"))
        lines += [
            (str(kind), str(verdict.outcome), verdict.check.claim, verdict.detail)
            for verdict in members
            if verdict.outcome is not Outcome.PASS
        ]
    return lines


def as_data(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    checks = [
        {
            "id": v.check.id,
            "kind": v.check.kind.value,
            "claim": v.check.claim,
            "from": v.check.vantage,
            "outcome": v.outcome.value,
            "detail": v.detail,
        }
        for v in verdicts
    ]
    counts = Counter(verdict.outcome for verdict in verdicts)
    return {"summary": {outcome.value: counts[outcome] for outcome in Outcome}, "exit": int(exit_code(verdicts)), "checks": checks}


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
                ElementTree.SubElement(case, tag, message=verdict.detail)
    result: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return result
