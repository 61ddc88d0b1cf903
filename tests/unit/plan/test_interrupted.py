"""After a run that did not end, drift is mended as after one that did, and nothing counts as drift
that the run was about to change. And no run says that the vApp is protected where something differs
after its last step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest

from tests.standing import manifest_of, standing, with_domain
from tests.unit.plan.test_diff import FILE, INSPECTED, LOAD_FIREWALL, interrupted, plan, told
from tests.unit.plan.test_drift import DESIGN, STANDING, edited, linked
from tests.vapps import design_of_text
from vcloud.apply.up import refuse_difference
from vcloud.compile.artifacts import comparable_networks
from vcloud.errors import VcloudError
from vcloud.guests.appliances import delivered_to
from vcloud.plan.diff import plan_changes
from vcloud.plan.facts import network_facts
from vcloud.plan.manifest import Phase
from vcloud.plan.state import VappState

FOREIGN = "interface(type=network source(network=default))"


def with_foreign_nic(state: VappState) -> VappState:
    return with_domain(
        state,
        "shop.api",
        lambda domain: replace(
            domain,
            live=replace(
                domain.live,
                parts={**domain.live.parts, "interface 52:54:00:de:ad:01": FOREIGN},
            ),
        ),
    )


def with_empty_filter(state: VappState) -> VappState:
    return replace(state, filter={"vcloud-shop": "x", "vcloud-shop rule 1": "rule(accept)"})


def without_isolation(state: VappState) -> VappState:
    return with_domain(
        state,
        "shop.web-1",
        lambda domain: replace(
            domain,
            autostart=True,
            live=replace(
                domain.live,
                parts={
                    part: text.replace("isolated=yes", "isolated=no")
                    for part, text in domain.live.parts.items()
                },
            ),
        ),
    )


def with_forwarding(state: VappState) -> VappState:
    name = DESIGN.zones[1].network.name
    root = ElementTree.fromstring(comparable_networks(DESIGN)[name])  # noqa: S314
    root.append(Element("forward", {"mode": "nat"}))
    networks = tuple(
        replace(one, live=network_facts(root)) if one.name == name else one
        for one in state.networks
    )
    return replace(state, networks=networks)


DRIFT = (with_foreign_nic, with_empty_filter, without_isolation, with_forwarding)


def left(state: VappState) -> list[tuple[str, str, str]]:
    return [step for step in told(plan(DESIGN, state)) if step != LOAD_FIREWALL]


@pytest.mark.parametrize("change", DRIFT)
def test_an_interrupted_run_hides_no_drift(change: Callable[[VappState], VappState]) -> None:
    settled = left(change(STANDING))
    assert settled != []
    assert left(change(interrupted(STANDING))) == settled
    assert left(interrupted(STANDING)) == []


def test_several_differences_after_a_failed_run_are_all_mended() -> None:
    state = interrupted(STANDING)
    for change in DRIFT[:3]:
        state = change(state)
    assert told(plan(DESIGN, state)) == [
        ("define filter", "vcloud-shop", "live"),
        ("mend VM", "web-1", "live"),
        ("mend VM", "api", "live"),
        LOAD_FIREWALL,
    ]


def claimed(text: str, *redefined: str) -> VappState:
    """What stands, after a run towards another file was killed right after it began."""
    claim = manifest_of(design_of_text(text)).claimed("lock", STANDING.manifest, 1, redefined)
    return replace(STANDING, manifest=claim)


def test_what_a_killed_run_was_about_to_change_is_no_drift() -> None:
    """The user takes the edit back. Nobody knows how far the run came with web, so web is defined
    again, and its processors and its memory run on.
    """
    text = FILE.replace("  api: {image: nginx,", "  api: {image: nginx, disks: {data: 1G},")
    more = text.replace("memory: 256M", "memory: 320M")
    back = claimed(more, "web-1", "web-2")
    assert left(back) == [("mend VM", "web-1", "live"), ("mend VM", "web-2", "live")]
    zone = claimed(text.replace("app: {}}", "app: {}, more: {}}"), "firewall")
    assert left(zone) == [
        ("define filter", "vcloud-shop", "live"),
        ("mend VM", "firewall", "live"),
    ]


def test_drift_of_a_network_that_a_killed_run_was_about_to_drop_is_mended() -> None:
    """The user takes the edit back, so the network stays. The run's own design does not name it."""
    text = FILE.replace(", app: {}", "").replace("zone: app", "zone: dmz")
    claim = claimed(text, "api", "firewall").manifest
    name = DESIGN.zones[1].network.name
    back = replace(STANDING, manifest=claim)
    assert ("make network anew", name, "restart") in left(with_forwarding(back))
    assert ("make network anew", name, "restart") not in left(back)


