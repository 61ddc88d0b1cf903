"""Waking, beside a cold boot and beside bare QEMU that restores the same memory, which is the limit; and the shop as a whole."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.bench.bare import model_of, restored
from tests.bench.table import show, timed
from tests.vm.driver import LABS, Operator, environment, standing, write_vapp

pytestmark = pytest.mark.timeout(3600)

LAB = "t-bench"
SHOP = Path(__file__).parents[2] / "templates/vapps/shop.yaml"
RUNS = 3
COUNTS = (1, 2, 5, 10)


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """Whose host has all images and templates."""
    operator = Operator(environment(LAB, tmp_path_factory.mktemp("home")))
    operator.run("lab", "down")
    operator.run("lab", "up")
    try:
        operator.run("image", "templates", "warm", str(SHOP), timeout=1800)
        yield operator
    finally:
        operator.run("lab", "down", timeout=600)
        shutil.rmtree(LABS / LAB, ignore_errors=True)


def vapp(folder: Path, count: int) -> Path:
    """So many VMs that have nothing to do."""
    vms = {"vm": {"image": "base", "zone": "one", "memory": "384M", "count": count}}
    document: dict[str, Any] = {"vcloud": 1, "name": "bench", "zones": {"one": {}}, "vms": vms}
    return write_vapp(folder / f"bench-{count}.yaml", document)


def stages(operator: Operator, file: Path, *argv: str) -> dict[str, list[tuple[float, str]]]:
    """When `up` said what of each VM."""
    told: dict[str, list[tuple[float, str]]] = {}
    for line in operator.up(file, *argv).err.splitlines():
        if found := re.fullmatch(r" *([0-9.]+)s  ([^:]+): (.*)", line):
            told.setdefault(found[2], []).append((float(found[1]), found[3]))
    return told


def to_agents(told: dict[str, list[tuple[float, str]]]) -> float:
    """Seconds from the first VM's start to the last one's agent."""
    started = [at for name, rows in told.items() if name.startswith("vm") for at, what in rows if what in ("waking", "booting")]
    answered = [at for name, rows in told.items() if name.startswith("vm") for at, what in rows if what == "taking its identity"]
    return max(answered) - min(started)


@pytest.mark.parametrize("count", COUNTS)
def test_vms_to_their_agents(operator: Operator, tmp_path: Path, count: int, capsys: pytest.CaptureFixture[str]) -> None:
    """The firewall that the vApp has beside them starts at the same time, warm or cold."""
    file = vapp(tmp_path, count)
    operator.run("image", "templates", "warm", str(file), timeout=600)
    found: dict[str, list[float]] = {"bare QEMU": [], "woken": [], "booted cold": []}
    for argv, label in ((("--cold",), "booted cold"), ((), "woken")):
        for _ in range(1 if argv else RUNS):
            found[label].append(to_agents(stages(operator, file, *argv)))
            if label == "woken":
                models = [model_of(operator, f"bench.vm-{number}" if count > 1 else "bench.vm") for number in range(1, count + 1)]
            operator.run("down", "--yes", "bench", timeout=600)
    for _ in range(RUNS):
        with ExitStack() as stack:
            found["bare QEMU"] += timed(lambda stack=stack: stack.enter_context(restored(operator, models)))
    with capsys.disabled():
        show(f"{count} VMs from start to their agents", found, "bare QEMU")


def test_the_shop(operator: Operator, capsys: pytest.CaptureFixture[str]) -> None:
    found: dict[str, list[float]] = {"bare QEMU restores its 5 VMs": [], "up, woken": [], "up, cold": []}
    found["up, cold"] += timed(lambda: operator.up(SHOP, "--cold"))
    operator.run("down", "--yes", "shop", timeout=600)
    for run in range(RUNS):
        found["up, woken"] += timed(lambda: operator.up(SHOP))
        if run == 0:
            models = [model_of(operator, f"shop.{name}") for name in ("firewall", "ips", "web-1", "api", "db")]
        if run < RUNS - 1:
            operator.run("down", "--yes", "shop", timeout=600)
    with ExitStack() as stack:
        found["bare QEMU restores its 5 VMs"] += timed(lambda: stack.enter_context(restored(operator, models)))
    nothing = timed(lambda: operator.up(SHOP), RUNS)
    shop = standing(operator, "shop", SHOP)
    change = timed(lambda: operator.up(_with_another_flow(shop.file, Path(operator.env["HOME"]))))
    operator.run("down", "--yes", "shop", timeout=600)
    with capsys.disabled():
        show(
            "the shop, to ready and protected",
            found | {"up, nothing to do": nothing, "up, one flow more": change},
            "bare QEMU restores its 5 VMs",
        )


def _with_another_flow(file: Path, folder: Path) -> Path:
    changed = folder / "shop.yaml"
    first = "  - {id: checkout"
    changed.write_text(file.read_text().replace(first, "  - {id: more, from: web, to: api, service: tcp/8001}\n" + first, 1))
    return changed
