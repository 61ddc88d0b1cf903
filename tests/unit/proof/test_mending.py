"""What mends an appliance that is not as it was delivered: never more than is needed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.standing import manifest_of
from tests.unit.proof.reports import Reports, healthy
from tests.vapps import shop
from vcloud.plan.steps import Verb
from vcloud.proof.checks import Outcome
from vcloud.proof.config import config_verdicts
from vcloud.proof.ips_report import NO_REPORT
from vcloud.proof.mending import Mend, mend_of, mends

HEALTHY = healthy(manifest_of(shop()))


def needed(reports: Reports) -> list[tuple[str, Verb]]:
    return [(mend.vm, mend.verb) for mend in told(reports)]


def told(reports: Reports) -> tuple[Mend, ...]:
    verdicts = config_verdicts(reports.manifest, "a", reports.firewall, reports.ips)
    return mends(reports.manifest.design, verdicts)


def with_thing(reports: Reports, vm: str, thing: str) -> Reports:
    report = reports.firewall if vm == "firewall" else reports.ips
    network = (*report.network, tuple(thing.split()))
    return (
        reports.with_firewall(network=network)
        if vm == "firewall"
        else reports.with_ips(network=network)
    )


def test_what_is_as_it_was_delivered_needs_nothing() -> None:
    assert needed(HEALTHY) == []


@pytest.mark.parametrize(
    "changes",
    [{"digest": "b"}, {"kept": "b"}, {"tables": ("inet vcloud", "ip nat")}, {"tables": ()}],
)
def test_rules_are_loaded_again(changes: dict[str, Any]) -> None:
    assert needed(HEALTHY.with_firewall(**changes)) == [("firewall", Verb.LOAD_FIREWALL)]


@pytest.mark.parametrize(
    "thing", ["route z-dmz 10.9.9.0/24", "sysctl net/ipv4/ip_forward 0", "rule 4 5 blackhole"]
)
def test_the_identity_is_given_again(thing: str) -> None:
    assert needed(with_thing(HEALTHY, "firewall", thing)) == [("firewall", Verb.CONFIGURE_VM)]
    assert needed(HEALTHY.with_ips(identity="f")) == [("ips", Verb.CONFIGURE_VM)]


@pytest.mark.parametrize("vm", ["firewall", "ips"])
@pytest.mark.parametrize(
    "thing", ["link br0 52:54:00:00:00:99 bridge", "qdisc x clsact ffff", "frames x", "program x"]
)
def test_only_what_no_load_and_no_identity_removes_needs_a_restart(vm: str, thing: str) -> None:
    assert needed(with_thing(HEALTHY, vm, thing)) == [(vm, Verb.RESTART_VM)]


def test_suricata_reads_its_files_again_without_a_restart() -> None:
    """`ips-load` finds out by itself that Suricata's memory is not as its files are. After the host's
    clock was set back, files seem to change later than they did.
    """
    gone = HEALTHY.with_ips(rules=1)
    assert needed(gone) == [("ips", Verb.LOAD_IPS)]
    assert needed(gone.with_ips(digest="f")) == [("ips", Verb.LOAD_IPS)]
    assert needed(HEALTHY.with_ips(digest="f")) == [("ips", Verb.LOAD_IPS)]
    assert needed(HEALTHY.with_ips(changed="2999-01-01T00:00:00")) == [("ips", Verb.LOAD_IPS)]
    stopped = HEALTHY.with_ips(complete=False, rules=0, wires=())
    assert needed(stopped) == [("ips", Verb.LOAD_IPS)]
    assert needed(gone.with_ips(wires=(("a", "b", "ips"),))) == [("ips", Verb.RESTART_VM)]


def test_of_several_differences_one_thing_mends_all_and_both_appliances_are_mended() -> None:
    reports = HEALTHY.with_firewall(kept="b").with_ips(digest="f")
    assert needed(reports) == [("firewall", Verb.LOAD_FIREWALL), ("ips", Verb.LOAD_IPS)]
    worse = with_thing(reports, "firewall", "route z-dmz 10.9.9.0/24")
    assert needed(worse) == [("firewall", Verb.CONFIGURE_VM), ("ips", Verb.LOAD_IPS)]
    worst = with_thing(worse, "firewall", "qdisc z-dmz clsact ffff")
    assert needed(worst) == [("firewall", Verb.RESTART_VM), ("ips", Verb.LOAD_IPS)]
    why = told(worst)[0].why
    assert all(part in why for part in ("next boot", "10.9.9.0/24", "clsact"))


def test_an_appliance_that_does_not_answer_is_restarted_and_the_other_is_not() -> None:
    assert needed(replace(HEALTHY, ips=None)) == [("ips", Verb.RESTART_VM)]
    assert needed(replace(HEALTHY, firewall=None)) == [("firewall", Verb.RESTART_VM)]
    assert needed(HEALTHY.with_ips(rules=0, wires=())) == [], "Suricata alone may be busy"


def test_every_claim_that_can_fail_has_something_that_mends_it() -> None:
    """And one that holds, or could not be compared, has nothing."""
    silent = replace(HEALTHY.with_firewall(network=()), ips=NO_REPORT)
    for reports in (HEALTHY, silent):
        for verdict in config_verdicts(HEALTHY.manifest, "a", reports.firewall, reports.ips):
            assert mend_of(verdict) is None or verdict.outcome is Outcome.FAIL
            assert mend_of(replace(verdict, outcome=Outcome.FAIL)) is not None
            assert mend_of(replace(verdict, outcome=Outcome.NOT_RUN)) is None
