"""How the tests are spread over several pytest-xdist workers: which stay together, and which begin first.

Tests that share a fixture which is dear to make (a running vApp, a lab) form a group. One worker runs a whole group, in the order of the
files. The longest groups begin first, so that at the end no worker waits for one that has just begun.

The images that VMs boot from are built by a group of its own. It begins first. While it runs, the other workers get groups that need no
image. On a machine whose image cache is full the group ends at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
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
    "tests/vm/shop": 600,
    "tests/vm/test_cloud_image.py": 500,
    "tests/vm/test_warm.py": 480,
    "tests/vm/test_change.py": 420,
    "tests/vm/test_interrupted.py": 240,
    "tests/vm/test_images.py": 240,
    "tests/vm/test_hands.py": 240,
    "tests/vm/test_identity.py": 240,
    "tests/vm/test_own_image_wakes.py": 200,
    "tests/vm/test_full_disk.py": 180,
    "tests/vm/test_other_vapps.py": 150,
    "tests/vm/hosts": 120,
    "tests/vm/test_state.py": 120,
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
"""About how long a group takes on two cores without KVM. Only the order matters; a group that is not here takes a few seconds."""

GIB_PER_WORKER = 4
"""Memory that the largest vApp of one worker takes, and its share of the page cache."""


def worker_count() -> int:
    """One worker more than processors, because half of a VM test is waiting; fewer where memory is short."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    return max(1, min((os.cpu_count() or 1) + 1, memory // GIB_PER_WORKER, 6))


def group_of(nodeid: str) -> str:
    file = nodeid.partition("::")[0]
    folder = file.rpartition("/")[0]
    return folder if folder in SHARED else file


def longest_first(items: Iterable[pytest.Item]) -> list[pytest.Item]:
    """The items sorted by the time that their groups take; within a group as they were."""
    return sorted(items, key=lambda item: (-SECONDS.get(group_of(item.nodeid), 5), group_of(item.nodeid)))


class Groups(LoadScopeScheduling):
    """Gives each worker whole groups, in the order in which their tests were collected."""

    def __init__(self, config: pytest.Config, log: Any) -> None:
        config.option.loadscopereorder = False
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)

    def _assign_work_unit(self, node: Any) -> None:
        if self._images_are_being_built():
            ready = next((group for group in self.workqueue if not group.startswith(NEED_IMAGES)), None)
            if ready is not None:
                self.workqueue.move_to_end(ready, last=False)
        super()._assign_work_unit(node)

    def _images_are_being_built(self) -> bool:
        return any(not done for units in self.assigned_work.values() for done in units.get(IMAGES, {}).values())
