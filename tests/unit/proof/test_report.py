"""How verdicts are told: to a shell by exit code, to CI by JUnit XML, to programs as data, to
people as rows.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from ipaddress import ip_address

import pytest
from lxml import etree

from tests.cards import cards, design
from tests.vapps import design_of_text
from vcloud.compile.ips.apps import app_rules
from vcloud.compile.ips.files import ips_files
from vcloud.compile.leaks.rules import rule_sids
from vcloud.compile.leaks.undecoded import undecoded_sids
from vcloud.design.controls import ControlInForce
from vcloud.design.origin import FromControl
from vcloud.errors import Exit
from vcloud.guests.logs import rule_origins
from vcloud.proof.checks import Check, Kind, Outcome, Probe
from vcloud.proof.observed import Verdict
from vcloud.proof.report import (
    LONGEST,
    ControlFinding,
    Findings,
    Shown,
    as_data,
    control_lines,
    exit_code,
    junit_xml,
    rows,
    summary,
)

FILE = """\
vcloud: 1
name: small
zones: {dmz: {}}
vms:
  web: {image: nginx, zone: dmz}
flows:
  - {id: visits, from: internet, to: web, service: tcp/80, publish: 8080}
protection:
  dlp:
    - {detect: {name: orders, regex: 'SHOP-[0-9]{8}'}, id: orders, leaving: dmz, action: block}
"""


def verdict(
    outcome: Outcome, kind: Kind = Kind.FLOW, claim: str = "web reaches api", detail: str = "open"
) -> Verdict:
    probe = Probe("tcp", "-", ip_address("10.0.0.2"), 80)
    return Verdict(
        Check(f"{kind}/{outcome}", kind, claim, "web", probe, True, "flow:orders"), outcome, detail
    )


PASS, FAIL, ERROR, NOT_RUN, NOT_TRIED = map(verdict, Outcome)


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        ([PASS], Exit.DONE),
        ([PASS, PASS], Exit.DONE),
        ([], Exit.NOT_CHECKED),
        ([NOT_RUN], Exit.NOT_CHECKED),
        ([PASS, NOT_RUN], Exit.NOT_CHECKED),
        ([PASS, ERROR], Exit.NOT_CHECKED),
        ([PASS, NOT_TRIED], Exit.DONE),
        ([NOT_TRIED], Exit.NOT_CHECKED),
        ([NOT_TRIED, ERROR], Exit.NOT_CHECKED),
        ([FAIL], Exit.CHECK_FAILED),
        ([PASS, FAIL, ERROR, NOT_RUN], Exit.CHECK_FAILED),
    ],
)
def test_nothing_checked_is_not_a_pass_and_a_failure_outweighs_all(
    verdicts: list[Verdict], code: Exit
) -> None:
    assert exit_code(verdicts) is code
    assert as_data(Findings(tuple(verdicts), ""))["exit"] == int(code)


def test_junit_counts_every_check_once_under_what_it_was() -> None:
    verdicts = [
        PASS,
        FAIL,
        ERROR,
        NOT_RUN,
        verdict(Outcome.PASS, Kind.LEAK),
        verdict(Outcome.FAIL, Kind.DENIED),
    ]
    root = etree.fromstring(junit_xml(verdicts))
    suites = {suite.get("name"): suite for suite in root.iterfind("testsuite")}
    assert set(suites) == {"flow", "leak", "denied"}
    assert {key: suites["flow"].get(key) for key in ("tests", "failures", "errors", "skipped")} == {
        "tests": "4",
        "failures": "1",
        "errors": "1",
        "skipped": "1",
    }
    assert [case[0].tag if len(case) else "passed" for case in suites["flow"]] == [
        "passed",
        "failure",
        "error",
        "skipped",
    ]


def test_what_was_not_tried_is_skipped_in_junit_and_has_a_row_of_its_own() -> None:
    (suite,) = etree.fromstring(junit_xml([PASS, NOT_TRIED, NOT_RUN]))
    assert (suite.get("skipped"), suite.get("errors")) == ("2", "0")
    found = rows([PASS, NOT_TRIED, replace(NOT_TRIED), NOT_RUN], all_checks=False)
    assert [outcome for _, outcome, _, _ in found] == ["pass", "not tried", "not run"]


def test_junit_stays_xml_whatever_a_claim_says() -> None:
    hostile = verdict(Outcome.FAIL, claim='"/><evil a="', detail="]]> & <b>")
    case = etree.fromstring(junit_xml([hostile])).find("testsuite/testcase")
    assert (case.get("name"), case[0].get("message")) == ('"/><evil a="', "]]> & <b>")


def test_data_holds_all_checks_and_can_be_printed() -> None:
    data = json.loads(json.dumps(as_data(Findings((PASS, FAIL), "", design_of_text(FILE)))))
    assert data["summary"] == {
        "pass": 1,
        "fail": 1,
        "error": 0,
        "not run": 0,
        "not tried": 0,
    }
    assert [check["outcome"] for check in data["checks"]] == ["pass", "fail"]


def test_data_says_why_each_claim_is_made() -> None:
    """The line of the file, the profile's control, or the rules that every vApp has."""
    design = design_of_text(FILE)
    flow, detector = design.flows[0], design.inspection.detectors[0]
    told = {
        "flow:visits": f"vapp.yaml:{FILE[: FILE.index('{id: visits')].count(chr(10)) + 1}",
        "detector:orders": f"vapp.yaml:{FILE[: FILE.index('{detect')].count(chr(10)) + 1}",
        "ctl:antispoof": "vcloud",
    }
    assert (str(flow.origin), str(detector.origin)) == (
        told["flow:visits"],
        told["detector:orders"],
    )
    verdicts = tuple(replace(PASS, check=replace(PASS.check, proves=proves)) for proves in told)
    data = as_data(Findings(verdicts, "", design))
    assert {check["proves"]: check["origin"] for check in data["checks"]} == told
    controlled = replace(
        design, flows=(replace(flow, origin=FromControl("pci-dss", "4.0.1", "1.3.1")),)
    )
    assert (
        as_data(Findings(verdicts[:1], "", controlled))["checks"][0]["origin"]
        == "pci-dss@4.0.1 1.3.1"
    )


