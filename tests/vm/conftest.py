"""What the tests on real VMs share: one lab with one host."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from tests.sidebyside import PROCESSOR_SECONDS
from tests.vm.driver import ROOT, Operator, Vapp, lab, remains, standing, volumes
from tests.vm.meter import Meter, Use

LAB = "t-vm" + os.environ.get("PYTEST_XDIST_WORKER", "")
"""Workers that run side by side have a lab each."""
LOGS = ROOT / "build/test-logs"
TOLD: set[str] = set()
"""The failures whose evidence is kept already."""
SHOP = ROOT / "templates/vapps/shop.yaml"

Raise = Callable[..., Vapp]
"""Takes the name of a vApp, its file, and options of `vcloud up`."""


@pytest.fixture(scope="session")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """Somebody at the command line whose lab has one host. In the end nothing but the lab's own
    things may be there.
    """
    with lab(LAB, tmp_path_factory.mktemp("home"), stocked=True) as operator:
        yield operator
        assert operator.run("list", "-o", "json").data == []
        assert operator.virsh("list", "--all", "--name").split() == []
        assert operator.virsh("net-list", "--all", "--name").split() == ["uplink"]
        assert not volumes(operator, "root.", "vm.", "console.", "seed.")


@pytest.fixture(scope="session")
def meter() -> Iterator[Meter]:
    meter = Meter(f"{LAB}-h1")
    yield meter
    meter.close()


@pytest.fixture(autouse=True)
def _processor_time(meter: Meter, record_property: Callable[[str, object], None]) -> Iterator[None]:
    """Notes what the VMs used during a test, for the list at the end of the run."""
    before = meter.use()
    yield
    record_property(PROCESSOR_SECONDS, round(meter.since(before).running, 1))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """A test that fails while its VMs are starved says so, beside what it found."""
    meter: Meter | None = getattr(item, "funcargs", {}).get("meter")
    before = meter.use() if meter else Use()
    try:
        return (yield)
    except (AssertionError, subprocess.TimeoutExpired, TimeoutError) as error:
        used = meter.since(before) if meter else Use()
        if used.starved:
            ran, waited = f"{used.running:.0f} s", f"{used.waiting:.0f} s"
            error.add_note(
                f"The VMs ran for {ran} and waited for a processor for {waited}: "
                "this machine may be too busy for this test."
            )
        raise


@pytest.fixture(scope="module")
def raised(operator: Operator) -> Iterator[Raise]:
    """Brings vApps up. Takes each of them down after the module's last test, whatever state it is
    in then.
    """
    with taken_down_in_the_end(operator) as bring:
        yield bring


@contextlib.contextmanager
def taken_down_in_the_end(operator: Operator) -> Iterator[Raise]:
    names: list[str] = []

    def bring(name: str, file: Path, *options: str) -> Vapp:
        names.append(name)
        operator.up(file, *options)
        return standing(operator, name, file)

    yield bring
    for name in names:
        if remains(operator, name):
            operator.run("down", "--yes", name)
        assert remains(operator, name) == []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test leaves what the VMs and the appliances had to say. A fixture that has failed is
    asked by each of its tests, and tells it once.
    """
    report = yield
    operator = getattr(item, "funcargs", {}).get("operator")
    if report.failed and isinstance(operator, Operator) and report.longreprtext not in TOLD:
        TOLD.add(report.longreprtext)
        folder = LOGS / re.sub(r"[^A-Za-z0-9._-]+", "-", item.nodeid)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{report.when}.txt").write_text(report.longreprtext)
        with contextlib.suppress(AssertionError, OSError, ValueError, subprocess.SubprocessError):
            report.sections.append(("what the appliances said", appliances_said(operator)))
            keep_evidence(operator, folder)
    return report


LOOK = {
    "firewall": "nft list ruleset | grep -E 'ctl:|flow:' | grep -v 'packets 0 '; ip neigh; "
    "cat /proc/sys/net/netfilter/nf_conntrack_count; tail -n 40 /proc/net/nf_conntrack; dmesg | tail -n 5",
    "ips": "/usr/lib/vcloud/ips-report | cut -c1-1500; /usr/lib/vcloud/ips-report events 5; tail -n 5 /var/log/suricata/suricata.log; ip -s link; cat /proc/loadavg",
}


def appliances_said(operator: Operator) -> str:
    """In short, for who sees nothing of a failed run but its output."""
    said = []
    for vapp in (row["vapp"] for row in operator.run("list", "-o", "json").data):
        for vm, script in LOOK.items():
            done = operator.run("exec", f"{vapp}/{vm}", "--", "sh", "-c", script, code=None)
            said.append(f"{vapp}/{vm} (exit {done.code}):\n{done.out[:8000]}{done.err[:500]}")
    return "\n".join(said)


def keep_evidence(operator: Operator, folder: Path) -> None:
    """Status, consoles, rules and events of all that runs, into a folder."""
    for vapp in (row["vapp"] for row in operator.run("list", "-o", "json").data):
        status = operator.run("status", vapp, "-o", "json", code=None)
        (folder / f"{vapp}.status.json").write_text(status.out + status.err)
        for vm in json.loads(status.out)["vms"] if status.code == 0 else ():
            said = operator.run("logs", f"{vapp}/{vm['name']}", code=None)
            (folder / f"{vapp}.{vm['name']}.log").write_text(said.out + said.err)
        rules = operator.run("exec", f"{vapp}/firewall", "--", "nft", "list", "ruleset", code=None)
        (folder / f"{vapp}.nft").write_text(rules.out + rules.err)
        events = operator.run(
            "exec",
            f"{vapp}/ips",
            "--",
            "tail",
            "-n",
            "200",
            "/var/log/suricata/eve.json",
            code=None,
        )
        (folder / f"{vapp}.eve.json").write_text(events.out + events.err)
