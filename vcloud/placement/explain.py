"""The reasons why no host of a lab can run a vApp: as few of them as leave out every host."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from vcloud.errors import Problem

MOST_TRIED = 20_000
"""Sets of reasons that are tried at most, to find one that has fewer than the first that was found."""


def fewest_reasons(by_host: Mapping[str, Sequence[Problem]]) -> tuple[Problem, ...]:
    """As few problems as name every host, in the order of the file. What several hosts have to do
    with one line of the file is one problem. The same problems always give the same result.

    Args:
        by_host: what each host has against the vApp; of each host at least one problem.
    """
    reasons = _reasons(by_host)
    hosts = frozenset(by_host)
    first = _greedy(reasons, hosts)
    for size in range(1, len(first)):
        if math.comb(len(reasons), size) > MOST_TRIED:
            break
        for chosen in itertools.combinations(reasons, size):
            if frozenset().union(*(covered for _, covered in chosen)) == hosts:
                return tuple(sorted(problem for problem, _ in chosen))
    return tuple(sorted(problem for problem, _ in first))


_Reason = tuple[Problem, frozenset[str]]
"""A problem, and the hosts that it leaves out."""


def _reasons(by_host: Mapping[str, Sequence[Problem]]) -> list[_Reason]:
    """Each reason once. A line of the file is one reason for all hosts that it leaves out."""
    found: dict[object, list[tuple[Problem, str]]] = {}
    for host in sorted(by_host):
        for problem in by_host[host]:
            shared = (problem.file, problem.line, problem.field)
            key = shared if problem.line else problem
            found.setdefault(key, []).append((problem, host))
    reasons = (
        (_joined([problem for problem, _ in group]), frozenset(host for _, host in group))
        for group in found.values()
    )
    return sorted(reasons, key=lambda reason: reason[0])


def _joined(problems: Sequence[Problem]) -> Problem:
    whats = dict.fromkeys(problem.what for problem in problems)
    hints = dict.fromkeys(problem.hint for problem in problems if problem.hint)
    return replace(problems[0], what="; ".join(whats), hint=" ".join(hints))


def _greedy(reasons: Sequence[_Reason], hosts: frozenset[str]) -> list[_Reason]:
    """Again and again the reason that leaves out most of the hosts that are not left out yet."""
    chosen: list[_Reason] = []
    left = set(hosts)
    while left:
        best = max(reasons, key=lambda reason: len(reason[1] & left))
        chosen.append(best)
        left -= best[1]
    return chosen
