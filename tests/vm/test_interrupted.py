"""`up` that is killed or interrupted, at every stage: nothing is unprotected then, the next `up`
finishes, and `down` leaves nothing.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.driver import (
    TINY,
    Operator,
    Vapp,
    domains,
    links,
    mark,
    remains,
    standing,
    stop_at,
    write_vapp,
)

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3000)]

NAME = "halt"
WORKLOADS = ("halt.solo",)
STAGES = (
    "firewall: booting",
    "firewall: setting name, addresses, keys",
    "firewall: loading rules",
    "firewall: rules loaded and checked",
    "solo: starting its services",
)
OFTEN = ("firewall: booting", "firewall: loading rules", "solo: starting its services")
"""Those that `make test` tries, too: one before the vApp has any rule, one while it gets them, one
when it has them.
"""


@pytest.fixture
def file(operator: Operator, tmp_path: Path) -> Iterator[Path]:
    yield write_vapp(tmp_path / "halt.yaml", TINY | {"name": NAME})
    if remains(operator, NAME):
        operator.run("down", "--yes", NAME)
    assert remains(operator, NAME) == []


def nobody_is_unprotected(operator: Operator) -> None:
    """Where a workload has a live link, the firewall holds its rules."""
    if any("up" in links(operator, name) for name in WORKLOADS):
        assert "hook_forward" in operator.inside(f"{NAME}/firewall", "nft list table inet vcloud")
        assert mark(operator, f"{NAME}.firewall").get("rules")


def is_usable(vapp: Vapp) -> None:
    """Services run, the address is there, a customer gets through, nothing failed in the guest."""
    assert vapp.operator.status(NAME)["healthy"]
    assert (
        vapp.inside("solo", "hostname; systemctl is-active ssh; systemctl --failed --no-legend")
        == "solo\nactive\n"
    )
    banner = vapp.operator.at(
        "customer",
        "timeout",
        "120",
        "bash",
        "-c",
        f"exec 3<>/dev/tcp/{vapp.uplink[0]}/2222 && head -c 4 <&3",
    )
    assert banner.out == "SSH-"
    assert vapp.operator.run("ssh", f"{NAME}/solo", "--", "hostname").out == "solo\n"


@pytest.mark.parametrize(
    "stage",
    [stage if stage in OFTEN else pytest.param(stage, marks=pytest.mark.long) for stage in STAGES],
)
def test_after_a_kill_up_finishes_what_was_begun(
    operator: Operator, file: Path, stage: str
) -> None:
    code, _ = stop_at(operator, file, stage, signal.SIGKILL, "--cold")
    assert code == -signal.SIGKILL
    nobody_is_unprotected(operator)
    status = operator.run("status", NAME, "--exit-code", code=3)
    assert "was interrupted" in status.err
    operator.up(file)
    is_usable(standing(operator, NAME, file))
    assert "nothing to do" in operator.up(file).out


@pytest.mark.parametrize(
    "stage",
    [
        pytest.param("firewall: booting", marks=pytest.mark.long),
        "solo: starting its services",
    ],
)
def test_after_a_kill_down_leaves_nothing(operator: Operator, file: Path, stage: str) -> None:
    stop_at(operator, file, stage, signal.SIGKILL, "--cold")
    assert remains(operator, NAME)
    operator.run("down", "--yes", NAME)
    assert remains(operator, NAME) == []
    assert domains(operator, NAME) == {}


@pytest.mark.parametrize(
    "stage",
    [
        pytest.param("firewall: booting", marks=pytest.mark.long),
        "firewall: rules loaded and checked",
    ],
)
def test_ctrl_c_ends_with_130_and_a_sentence_and_up_goes_on(
    operator: Operator, file: Path, stage: str
) -> None:
    code, said = stop_at(operator, file, stage, signal.SIGINT, "--cold")
    assert code == 130
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith("error: interrupted; run the same command again")
    nobody_is_unprotected(operator)
    operator.up(file)
    is_usable(standing(operator, NAME, file))


@pytest.mark.long
def test_ctrl_c_of_down_is_finished_by_the_next(operator: Operator, file: Path) -> None:
    operator.up(file)
    process = operator.start("down", "--yes", NAME)
    assert process.stderr is not None
    for line in process.stderr:
        if "removed" in line:
            break
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=600)
    if remains(operator, NAME):
        operator.run("down", "--yes", NAME)
    assert remains(operator, NAME) == []


def test_no_workload_has_a_live_link_before_the_firewall_has_its_rules(
    operator: Operator, file: Path
) -> None:
    """Looks all the time while `up` is at work. Links are looked at first: a firewall that is
    marked only afterwards is caught.
    """
    unprotected: list[str] = []
    seen: set[tuple[str, ...]] = set()
    ended = threading.Event()

    def watch() -> None:
        while not ended.is_set():
            found = {name: links(operator, name) for name in WORKLOADS}
            rules = mark(operator, f"{NAME}.firewall").get("rules", "")
            seen.update(tuple(sorted(states)) for states in found.values())
            unprotected.extend(
                name for name, states in found.items() if "up" in states and not rules
            )
            time.sleep(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        process = operator.start("up", "--yes", str(file))
        _, errors = process.communicate(timeout=2400)
    finally:
        ended.set()
        watcher.join()
    assert process.returncode == 0, errors
    assert unprotected == []
    assert {("down",), ("up",)} <= seen


def test_a_lock_of_a_dead_process_stops_nobody(operator: Operator, file: Path) -> None:
    stop_at(operator, file, "firewall: booting", signal.SIGKILL, "--cold")
    assert f"vcloud-lock-{NAME}" in remains(operator, NAME)
    operator.run("down", "--yes", NAME)
    assert remains(operator, NAME) == []
