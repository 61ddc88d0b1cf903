"""Which group of tests a pytest-xdist worker may begin beside those of the other workers."""

from __future__ import annotations

from tests.sidebyside import (
    HEAVY,
    IMAGES,
    SECONDS,
    STOCK,
    may_begin,
    next_group,
    worker_count,
)

UNIT, WARM, SHOP, IPS = (
    "tests/unit/test_flows.py",
    "tests/vm/test_warm.py",
    "tests/vm/shop",
    "tests/netns/ips/test_rules.py",
)


def test_groups_that_need_images_wait_for_them_and_others_do_not() -> None:
    assert may_begin(UNIT, [[IMAGES]])
    assert not may_begin(IPS, [[IMAGES], [UNIT]])
    assert not may_begin(SHOP, [[UNIT], [IMAGES]])
    assert may_begin(IPS, [[SHOP], [UNIT]])
    assert may_begin(WARM, [[SHOP], [IPS]])


def test_what_needs_only_images_begins_while_the_stock_is_made() -> None:
    nested = "tests/nested/test_nested.py"
    waiting = (IMAGES, STOCK, nested, SHOP, IPS, UNIT)
    assert next_group(waiting, []) == IMAGES
    assert next_group(waiting[1:], [[IMAGES]]) == UNIT
    assert next_group(waiting[1:], [[UNIT]], own=[IMAGES]) == STOCK
    # Behind the stock nothing waits that another worker could do.
    assert next_group(waiting[2:], [[UNIT]], own=[IMAGES, STOCK]) == UNIT
    assert next_group(waiting[2:], [[STOCK]]) == nested
    assert next_group(waiting[3:], [[STOCK], [nested]]) == IPS
    assert next_group((SHOP,), [[STOCK], [nested]]) == SHOP


def test_two_groups_that_need_most_of_the_processors_do_not_run_beside_each_other() -> None:
    one, other = HEAVY
    assert not may_begin(one, [[SHOP], [other]])
    assert may_begin(one, [[SHOP], [WARM]])
    assert may_begin(SHOP, [[one]])
    assert set(SECONDS) >= HEAVY


def test_where_all_have_to_wait_for_images_the_heavy_ones_still_do_not_meet() -> None:
    one, other = HEAVY
    assert next_group((one, SHOP, UNIT), [[IMAGES]]) == UNIT
    assert next_group((one, SHOP), [[IMAGES]]) == one
    assert next_group((other, SHOP), [[IMAGES], [one]]) == SHOP
    assert next_group((other,), [[IMAGES], [one]]) == other


def test_there_is_one_worker_at_least() -> None:
    assert 1 <= worker_count() <= 6
