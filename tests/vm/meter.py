"""How much processor time the VMs of a lab get, and how long they wait for it."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vcloud.lab.namespaces import processes

PAUSE = 1.0
"""Seconds between two looks. What a VM uses between the last look at it and its end is not counted.
"""
STARVED = 0.2
"""A VM that gets less than this share of the processor time that it could use answers later than
any test expects.
"""
ENOUGH = 5.0
"""Seconds of waiting below which nothing is said about a share."""


@dataclass(frozen=True, slots=True)
class Use:
    """What the threads of a host got, in seconds."""

    running: float = 0.0
    waiting: float = 0.0
    """For a processor, while they could have run."""

    @property
    def starved(self) -> bool:
        return self.waiting > ENOUGH and self.running < STARVED * (self.running + self.waiting)


class Meter:
    """Adds up the use of all threads of a host, from the moment it is made."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._seen: dict[Path, tuple[int, int]] = {}
        self._running, self._waiting = 0, 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def use(self) -> Use:
        """Since this meter was made."""
        return Use(self._running / 1e9, self._waiting / 1e9)

    def since(self, before: Use) -> Use:
        now = self.use()
        return Use(now.running - before.running, now.waiting - before.waiting)

    def close(self) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(PAUSE):
            for pid in processes(self._namespace):
                with suppress(OSError):  # it has ended meanwhile
                    for thread in Path(f"/proc/{pid}/task").iterdir():
                        self._add(thread)

    def _add(self, thread: Path) -> None:
        """proc(5): nanoseconds on a processor, nanoseconds of waiting for one, turns."""
        running, waiting = map(int, (thread / "schedstat").read_text().split()[:2])
        before = self._seen.get(thread, (0, 0))
        self._running += running - before[0]
        self._waiting += waiting - before[1]
        self._seen[thread] = (running, waiting)
