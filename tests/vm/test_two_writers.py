"""Two runs of `up` at work on one vApp, because somebody has removed the lock of the one that was
only stopped: it changes nothing more, and what stands is what the other has made.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.vm.driver import TINY, Operator, mark, remains, standing, wait_until, write_vapp

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3000)]

NAME = "two"
STAGES = (
    "  firewall: ",
    "firewall: setting name, addresses, keys",
    "firewall: loading rules",
    "firewall: rules loaded and checked",
    "solo: setting name, addresses, keys",
    "solo: starting its services",
    "solo: ready",
)
"""The first is whatever `up` says first of the firewall: that it wakes, or boots."""
OFTEN = "firewall: loading rules"


@pytest.fixture
def file(operator: Operator, tmp_path: Path) -> Iterator[Path]:
    yield write_vapp(tmp_path / "two.yaml", TINY | {"name": NAME})
    if remains(operator, NAME):
        operator.run("down", "--yes", NAME)
    assert remains(operator, NAME) == []


@contextmanager
def stopped(operator: Operator, file: Path, stage: str) -> Iterator[subprocess.Popen[str]]:
    """An `up` that is stopped when it says that it has come to a stage, as by Ctrl-Z."""
    process = operator.start("up", "--yes", str(file))
    try:
        assert process.stderr is not None
        assert any(stage in line for line in process.stderr), stage
        os.killpg(process.pid, signal.SIGSTOP)
        yield process
    finally:
        for number in (signal.SIGKILL, signal.SIGCONT):
            if process.poll() is None:
                os.killpg(process.pid, number)
        process.communicate(timeout=600)


def remove_lock(operator: Operator) -> None:
    operator.virsh("net-undefine", f"vcloud-lock-{NAME}")


def manifest(operator: Operator) -> str:
    return operator.virsh("net-dumpxml", f"vcloud-manifest-{NAME}")


@pytest.mark.parametrize(
    "stage",
    [stage if stage == OFTEN else pytest.param(stage, marks=pytest.mark.long) for stage in STAGES],
)
def test_a_run_that_has_lost_its_lock_changes_nothing_more(
    operator: Operator, file: Path, stage: str
) -> None:
    with stopped(operator, file, stage) as first:
        refused = operator.run("up", "--yes", str(file), code=1)
        assert (
            f"is locked by `vcloud up` on {os.uname().nodename} (process {first.pid}" in refused.err
        )
        assert f"kill -CONT {first.pid}" in refused.err
        remove_lock(operator)
        operator.up(file)
        made = (
            manifest(operator),
            mark(operator, f"{NAME}.solo"),
            mark(operator, f"{NAME}.firewall"),
        )
        os.killpg(first.pid, signal.SIGCONT)
        _, said = first.communicate(timeout=2400)
    assert first.returncode == 1
    assert re.search(r"error: the lock of the vApp 'two' on \w+ was removed while", said), said
    assert "Traceback" not in said
    assert made == (
        manifest(operator),
        mark(operator, f"{NAME}.solo"),
        mark(operator, f"{NAME}.firewall"),
    )
    assert operator.status(NAME)["healthy"]
    assert operator.run("ssh", f"{NAME}/solo", "--", "hostname").out == "solo\n"
    assert "nothing to do" in operator.up(file).out


@pytest.mark.long
def test_a_run_that_was_stopped_and_has_its_lock_goes_on(operator: Operator, file: Path) -> None:
    with stopped(operator, file, OFTEN) as first:
        operator.run("up", "--yes", str(file), code=1)
        os.killpg(first.pid, signal.SIGCONT)
        _, said = first.communicate(timeout=2400)
    assert first.returncode == 0, said
    assert operator.status(NAME)["healthy"]


@pytest.mark.long
@pytest.mark.parametrize("seconds", [0, 0.05, 0.1, 0.2, 0.4, 0.8])
def test_the_load_of_a_killed_run_does_not_disturb_the_next(
    operator: Operator, file: Path, seconds: float
) -> None:
    """The next one begins at once, while the firewall may still be at work on what the killed one
    has sent: at the beginning, in the middle or at the end of it.
    """
    with stopped(operator, file, OFTEN) as killed:
        os.killpg(killed.pid, signal.SIGCONT)
        time.sleep(seconds)
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait(600)
        operator.up(file)
    vapp = standing(operator, NAME, file)
    assert operator.status(NAME)["healthy"]
    knock = f"exec 3<>/dev/tcp/{vapp.uplink[0]}/2222 && head -c 4 <&3"
    assert operator.at("customer", "timeout", "120", "bash", "-c", knock).out == "SSH-"


@pytest.mark.long
def test_what_comes_from_a_run_before_is_told_and_a_restart_of_the_vm_is_the_way_out(
    operator: Operator, file: Path
) -> None:
    """The firewall has seen a number that no run of this year has, as from a clock that was set
    back since.
    """
    operator.up(file)
    before = operator.boot_id(f"{NAME}/firewall")
    operator.inside(f"{NAME}/firewall", "echo 99999999999 > /run/vcloud-firewall-load")
    refused = operator.up(file, "--reload", code=1)
    assert "the firewall has already got a command from a later run of vcloud" in refused.err
    assert f"virsh reboot {NAME}.firewall" in refused.err
    operator.virsh("reboot", f"{NAME}.firewall")
    wait_until(
        "the firewall is back",
        lambda: operator.boot_id(f"{NAME}/firewall", code=None) not in ("", before),
    )
    operator.up(file, "--reload")
    assert operator.status(NAME)["healthy"]
