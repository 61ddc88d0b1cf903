"""What a run of the tests says while it goes on: each failure at once, how long each dear group took,
and which tests run just now. A run that is ended from outside, for example by CI's limit, has then
said what it found and where it stood.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

import pytest

from tests.sidebyside import PROCESSOR_SECONDS, group_of

RERUN = "rerun"
"""The outcome of a test that failed and runs once more (pytest-rerunfailures)."""
LINES = 40
"""So many of a failure's last lines are told at once. The end of the run has all of them."""
DEAR_SECONDS = 15
"""Groups that took less are not named."""
LOOK_SECONDS = 300
"""The tests that run just now are named each time that so many seconds have gone by."""


@dataclass(slots=True)
class Group:
    """The tests that one worker runs together, so far."""

    name: str
    began: float
    tests: set[str] = field(default_factory=set)
    ended: float = 0
    """When its last test so far ended."""
    vm_seconds: float = 0
    """The processor time that their VMs used."""


class Progress:
    """A plugin of the process that prints, which is not one of the workers."""

    def __init__(self, terminal: pytest.TerminalReporter) -> None:
        self.terminal = terminal
        self.began = time.monotonic()
        self.groups: dict[str, Group] = {}
        """By worker."""
        self.running: dict[str, float] = {}
        """The tests that have begun and not ended -> when they began."""
        self.unsteady: set[str] = set()
        """The tests that ran a second time."""
        self.ended = threading.Event()
        threading.Thread(target=self.look, daemon=True).start()

    def look(self) -> None:
        while not self.ended.wait(LOOK_SECONDS):
            now = time.monotonic()
            tests = [f"{test} for {now - began:.0f} s" for test, began in [*self.running.items()]]
            self.say("running: " + ", ".join(tests))

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.running[nodeid] = time.monotonic()

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self.running.pop(nodeid, None)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        worker, name = getattr(report, "worker_id", ""), group_of(report.nodeid)
        now = time.monotonic()
        group = self.groups.get(worker)
        if group is None or group.name != name:
            self.tell(group)
            group = self.groups[worker] = Group(name, now - report.duration)
        group.tests.add(report.nodeid)
        group.ended = now
        if report.when == "teardown":
            used = dict(report.user_properties).get(PROCESSOR_SECONDS, 0)
            group.vm_seconds += used if isinstance(used, float | int) else 0
        if report.failed or report.outcome == RERUN:
            again = ", and runs once more" if report.outcome == RERUN else ""
            self.say(f"{report.nodeid} failed ({report.when}){again}:")
            for line in report.longreprtext.splitlines()[-LINES:]:
                self.terminal.write_line("    " + line)
        if report.outcome == RERUN:
            self.unsteady.add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        self.ended.set()
        for test in sorted(self.unsteady):
            self.say(f"unsteady: {test} failed at first, see above")
        for group in self.groups.values():
            self.tell(group)

    def tell(self, group: Group | None) -> None:
        if group and group.ended - group.began >= DEAR_SECONDS:
            vms = f", its VMs used {group.vm_seconds:.0f} s" if group.vm_seconds else ""
            took = group.ended - group.began
            self.say(f"{group.name}: {len(group.tests)} tests in {took:.0f} s{vms}")

    def say(self, text: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - self.began), 60)
        self.terminal.ensure_newline()
        self.terminal.write_line(f"[{minutes}:{seconds:02}] {text}")
