"""Which numbers the users of a build get."""

from __future__ import annotations

import pytest

from vcloud.images.ids import (
    COUNT,
    FIRST_OFFERED,
    LAST_FOR_ROOT,
    Entry,
    free_start,
    own_start,
    parse_entries,
)


def entries(text: str) -> tuple[Entry, ...]:
    return tuple(parse_entries(text))


def test_an_entry_is_found_by_name_and_by_number() -> None:
    both = entries("ann:100000:65536\n1001:165536:65536\n")
    assert own_start(both, "ann", 1000) == 100000
    assert own_start(both, "bob", 1001) == 165536
    assert own_start(both, "eve", 1002) is None


def test_a_block_that_is_too_small_does_not_count() -> None:
    assert own_start(entries("ann:100000:1000\n"), "ann", 1000) is None
    assert own_start(entries("ann:100000:1000\nann:200000:65536\n"), "ann", 1000) == 200000


@pytest.mark.parametrize(
    "text", ["", "ann", "ann:", "ann:1", "ann:x:65536", "ann:-5:65536", ":1:65536", "ann:1:2:3"]
)
def test_what_is_no_entry_is_left_out(text: str) -> None:
    assert entries(text) == ()
    assert entries(f"{text}\nann:7:65536\n") == (Entry("ann", 7, 65536),)


def test_the_offered_block_touches_nobodys() -> None:
    taken = entries(f"a:{FIRST_OFFERED}:65536\nb:{FIRST_OFFERED + 2 * COUNT - 1}:1\n")
    assert free_start((), FIRST_OFFERED, COUNT) == FIRST_OFFERED
    assert free_start(taken, FIRST_OFFERED, COUNT) == FIRST_OFFERED + 2 * COUNT
    assert free_start(entries(f"a:{LAST_FOR_ROOT + 5}:1"), LAST_FOR_ROOT, -COUNT) == (
        LAST_FOR_ROOT - COUNT
    )
