"""How the tests are spread over several pytest-xdist workers: which stay together, and which begin
first.

Tests that share a fixture which is dear to make (a running vApp, a lab) form a group. One worker
runs a whole group, in the order of the files. The longest groups begin first, so that at the end no
worker waits for one that has just begun.

The images that VMs boot from are built by a group of its own. It begins first. While it runs, the
other workers get groups that need no image. On a machine whose image cache is full the group ends
at once.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

IMAGES = "tests/vm/test_images_are_built.py"
"""The group that builds the images."""
NEED_IMAGES = ("tests/vm/", "tests/nested/", "tests/netns/ips/")

SHARED = ("tests/vm/shop", "tests/vm/hosts", "tests/lab")
"""Folders whose tests use one vApp or one host. Every file elsewhere is a group by itself."""

SECONDS = {
    IMAGES: 10_000,
    "tests/nested/test_nested.py": 700,
    "tests/vm/shop": 600,
    "tests/vm/test_cloud_image.py": 500,
    "tests/vm/test_memory_images.py": 300,
    "tests/vm/test_warm.py": 200,
    "tests/vm/test_change.py": 420,
    "tests/vm/test_interrupted.py": 240,
    "tests/vm/test_images.py": 240,
    "tests/vm/test_hands.py": 240,
    "tests/vm/test_identity.py": 240,
    "tests/vm/test_full_disk.py": 180,
    "tests/vm/test_other_vapps.py": 150,
    "tests/vm/hosts": 120,
    "tests/vm/test_state.py": 120,
    "tests/vm/test_tampered.py": 90,
    "tests/netns/ips/test_rules.py": 80,
    "tests/netns/ips/test_life.py": 80,
    "tests/netns/ips/test_leaks.py": 60,
    "tests/netns/guest/test_probe.py": 30,
    "tests/netns/guest/test_identity.py": 30,
    "tests/netns/firewall/test_changes.py": 60,
    "tests/netns/firewall/test_flows.py": 60,
    "tests/lab": 60,
    "tests/test_style.py": 30,
}
"""About how long a group takes on two cores without KVM. Only the order matters; a group that is
not here takes a few seconds.
"""

PROCESSOR_SECONDS = "processor_seconds"
"""The property of a test's report that says how much processor time its VMs used."""

BOOT_VMS = ("tests/vm/", "tests/nested/")
"""Only as many of these groups run at a time as the machine has processors. A VM that is starved
answers too late.
"""

GIB_PER_WORKER = 4
"""Memory that the largest vApp of one worker takes, and its share of the page cache."""


def processors() -> int:
    return len(os.sched_getaffinity(0))


def worker_count() -> int:
    """One worker more than processors, for the tests that boot no VM: these wait most of the time.
    Fewer where memory is short.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    return max(1, min(processors() + 1, memory // GIB_PER_WORKER, 6))


def group_of(nodeid: str) -> str:
    file = nodeid.partition("::")[0]
    folder = file.rpartition("/")[0]
    return folder if folder in SHARED else file


def longest_first(items: Iterable[pytest.Item]) -> list[pytest.Item]:
    """The items sorted by the time that their groups take; within a group as they were."""
    return sorted(
        items, key=lambda item: (-SECONDS.get(group_of(item.nodeid), 5), group_of(item.nodeid))
    )


def may_begin(group: str, others: Sequence[Collection[str]]) -> bool:
    """Whether a group of tests can begin beside the groups of the other workers, without waiting
    for an image and without starving their VMs.
    """
    if group.startswith(NEED_IMAGES) and any(IMAGES in groups for groups in others):
        return False
    return not group.startswith(BOOT_VMS) or not all_processors_are_taken(others)


def all_processors_are_taken(others: Sequence[Collection[str]]) -> bool:
    """A worker runs one group at a time, although it may have got its next group already."""
    boot_vms = [any(group.startswith(BOOT_VMS) for group in groups) for groups in others]
    return sum(boot_vms) >= processors()


class Groups(LoadScopeScheduling):
    """Gives each worker whole groups, in the order in which their tests were collected."""

    def __init__(self, config: pytest.Config, log: Any) -> None:
        config.option.loadscopereorder = False
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)

    def _reschedule(self, node: Any) -> None:
        """Called after each test. A worker ends when only groups that boot VMs are left, and others
        run enough of these.
        """
        if (
            self.workqueue
            and all(group.startswith(BOOT_VMS) for group in self.workqueue)
            and all_processors_are_taken(self._others(node))
        ):
            node.shutdown()
        else:
            super()._reschedule(node)

    def _assign_work_unit(self, node: Any) -> None:
        """Gives the worker the first group that may begin now. Without one, the worker waits itself
        for the images of a group that boots no VM.
        """
        others = self._others(node)
        group = next(
            (group for group in self.workqueue if may_begin(group, others)),
            next((group for group in self.workqueue if not group.startswith(BOOT_VMS)), None),
        )
        if group is not None:
            self.workqueue.move_to_end(group, last=False)
        super()._assign_work_unit(node)

    def _others(self, node: Any) -> list[list[str]]:
        """For each other worker, the groups that it has and has not ended."""
        return [
            [group for group, tests in groups.items() if not all(tests.values())]
            for other, groups in self.assigned_work.items()
            if other is not node
        ]
