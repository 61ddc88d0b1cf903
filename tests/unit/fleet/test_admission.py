"""Which copies of vApps may start on a host that has booted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.standing import manifest_of
from tests.vapps import shop
from vcloud.plan.formats import Unreadable
from vcloud.plan.manifest import Manifest, Move
from vcloud.views.admission import why_not_admitted

SHOP = manifest_of(shop())
MOVE = Move("0f0f", "h1", "h2")
SWITCHED = replace(MOVE, switched=True)


def copy(generation: int, *replaced: str) -> Manifest:
    return replace(SHOP, generation=generation, replaced=replaced)


@pytest.mark.parametrize(
    ("copies", "why"),
    [
        ({"h2": copy(5)}, ""),
        ({"h2": copy(5), "h1": copy(4)}, ""),
        ({"h2": copy(4, "h1"), "h1": copy(5)}, ""),
        ({"h2": copy(4), "h1": copy(5)}, "a newer copy is on h1"),
        ({"h2": copy(9), "h1": copy(5, "h2")}, "a newer copy is on h1"),
        ({"h2": copy(5), "h1": copy(5)}, "nobody knows whether this copy or that on h1 is newer"),
        ({"h2": copy(5), "h1": Unreadable(0, "", None)}, "the copy on h1 cannot be read"),
        ({"h2": Unreadable(0, "", None)}, "the copy on h2 cannot be read"),
        ({"h2": replace(copy(9), move=MOVE)}, "it is a copy of a move"),
        ({"h2": replace(copy(9), move=MOVE), "h1": replace(copy(5), move=MOVE)}, "it is a copy of"),
        ({"h2": replace(copy(5), move=SWITCHED), "h1": replace(copy(9), move=SWITCHED)}, ""),
    ],
)
def test_a_copy_starts_again_only_where_no_other_host_has_a_newer_one(
    copies: dict[str, Manifest | Unreadable], why: str
) -> None:
    found = why_not_admitted("shop", "h2", copies)
    assert found.startswith(why)
    assert bool(found) == bool(why)
    if "newer" in why and "read" not in why:
        assert "`vcloud down shop -c h2`" in found
