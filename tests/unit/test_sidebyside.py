"""Which group of tests a pytest-xdist worker may begin beside those of the other workers."""

from __future__ import annotations

from tests.sidebyside import IMAGES, all_processors_are_taken, may_begin, processors

UNIT, WARM, SHOP, IPS = (
    "tests/unit/test_flows.py",
    "tests/vm/test_warm.py",
    "tests/vm/shop",
    "tests/netns/ips/test_rules.py",
)
ALL_BUT_ONE = [[SHOP]] * (processors() - 1)


def test_groups_that_need_images_wait_for_them_and_others_do_not() -> None:
    assert may_begin(UNIT, [[IMAGES]])
    assert not may_begin(IPS, [[IMAGES]])
    assert may_begin(IPS, [[SHOP], [UNIT]])


def test_only_as_many_groups_boot_vms_as_there_are_processors() -> None:
    assert may_begin(WARM, [*ALL_BUT_ONE, [UNIT]])
    assert not may_begin(WARM, [*ALL_BUT_ONE, [SHOP]])
    assert may_begin(UNIT, [*ALL_BUT_ONE, [SHOP]])


def test_a_worker_that_has_got_its_next_group_counts_once() -> None:
    assert all_processors_are_taken([[SHOP, WARM]]) == (processors() == 1)
    assert all_processors_are_taken([*ALL_BUT_ONE, [UNIT, WARM]])
