"""How a command that takes long says how far it is. `vcloud.cli` prints what it is told; the rooms
that do the work only know this protocol.
"""

from __future__ import annotations

from typing import Protocol


class Reporter(Protocol):
    """Receives the progress of one command. Every method may be called from several threads."""

    def report(self, subject: str, stage: str) -> None:
        """`subject` (a VM, an image, a network) has reached `stage`."""

    def note(self, text: str) -> None:
        """One line that the user should see whatever comes after it."""

    def part(self, name: str) -> None:
        """The part of the run called `name` begins. The durations of the parts are printed at the
        end.
        """
