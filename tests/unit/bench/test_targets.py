"""Figures of the bench are compared with their targets."""

from __future__ import annotations

import pytest

from tests.bench.targets import NOISE, TARGETS, judge

MET, KNOWN = "verify", "one flow more"


@pytest.mark.parametrize(
    ("name", "figure", "said"),
    [
        (MET, TARGETS[MET].most - 1, "met"),
        (MET, TARGETS[MET].most + 1, "missed by 1.00 s"),
        (KNOWN, TARGETS[KNOWN].known, "as is known: the firewall"),
        (KNOWN, TARGETS[KNOWN].most / 2, "can be taken out of the table"),
    ],
)
def test_a_figure_that_is_no_worse_than_known_is_told_and_no_error(
    name: str, figure: float, said: str
) -> None:
    (line,), errors = judge({name: figure})
    assert said in line
    assert errors == []


@pytest.mark.parametrize("name", TARGETS)
def test_a_figure_that_got_worse_is_an_error(name: str) -> None:
    target = TARGETS[name]
    worst = max(target.most, target.known) * NOISE[target.unit]
    assert judge({name: worst * 0.99})[1] == []
    lines, errors = judge({name: worst * 1.01})
    assert errors == lines


def test_each_known_miss_has_a_cause_and_only_those() -> None:
    for target in TARGETS.values():
        assert bool(target.known) == bool(target.cause)
        assert not target.known or target.known > target.most
