"""Cold boot without KVM: the shipped images beside the kernel alone, which is the limit, and beside
Debian untrimmed. Medians, as ratios.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import pytest

from tests.bench.table import compare
from tests.bench.untrimmed import untrimmed
from tests.vm.qemu import Guest, booted
from vcloud.data import images_dir
from vcloud.images.build import build
from vcloud.images.cache import Image
from vcloud.images.recipe import load_recipe

RUNS = 5
WORKLOADS, APPLIANCES = ("base", "nginx", "postgres"), ("firewall", "ips")


def kernel_alone(image: Image, folder: Path) -> float:
    """Seconds from power-on until the first program in user space has asked for power-off."""
    guest = Guest(image, folder, append="vcloud.probe")
    try:
        guest.process.wait(timeout=120)
        return time.monotonic() - guest.started
    finally:
        guest.stop()


def to_agent(image: Image, folder: Path) -> float:
    """Seconds from power-on to the guest agent's first answer, on a new disk."""
    with tempfile.TemporaryDirectory(dir=folder) as own, booted(image, Path(own)) as guest:
        return time.monotonic() - guest.started


@pytest.mark.timeout(3600)
def test_cold_boot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = {name: build(load_recipe(images_dir() / name)) for name in (*WORKLOADS, *APPLIANCES)}
    images["untrimmed"] = untrimmed()
    found = {"kernel alone": [kernel_alone(images["base"], tmp_path) for _ in range(RUNS)]}
    found |= {
        f"{name} to agent": [to_agent(image, tmp_path) for _ in range(RUNS)]
        for name, image in images.items()
    }
    medians = {label: statistics.median(seconds) for label, seconds in found.items()}
    limit, most = medians["kernel alone"], medians["untrimmed to agent"]
    with capsys.disabled():
        print(
            f"\n{'cold boot, TCG, 1 vCPU':24} {'median':>8} {'kernel = 1':>11} {'untrimmed = 1':>14}"
        )
        for label, seconds in medians.items():
            print(f"{label:24} {seconds:7.1f}s {seconds / limit:11.1f} {seconds / most:14.2f}")
        compare(
            {
                "workload cold": max(medians[f"{name} to agent"] for name in WORKLOADS),
                "appliance cold": max(medians[f"{name} to agent"] for name in APPLIANCES),
            }
        )
    assert all(
        limit < seconds < most
        for label, seconds in medians.items()
        if label not in ("kernel alone", "untrimmed to agent")
    )