def test_every_rule_of_the_ips_has_an_origin_for_the_log() -> None:
    design = design_of_text(FILE)
    origins = rule_origins(design)
    detectors = design.inspection.detectors
    leaks = {
        str(sid) for sid in (*rule_sids(detectors).values(), *undecoded_sids(detectors).values())
    }
    assert {str(origins[sid]) for sid in leaks} == {str(design.inspection.detectors[0].origin)}
    flows = {flow.id: flow.origin for flow in design.flows}
    apps = {sid: flow for sid, flow in app_rules(design).flows if flow}
    assert apps
    assert {sid: str(origins[sid]) for sid in apps} == {
        sid: str(flows[flow]) for sid, flow in apps.items()
    }
    assert {str(origins[sid]) for sid in origins.keys() - leaks - apps.keys()} == {
        str(design.inspection.origin)
    }
    assert set(
        re.findall(
            r"sid:(\d+);",
            "".join(
                ips_files(design)[name].decode()
                for name in ips_files(design)
                if name.endswith(".rules")
            ),
        )
    ) == set(origins)


def test_rows_fold_what_passed_and_show_each_that_did_not() -> None:
    verdicts = [PASS, PASS, FAIL, NOT_RUN]
    assert [row[1] for row in rows(verdicts, all_checks=False)] == ["pass", "fail", "not run"]
    assert rows(verdicts, all_checks=False)[0][2] == "2 of 4"
    assert len(rows(verdicts, all_checks=True)) == 4


def test_the_summary_names_only_what_there_is() -> None:
    assert summary([PASS, PASS, FAIL]) == "3 checks: 2 pass, 1 fail"


def test_the_summary_says_what_was_not_tried() -> None:
    assert summary([PASS], "4 of 6 pairs") == "1 checks: 1 pass\nnot tested: 4 of 6 pairs"
    assert as_data(Findings((PASS,), "4 of 6 pairs"))["not_tried"] == "4 of 6 pairs"


def test_rows_fold_what_was_not_run_for_one_reason() -> None:
    silent, other = (
        verdict(Outcome.NOT_RUN, detail="its agent is silent"),
        verdict(Outcome.NOT_RUN, detail="no server"),
    )
    told = rows([PASS, silent, silent, other, FAIL], all_checks=False)
    assert [(row[1], row[2][:6], row[3]) for row in told[1:]] == [
        ("not run", "2 of 5", "its agent is silent"),
        ("not run", "web re", "no server"),
        ("fail", "web re", "open"),
    ]


@pytest.mark.parametrize(
    "said", ["\x1b]0;title\x07", "a\x00b", "line\nline", "\x9b2J", "\ud800", "x" * 100_000]
)
def test_what_a_vm_said_is_shown_but_not_obeyed(said: str) -> None:
    hostile = verdict(Outcome.ERROR, detail=said)
    case = etree.fromstring(junit_xml([hostile])).find("testsuite/testcase")
    for shown in (
        case[0].get("message"),
        rows([hostile], all_checks=True)[0][3],
        as_data(Findings((hostile,), ""))["checks"][0]["detail"],
    ):
        assert shown.isprintable()
        assert len(shown) <= LONGEST


