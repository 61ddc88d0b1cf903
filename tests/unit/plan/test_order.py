"""What must be done before what, so that a vApp stays closed while it changes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.standing import manifest_of, standing
from tests.vapps import design_of_text
from vcloud.design.model import Design
from vcloud.plan.diff import plan_changes
from vcloud.plan.order import by_urgency, keeps_processor_busy, ordered, with_memory_images
from vcloud.plan.state import VappState
from vcloud.plan.steps import STARTED, Plan, Step, Verb

FILE = """\
vcloud: 1
name: shop
zones: {dmz: {}, app: {}}
vms:
  web: {image: nginx, zone: dmz, count: 2, after: [api]}
  api: {image: nginx, zone: app, after: [db]}
  db: {image: postgres, zone: app, disks: {data: 1G}}
  own: {image: {url: 'https://images.example/a.qcow2', sha256: '%s'}, zone: app, after: [db]}
flows:
  - {id: visits, from: internet, to: web, service: tcp/80, publish: 8080}
protection: {ips: {inspect: dmz}}
""" % ("0" * 64)
DESIGN = design_of_text(FILE)
EMPTY = VappState(None, (), (), filter_gone=True)


def planned(
    design: Design = DESIGN,
    state: VappState = EMPTY,
    *,
    firewall_first: bool = False,
    linked: bool = False,
) -> Plan:
    return ordered(
        plan_changes(manifest_of(design), state, "h1"),
        design,
        firewall_first=firewall_first,
        linked=linked,
    )


def step(plan: Plan, id_: str) -> Step:
    return next(step for step in plan.steps if step.id == id_)


def before(plan: Plan, id_: str) -> set[str]:
    """Ids of everything that must have ended before a step begins."""
    found: set[str] = set()
    waiting = [id_]
    while waiting:
        needs = step(plan, waiting.pop()).needs - found
        found |= needs
        waiting += needs
    return found


def test_no_workload_is_connected_before_both_appliances_hold_their_rules() -> None:
    plan = planned()
    for vm in DESIGN.workloads:
        assert {"load firewall firewall", "load IPS ips"} <= before(plan, f"connect VM {vm.name}")


def test_workloads_start_beside_the_appliances_to_save_time() -> None:
    plan = planned()
    assert not [id_ for id_ in before(plan, "make VM web-1") if id_.startswith(("load", "make VM"))]


def test_an_image_of_a_users_own_is_not_even_started_before_its_turn() -> None:
    """It cannot make its services wait for the links."""
    assert {"load firewall firewall", "load IPS ips", "connect VM db"} <= before(
        planned(), "make VM own"
    )


def test_every_vm_is_connected_after_those_that_its_file_says_come_first() -> None:
    plan = planned()
    assert {"connect VM api", "connect VM db"} <= before(plan, "connect VM web-1")
    assert "connect VM web-2" not in before(plan, "connect VM web-1")


def test_networks_and_the_filter_are_there_before_any_vm_starts() -> None:
    plan = planned()
    made = {one.id for one in plan.steps if one.verb in (Verb.MAKE_NETWORK, Verb.DEFINE_FILTER)}
    assert len(made) == 4
    for one in plan.steps:
        if one.verb in STARTED:
            assert made <= before(plan, one.id)


@pytest.mark.parametrize(
    ("firewall_first", "first", "second"),
    [
        (False, "load IPS ips", "load firewall firewall"),
        (True, "load firewall firewall", "load IPS ips"),
    ],
)
def test_where_links_are_live_what_a_new_flow_carries_is_inspected_first_and_a_revoked_flow_dies_first(
    firewall_first: bool, first: str, second: str
) -> None:
    reload = plan_changes(manifest_of(DESIGN), standing(DESIGN), "h1", reload=True)
    live = ordered(reload, DESIGN, firewall_first=firewall_first, linked=True)
    assert first in before(live, second)
    assert second not in before(live, first)
    dead = ordered(reload, DESIGN, firewall_first=firewall_first, linked=False)
    assert first not in before(dead, second)


def test_a_network_is_removed_only_when_nobody_is_plugged_in_any_more() -> None:
    plain = design_of_text(FILE.replace("protection: {ips: {inspect: dmz}}\n", ""))
    plan = planned(plain, standing(DESIGN), linked=True)
    assert {"remove VM shop.ips", "restart VM firewall", "connect VM web-1"} <= before(
        plan, "remove network shop.dmz.inner"
    )


ONE_WEB_LESS = design_of_text(FILE.replace("count: 2", "count: 1"))


def test_the_firewall_sends_nothing_more_to_a_vm_before_it_is_removed() -> None:
    """Its rules forget the VM first, then the firewall forgets where the VM is, then it goes."""
    plan = planned(ONE_WEB_LESS, standing(DESIGN), linked=True)
    assert {"load firewall firewall", "load IPS ips"} & {one.id for one in plan.steps} <= before(
        plan, "remove VM shop.web-2"
    )
    assert "load firewall firewall" in before(plan, "remove VM shop.web-2")
    assert "load firewall firewall" in before(plan, "configure VM firewall")


def test_the_firewall_knows_where_a_new_vm_is_before_its_rules_allow_it_and_another_one_goes() -> (
    None
):
    both = design_of_text(
        FILE.replace("count: 2", "count: 1").replace(
            "  db: {", "  more: {image: nginx, zone: app}\n  db: {"
        )
    )
    plan = planned(both, standing(DESIGN), linked=True)
    assert "configure VM firewall" in before(plan, "load firewall firewall")
    assert "load firewall firewall" in before(plan, "remove VM shop.web-2")
    assert "remove VM shop.web-2" in before(plan, "make VM more")


def test_where_the_firewall_restarts_anyway_what_is_removed_makes_room_first() -> None:
    fewer = design_of_text(
        FILE.replace("count: 2", "count: 1").replace(
            "{dmz: {}, app: {}}", "{dmz: {}, app: {}, new: {}}"
        )
    )
    plan = planned(fewer, standing(DESIGN), linked=True)
    assert "remove VM shop.web-2" in before(plan, "restart VM firewall")
    assert "load firewall firewall" not in before(plan, "remove VM shop.web-2")


def test_the_firewall_stops_only_when_what_is_new_is_made() -> None:
    wider = design_of_text(
        FILE.replace("{dmz: {}, app: {}}", "{dmz: {}, app: {}, new: {}}").replace(
            "  db: {", "  more: {image: nginx, zone: new}\n  db: {"
        )
    )
    plan = planned(wider, standing(DESIGN), linked=True)
    assert "make VM more" in before(plan, "restart VM firewall")
    assert "make VM more" not in before(planned(wider, standing(DESIGN)), "restart VM firewall"), (
        "where nobody is connected, nobody is stopped"
    )
    assert "make VM web-1" not in before(planned(linked=True), "make VM firewall")


def test_services_are_told_of_changed_files_after_those_that_they_come_after() -> None:
    """As where they start: an order API gets its new password after the store has it."""
    old = design_of_text(
        FILE.replace(
            "zone: app, after: [db]}\n  db", "zone: app, after: [db], files: {/etc/a: one}}\n  db"
        )
    )
    new = design_of_text(
        FILE.replace(
            "zone: app, after: [db]}\n  db", "zone: app, after: [db], files: {/etc/a: two}}\n  db"
        ).replace("disks: {data: 1G}", "disks: {data: 1G}, files: {/etc/b: two}")
    )
    plan = planned(new, standing(old), linked=True)
    assert {"configure VM api", "refresh services db"} <= before(plan, "refresh services api")
    assert "refresh services api" not in before(plan, "refresh services db")
    assert "refresh services api" in before(plan, "record shop")
    assert not [one.id for one in plan.shown if one.verb is Verb.REFRESH_VM]


def test_every_run_ends_with_the_manifest_that_says_so() -> None:
    plan = planned()
    assert before(plan, "record shop") == {one.id for one in plan.steps} - {"record shop"}
    images = with_memory_images(plan, [("k", ("web-1", "web-2"))])
    assert before(images, "record shop") == {one.id for one in images.steps} - {"record shop"}


def test_a_vm_that_wakes_from_a_memory_image_of_this_run_starts_after_it_is_made() -> None:
    images = with_memory_images(planned(), [("k", ("web-1", "web-2"))])
    assert "make memory image k" in step(images, "make VM web-1").needs
    assert "make memory image k" not in before(images, "make VM db")


def test_people_see_the_steps_that_they_agree_to_and_not_their_parts() -> None:
    plain = plan_changes(manifest_of(DESIGN), EMPTY, "h1")
    plan = with_memory_images(planned(), [("k", ("web-1", "web-2"))])
    assert plan.shown == plain.steps == plain.shown
    settled = plan_changes(manifest_of(replace(DESIGN, owner="else")), standing(DESIGN), "h1")
    assert [one.verb for one in settled.shown] == [Verb.RECORD]


def test_the_vms_that_others_wait_for_longest_come_first() -> None:
    assert [vm.name for vm in by_urgency(planned(), DESIGN)] == [
        "ips",
        "firewall",
        "db",
        "api",
        "own",
        "web-1",
        "web-2",
    ]


@pytest.mark.parametrize(
    ("verb", "subject", "busy"),
    [
        (Verb.MAKE_VM, "woken", True),
        (Verb.MAKE_VM, "booted", False),
        (Verb.REMAKE_VM, "woken", True),
        (Verb.RESTORE_VM, "booted", True),
        (Verb.LOAD_IPS, "ips", True),
        (Verb.LOAD_FIREWALL, "firewall", True),
        (Verb.START_VM, "booted", False),
        (Verb.CONNECT_VM, "woken", False),
        (Verb.MAKE_NETWORK, "zone", False),
    ],
)
def test_what_computes_from_beginning_to_end_waits_for_a_processor(
    verb: Verb, subject: str, busy: bool
) -> None:
    assert keeps_processor_busy(Step(verb, subject, "", "h1"), lambda vm: vm == "woken") is busy


def test_what_is_configured_live_waits_for_nobody() -> None:
    changed = design_of_text(FILE.replace("zone: dmz,", "zone: dmz, files: {/etc/a: b},"))
    plan = planned(changed, standing(DESIGN), linked=True)
    assert step(plan, "configure VM web-1").needs == frozenset()
    assert not plan.has(Verb.CONNECT_VM)
