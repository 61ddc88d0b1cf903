"""How the tests are spread over several pytest-xdist workers: which stay together, and which begin
first.

Tests that share a fixture which is dear to make (a running vApp, a lab) form a group. One worker
runs a whole group, in the order of the files. The longest groups begin first, so that at the end no
worker waits for one that has just begun.

The images that VMs boot from are built by a group of its own, which begins first. Another one makes
what the hosts of the labs get from the start. While these run, the other workers get groups that
need neither. On a machine whose image cache is full both end at once.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

IMAGES = "tests/vm/test_images_are_built.py"
"""The group that builds the images."""
STOCK = "tests/vm/test_stock_is_made.py"
"""The group that makes the stock of the labs' hosts."""
NEEDS = {
    STOCK: (IMAGES,),
    IMAGES: (),
    "tests/vm/": (IMAGES, STOCK),
    "tests/nested/": (IMAGES,),
    "tests/netns/ips/": (IMAGES,),
}
"""Beginning of a group's name -> the groups that must have ended before it begins; the first entry
that fits.
"""

SHARED = ("tests/vm/shop", "tests/vm/hosts", "tests/lab")
"""Folders whose tests use one vApp or one host. Every file elsewhere is a group by itself."""

SECONDS = {
    IMAGES: 10_000,
    STOCK: 9_000,
    "tests/nested/test_nested.py": 900,
    "tests/vm/shop": 1200,
    "tests/vm/test_cloud_image.py": 1300,
    "tests/vm/test_memory_images.py": 700,
    "tests/vm/test_warm.py": 240,
    "tests/vm/test_change.py": 850,
    "tests/vm/test_data.py": 460,
    "tests/vm/test_drift.py": 230,
    "tests/vm/test_interrupted.py": 250,
    "tests/vm/test_host_side.py": 130,
    "tests/vm/test_images.py": 580,
    "tests/vm/test_hands.py": 260,
    "tests/vm/test_services.py": 160,
    "tests/vm/test_identity.py": 230,
    "tests/vm/test_full_disk.py": 200,
    "tests/vm/test_other_vapps.py": 180,
    "tests/vm/hosts": 200,
    "tests/vm/test_state.py": 90,
    "tests/vm/test_profiles.py": 120,
    "tests/vm/test_tampered.py": 90,
    "tests/vm/test_tenancy.py": 160,
    "tests/netns/ips/test_rules.py": 80,
    "tests/netns/ips/test_life.py": 80,
    "tests/netns/ips/test_leaks.py": 60,
    "tests/netns/guest/test_probe.py": 120,
    "tests/netns/guest/test_identity.py": 30,
    "tests/netns/firewall/test_changes.py": 60,
    "tests/netns/firewall/test_flows.py": 60,
    "tests/vm/test_refresh.py": 90,
    "tests/vm/test_ordinary_builder.py": 90,
    "tests/vm/test_image_build.py": 90,
    "tests/vm/test_takeover.py": 90,
    "tests/vm/test_save.py": 90,
    "tests/vm/test_two_writers.py": 50,
    "tests/netns/ips/test_apps.py": 60,
    "tests/netns/firewall/test_proof.py": 45,
    "tests/netns/firewall/test_internet.py": 34,
    "tests/netns/host/test_hook_signatures.py": 32,
    "tests/netns/host/test_host_side.py": 30,
    "tests/unit/proof/test_checks.py": 30,
    "tests/lab": 350,
    "tests/netns/host/test_qemu_hook.py": 54,
    "tests/test_style.py": 30,
}
"""About how long a group takes on two cores without KVM. Only the order matters; a group that is
not here takes a few seconds.
"""

HEAVY = {"tests/nested/test_nested.py", "tests/vm/test_cloud_image.py"}
"""Groups whose VMs are never idle. If they ran beside each other, their VMs would answer too late.
"""

PROCESSOR_SECONDS = "processor_seconds"
"""The property of a test's report that says how much processor time its VMs used."""

GIB_PER_WORKER = 4
"""Memory that the largest vApp of one worker takes, and its share of the page cache."""


def processors() -> int:
    return len(os.sched_getaffinity(0))


def worker_count() -> int:
    """One worker more than there is work for, because tests with VMs wait for about a third of their
    time. Fewer where memory is short.
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


def needs_of(group: str) -> tuple[str, ...]:
    return next((needs for start, needs in NEEDS.items() if group.startswith(start)), ())


def may_begin(group: str, others: Sequence[Collection[str]], coming: Collection[str] = ()) -> bool:
    """Whether a group of tests can begin beside the groups of the other workers: without waiting
    for what one of these makes, or one of those to come, and so that no two groups need most of the
    processors.
    """
    made_later = {*coming, *(group for groups in others for group in groups)}
    return made_later.isdisjoint(needs_of(group)) and not is_crowded(group, others)


def is_crowded(group: str, others: Sequence[Collection[str]]) -> bool:
    """Whether the group and one of the other workers' need most of the processors."""
    return group in HEAVY and any(HEAVY & {*groups} for groups in others)


def next_group(
    waiting: Sequence[str], others: Sequence[Collection[str]], own: Collection[str] = ()
) -> str:
    """The group that a worker gets after its `own` ones. Behind the images comes what is made of
    them, and behind that nothing that others could do meanwhile. Where each group has to wait, the
    worker gets one that waits.
    """
    if STOCK in waiting and IMAGES in own:
        return STOCK
    coming = {*waiting, *own}
    may_wait = (group for group in waiting if not is_crowded(group, others))
    return next(
        (group for group in waiting if may_begin(group, others, coming)),
        next(may_wait, waiting[0]),
    )


class Groups(LoadScopeScheduling):
    """Gives each worker whole groups, in the order in which their tests were collected."""

    def __init__(self, config: pytest.Config, log: Any) -> None:
        config.option.loadscopereorder = False
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)

    def _assign_work_unit(self, node: Any) -> None:
        """Gives the worker its next group."""
        going_on = {
            worker: [group for group, tests in groups.items() if not all(tests.values())]
            for worker, groups in self.assigned_work.items()
        }
        own = going_on.pop(node, [])
        group = next_group(tuple(self.workqueue), [*going_on.values()], own)
        self.workqueue.move_to_end(group, last=False)
        super()._assign_work_unit(node)
