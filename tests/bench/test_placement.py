"""What it takes to plan a whole lab."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.bench.table import compare
from tests.unit.placement.test_planner import large, needs
from vcloud.placement.needs import Needs, Room
from vcloud.placement.planner import moves, planned_homes
from vcloud.placement.solver import solved


def processor_seconds(vapps: Sequence[Needs], rooms: Sequence[Room]) -> float:
    began = time.process_time()
    assert planned_homes(vapps, rooms) is not None
    return time.process_time() - began


def test_a_lab_of_many_hosts(capsys: pytest.CaptureFixture[str]) -> None:
    """1,000 vApps over 100 hosts, a quarter of both, one newcomer, a lost host, and the solver."""
    sizes = {hosts: processor_seconds(*large(hosts, 10 * hosts)) for hosts in (25, 100)}
    vapps, rooms = large(100, 1000)
    homes = planned_homes(vapps, rooms)
    assert homes is not None
    standing = [replace(one, stands_on=homes[one.vapp]) for one in vapps]
    newcomer = processor_seconds([*standing, needs("newcomer")], rooms)
    after = planned_homes(standing, rooms[1:])
    assert after is not None
    lost = sum(home == rooms[0].host for home in homes.values())
    began = time.process_time()
    solver = solved(vapps, rooms, seconds=60)
    solving = time.process_time() - began
    with capsys.disabled():
        print(f"\n100 hosts with 1,000 vApps {sizes[100]:.2f} s, 25 with 250 {sizes[25]:.3f} s")
        print(f"a host with {lost} of them lost: {len(moves(standing, after))} vApps move")
        print(f"clingo {solving:.1f} s: {'a placement' if solver.homes else 'none found'}")
        pairs = sizes[100] / sizes[25] / 16
        compare({"lab": sizes[100], "lab, growth": pairs, "newcomer": 1000 * newcomer})
