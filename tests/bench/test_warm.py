"""Waking, beside a cold boot and beside bare QEMU that restores the same memory, which is the
limit; and the shop as a whole.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.bench.bare import Model, model_of, restored
from tests.bench.conftest import SHOP, idle, idle_domains
from tests.bench.table import compare, show, timed
from tests.vm.cloud_image import cloud_image
from tests.vm.driver import Operator, standing, write_vapp

pytestmark = pytest.mark.timeout(3600)

RUNS = 3
COUNTS = (1, 2, 5, 10)
SHOPS_VMS = ("firewall", "ips", "web-1", "api", "db")
LIBVIRT_PROGRAM = "prog=536903814"
"""In libvirt's log of what it sends: a call of the API, and none that keeps the connection alive.
"""
HANDSHAKE = re.compile(r"proc=(?:66|1|60|2)\b")
"""Authentication, opening, what the other end can do, closing: libvirt's own talk around a
connection (remote_protocol.x).
"""


def stages(operator: Operator, file: Path, *argv: str) -> dict[str, list[tuple[float, str]]]:
    """When `up` said what of each VM."""
    told: dict[str, list[tuple[float, str]]] = {}
    for line in operator.up(file, *argv).err.splitlines():
        if found := re.fullmatch(r" *([0-9.]+)s  ([^:]+): (.*)", line):
            told.setdefault(found[2], []).append((float(found[1]), found[3]))
    return told


def to_agents(told: dict[str, list[tuple[float, str]]]) -> float:
    """Seconds from the first VM's start to the last one's agent."""
    rows = [row for rows in told.values() for row in rows]
    started = [at for at, what in rows if what in ("waking", "booting")]
    answered = [at for at, what in rows if what == "setting name, addresses, keys"]
    return max(answered) - min(started)


def bare(operator: Operator, models: list[Model]) -> list[float]:
    found = []
    for _ in range(RUNS):
        with ExitStack() as stack:
            found += timed(partial(stack.enter_context, restored(operator, models)))
    return found


@pytest.mark.parametrize("count", COUNTS)
def test_vms_to_their_agents(
    operator: Operator, tmp_path: Path, count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the firewall that the vApp has beside them, on both sides."""
    file = idle(tmp_path, count)
    operator.run("image", "memory", "make", str(file), timeout=600)
    cold = [to_agents(stages(operator, file, "--cold"))]
    operator.run("down", "--yes", "bench", timeout=600)
    woken, models = [], list[Model]()
    for _ in range(RUNS):
        woken.append(to_agents(stages(operator, file)))
        models = models or [
            model_of(operator, domain) for domain in ("bench.firewall", *idle_domains(count))
        ]
        operator.run("down", "--yes", "bench", timeout=600)
    found = {
        "bare QEMU restores": bare(operator, models),
        "vcloud wakes": woken,
        "vcloud boots cold": cold,
    }
    with capsys.disabled():
        show(f"{count} VMs and the firewall, to their agents", found, "bare QEMU restores")


def parts_of(operator: Operator, *argv: str) -> dict[str, float]:
    """Seconds of `up` of the shop, in all and by part."""
    data: dict[str, Any] = operator.run("up", str(SHOP), *argv, "-o", "json", timeout=600).data
    return {"all": data["seconds"], **data["parts"]}


