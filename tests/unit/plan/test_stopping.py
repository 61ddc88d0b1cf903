"""Which VMs `vcloud stop` stops and in which order, and what `up` and `start` plan afterwards."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.standing import manifest_of, standing, with_domain
from tests.vapps import design_of_text
from vcloud.errors import UsageError
from vcloud.plan.diff import plan_changes
from vcloud.plan.facts import NO_FACTS
from vcloud.plan.manifest import Manifest
from vcloud.plan.state import VappState
from vcloud.plan.stopping import (
    named_vms,
    refuse_unprotected,
    refuse_unstoppable,
    stop_order,
    told_of_restart,
)

DESIGN = design_of_text("""\
vcloud: 1
name: shop
zones: {dmz: {}, app: {}}
vms:
  web: {image: nginx, zone: dmz, count: 2, after: [api]}
  api: {image: nginx, zone: app, after: [db]}
  db: {image: nginx, zone: app}
flows:
  - {id: visits, from: internet, to: web, service: tcp/80, publish: 8080}
protection: {ips: {inspect: dmz}}
""")
ALL = tuple(vm.name for vm in DESIGN.vms)


def stopped(*names: str, noted: bool = True) -> VappState:
    """The vApp after these VMs were shut down, and whether that was `vcloud stop`."""
    state = standing(DESIGN)
    for name in names:
        state = with_domain(
            state,
            f"shop.{name}",
            lambda domain: replace(domain, running=False, token="", live=NO_FACTS),
        )
    assert state.manifest
    marked = replace(state.manifest, stopped=names if noted else ())
    return replace(state, manifest=marked)


def steps(wanted: Manifest, state: VappState) -> list[tuple[str, str]]:
    return [(step.verb.value, step.subject) for step in plan_changes(wanted, state, "h1").steps]


def test_those_that_need_others_stop_first_and_the_appliances_last() -> None:
    groups = [[vm.name for vm in group] for group in stop_order(DESIGN.vms)]
    assert groups == [["web-1", "web-2"], ["api"], ["db"], ["firewall", "ips"]]


def test_a_tier_names_all_of_its_vms_and_no_name_the_whole_vapp() -> None:
    assert [vm.name for vm in named_vms(DESIGN, ["web", "db"])] == ["web-1", "web-2", "db"]
    assert named_vms(DESIGN, []) == DESIGN.vms
    with pytest.raises(UsageError, match="there is no VM 'shop/wob'"):
        named_vms(DESIGN, ["wob"])


def test_an_appliance_stops_only_with_all_of_the_vapp() -> None:
    refuse_unprotected(DESIGN, DESIGN.vms)
    refuse_unprotected(DESIGN, DESIGN.workloads)
    with pytest.raises(UsageError, match="vcloud restart shop/firewall"):
        refuse_unprotected(DESIGN, named_vms(DESIGN, ["firewall", "web"]))


def test_up_starts_what_was_stopped_and_says_so() -> None:
    found = plan_changes(manifest_of(DESIGN), stopped("web-1"), "h1")
    assert [(step.verb.value, step.subject, step.why) for step in found.steps] == [
        ("start VM", "web-1", "it was stopped by `vcloud stop`")
    ]
    assert "stopped by `vcloud stop`, and started again: web-1" in found.notes
    crashed = plan_changes(manifest_of(DESIGN), stopped("web-1", noted=False), "h1")
    assert [step.why for step in crashed.steps] == ["it is not running"]
    assert crashed.notes == ()


def test_start_leaves_off_what_was_stopped_and_not_named() -> None:
    state = stopped("web-1", "api")
    assert state.manifest
    wanted = replace(state.manifest, stopped=("api",))
    assert steps(wanted, state) == [("start VM", "web-1")]
    # A VM that fell over is not left off, even where the manifest of before names it.
    assert steps(replace(wanted, stopped=()), state) == [("start VM", "web-1"), ("start VM", "api")]


def test_a_stop_that_did_not_end_is_forgotten_by_the_next_up() -> None:
    state = standing(DESIGN)
    assert state.manifest
    noted = replace(state, manifest=replace(state.manifest, stopped=("web-1",)))
    assert steps(manifest_of(DESIGN), noted) == [("record", "shop")]
    assert steps(manifest_of(DESIGN), state) == []


def test_a_whole_vapp_starts_with_its_rules() -> None:
    state = stopped(*ALL)
    assert state.manifest
    assert steps(replace(state.manifest, stopped=()), state) == [
        *(("start VM", name) for name in ALL),
        ("load IPS", "ips"),
        ("load firewall", "firewall"),
    ]


def test_a_vapp_whose_other_vms_were_stopped_before_is_saved() -> None:
    state = stopped("web-1")
    for vm in DESIGN.vms:
        if vm.name != "web-1":
            state = with_domain(
                state, vm.domain, lambda domain: replace(domain, running=False, saved=True)
            )
    assert state.saved()
    fallen = replace(state, manifest=replace(state.manifest or manifest_of(DESIGN), stopped=()))
    assert not fallen.saved()
    assert not stopped(*ALL).saved()


def test_a_vm_that_could_not_start_again_is_not_stopped() -> None:
    vm = DESIGN.workloads[0]
    domain = standing(DESIGN).domain(vm.domain)
    assert domain
    refuse_unstoppable(vm, domain)
    refuse_unstoppable(vm, replace(domain, running=False))
    undefined, paused = replace(domain, persistent=False), replace(domain, paused=True)
    for other, told in ((undefined, "removed the definition"), (paused, "is paused")):
        with pytest.raises(UsageError, match=told) as caught:
            refuse_unstoppable(vm, other)
        assert "Nothing was stopped" in caught.value.hint


def test_a_restart_names_the_data_that_a_new_start_would_not_find() -> None:
    """Somebody has made a snapshot: the running VM writes to another file than the next one would."""
    state = standing(DESIGN)
    assert told_of_restart(DESIGN.vms, DESIGN, state) == ""
    above = ("/pool/root.shop.db.snap", "/pool/root.shop.db.qcow2")
    changed = with_domain(state, "shop.db", lambda one: replace(one, sources={"vda": above}))
    assert "root.shop.db.snap" in told_of_restart(DESIGN.vms, DESIGN, changed)
    assert told_of_restart(named_vms(DESIGN, ["api"]), DESIGN, changed) == ""
