"""What appliances say of themselves, against what was delivered to them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.standing import manifest_of, standing, with_domain, without_domain
from tests.unit.proof.reports import TIME, Reports, healthy
from tests.vapps import shop
from vcloud.marks import VmDigests
from vcloud.plan.state import VappState
from vcloud.proof.checks import Outcome
from vcloud.proof.config import NAMED, config_verdicts, libvirt_verdicts
from vcloud.proof.ips_report import NO_REPORT
from vcloud.proof.observed import Verdict
from vcloud.proof.rounds import Tries, added, asked_next, in_sum

HEALTHY = healthy(manifest_of(shop()))
GATEWAY = HEALTHY.manifest.design.zones[0].gateway


def verdicts(reports: Reports, loaded: str = "a") -> dict[str, Verdict]:
    """Key -> the verdict."""
    return {
        verdict.check.id.removeprefix("config/"): verdict
        for verdict in config_verdicts(reports.manifest, loaded, reports.firewall, reports.ips)
    }


def not_passed(reports: Reports, loaded: str = "a") -> dict[str, Outcome]:
    return {
        key: verdict.outcome
        for key, verdict in verdicts(reports, loaded).items()
        if verdict.outcome is not Outcome.PASS
    }


def failed(*keys: str) -> dict[str, Outcome]:
    return dict.fromkeys(keys, Outcome.FAIL)


def test_what_is_as_it_was_delivered_passes() -> None:
    assert not_passed(HEALTHY) == {}
    assert set(verdicts(HEALTHY)) == {
        *(f"firewall/{key}" for key in ("ruleset", "kept", "tables", "hooks")),
        *(f"ips/{key}" for key in ("files", "running", "memory", "inline")),
        *(
            f"{role}/{key}"
            for role in ("firewall", "ips")
            for key in ("identity", "links", "traffic-control", "routing", "settings", "frames")
        ),
    }


STANDING = standing(shop())


def wrong_in_libvirt(state: VappState) -> dict[str, str]:
    """Subject -> what is not as vcloud defined it."""
    assert STANDING.manifest
    return {
        verdict.check.id.removeprefix("config/libvirt/"): verdict.detail
        for verdict in libvirt_verdicts(STANDING.manifest, state)
        if verdict.outcome is Outcome.FAIL
    }


def with_network(name: str, **changes: Any) -> VappState:
    networks = (
        replace(network, **changes) if network.name == name else network
        for network in STANDING.networks
    )
    return replace(STANDING, networks=tuple(networks))


def with_api(**changes: Any) -> VappState:
    return with_domain(STANDING, "shop.api", lambda domain: replace(domain, **changes))


@pytest.mark.parametrize(
    ("state", "subject", "detail"),
    [
        (without_domain(STANDING, "shop.api"), "api", "there is no domain 'shop.api'"),
        (with_api(running=False), "api", "it does not run"),
        (with_api(paused=True), "api", "it is paused"),
        (with_api(brought_back=True), "api", "somebody reverted it to a snapshot"),
        (with_api(token="another"), "api", "it was started, but not by `vcloud up`"),
        (with_api(uuid="f" * 32), "api", "is not the one that vcloud made"),
        (replace(STANDING, uplink_gone=True), "firewall", "the uplink's network is stopped"),
        (
            replace(STANDING, networks=tuple(n for n in STANDING.networks if n.name != "shop.app")),
            "shop.app",
            "there is no such network",
        ),
        (with_network("shop.app", active=False), "shop.app", "it is not active"),
        (with_network("shop.app", uuid="f" * 32), "shop.app", "is not the one that vcloud made"),
        (replace(STANDING, filter=None, filter_gone=True), "vcloud-shop", "there is no such"),
        (replace(STANDING, filter=None, filter_foreign=True), "vcloud-shop", "is not the one"),
        (replace(STANDING, filter=None), "vcloud-shop", "libvirt does not tell its rules"),
    ],
)
def test_what_is_not_there_or_does_not_run_is_not_as_vcloud_defined_it(
    state: VappState, subject: str, detail: str
) -> None:
    found = wrong_in_libvirt(state)
    assert set(found) == {subject}
    assert detail in found[subject]


def test_what_stands_is_as_vcloud_defined_it() -> None:
    assert wrong_in_libvirt(STANDING) == {}


def test_a_definition_that_no_run_has_noted_is_not_called_as_defined() -> None:
    """A run was killed before it defined the VM, so the VM still has its memory of before."""
    assert STANDING.manifest
    killed = STANDING.manifest.claimed("lock", STANDING.manifest, 1, {"api"})

    def verdict_on(subject: str, state: VappState) -> Verdict:
        verdicts = libvirt_verdicts(killed, state)
        return next(one for one in verdicts if one.check.id == f"config/libvirt/{subject}")

    unknown = verdict_on("api", STANDING)
    assert unknown.outcome is Outcome.NOT_RUN
    assert "`vcloud up` notes it" in unknown.detail
    assert verdict_on("db", STANDING).outcome is Outcome.PASS
    assert verdict_on("api", with_api(running=False)).outcome is Outcome.FAIL


def test_a_vapp_without_an_ips_has_no_claims_about_one() -> None:
    design = replace(shop(), ips=None)
    manifest = manifest_of(design)
    assert not [key for key in verdicts(replace(HEALTHY, manifest=manifest)) if "ips/" in key]


@pytest.mark.parametrize(("digest", "loaded"), [("b", "a"), ("", ""), ("a", "")])
def test_another_ruleset_than_was_loaded_fails(digest: str, loaded: str) -> None:
    assert not_passed(HEALTHY.with_firewall(digest=digest), loaded) == failed("firewall/ruleset")


@pytest.mark.parametrize("tables", [(), ("inet vcloud", "ip nat")])
def test_a_table_that_is_not_ours_fails(tables: tuple[str, ...]) -> None:
    assert not_passed(HEALTHY.with_firewall(tables=tables)) == failed("firewall/tables")


@pytest.mark.parametrize("kept", ["", "f" * 64])
def test_another_ruleset_or_identity_for_the_next_boot_fails(kept: str) -> None:
    assert not_passed(HEALTHY.with_firewall(kept=kept)) == failed("firewall/kept")
    assert not_passed(HEALTHY.with_firewall(identity=kept)) == failed("firewall/identity")
    assert not_passed(HEALTHY.with_ips(identity=kept)) == failed("ips/identity")


@pytest.mark.parametrize(
    ("thing", "key"),
    [
        ("link br0 52:54:00:00:00:99 bridge", "links"),
        ("program z-dmz", "links"),
        ("qdisc z-dmz clsact ffff", "traffic-control"),
        ("filter z-dmz u32", "traffic-control"),
        ("route z-dmz 10.9.9.0/24", "routing"),
        ("sysctl net/ipv4/conf/x/proxy_arp 1", "settings"),
        ("frames z-dmz", "frames"),
    ],
)
def test_each_foreign_thing_in_a_kernel_is_named(thing: str, key: str) -> None:
    for role, report in (("firewall", HEALTHY.firewall), ("ips", HEALTHY.ips)):
        network = (*report.network, tuple(thing.split()))
        change = HEALTHY.with_firewall if role == "firewall" else HEALTHY.with_ips
        found = verdicts(change(network=network))
        assert not_passed(change(network=network)) == failed(f"{role}/{key}")
        assert found[f"{role}/{key}"].detail == f"foreign: {thing}"


@pytest.mark.parametrize(
    "hook",
    [
        "hook ip 2 -1 nft_do_chain_ipv4 nf_tables chain 2 mine forward",
        "hook ip 2 -1 evil -",
        "hook ip 2 unseen 22",
        "hook arp 0 0 arpt_do_table arp_tables",
    ],
)
def test_another_hook_than_those_of_the_ruleset_is_named(hook: str) -> None:
    network = (*HEALTHY.firewall.network, tuple(hook.split()))
    found = verdicts(HEALTHY.with_firewall(network=network))
    assert found["firewall/hooks"].detail == f"foreign: {hook}"


def test_of_many_differences_the_first_are_named_and_the_others_counted() -> None:
    more = tuple(("route", "z-dmz", f"10.9.{number}.0/24") for number in range(NAMED + 3))
    found = verdicts(HEALTHY.with_firewall(network=(*HEALTHY.firewall.network, *more)))
    detail = found["firewall/routing"].detail
    assert detail.count("foreign") == NAMED
    assert detail.endswith("; and 3 more")


def test_a_firewall_that_tells_nothing_holds_no_claim_about_its_kernel() -> None:
    assert {"firewall/links", "firewall/routing", "firewall/settings"} <= {
        *not_passed(HEALTHY.with_firewall(network=()))
    }


@pytest.mark.parametrize(
    ("changes", "keys", "named"),
    [
        ({"digest": "f" * 64}, ("files",), "digest ffffffffffff"),
        ({"complete": False}, ("running",), "stopped, or without some rules"),
        ({"rules": 1}, ("memory",), "1 rules, not "),
        ({"reloaded": ""}, ("memory",), "Suricata does not say when it read its rules"),
        ({"changed": TIME.replace("23:", "24:")}, ("memory",), "before the files changed"),
        ({"wires": (("v-dmz", "f-app", "ips"),)}, ("inline",), "foreign: from v-dmz to f-app"),
        ({"wires": HEALTHY.ips.wires[1:]}, ("inline",), "missing: from v-dmz to f-dmz in mode ips"),
    ],
)
def test_suricata_that_runs_with_something_else_is_told_apart(
    changes: dict[str, Any], keys: tuple[str, ...], named: str
) -> None:
    reports = HEALTHY.with_ips(**changes)
    assert not_passed(reports) == failed(*(f"ips/{key}" for key in keys))
    assert named in verdicts(reports)[f"ips/{keys[0]}"].detail


@pytest.mark.parametrize(
    ("changed", "key", "forgiven"),
    [
        (HEALTHY.with_firewall(network=(*HEALTHY.firewall.network, ("frames", "z-dmz"))), "firewall/frames", False),
        (HEALTHY.with_firewall(digest="b"), "firewall/ruleset", False),
        (HEALTHY.with_firewall(tables=("inet vcloud", "ip nat")), "firewall/tables", False),
        (HEALTHY.with_ips(digest="f" * 64), "ips/files", False),
        (HEALTHY.with_ips(wires=HEALTHY.ips.wires[1:]), "ips/inline", False),
        (HEALTHY.with_ips(complete=False), "ips/running", True),
        (HEALTHY.with_ips(rules=1), "ips/memory", True),
        (replace(HEALTHY, ips=None), "ips/files", True),
        (replace(HEALTHY, firewall=None), "firewall/frames", True),
    ],
)  # fmt: skip
def test_only_silence_and_a_busy_suricata_are_asked_again(
    changed: Reports, key: str, forgiven: bool
) -> None:
    """What was seen once in an appliance was there: a program that reads frames may come and go."""
    tries: Tries = added({}, verdicts(changed).values())
    first = verdicts(changed)[key]
    assert asked_next([first.check], tries) == ([first.check] if forgiven else [])
    tries = added(tries, verdicts(HEALTHY).values())
    verdict = in_sum(tries[f"config/{key}"], 0)
    assert verdict.outcome is (Outcome.PASS if forgiven else Outcome.FAIL)


def test_suricata_that_taps_in_place_of_inspecting_is_told_apart() -> None:
    wires = tuple((one, other, "tap") for one, other, _ in HEALTHY.ips.wires)
    assert not_passed(HEALTHY.with_ips(wires=wires)) == failed("ips/inline")


def test_an_ips_whose_report_makes_no_sense_fails_and_what_only_it_knows_is_an_error() -> None:
    found = not_passed(replace(HEALTHY, ips=NO_REPORT))
    assert found["ips/files"] == found["ips/running"] == Outcome.FAIL
    assert found["ips/memory"] == found["ips/inline"] == Outcome.ERROR


def test_an_appliance_that_does_not_answer_is_an_error_of_the_measurement_and_no_failure() -> None:
    """An answer that makes no sense is one."""
    for firewall, ips, silent in (
        (None, HEALTHY.ips, "firewall"),
        (HEALTHY.firewall, None, "ips"),
        (HEALTHY.firewall, HEALTHY.ips, "nobody"),
    ):
        for verdict in config_verdicts(HEALTHY.manifest, "a", firewall, ips):
            of_silent = verdict.check.id.startswith(f"config/{silent}/")
            assert verdict.outcome is (Outcome.ERROR if of_silent else Outcome.PASS)


def test_what_another_release_has_delivered_is_not_compared_with_what_this_one_renders() -> None:
    """`up` delivers it anew, and that is no difference that somebody made by hand."""
    manifest = HEALTHY.manifest
    vms = tuple((name, VmDigests("r", "h", "of another release")) for name, _ in manifest.vms)
    reports = replace(HEALTHY, manifest=replace(manifest, vms=vms, ips="f" * 64))
    found = not_passed(reports.with_ips(digest="f" * 64))
    assert set(found.values()) == {Outcome.NOT_RUN}
    assert {"firewall/routing", "firewall/identity", "ips/memory", "ips/settings"} <= {*found}
