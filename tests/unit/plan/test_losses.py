"""Which changes only take something away, and which ones lose data: those are refused, or named so
that a person can agree to them.
"""

from __future__ import annotations

import pytest

from tests.standing import standing
from tests.unit.plan.test_diff import STANDING, design, plan, told
from vcloud.design.model import Design
from vcloud.errors import SmallerDiskError
from vcloud.plan.reasons import flow_changes

ORDERS = "  - {id: orders, from: web, to: api, service: tcp/8000, why: the API}\n"


@pytest.mark.parametrize(
    ("new", "only"),
    [
        ("", True),
        (ORDERS, False),
        (ORDERS.replace("orders", "prices"), False),
        (ORDERS.replace("8000", "8001"), False),
    ],
    ids=["revoked", "nothing", "renamed", "changed"],
)
def test_rules_only_revoke_where_nothing_is_allowed_or_changed(new: str, only: bool) -> None:
    assert flow_changes(design(ORDERS, new), STANDING.manifest).only_revokes == only


def test_a_disk_may_grow_and_not_shrink() -> None:
    def sized(size: str) -> Design:
        return design("zone: app,", f"zone: app, disks: {{data: {size}}},")

    state = standing(sized("2G"))
    assert told(plan(sized("3G"), state)) == [("restart VM", "api", "restart")]
    with pytest.raises(SmallerDiskError, match="'data' of 'api' has 2048 MiB") as refused:
        plan(sized("1G"), state)
    assert refused.value.exit == 6
    assert refused.value.hint


def test_losses_are_what_is_made_anew_or_removed() -> None:
    assert plan(design("count: 2, memory: 256M", "count: 1, memory: 512M"), STANDING).losses() == {
        "shop.web-2"
    }
    assert plan(design("echo one", "echo two"), STANDING).losses() == {"api"}
    assert plan(design("memory: 256M", "memory: 512M"), STANDING).losses() == set()
