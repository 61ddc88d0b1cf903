"""What the benches on real VMs share: a lab of their own with all images and templates of the shop."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.vm.driver import Operator, lab, write_vapp

LAB = "t-bench"
SHOP = Path(__file__).parents[2] / "templates/vapps/shop.yaml"


def pytest_report_header() -> str:
    """The machine that the figures come from."""
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    qemu = subprocess.run(
        ["qemu-system-x86_64", "--version"], capture_output=True, text=True, check=True
    ).stdout.splitlines()[0]
    name = model[1] if model else platform.machine()
    return (
        f"machine: {os.cpu_count()} x {name}, {memory:.0f} GiB, Linux {platform.release()}, {qemu}"
    )


@pytest.fixture(scope="session")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """Whose host has all images and templates."""
    with lab(LAB, tmp_path_factory.mktemp("home")) as operator:
        operator.run("image", "memory", "make", str(SHOP), timeout=1800)
        yield replace(operator, fresh=True)


def idle(folder: Path, count: int) -> Path:
    """A vApp `bench` of so many VMs that have nothing to do: bench.vm-1 and so on."""
    vms = {"vm": {"image": "base", "zone": "one", "memory": "384M", "count": count}}
    document: dict[str, Any] = {"vcloud": 1, "name": "bench", "zones": {"one": {}}, "vms": vms}
    return write_vapp(folder / f"bench-{count}.yaml", document)


def idle_domains(count: int) -> list[str]:
    return [f"bench.vm-{number}" for number in range(1, count + 1)]
