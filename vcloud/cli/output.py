"""Prints data on stdout and messages on stderr. rich is imported only if the output is a terminal."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any

from vcloud.cli.options import Format

MOMENT = 0.05
"""Seconds. Shorter parts of a run are not shown."""


def say(text: str) -> None:
    """Prints a message on stderr."""
    print(harmless(text), file=sys.stderr, flush=True)


def harmless(text: str) -> str:
    """The text without control characters. Messages can quote what a VM printed, and an attacker
    may control the VM.
    """
    return "".join(char if char.isprintable() or char in "\n\t" else "?" for char in text)


def emit(data: Any, output: Format) -> None:
    """Prints data on stdout, as JSON or YAML."""
    if output is Format.YAML:
        import yaml

        print(yaml.safe_dump(data, sort_keys=False, allow_unicode=True), end="")
    else:
        import json

        print(json.dumps(data, indent=2, ensure_ascii=False))


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Prints a table on stdout; plain aligned columns if stdout is not a terminal."""
    rows = [list(map(str, row)) for row in rows]
    if sys.stdout.isatty() and "NO_COLOR" not in os.environ:
        from rich import box
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table

        view = Table(*columns, title=title or None, title_justify="left", box=box.SIMPLE_HEAD)
        for row in rows:
            view.add_row(*map(escape, row))
        Console().print(view)
        return
    widths = [
        max(len(column), *(len(row[index]) for row in rows)) if rows else len(column)
        for index, column in enumerate(columns)
    ]
    if title:
        print(title)
    for line in ([column.upper() for column in columns], *rows):
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        )


class Progress:
    """Long work, told per VM with times: a live table on a terminal, plain lines elsewhere. Safe to
    call from several threads.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._start = self._part_began = time.monotonic()
        self._part = "planning"
        self.parts: dict[str, float] = {}
        """Seconds that each part of the run took, in order. The last part is added when the run
        ends.
        """
        self._began: dict[str, float] = {}
        self._stage: dict[str, str] = {}
        self._lock = threading.Lock()
        self._quiet = quiet
        self._ended = False
        self._live: Any = None
        if not quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(
                console=Console(stderr=True),
                refresh_per_second=8,
                get_renderable=self._view,
                transient=False,
            )

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """Ends the display. Threads that still work after an error or Ctrl-C print nothing more."""
        self.part("")
        with self._lock:
            self._ended = True
        if self._live:
            self._live.stop()

    def part(self, name: str) -> None:
        """Ends one part of the run and begins the next one, called `name`."""
        now = time.monotonic()
        self.parts[self._part] = self.parts.get(self._part, 0) + now - self._part_began
        self._part, self._part_began = name, now

    def report(self, subject: str, stage: str) -> None:
        """Shows that `subject` (a VM, an image, a network) has reached `stage`."""
        with self._lock:
            now = time.monotonic()
            self._began.setdefault(subject, now)
            if self._ended or self._stage.get(subject) == stage:
                return
            self._stage[subject] = stage
            if not self._live and not self._quiet:
                say(f"{now - self._start:6.1f}s  {subject}: {stage}")

    def note(self, text: str) -> None:
        """Prints a line that stays on the screen."""
        if self._live:
            self._live.console.print(harmless(text), markup=False, highlight=False)
        elif not self._quiet:
            say(text)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    @property
    def breakdown(self) -> str:
        """The parts that took at least `MOMENT`, with their seconds: `images 53.1, uploads 7.9`."""
        return ", ".join(
            f"{part} {seconds:.1f}" for part, seconds in self.parts.items() if seconds >= MOMENT
        )

    def _view(self) -> Any:
        from rich.table import Table
        from rich.text import Text

        view = Table.grid(padding=(0, 2))
        with self._lock:
            for subject, stage in self._stage.items():
                view.add_row(
                    Text(f"{self._began[subject] - self._start:6.1f}s", style="dim"),
                    Text(subject, style="bold"),
                    Text(stage),
                )
        return view
