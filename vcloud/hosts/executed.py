"""The result of a command, on a host or in a guest."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Executed:
    """The result of a command that has ended."""

    code: int
    """Its exit code; 128 plus the number of the signal, if a signal ended it."""
    stdout: bytes
    stderr: bytes
    truncated: bool = False
    """The end of the output is missing, because there was too much of it."""
