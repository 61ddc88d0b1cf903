"""The fewest reasons why no host can run a vApp, beside an exhaustive search."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from vcloud.errors import Problem
from vcloud.placement.explain import fewest_reasons

RULE = "placement.require.site"


def rule(host: str, line: int = 3) -> Problem:
    return Problem("a.yaml", line, RULE, f"{host} has no site", "Write labels.")


def full(host: str) -> Problem:
    return Problem("a.yaml", 0, "", f"{host} has no memory", "Stop others.")


def test_a_rule_that_leaves_out_all_hosts_is_the_only_reason() -> None:
    (reason,) = fewest_reasons({host: (full(host), rule(host)) for host in ("h1", "h2", "h3")})
    assert reason.what == "h1 has no site; h2 has no site; h3 has no site"
    assert (reason.line, reason.field, reason.hint) == (3, RULE, "Write labels.")


def test_what_one_host_lacks_stands_beside_the_rule_that_leaves_out_the_others() -> None:
    reasons = fewest_reasons({"h1": (rule("h1"),), "h2": (full("h2"),), "h3": (rule("h3"),)})
    assert [reason.what for reason in reasons] == [
        "h2 has no memory",
        "h1 has no site; h3 has no site",
    ]


def test_a_greedy_choice_is_not_the_last_word() -> None:
    """The largest reason covers four of six hosts, and then two more are needed. Two that cover three
    each are enough.
    """
    lines = {1: "h1 h2 h3 h4", 2: "h1 h2 h5", 3: "h3 h4 h6"}
    by_host = {
        host: tuple(rule(host, line) for line, hosts in lines.items() if host in hosts.split())
        for host in ("h1", "h2", "h3", "h4", "h5", "h6")
    }
    assert [reason.line for reason in fewest_reasons(by_host)] == [2, 3]


LINES = st.lists(st.integers(0, 5), min_size=1, max_size=4, unique=True)


@given(st.lists(LINES, min_size=1, max_size=6))
def test_no_smaller_set_of_reasons_leaves_out_every_host(lines: list[list[int]]) -> None:
    """Line 0 stands for what only this host has against the vApp."""
    by_host = {
        f"h{number}": tuple(
            rule(f"h{number}", line) if line else full(f"h{number}") for line in mine
        )
        for number, mine in enumerate(lines, 1)
    }
    keys = {
        host: {problem.line or problem.what for problem in problems}
        for host, problems in by_host.items()
    }
    every = sorted(set().union(*keys.values()), key=str)
    fewest = next(
        size
        for size in range(1, len(every) + 1)
        for chosen in itertools.combinations(every, size)
        if all(mine & set(chosen) for mine in keys.values())
    )
    found = fewest_reasons(by_host)
    assert len(found) == fewest
    named = {one.line or one.what for one in found}
    assert all(mine & named for mine in keys.values())
    assert fewest_reasons(dict(reversed(by_host.items()))) == found
