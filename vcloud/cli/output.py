"""Prints data on stdout and messages on stderr. rich is imported only if the output is a terminal."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import typer

from vcloud.cli.options import Format
from vcloud.printable import escaped_json, on_one_line, printable

if TYPE_CHECKING:
    from vcloud.plan.host_difference import HostSide

MOMENT = 0.05
"""Seconds. Shorter parts of a run are not shown."""


def say(text: str) -> None:
    """Prints a message on stderr."""
    print(printable(text), file=sys.stderr, flush=True)


def say_error(text: str) -> None:
    """Prints an error on stderr."""
    colour = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    label = "\033[31merror:\033[0m" if colour else "error:"
    print(f"{label} {printable(text)}", file=sys.stderr)


def tell(text: str, end: str = "\n") -> None:
    """Prints a text on stdout."""
    print(printable(text), end=end)


def write(content: bytes) -> None:
    """Writes a picture to stdout, in a text format or another one."""
    if sys.stdout.isatty():
        tell(content.decode(errors="replace"), end="")
    else:
        sys.stdout.buffer.write(content)


def confirmed(question: str) -> bool:
    """Asks on stderr. The answer is no unless it is yes."""
    return typer.confirm(printable(question), err=True)


def pass_on(stdout: bytes, stderr: bytes) -> None:
    """Passes on the output of a program in a guest: as it is, but where a terminal would act on it.
    The program has written into pipes, and no honest one controls a terminal through a pipe.
    """
    for content, stream in ((stdout, sys.stdout), (stderr, sys.stderr)):
        if stream.isatty():
            stream.write(printable(content.decode(errors="replace").replace("\r\n", "\n")))
        else:
            stream.buffer.write(content)
        stream.flush()


def emit(data: Any, output: Format) -> None:
    """Prints data on stdout, as JSON or YAML."""
    import json

    text = escaped_json(json.dumps(data, indent=2, ensure_ascii=False))
    if output is Format.YAML:
        import yaml

        # From the JSON, because PyYAML refuses members of a StrEnum, which JSON takes for texts.
        made = yaml.safe_dump(json.loads(text), sort_keys=False, allow_unicode=True)
        if not made.replace("\n", "").isprintable():
            # So PyYAML escapes everything but ASCII.
            made = yaml.safe_dump(json.loads(text), sort_keys=False)
        print(made, end="")
    else:
        print(text)


def say_unseen(side: HostSide | None) -> None:
    """Says why not all of a host's side was looked at."""
    if side and side.unseen:
        say(f"note: {on_one_line(side.reason)}")
        if side.hint:
            say(f"  {on_one_line(side.hint)}")


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Prints a table on stdout; plain aligned columns if stdout is not a terminal."""
    rows = [[on_one_line(str(cell)) for cell in row] for row in rows]
    if sys.stdout.isatty() and "NO_COLOR" not in os.environ:
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        view = Table(*columns, title=title or None, title_justify="left", box=box.SIMPLE_HEAD)
        for row in rows:
            # Brackets in a cell are text, not markup of rich.
            view.add_row(*map(Text, row))
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
        subject, stage = on_one_line(subject), on_one_line(stage)
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
            self._live.console.print(printable(text), markup=False, highlight=False)
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
