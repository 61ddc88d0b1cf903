"""What each test of the release of November 2026 claims, and which test holds that claim now.

`claims.txt` lists the tests of that release. `claims.tsv` has a row for each test, or for each file
of tests, that has moved since: the old place, a tab, the new place. A row for one test comes before
a row for its file. A test without a row is still where it was.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

TESTS = Path(__file__).parent


def claims() -> list[str]:
    """The old tests, as `tests/vm/test_change.py::test_a_published_port_moves`."""
    return (TESTS / "claims.txt").read_text().split()


def moves() -> dict[str, str]:
    """Old place -> new place, for tests and for whole files."""
    rows = [line.split("\t") for line in (TESTS / "claims.tsv").read_text().splitlines()]
    moved = dict(rows)
    assert len(moved) == len(rows), "two rows for one test"
    return moved


def successor(claim: str, moved: Mapping[str, str]) -> str:
    """The test that holds an old test's claim today."""
    file, _, name = claim.partition("::")
    return moved.get(claim) or f"{moved.get(file, file)}::{name}"


def present() -> Iterator[str]:
    """Every test that there is now."""
    for path in sorted(TESTS.rglob("test_*.py")):
        place = path.relative_to(TESTS.parent)
        yield from (
            f"{place}::{node.name}"
            for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        )
