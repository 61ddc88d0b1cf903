"""Prints verdicts as text, data and JUnit XML, and says which exit code they mean. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from typing import Any
from xml.etree import ElementTree

from vcloud.design.controls import ControlInForce, is_meant
from vcloud.design.model import Design
from vcloud.design.origin import Product
from vcloud.errors import Exit
from vcloud.profiles.model import Evidence
from vcloud.proof.checks import Kind, Outcome
from vcloud.proof.observed import Verdict

LONGEST = 400
"""Characters of a detail that are shown. A VM may have chosen part of the text."""
_TAGS = {
    Outcome.FAIL: "failure",
    Outcome.ERROR: "error",
    Outcome.NOT_RUN: "skipped",
    Outcome.NOT_TRIED: "skipped",
}
"""JUnit's element for each outcome; a pass has none."""


@dataclass(frozen=True, slots=True)
class Findings:
    """The result of one run of `verify`."""

    verdicts: tuple[Verdict, ...]
    left_out: str
    """The traffic and rules that no check tests, in one line; empty if everything is tested."""
    design: Design | None = None
    """The tested design, which knows the origin of each claim."""

    def origin(self, verdict: Verdict) -> str:
        """Why the claim is made: a line of the file, a control of a profile, or vcloud's own rules
        for every vApp.
        """
        return str(self.design.origin_of(verdict.check.proves) if self.design else Product())

    def controls(self, verdict: Verdict) -> tuple[str, ...]:
        """The controls of profiles that the check is evidence for."""
        return self.design.controls.proved_by(verdict.check.proves) if self.design else ()

    def by_control(self) -> tuple[ControlFinding, ...]:
        """What the run has shown of each control that counts for the vApp."""
        return tuple(
            ControlFinding(one, tuple(v for v in self.verdicts if one.is_proved_by(v.check.proves)))
            for one in (self.design.controls.controls if self.design else ())
        )


class Shown(StrEnum):
    """What a run has shown of a control."""

    HELD = "held"
    IN_PART = "held in part"
    """No check could test another part of it in this vApp."""
    BROKEN = "broken"
    """A check that is evidence for it has failed."""
    UNKNOWN = "not known"
    """A check could not be made, or the strongest one that passed shows less than the profile
    names.
    """
    NOT_TRIED = "not tried"
    """No check can test it in this vApp."""


@dataclass(frozen=True, slots=True)
class ControlFinding:
    """A control, and the verdicts that are evidence for it."""

    control: ControlInForce
    verdicts: tuple[Verdict, ...]

    @property
    def counts(self) -> Counter[Outcome]:
        return Counter(verdict.outcome for verdict in self.verdicts)

    @property
    def level(self) -> Evidence:
        """The strongest thing that the run has shown of it."""
        kinds = {one.check.kind for one in self.verdicts if one.outcome is Outcome.PASS}
        if kinds - {Kind.CONFIG}:
            return Evidence.PACKETS
        return Evidence.LOADED if kinds else Evidence.FILE

    @property
    def shown(self) -> Shown:
        counts, levels = self.counts, [*Evidence]
        wanted = self.control.evidence or (Evidence.LOADED if counts else Evidence.FILE)
        if counts[Outcome.FAIL]:
            return Shown.BROKEN
        if counts[Outcome.ERROR] or counts[Outcome.NOT_RUN]:
            return Shown.UNKNOWN
        if levels.index(self.level) >= levels.index(Evidence(wanted)):
            return Shown.IN_PART if self.untried else Shown.HELD
        return Shown.UNKNOWN if counts[Outcome.PASS] else Shown.NOT_TRIED

    @property
    def untried(self) -> tuple[str, ...]:
        """Those of its proofs of which all checks were not tried."""
        return tuple(
            proof
            for proof in self.control.proved_by
            if {v.outcome for v in self.verdicts if is_meant(proof, v.check.proves)}
            == {Outcome.NOT_TRIED}
        )

    @property
    def text(self) -> str:
        counts = self.counts
        told = ", ".join(f"{counts[one]} {one}" for one in Outcome if counts[one])
        by = f" by {_BY[self.level]}" if self.shown in (Shown.HELD, Shown.IN_PART) else ""
        by += f", but not tried: {', '.join(self.untried)}" if self.shown is Shown.IN_PART else ""
        return f"{self.control.origin} ({self.control.status}): {self.shown}{by}" + (
            f"; checks: {told}" if told else ""
        )


_BY = {
    Evidence.FILE: "the file",
    Evidence.LOADED: "what is loaded",
    Evidence.PACKETS: "packets",
}


def exit_code(verdicts: Sequence[Verdict]) -> Exit:
    """4 if a check failed; 5 if a check could not be made, or if nothing was tried at all;
    otherwise 0.
    """
    outcomes = {verdict.outcome for verdict in verdicts}
    if Outcome.FAIL in outcomes:
        return Exit.CHECK_FAILED
    if outcomes <= {Outcome.NOT_TRIED} or outcomes & {Outcome.ERROR, Outcome.NOT_RUN}:
        return Exit.NOT_CHECKED
    return Exit.DONE


