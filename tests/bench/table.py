"""How measurements are shown: a table of medians, each beside its reference of the same run, and
the same as bars.
"""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence

from tests.bench.targets import judge

BAR = 40


def show(title: str, seconds: Mapping[str, Sequence[float]], reference: str) -> None:
    """Prints the rows in the order of the mapping. The bars are as long as the medians."""
    medians = {label: statistics.median(values) for label, values in seconds.items()}
    longest = max(medians.values())
    print(f"\n{title:44} {'median':>8} {'ratio':>7}")
    for label, value in medians.items():
        print(
            f"{label:44} {value:7.2f}s {value / medians[reference]:6.2f}x  {'#' * max(1, round(BAR * value / longest))}"
        )


def compare(figures: Mapping[str, float]) -> None:
    """Prints how the figures stand to their targets, and fails for those that got worse."""
    lines, errors = judge(figures)
    print("\n" + "\n".join(lines))
    assert errors == []


def timed(action: Callable[[], object], runs: int = 1) -> list[float]:
    """Seconds of wall clock that it took, each time."""
    found = []
    for _ in range(runs):
        started = time.monotonic()
        action()
        found.append(time.monotonic() - started)
    return found


def command(*argv: str) -> None:
    """A whole process, which must end well."""
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, capture_output=True)
