"""Ends a command of a build before it takes more of the machine than it may.

A recipe may start processes, write files and use memory without end. The kernel limits each process
and file of a build (`vcloud.images.inside`), and here the build looks several times a second at what
all of them take together. That needs no privilege, and works for every user on every machine. It
looks at what the machine has left: a machine that others fill ends a build, too.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vcloud.errors import ImageError
from vcloud.images.ids import COUNT, Ids

PAUSE: Final = 0.2
"""Seconds between two looks."""
MEMORY_SHARE: Final = 16
"""One part in so many of the machine's memory is left to others."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one command of a build may take."""

    seconds: float = 4 * 3600
    processes: int = 8192
    """Processes and threads of all its users together."""
    spare_disk: int = 1 << 30
    """Bytes that it leaves free on the disk of the build. Where less was free before: half of that."""
    spare_files: int = 20_000
    """Files that may still be made there, likewise, where the file system counts them."""
    spare_memory: int = 0
    """Bytes of memory that it leaves available. Where less was available before: half of that. 0: a
    part of the machine's memory.
    """


@contextlib.contextmanager
def watched(
    process: subprocess.Popen[bytes], folder: Path, ids: Ids, limits: Limits
) -> Iterator[None]:
    """Kills the process if its command exceeds a limit. Then the block ends with ImageError."""
    watch = _Watch(folder, ids, limits)
    done, excess = threading.Event(), list[ImageError]()

    def look() -> None:
        while not done.wait(PAUSE):
            try:
                error = watch.excess()
            except OSError as unknown:
                error = _ended(f"could not be watched ({unknown})", "Run the command again.")
            if error:
                excess.append(error)
                process.kill()
                return

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        if excess:
            raise excess[0]


class _Watch:
    """What the machine had when the command began, and what it may lose."""

    def __init__(self, folder: Path, ids: Ids, limits: Limits) -> None:
        self._folder, self._ids, self._limits = folder, ids, limits
        self._end = time.monotonic() + limits.seconds
        memory = _memory()
        spare = limits.spare_memory or memory["MemTotal"] // MEMORY_SHARE
        self._least_memory = _least(spare, memory["MemAvailable"])
        self._least_disk = _least(limits.spare_disk, _free(folder))
        self._least_files = _least(limits.spare_files, _files(folder))
        self._tasks = _all_tasks()

    def excess(self) -> ImageError | None:
        """What the command has too much of. None if it is within its limits."""
        if time.monotonic() > self._end:
            return _ended(
                f"ran for more than {self._limits.seconds / 60:g} minutes",
                "A command of the recipe does not come to an end. Run it in a VM to see why.",
            )
        if _free(self._folder) < self._least_disk:
            return _ended(
                f"left less than {self._least_disk >> 20} MiB free on the disk of {self._folder}",
                "What the build has written is gone. Make room there, or let the recipe write less.",
            )
        if _files(self._folder) < self._least_files:
            return _ended(
                f"left room for fewer than {self._least_files} files on the disk of {self._folder}",
                "What the build has written is gone. Let the recipe write fewer files.",
            )
        if _memory()["MemAvailable"] < self._least_memory:
            return _ended(
                f"left less than {self._least_memory >> 20} MiB of memory to the machine",
                "Let the recipe use less memory, or end other programs.",
            )
        most, tasks = self._limits.processes, _all_tasks()
        self._tasks = min(self._tasks, tasks)
        # All tasks of the machine are one number. Those of the build are counted only where there
        # may be too many.
        if tasks - self._tasks > most // 2 and _tasks_of(self._ids) > most:
            return _ended(
                f"had more than {most} processes", "Let the recipe start fewer at a time."
            )
        return None


def _ended(what: str, hint: str) -> ImageError:
    return ImageError(f"a command of the build was ended, because it {what}", hint)


def _least(spare: int, before: int) -> int:
    return spare if before > spare else before // 2


def _free(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def _files(folder: Path) -> int:
    """How many files can still be made. A large number where the file system has no limit."""
    found = os.statvfs(folder)
    return found.f_favail if found.f_files else sys.maxsize


def _memory() -> dict[str, int]:
    """Bytes by the names that Linux gives them (proc(5), /proc/meminfo)."""
    rows = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    return {row[0].rstrip(":"): int(row[1]) << 10 for row in rows}


def _all_tasks() -> int:
    """Processes and threads of the whole machine."""
    return int(Path("/proc/loadavg").read_text().split()[3].partition("/")[2])


def _tasks_of(ids: Ids) -> int:
    """Processes and threads of the users of builds."""
    found = 0
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it has ended
                if ids.users <= entry.stat().st_uid < ids.users + COUNT:
                    found += sum(1 for _ in os.scandir(f"/proc/{entry.name}/task"))
    return found