def plain(text: str) -> str:
    """A text that may be hostile, made safe for a terminal and for XML: only printable characters,
    and at most `LONGEST` of them.
    """
    return "".join(char if char.isprintable() else " " for char in text[:LONGEST])


def summary(verdicts: Sequence[Verdict], left_out: str = "") -> str:
    """How many checks had which outcome, and what was not tested."""
    counts = Counter(verdict.outcome for verdict in verdicts)
    line = f"{len(verdicts)} checks: " + ", ".join(
        f"{counts[outcome]} {outcome}" for outcome in Outcome if counts[outcome]
    )
    return line + (f"\nnot tested: {left_out}" if left_out else "")


def control_lines(found: Findings) -> list[str]:
    """For each control what the run has shown of it, and by which checks."""
    return [one.text for one in found.by_control()]


def rows(verdicts: Sequence[Verdict], all_checks: bool) -> list[tuple[str, str, str, str]]:
    """Rows of (kind, outcome, claim, detail).

    With `all_checks` there is a row for each check. Otherwise one row per kind stands for all
    checks that passed, and one row per reason for all that were not run or not tried; each other
    check has a row of its own.
    """
    if all_checks:
        return [
            (verdict.check.kind, verdict.outcome, verdict.check.claim, plain(verdict.detail))
            for verdict in verdicts
        ]
    lines = []
    for kind, members in _by_kind(verdicts):
        passed = [verdict for verdict in members if verdict.outcome is Outcome.PASS]
        if passed:
            lines.append(
                (
                    str(kind),
                    str(Outcome.PASS),
                    f"{len(passed)} of {len(members)}",
                    f"for example: {passed[0].check.claim}",
                )
            )
        lines += [
            (str(kind), str(alike[0].outcome), _claim(alike, len(members)), plain(alike[0].detail))
            for alike in _alike(
                [verdict for verdict in members if verdict.outcome is not Outcome.PASS]
            )
        ]
    return lines


def _by_kind(verdicts: Sequence[Verdict]) -> Iterator[tuple[Kind, list[Verdict]]]:
    # Sorted, because groupby joins only neighbours.
    found = sorted(verdicts, key=lambda verdict: verdict.check.kind)
    for kind, members in groupby(found, key=lambda verdict: verdict.check.kind):
        yield kind, list(members)


def _alike(verdicts: Sequence[Verdict]) -> Iterator[list[Verdict]]:
    """Groups the verdicts that were not run, or not tried, for the same reason. Every other verdict
    is a group of its own.
    """
    groups: dict[tuple[Outcome, str], list[Verdict]] = {}
    for verdict in verdicts:
        alike = verdict.outcome in (Outcome.NOT_RUN, Outcome.NOT_TRIED)
        key = verdict.detail if alike else verdict.check.id
        groups.setdefault((verdict.outcome, key), []).append(verdict)
    yield from groups.values()


def _claim(alike: Sequence[Verdict], count: int) -> str:
    claim = alike[0].check.claim
    return claim if len(alike) == 1 else f"{len(alike)} of {count}, for example: {claim}"


def as_data(found: Findings) -> dict[str, Any]:
    """All that `verify -o json` prints."""
    checks = [
        {
            "id": v.check.id,
            "kind": v.check.kind.value,
            "claim": v.check.claim,
            "from": v.check.vantage,
            "outcome": v.outcome.value,
            "detail": plain(v.detail),
            "proves": v.check.proves,
            "origin": found.origin(v),
            "controls": list(found.controls(v)),
        }
        for v in found.verdicts
    ]
    counts = Counter(verdict.outcome for verdict in found.verdicts)
    return {
        "summary": {outcome.value: counts[outcome] for outcome in Outcome},
        "exit": int(exit_code(found.verdicts)),
        "not_tried": found.left_out,
        "controls": {
            str(one.control.origin): {
                "status": one.control.status,
                "shown": one.shown.value,
                "evidence": one.level.value,
                **{outcome.value: number for outcome, number in one.counts.items()},
            }
            for one in found.by_control()
        },
        "checks": checks,
    }


def junit_xml(verdicts: Sequence[Verdict]) -> bytes:
    """One test suite per kind of check. A check that could not be completed is an error, one that
    was not run or not tried is skipped.
    """
    root = ElementTree.Element("testsuites")
    for kind, members in _by_kind(verdicts):
        suite = ElementTree.SubElement(root, "testsuite", name=kind, tests=str(len(members)))
        tags = Counter(_TAGS.get(verdict.outcome) for verdict in members)
        suite.set("failures", str(tags["failure"]))
        suite.set("errors", str(tags["error"]))
        suite.set("skipped", str(tags["skipped"]))
        for verdict in members:
            case = ElementTree.SubElement(
                suite, "testcase", classname=kind, name=verdict.check.claim
            )
            if tag := _TAGS.get(verdict.outcome):
                ElementTree.SubElement(case, tag, message=plain(verdict.detail))
    result: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return result
