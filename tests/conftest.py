"""Options of the test run."""

from __future__ import annotations

import signal
from typing import Any

import pytest
from hypothesis import settings

from tests import sidebyside
from tests.progress import Progress

signal.signal(signal.SIGINT, signal.default_int_handler)
"""A shell script that runs something in the background makes it ignore Ctrl-C, and with it all
programs that it starts.
"""

settings.register_profile("vcloud", deadline=None)
settings.load_profile("vcloud")
"""A shared machine may be slow for a moment. The tests that promise a time measure it themselves.
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="rewrite the expected outputs; read the difference before you commit it",
    )


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if isinstance(terminal, pytest.TerminalReporter) and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Progress(terminal), "progress")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """What `-n auto` means."""
    return sidebyside.worker_count()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> sidebyside.Groups:
    return sidebyside.Groups(config, log)


WITH_REAL_MACHINES = ("tests/lab/", "tests/nested/", "tests/netns/", "tests/vm/")
"""Folders of tests whose outcome depends on how fast VMs and daemons get on beside each other."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        # Three workers' VMs share two processors without KVM. A test with VMs or real packets that
        # fails runs once more, and the run says so of each (`tests.progress`).
        if item.nodeid.startswith(WITH_REAL_MACHINES):
            item.add_marker(pytest.mark.flaky(reruns=1))
    if hasattr(config, "workerinput"):
        items[:] = sidebyside.longest_first(items)


DEAREST = 20


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The tests whose VMs used most processor time. Beside the slowest tests it shows which of
    these only waited.
    """
    reports = [
        report
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", "") == "teardown"
    ]
    used = {
        report.nodeid: dict(report.user_properties).get(sidebyside.PROCESSOR_SECONDS, 0)
        for report in reports
    }
    dearest = sorted(used, key=used.__getitem__, reverse=True)[:DEAREST]
    if dearest and used[dearest[0]]:
        terminalreporter.section(
            f"processor time of VMs: {sum(used.values()):.0f} s, the {DEAREST} tests that used most"
        )
        for test in dearest:
            terminalreporter.write_line(f"{used[test]:.1f}s {test}")
