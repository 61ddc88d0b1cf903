"""Compares what the appliances report with what they were given. Pure.

An appliance only reports about itself. The packets of the other checks are the second opinion.
"""

from __future__ import annotations

from collections.abc import Iterator

from vcloud.plan.manifest import Manifest
from vcloud.proof.checks import Check, Kind, Outcome
from vcloud.proof.firewall_report import TABLE, FirewallReport
from vcloud.proof.ips_report import IpsReport
from vcloud.proof.judge import Verdict

SHOWN = 12
"""Characters of a digest that are shown."""


def config_verdicts(
    manifest: Manifest, loaded: str, firewall: FirewallReport, ips: IpsReport
) -> Iterator[Verdict]:
    """One verdict for each claim about the configuration of an appliance.

    Args:
        manifest: what was delivered.
        loaded: the digest that the firewall printed when its ruleset was loaded; empty if it never
            was.
        firewall: what the firewall reports now.
        ips: what the IPS reports now. Not used if the vApp has no IPS.
    """
    yield _verdict(
        "firewall/ruleset",
        "the firewall's ruleset is the one that was loaded",
        loaded != "" and firewall.digest == loaded,
        f"digest {firewall.digest[:SHOWN]}",
    )
    yield _verdict(
        "firewall/tables",
        "the firewall has no other tables",
        firewall.tables == (TABLE,),
        f"tables: {', '.join(firewall.tables) or 'none'}",
    )
    if manifest.design.ips is not None:
        yield _verdict(
            "ips/files",
            "the IPS's rules are the ones that were delivered",
            ips.digest == manifest.ips,
            f"digest {ips.digest[:SHOWN]}",
        )
        yield _verdict(
            "ips/running",
            "the IPS runs with all of its rules",
            ips.complete,
            "all rules loaded" if ips.complete else "stopped, or without some rules",
        )


def _verdict(key: str, claim: str, holds: bool, detail: str) -> Verdict:
    check = Check(
        id=f"config/{key}",
        kind=Kind.CONFIG,
        claim=claim,
        vantage="host",
        probe=None,
        passes=True,
        proves=f"ctl:{key.partition('/')[0]}",
    )
    return Verdict(check, Outcome.PASS if holds else Outcome.FAIL, detail)
