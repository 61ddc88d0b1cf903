"""Demands of several controls become the strictest, whatever their order."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

from hypothesis import given, settings
from hypothesis import strategies as st

from vcloud.profiles.merge import RANKS, Joined, merged
from vcloud.profiles.model import (
    ControlRef,
    Demand,
    Encrypted,
    FewPorts,
    FlowsSay,
    Inspect,
    Leaks,
    NotOpen,
    Reach,
    Scope,
)
from vcloud.values import Action, App, Mode

REFS = st.builds(
    ControlRef, st.sampled_from(["a", "b"]), st.just("1"), st.sampled_from(["1", "2", "3"])
)
DATA = st.sampled_from([(), ("cards",)])
SCOPES = st.sampled_from(Scope)
LEAKS = st.builds(
    Leaks,
    DATA,
    st.just("card-number"),
    st.just(""),
    SCOPES,
    st.sampled_from(Reach),
    st.integers(1, 9),
    st.sampled_from(Action),
)
DEMANDS = st.one_of(
    LEAKS,
    st.builds(FlowsSay, DATA, st.sampled_from([("why",), ("id",), ("id", "why")])),
    st.builds(NotOpen, DATA, SCOPES),
    st.builds(FewPorts, DATA, SCOPES, st.sampled_from(Reach), st.integers(1, 99)),
    st.builds(Inspect, DATA, SCOPES, st.sampled_from(Mode)),
)
LISTS = st.lists(st.tuples(REFS, DEMANDS), max_size=4)


def joined(*demands: Demand) -> tuple[Joined, ...]:
    found, conflicts = merged(
        (ControlRef("a", "1", str(number)), demand) for number, demand in enumerate(demands)
    )
    assert not conflicts
    return found


@settings(max_examples=40)
@given(LISTS)
def test_the_order_of_the_controls_changes_nothing(
    demands: list[tuple[ControlRef, Demand]],
) -> None:
    for order in permutations(demands):
        assert merged(order) == merged(demands)


@settings(max_examples=40)
@given(LISTS)
def test_to_ask_twice_is_to_ask_once(demands: list[tuple[ControlRef, Demand]]) -> None:
    assert merged(demands * 2) == merged(demands)


@settings(max_examples=40)
@given(st.lists(LEAKS, min_size=1, max_size=5))
def test_no_demand_is_loosened(demands: list[Leaks]) -> None:
    for demand in demands:
        (found,) = (
            one.demand
            for one in joined(*demands)
            if isinstance(one.demand, Leaks)
            and (one.demand.zones, one.demand.data) == (demand.zones, demand.data)
        )
        assert found.at_least <= demand.at_least
        assert found.action is Action.BLOCK or demand.action is Action.ALERT
        assert RANKS[Reach].index(found.to) >= RANKS[Reach].index(demand.to)


def test_a_parameter_takes_its_strictest_value_by_itself() -> None:
    wide = FewPorts((), Scope.HOLDING, Reach.ANYWHERE, 100)
    narrow = FewPorts((), Scope.HOLDING, Reach.OUTSIDE, 4)
    (found,) = joined(wide, narrow)
    assert found.demand == replace(wide, most=4)
    assert [ref.control for ref in found.controls] == ["0", "1"]


def test_demands_about_different_zones_stand_side_by_side() -> None:
    both = [Inspect((), scope, Mode.PREVENT) for scope in (Scope.HOLDING, Scope.EVERY)]
    assert {one.demand for one in joined(*both)} == {*both}


def test_protocols_that_both_accept_remain() -> None:
    one, other = Encrypted((), (App.SSH, App.TLS)), Encrypted((), (App.TLS,))
    (found,) = joined(one, other)
    assert found.demand == other


def test_values_of_which_neither_is_stricter_contradict_each_other() -> None:
    refs = [ControlRef("a", "1", "1"), ControlRef("b", "1", "1")]
    for pair, parameter in (
        ((Encrypted((), (App.SSH,)), Encrypted((), (App.TLS,))), "apps"),
        (
            tuple(
                Leaks((), "own", regex, Scope.EVERY, Reach.ANYWHERE, 1, Action.BLOCK)
                for regex in ("A{9}", "B{9}")
            ),
            "regex",
        ),
    ):
        _, (conflict,) = merged(zip(refs, pair, strict=True))
        assert conflict.parameter == parameter
        assert conflict.joined.controls == tuple(refs)
