"""VMs that a run has made, and that were not ready when it ended."""

from __future__ import annotations

from dataclasses import replace

from tests.standing import standing, with_domain
from tests.unit.plan.test_diff import (
    LOAD_FIREWALL,
    STANDING,
    design,
    interrupted,
    plan,
    told,
    why,
)
from vcloud.plan.state import VappState


def unready(state: VappState, *names: str) -> VappState:
    """A run that failed because these VMs were not ready."""
    for name in names:
        state = with_domain(
            interrupted(state) if state.manifest else state,
            f"shop.{name}",
            lambda domain: replace(domain, marks=replace(domain.marks, unready=True)),
        )
    return state


def test_a_vm_that_was_made_and_only_not_ready_is_kept_and_looked_after() -> None:
    state = unready(STANDING, "web-2")
    state = with_domain(state, "shop.web-2", lambda domain: replace(domain, token=""))
    changes = plan(design(), state)
    assert told(changes) == [("start VM", "web-2", "new"), LOAD_FIREWALL]
    assert why(changes, "web-2") == "it was made, but was not ready when the last run ended"


def test_a_vm_that_was_not_told_of_a_change_is_configured_even_if_the_change_is_taken_back() -> (
    None
):
    changes = plan(design(), unready(STANDING, "web-2"))
    assert told(changes) == [("configure VM", "web-2", "live"), LOAD_FIREWALL]


def test_an_image_of_a_users_own_that_was_not_ready_boots_again() -> None:
    own = design(
        "api: {image: nginx,",
        "api: {image: {url: 'https://i.example/a.qcow2', sha256: '%s'}," % ("0" * 64),
    )
    assert told(plan(own, unready(standing(own), "api"))) == [
        ("restart VM", "api", "restart"),
        LOAD_FIREWALL,
    ]