def test_controls_of_profiles_are_told_with_the_checks_that_are_evidence_for_them() -> None:
    made = design(cards("4.0.1"))
    verdicts = tuple(
        replace(one, check=replace(one.check, proves=proves))
        for one, proves in (
            (PASS, "ctl:antispoof"),
            (FAIL, "ctl:antispoof"),
            (PASS, "detector:pci-dss-1-3-2"),
            (PASS, "ctl:nothing"),
        )
    )
    found = Findings(verdicts, "", made)
    assert [check["controls"] for check in as_data(found)["checks"]] == [
        ["pci-dss@4.0.1 1.4.3"],
        ["pci-dss@4.0.1 1.4.3"],
        ["pci-dss@4.0.1 1.3.2", "pci-dss@4.0.1 A3.2.6"],
        [],
    ]
    lines = control_lines(found)
    assert len(lines) == len(made.controls.controls)
    assert {
        "pci-dss@4.0.1 1.4.3 (enforced): broken; checks: 1 pass, 1 fail",
        "pci-dss@4.0.1 1.3.2 (enforced): held by packets; checks: 1 pass",
        "pci-dss@4.0.1 A3.2.6 (supports): held by packets; checks: 1 pass",
        "pci-dss@4.0.1 1.5.1 (enforced): held by the file",
        "pci-dss@4.0.1 1.4.4 (enforced): not tried",
    } <= {*lines}
    told = as_data(found)["controls"]
    assert told["pci-dss@4.0.1 1.4.3"] == {
        "status": "enforced",
        "shown": "broken",
        "evidence": "packets",
        "pass": 1,
        "fail": 1,
    }


@pytest.mark.parametrize(
    ("evidence", "kinds", "outcome", "shown", "level"),
    [
        ("packets", [Kind.DENIED], Outcome.PASS, "held", "packets"),
        ("packets", [Kind.CONFIG], Outcome.PASS, "not known", "loaded"),
        ("packets", [Kind.CONFIG, Kind.LEAK], Outcome.PASS, "held", "packets"),
        ("packets", [Kind.DENIED], Outcome.NOT_TRIED, "not tried", "file"),
        ("packets", [Kind.DENIED], Outcome.ERROR, "not known", "file"),
        ("packets", [Kind.DENIED], Outcome.NOT_RUN, "not known", "file"),
        ("packets", [Kind.DENIED], Outcome.FAIL, "broken", "file"),
        ("loaded", [Kind.CONFIG], Outcome.PASS, "held", "loaded"),
        ("loaded", [], Outcome.PASS, "not tried", "file"),
        ("file", [], Outcome.PASS, "held", "file"),
        ("", [Kind.CONFIG], Outcome.PASS, "held", "loaded"),
        ("", [Kind.CONFIG], Outcome.NOT_TRIED, "not tried", "file"),
    ],
)
def test_a_control_is_held_by_nothing_weaker_than_its_profile_names(
    evidence: str, kinds: list[Kind], outcome: Outcome, shown: str, level: str
) -> None:
    control = ControlInForce(FromControl("corp", "1", "7"), True, ("ctl:x",), evidence)
    verdicts = tuple(
        replace(PASS, check=replace(PASS.check, kind=kind), outcome=outcome) for kind in kinds
    )
    found = ControlFinding(control, verdicts)
    assert (found.shown, found.level) == (shown, level)


def test_a_control_of_which_a_part_cannot_be_tried_is_held_in_part_only() -> None:
    control = ControlInForce(FromControl("corp", "1", "7"), True, ("detector:x", "ctl:*"))
    passed = replace(PASS, check=replace(PASS.check, proves="ctl:default-deny"))
    detector = replace(NOT_TRIED, check=replace(NOT_TRIED.check, proves="detector:x"))
    found = ControlFinding(control, (passed, detector))
    assert found.text == (
        "corp@1 7 (enforced): held in part by packets, but not tried: detector:x; "
        "checks: 1 pass, 1 not tried"
    )
    # The twins: one of the detector's checks passed, and the file has no detector.
    also = replace(passed, check=replace(passed.check, proves="detector:x"))
    assert ControlFinding(control, (passed, detector, also)).shown is Shown.HELD
    assert ControlFinding(control, (passed,)).shown is Shown.HELD


def test_an_event_of_a_rule_that_a_control_added_is_told_with_profile_and_version() -> None:
    made = design(cards("4.0.1"))
    sids = rule_sids(made.inspection.detectors)
    origins = rule_origins(made)
    assert {str(origins[str(sid)]) for sid in sids.values()} == {"pci-dss@4.0.1 1.3.2"}
    assert str(origins["1900001"]).startswith("pci-dss@4.0.1 ")
