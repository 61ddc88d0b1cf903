"""What appliances say of themselves, against what was delivered to them."""

from __future__ import annotations

import json

import pytest

from tests.standing import manifest_of
from tests.vapps import shop
from vcloud.proof.checks import Outcome
from vcloud.proof.config import config_verdicts
from vcloud.proof.firewall_report import FirewallReport
from vcloud.proof.ips_report import parse_ips_report

MANIFEST = manifest_of(shop())
GOOD = {
    "running": True,
    "digest": MANIFEST.ips,
    "rules": {"message": [{"id": 0, "rules_loaded": 40, "rules_failed": 0}], "return": "OK"},
}
PASSED = dict.fromkeys(
    ("firewall/ruleset", "firewall/tables", "ips/files", "ips/running"), Outcome.PASS
)


def outcomes(
    ips: bytes, digest: str = "a", loaded: str = "a", tables: tuple[str, ...] = ("inet vcloud",)
) -> dict[str, Outcome]:
    report = FirewallReport(digest, tables, {}, {})
    return {
        verdict.check.id.removeprefix("config/"): verdict.outcome
        for verdict in config_verdicts(MANIFEST, loaded, report, parse_ips_report(ips))
    }


def test_what_is_as_it_was_delivered_passes() -> None:
    assert outcomes(json.dumps(GOOD).encode()) == PASSED


@pytest.mark.parametrize(("digest", "loaded"), [("b", "a"), ("", ""), ("a", "")])
def test_another_ruleset_than_was_loaded_fails(digest: str, loaded: str) -> None:
    assert outcomes(json.dumps(GOOD).encode(), digest, loaded) == PASSED | {
        "firewall/ruleset": Outcome.FAIL
    }


@pytest.mark.parametrize("tables", [(), ("inet vcloud", "ip nat")])
def test_a_table_that_is_not_ours_fails(tables: tuple[str, ...]) -> None:
    assert outcomes(json.dumps(GOOD).encode(), tables=tables) == PASSED | {
        "firewall/tables": Outcome.FAIL
    }


@pytest.mark.parametrize(
    "change",
    [
        {"running": False},
        {"rules": None},
        {"rules": {"message": []}},
        {"rules": {"message": [{"rules_loaded": 0, "rules_failed": 0}]}},
        {"rules": {"message": [{"rules_loaded": 40, "rules_failed": 1}]}},
        {"rules": {"message": [40]}},
        {"rules": {"message": "40"}},
        {"running": "x" * 100_000},
    ],
    ids=lambda change: str(change)[:60],
)
def test_an_ips_that_does_not_run_with_all_rules_fails(change: dict[str, object]) -> None:
    assert outcomes(json.dumps(GOOD | change).encode()) == PASSED | {"ips/running": Outcome.FAIL}


def test_other_files_than_were_delivered_fail() -> None:
    assert outcomes(json.dumps(GOOD | {"digest": "f" * 64}).encode()) == PASSED | {
        "ips/files": Outcome.FAIL
    }


@pytest.mark.parametrize("output", [b"", b"[]", b"null", b"suricata: not found", b"[" * 100_000])
def test_an_ips_that_says_nothing_sensible_fails(output: bytes) -> None:
    assert outcomes(output) == PASSED | {"ips/files": Outcome.FAIL, "ips/running": Outcome.FAIL}
