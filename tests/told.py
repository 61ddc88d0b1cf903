"""A reporter for tests."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Told:
    """Keeps what a run reports."""

    stages: list[tuple[str, str]] = field(default_factory=list)

    def report(self, subject: str, stage: str) -> None:
        self.stages.append((subject, stage))

    def note(self, text: str) -> None:
        self.stages.append(("", text))

    def part(self, name: str) -> None:
        pass
