"""Cold boot of the shipped images without KVM, beside the kernel alone, which is the limit: medians of five runs, as ratios."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import pytest

from tests.vm.qemu import Guest, booted
from vcloud.data import images_dir
from vcloud.images.build import build
from vcloud.images.cache import Image
from vcloud.images.recipe import load_recipe

RUNS = 5


def kernel_alone(image: Image, folder: Path) -> float:
    """Seconds from power-on until the first program in user space has asked for power-off."""
    guest = Guest(image, folder, append="vcloud.probe")
    try:
        guest.process.wait(timeout=120)
        return time.monotonic() - guest.started
    finally:
        guest.stop()


def to_agent(image: Image, folder: Path) -> float:
    """Seconds from power-on to the guest agent's first answer."""
    with booted(image, folder) as guest:
        return time.monotonic() - guest.started


@pytest.mark.timeout(1800)
def test_cold_boot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = {name: build(load_recipe(images_dir() / name)) for name in ("base", "nginx", "postgres", "firewall", "ips")}
    rows = [("kernel alone", [kernel_alone(images["base"], tmp_path) for _ in range(RUNS)])]
    for name, image in images.items():
        folder = tmp_path / name
        folder.mkdir()
        rows.append((f"{name} to agent", [to_agent(image, folder) for _ in range(RUNS)]))
    limit = statistics.median(rows[0][1])
    with capsys.disabled():
        print(f"\n{'cold boot, TCG, 1 vCPU':24} {'median':>8} {'ratio':>7}")
        for label, seconds in rows:
            print(f"{label:24} {statistics.median(seconds):7.1f}s {statistics.median(seconds) / limit:6.1f}x")
    assert all(len(seconds) == RUNS for _, seconds in rows)