def test_the_shop(operator: Operator, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cold = parts_of(operator, "--cold")
    operator.run("down", "--yes", "shop", timeout=600)
    woken, models = [], list[Model]()
    for run in range(RUNS):
        woken.append(parts_of(operator))
        models = models or [model_of(operator, f"shop.{name}") for name in SHOPS_VMS]
        if run < RUNS - 1:
            operator.run("down", "--yes", "shop", timeout=600)
    saves, restores = [], []
    for _ in range(RUNS):
        saves.append(operator.run("save", "shop", "-o", "json").data["seconds"])
        restores.append(parts_of(operator))
    nothing = timed(lambda: operator.up(SHOP), RUNS)
    calls = calls_of_an_up_with_nothing_to_do(operator, tmp_path)
    change = timed(
        lambda: operator.up(_with_another_flow(standing(operator, "shop", SHOP).file, tmp_path))
    )
    status = timed(lambda: operator.status("shop"), RUNS)
    verify = timed(lambda: operator.run("verify", "shop", timeout=600))
    operator.run("down", "--yes", "shop", timeout=600)
    found = {
        "bare QEMU restores its 5 VMs": bare(operator, models),
        **by_part("woken", woken),
        **by_part("restored", restores),
        "save": saves,
        "up, cold": [cold["all"]],
        "up with nothing to do": nothing,
        "up with one flow more": change,
        "status": status,
        "verify": verify,
    }
    with capsys.disabled():
        show("the shop, to ready and protected", found, "bare QEMU restores its 5 VMs")
        print(
            f"an up with nothing to do asks libvirt {calls} times over qemu+ssh, beside opening and closing the connection"
        )
        compare(figures_of(found))


def figures_of(found: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The figures of a shop that have a target."""
    seconds = {label: statistics.median(values) for label, values in found.items()}
    limit = seconds["bare QEMU restores its 5 VMs"]
    return {
        "shop made anew": seconds["up, woken"] / limit,
        "shop restored": seconds["up, restored"] / limit,
        "shop made anew, seconds": seconds["up, woken"],
        "shop cold": seconds["up, cold"],
        "nothing to do": seconds["up with nothing to do"],
        "one flow more": seconds["up with one flow more"],
        "status": seconds["status"],
        "verify": seconds["verify"],
    }


def by_part(how: str, runs: list[dict[str, float]]) -> dict[str, list[float]]:
    """Rows for the whole and for what it took a while for."""
    parts = [part for part in runs[0] if part != "all" and runs[0][part] >= 0.05]
    return {
        f"up, {how}": [run["all"] for run in runs],
        **{f"  of {how} {part}": [run[part] for run in runs] for part in parts},
    }


def calls_of_an_up_with_nothing_to_do(operator: Operator, folder: Path) -> int:
    log = folder / "rpc.log"
    counted = Operator(
        fresh=True,
        env={
            **operator.env,
            "LIBVIRT_LOG_FILTERS": "1:rpc",
            "LIBVIRT_LOG_OUTPUTS": f"1:file:{log}",
        },
    )
    assert "nothing to do" in counted.up(SHOP).out
    sent = [
        line
        for line in log.read_text().splitlines()
        if "RPC_CLIENT_MSG_TX_QUEUE" in line and LIBVIRT_PROGRAM in line
    ]
    return sum(not HANDSHAKE.search(line) for line in sent)


def _with_another_flow(file: Path, folder: Path) -> Path:
    changed = folder / "shop.yaml"
    first = "  - {id: checkout"
    changed.write_text(
        file.read_text().replace(
            first, "  - {id: more, from: web, to: api, service: tcp/8001}\n" + first, 1
        )
    )
    return changed


def test_an_image_of_a_users_own(
    operator: Operator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A distribution's, with its initrd and cloud-init: what is saved is the boot up to its
    services.
    """
    vm = {
        "image": {"file": str(cloud_image())},
        "zone": "one",
        "memory": "640M",
        "ready": {"tcp": 22},
    }
    file = write_vapp(
        tmp_path / "own.yaml",
        {"vcloud": 1, "name": "own", "zones": {"one": {}}, "vms": {"guest": vm}},
    )
    operator.run("image", "memory", "make", str(file), timeout=600)
    found: dict[str, list[float]] = {}
    for label, argv in (("up, cold", ("--cold",)), ("up, woken", ())):
        found[label] = []
        for _ in range(RUNS - 1):
            found[label].append(
                operator.run("up", str(file), *argv, "-o", "json", timeout=600).data["seconds"]
            )
            operator.run("down", "--yes", "own", timeout=600)
    with capsys.disabled():
        show("a distribution's image with cloud-init, to ready", found, "up, cold")
