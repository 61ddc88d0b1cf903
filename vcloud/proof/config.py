"""Checks of what the appliances hold against what was delivered to them. Pure.

They say what an appliance says of itself; the packets of the other checks are the second opinion.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from vcloud.errors import NONSENSE
from vcloud.plan.manifest import Manifest
from vcloud.proof.checks import Check, Kind, Outcome
from vcloud.proof.firewall_report import TABLE, FirewallReport
from vcloud.proof.judge import Verdict


def config_verdicts(manifest: Manifest, rules: str, firewall: FirewallReport, ips: bytes) -> Iterator[Verdict]:
    """`rules` is the digest that the firewall told when its ruleset was loaded, `ips` what `ips-report` prints now."""
    yield _verdict(
        "firewall/ruleset",
        "the firewall's ruleset is the one that was loaded",
        rules != "" and firewall.digest == rules,
        f"digest {firewall.digest[:12]}",
    )
    yield _verdict(
        "firewall/tables",
        "the firewall has no other tables",
        firewall.tables == (TABLE,),
        f"tables: {', '.join(firewall.tables) or 'none'}",
    )
    if manifest.design.ips is not None:
        report = _ips_report(ips)
        digest = str(report.get("digest", ""))
        yield _verdict("ips/files", "the IPS's rules are the ones that were delivered", digest == manifest.ips, f"digest {digest[:12]}")
        yield _verdict(
            "ips/running", "the IPS runs with all of its rules", _runs_whole(report), f"running: {report.get('running') is True}"
        )


def _ips_report(output: bytes) -> dict[str, object]:
    try:
        report = json.loads(output)
    except NONSENSE:
        return {}
    return report if isinstance(report, dict) else {}


def _runs_whole(report: dict[str, object]) -> bool:
    """Suricata answers `ruleset-stats` with one entry per engine: {"id": 0, "rules_loaded": N, "rules_failed": 0, ...}."""
    rules = report.get("rules")
    stats = rules.get("message") if isinstance(rules, dict) else None
    engines = stats if isinstance(stats, list) else []
    return (
        report.get("running") is True
        and bool(engines)
        and all(isinstance(item, dict) and item.get("rules_loaded") and not item.get("rules_failed") for item in engines)
    )


def _verdict(key: str, claim: str, holds: bool, detail: str) -> Verdict:
    check = Check(id=f"config/{key}", kind=Kind.CONFIG, claim=claim, vantage="host", probe=None, passes=True)
    return Verdict(check, Outcome.PASS if holds else Outcome.FAIL, detail)
