"""How work that takes long tells how far it is."""

from __future__ import annotations

from typing import Protocol


class Reporter(Protocol):
    """Whoever wants to know how far things are."""

    def report(self, subject: str, stage: str) -> None: ...

    def note(self, text: str) -> None: ...

    def part(self, name: str) -> None:
        """The run's next part begins: it will be told how long each took."""
