"""What a command left behind, wherever it ran."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Executed:
    """A command that ended."""

    code: int
    """Its exit code; 128 and the signal's number when a signal ended it."""
    stdout: bytes
    stderr: bytes
    truncated: bool = False
    """The end of the output is missing: there was more than could be kept."""
