"""Which of several copies of a vApp counts, and which may be removed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.standing import manifest_of
from tests.vapps import shop
from vcloud.design.names import domain_uuid
from vcloud.errors import Exit, HostError, SilentError, UnreachableError, UsageError
from vcloud.plan.copies import newest_copy, refuse_moved, refuse_unsaid, uncompared
from vcloud.plan.manifest import Manifest, Move
from vcloud.plan.state import DomainState, VappState
from vcloud.plan.steps import Loss, OlderCopy, Plan, Step, Verb

SHOP = manifest_of(shop())


def copy(generation: int, *replaced: str) -> Manifest:
    return replace(SHOP, generation=generation, replaced=replaced)


@pytest.mark.parametrize(
    ("copies", "newest"),
    [
        ({"h1": copy(5), "h2": copy(4)}, "h1"),
        ({"h1": copy(4), "h2": copy(5)}, "h2"),
        ({"h1": copy(5), "h2": copy(5)}, None),
        # A person's word counts more than the clocks of operators.
        ({"h1": copy(4, "h2"), "h2": copy(5)}, "h1"),
        ({"h1": copy(4, "h3"), "h2": copy(5)}, "h2"),
        # Each was said to be dead once: a person decides.
        ({"h1": copy(4, "h2"), "h2": copy(5, "h1")}, None),
        ({"h1": copy(4, "h2", "h3"), "h2": copy(6), "h3": copy(5, "h2")}, "h1"),
        ({"h1": copy(3, "h2"), "h2": copy(2, "h3"), "h3": copy(9)}, None),
        ({"h1": copy(4)}, "h1"),
    ],
)
def test_one_copy_is_the_newest_or_nobody_knows(
    copies: dict[str, Manifest], newest: str | None
) -> None:
    assert newest_copy(copies) == newest
    assert newest_copy(dict(reversed(copies.items()))) == newest


def test_a_run_that_is_told_of_a_dead_host_notes_it_and_later_runs_keep_it() -> None:
    first = SHOP.claimed("lock", None, 5, replaced=frozenset({"h2"}))
    assert first.replaced == ("h2",)
    assert SHOP.claimed("lock", first, 6).replaced == ("h2",)
    assert SHOP.claimed("lock", first, 6, replaced={"h3"}).replaced == ("h2", "h3")
    assert SHOP.claimed("lock", None, 5).replaced == ()
    assert first.agrees_with(SHOP)


def test_what_was_said_of_a_host_is_forgotten_when_it_has_no_copy_any_more() -> None:
    """Otherwise a copy that moves back there would be older for ever. Hosts that were not asked stay
    noted, and a host that is said to be dead now is noted again.
    """
    before = copy(5, "h2", "h3")
    assert SHOP.claimed("lock", before, 6, empty={"h2", "h4"}).replaced == ("h3",)
    assert SHOP.claimed("lock", before, 6).replaced == ("h2", "h3")
    assert SHOP.claimed("lock", before, 6, replaced={"h2"}, empty={"h2"}).replaced == ("h2", "h3")
    moved_back = {"h1": copy(5).without_replaced({"h2"}), "h2": copy(9, "h1")}
    assert newest_copy(moved_back) == "h2"
    assert newest_copy({"h1": copy(5, "h2"), "h2": copy(9, "h1")}) is None


def test_only_copies_on_hosts_that_were_said_to_be_dead_are_removed() -> None:
    refuse_unsaid("shop", "h1", copy(5, "h2"), ["h2"])
    refuse_unsaid("shop", "h1", copy(5), [])
    for newest in (copy(5), copy(5, "h3"), None):
        with pytest.raises(UsageError, match="'shop' is on h1 and on h2") as caught:
            refuse_unsaid("shop", "h1", newest, ["h2"])
        assert "--connect h1|h2" in caught.value.hint


SILENT = {"h3": SilentError("h3 does not answer ssh"), "h2": HostError("libvirt is dead")}
STATE = VappState(SHOP, (), (), {})
OFF = DomainState("shop.web-1", domain_uuid("shop", "web-1"), running=False, paused=False)
STARTS = Plan("shop", "h1", (Step(Verb.START_VM, "web-1", "it is off"),))


@pytest.mark.parametrize(
    ("plan", "manifest", "domain", "named"),
    [
        (STARTS, SHOP, OFF, ["h2", "h3"]),
        (STARTS, None, OFF, ["h2", "h3"]),
        (STARTS, copy(5, "h3"), OFF, ["h2"]),
        (STARTS, copy(5, "h2", "h3"), OFF, []),
        (STARTS, SHOP, replace(OFF, running=True), []),
        (STARTS, SHOP, replace(OFF, running=True, uuid="another's"), ["h2", "h3"]),
        (replace(STARTS, steps=(Step(Verb.LOAD_FIREWALL, "firewall", ""),)), SHOP, OFF, []),
    ],
)
def test_hosts_that_may_have_a_newer_copy_are_named_where_this_one_is_started(
    plan: Plan, manifest: Manifest | None, domain: DomainState, named: list[str]
) -> None:
    state = replace(STATE, manifest=manifest, domains=(domain,))
    found = uncompared(plan, state, SILENT)
    assert [one.host for one in found] == named
    assert uncompared(plan, state, {}) == ()
    for one in found:
        assert one.told("shop", "h1").startswith(
            f"{one.host} cannot be asked whether it has a newer copy of 'shop' than h1 ("
        )


def test_what_goes_with_an_older_copy_is_agreed_to_like_other_losses() -> None:
    loss = Loss("db.data on h2", "'db' is deleted")
    plan = Plan("shop", "h1", (), older=(OlderCopy("h2", (loss,)),))
    assert plan.lost_data() == (loss,)
    assert plan.losses() == {"the older copy on h2"}
    assert Plan("shop", "h1", ()).losses() == frozenset()


MOVE = Move("0f0f", "h1", "h2")
SWITCHED = replace(MOVE, switched=True)


@pytest.mark.parametrize(
    ("host", "move", "told"),
    [
        ("h1", None, ""),
        ("h1", MOVE, ""),
        ("h2", SWITCHED, ""),
        ("h1", SWITCHED, "it was moved to h2"),
        ("h2", MOVE, "only h1 knows whether it is complete"),
    ],
)
def test_a_copy_that_a_move_has_left_or_not_completed_is_not_started(
    host: str, move: Move | None, told: str
) -> None:
    moved = replace(SHOP, move=move)
    if not told:
        refuse_moved(host, moved)
        return
    with pytest.raises(UnreachableError, match=told) as caught:
        refuse_moved(host, moved)
    assert caught.value.exit == Exit.REFUSED
    assert "Nothing was started" in caught.value.hint


@pytest.mark.parametrize(
    ("host", "move", "named"),
    [
        ("h2", SWITCHED, ["h3"]),
        ("h1", MOVE, ["h3"]),
        ("h1", SWITCHED, ["h1", "h2", "h3"]),
        ("h2", MOVE, ["h1", "h2", "h3"]),
        ("h2", None, ["h1", "h2", "h3"]),
    ],
)
def test_the_other_copy_of_a_move_is_known_to_be_older(
    host: str, move: Move | None, named: list[str]
) -> None:
    """So a vApp that was moved off a host starts while that host is switched off."""
    state = replace(STATE, manifest=replace(SHOP, move=move), domains=(OFF,))
    away = {name: SilentError(f"{name} does not answer") for name in ("h1", "h2", "h3")}
    assert [one.host for one in uncompared(replace(STARTS, host=host), state, away)] == named
