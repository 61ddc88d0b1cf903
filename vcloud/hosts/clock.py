"""The clock of a host, which its guests get.

The operator's own clock may be hours off, and nobody would notice: a guest with such a clock
refuses certificates, and writes wrong times into its data.
"""

from __future__ import annotations

import functools
import re
import time
from typing import TYPE_CHECKING

from vcloud.errors import HostError

if TYPE_CHECKING:
    from vcloud.hosts.connection import Host

ASK = ("date", "+%s.%N")
_ANSWER = re.compile(rb"(?P<seconds>[0-9]{1,11}\.[0-9]{1,9})\n?")


class Clock:
    """The clock of one host. It is asked once; from then on the time since counts."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def now(self) -> float | None:
        """Seconds since 1970 by the host's clock. None: nobody can log in to the host, so its clock
        cannot be read.
        """
        return None if self._ahead is None else time.monotonic() + self._ahead

    def ahead(self) -> float:
        """Seconds by which it is ahead of this machine's clock; 0 where it cannot be read."""
        now = self.now()
        return 0.0 if now is None else now - time.time()

    @functools.cached_property
    def _ahead(self) -> float | None:
        """Seconds by which the host's clock is ahead of this process's monotonic one. The answer is
        taken to come from the middle of the time that the question took.
        """
        try:
            shell = self._host.shell  # to log in may take long
            asked = time.monotonic()
            done = shell.run(ASK)
        except HostError:
            return None
        found = _ANSWER.fullmatch(done.stdout)
        if done.code != 0 or found is None:
            return None
        return float(found["seconds"]) - (asked + time.monotonic()) / 2
