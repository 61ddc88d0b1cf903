"""The result of a command, on a host or in a guest."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Executed:
    """The result of a command that has ended."""

    code: int
    """The exit code. If a signal ended the command: 128 plus the number of the signal."""
    stdout: bytes
    stderr: bytes
    truncated: bool = False
    """Whether the end of the output is missing because there was too much output."""
