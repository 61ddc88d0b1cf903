"""What clones of one template cost the host in memory: as they are, and where the host shares equal
pages (KSM).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.bench.bare import processes
from tests.bench.conftest import idle, idle_domains
from tests.vm.driver import Operator

pytestmark = pytest.mark.timeout(3600)

CLONES = 10
ASKED = 384
KSM = Path("/sys/kernel/mm/ksm")
EAGER = {"pages_to_scan": "4000", "sleep_millisecs": "20", "run": "1"}
SHARING_SECONDS = 180


def proportional_mib(operator: Operator, domains: list[str]) -> float:
    """A shared page counts for each of those who share it by its part: PSS of proc(5)."""
    found = {
        domain: rollup
        for domain, rollup in processes(operator, "smaps_rollup")
        if domain in domains
    }
    assert len(found) == len(domains)
    return (
        sum(
            int(rollup.partition("\nPss:")[2].split()[0])  # in kB, see proc(5)
            for rollup in found.values()
        )
        / 1024
    )


@contextmanager
def shared_pages() -> Iterator[None]:
    """Sharing as eager as it gets, until nothing more is found to share; afterwards the host is as
    it was.
    """
    before = {name: (KSM / name).read_text() for name in EAGER}
    try:
        for name, value in EAGER.items():
            (KSM / name).write_text(value)
        deadline, sharing = time.monotonic() + SHARING_SECONDS, -1
        while (
            time.monotonic() < deadline
            and (now := int((KSM / "pages_sharing").read_text())) > sharing * 1.01
        ):
            sharing = now
            time.sleep(15)
        yield
    finally:
        for name, value in before.items():
            (KSM / name).write_text(value)


def test_ten_clones(operator: Operator, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, domains = idle(tmp_path, CLONES), idle_domains(CLONES)
    operator.run("image", "memory", "make", str(file), timeout=600)
    found = {f"asked for by the file, {ASKED} MiB each": float(CLONES * ASKED)}
    for label, argv in (("booted cold", ("--cold",)), ("woken", ())):
        operator.up(file, *argv)
        found[label] = proportional_mib(operator, domains)
        if not argv and (KSM / "run").exists():
            with shared_pages():
                found["woken, on a host that shares pages"] = proportional_mib(operator, domains)
        operator.run("down", "--yes", "bench", timeout=600)
    with capsys.disabled():
        print(
            f"\n{f'memory of {CLONES} VMs on the host (PSS)':44} {'in all':>10} {'each':>9} {'ratio':>7}"
        )
        for label, mib in found.items():
            print(
                f"{label:44} {mib:6.0f} MiB {mib / CLONES:5.0f} MiB {mib / found['booted cold']:6.2f}x"
            )