def test_without_a_manifest_networks_and_the_filter_are_still_compared() -> None:
    bad = with_empty_filter(with_forwarding(replace(STANDING, manifest=None)))
    steps = told(plan(DESIGN, bad))
    assert ("define filter", "vcloud-shop", "live") in steps
    assert ("make network anew", DESIGN.zones[1].network.name, "restart") in steps


@pytest.mark.parametrize("change", DRIFT)
def test_where_something_differs_after_the_last_step_no_run_succeeds(
    change: Callable[[VappState], VappState],
) -> None:
    wanted = manifest_of(DESIGN)
    refuse_difference(plan_changes(wanted, STANDING, "h1", noting=False))
    with pytest.raises(VcloudError, match="every step has ended, and 'shop' on h1 still differs"):
        refuse_difference(plan_changes(wanted, change(STANDING), "h1", noting=False))


def test_a_definition_that_nobody_has_noted_is_no_difference() -> None:
    assert STANDING.manifest
    state = replace(STANDING, manifest=replace(STANDING.manifest, defined=()))
    assert left(state) != []
    refuse_difference(plan_changes(manifest_of(DESIGN), state, "h1", noting=False))


def test_a_vm_that_stopped_again_is_a_difference() -> None:
    off = with_domain(STANDING, "shop.api", lambda domain: replace(domain, running=False))
    with pytest.raises(VcloudError, match=r"start VM api \(it is not running\)"):
        refuse_difference(plan_changes(manifest_of(DESIGN), off, "h1", noting=False))


INSPECTING = design_of_text(FILE + INSPECTED)


def test_the_appliances_of_an_interrupted_run_are_asked_where_they_are_as_is_wanted() -> None:
    wanted, state = manifest_of(INSPECTING), standing(INSPECTING)
    assert state.manifest
    assert delivered_to(state, wanted) == (state.manifest, {"firewall", "ips"})
    assert delivered_to(interrupted(state), wanted) == (wanted, {"firewall", "ips"})
    half = with_domain(
        interrupted(state),
        "shop.firewall",
        lambda domain: replace(domain, marks=replace(domain.marks, digests=None)),
    )
    assert delivered_to(half, wanted)[1] == {"ips"}


def test_appliances_that_no_run_connected_are_not_asked() -> None:
    """One that does not run would be waited for."""
    wanted, state = manifest_of(INSPECTING), standing(INSPECTING)
    for phase in Phase:
        assert state.manifest
        begun = replace(state, manifest=replace(state.manifest, phase=phase))
        off = with_domain(begun, "shop.ips", lambda domain: replace(domain, token=""))
        assert delivered_to(off, wanted)[1] == set()
    assert delivered_to(replace(state, manifest=None), wanted)[1] == set()


def test_an_edit_of_the_hardware_of_a_vm_is_seen_after_an_interrupted_run() -> None:
    def change(root: Element) -> None:
        memory = root.find("memory")
        assert memory is not None
        memory.text = "1"

    state = with_domain(
        interrupted(STANDING),
        "shop.api",
        lambda domain: replace(domain, live=linked(edited(change))),
    )
    assert left(state) == [("restart VM", "api", "restart")]
