"""How much processor time the VMs of a lab use, for the list of the dearest tests at the end of a run."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path

from vcloud.lab.namespaces import processes

TICKS = os.sysconf("SC_CLK_TCK")
PAUSE = 1.0
"""Seconds between two looks. What a VM uses after the last look at it, before it ends, is not counted."""


class Meter:
    """Adds up the processor time of all processes of a host, from the moment it is made."""

    def __init__(self, namespace: str) -> None:
        self.seconds = 0.0
        self._namespace = namespace
        self._seen: dict[tuple[int, str], int] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._ended.wait(PAUSE):
            for pid in processes(self._namespace):
                with suppress(OSError, ValueError):
                    self._add(pid)

    def _add(self, pid: int) -> None:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        key, used = (pid, fields[19]), int(fields[11]) + int(fields[12])
        self.seconds += (used - self._seen.get(key, 0)) / TICKS
        self._seen[key] = used

    def taken(self) -> float:
        """Seconds since this was last asked."""
        seconds, self.seconds = self.seconds, 0.0
        return seconds

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
