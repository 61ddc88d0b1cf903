"""The probe program at one place: sends probes from there, and serves ports there for other probes.

Shipped images have the program (`/usr/lib/vcloud/guest`). To every other place,
`vcloud.guests.remote` travels over stdin and is run by the python3 of that machine. Both speak the
same lines.

An attacker may control the machine that answers. An answer that cannot be read is `UNREADABLE` for
that one probe, and says nothing about the others.
"""

from __future__ import annotations

import base64
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vcloud.errors import HostError
from vcloud.guests.setup import GUEST
from vcloud.hosts.executed import Executed
from vcloud.proof.checks import Listener, Probe
from vcloud.proof.judge import RESULTS, UNREADABLE, Answer
from vcloud.untrusted import UnreadableError, as_mapping, encoded, number, parse_json, port, text

REMOTE = Path(__file__).with_name("remote")
MODULES = ("wire", "packets", "probe", "listen", "program")
"""In the order in which they import each other. The last one holds `main`."""
TAIL = 300
"""Characters of what a failed program printed last that are shown."""

Run = Callable[[Sequence[str], bytes], Executed]
"""Runs a program with its words and its standard input. Raises GuestError or HostError if it
cannot.
"""


@dataclass(frozen=True, slots=True)
class Prober:
    """The probe program at one place. Every method raises what `run` raises."""

    run: Run
    shipped: bool
    """The place is a VM of a shipped image, which has the program."""

    def probe(self, probes: Sequence[Probe]) -> tuple[Answer, ...]:
        """Sends the probes side by side. Returns an answer for each, in their order."""
        lines = "".join(probe_line(str(index), probe) for index, probe in enumerate(probes))
        return parse_answers(self._run(["probe"], lines).stdout, len(probes))

    def listen(self, listeners: Sequence[Listener], seconds: int) -> int | None:
        """Answers on the ports where no service listens yet, for at most `seconds`.

        Returns the number of the process that answers; None if the place did not say one.
        """
        lines = "".join(f"{item.protocol} {item.address} {item.port}\n" for item in listeners)
        done = self._run(["listen", str(seconds)], lines)
        return parse_pid(done.stdout) if done.code == 0 else None

    def stop_listening(self, pid: int) -> None:
        """Ends what `listen` started."""
        self._run(["listen-stop", str(pid)], "")

    def try_out(self, where: str) -> None:
        """Raises HostError if the program cannot run there."""
        checked(self._run(["probe"], ""), where)

    def _run(self, words: Sequence[str], lines: str) -> Executed:
        if self.shipped:
            return self.run([GUEST, *words], lines.encode())
        return self.run([*python_words(), *words], python_program() + lines.encode())


@functools.cache
def python_words() -> tuple[str, ...]:
    """The command that runs `python_program`: isolated from the machine's settings, and writing no
    cache files.
    """
    return ("python3", "-I", "-S", "-B", "-c", (REMOTE / "loader.py").read_text())


@functools.cache
def python_program() -> bytes:
    """What the loader reads from stdin before the input of the program."""
    modules = {
        f"vcloud.guests.remote.{name}": (REMOTE / f"{name}.py").read_bytes() for name in MODULES
    }
    header = " ".join(f"{name} {len(source)}" for name, source in modules.items())
    return header.encode() + b"\n" + b"".join(modules.values())


def checked(done: Executed, where: str) -> Executed:
    """The result of the program. Raises HostError if it could not run there."""
    if done.code == 0:
        return done
    said = done.stderr.decode(errors="replace").strip()[-TAIL:]
    if done.code in (126, 127):  # the codes of POSIX shells: not executable, not found
        raise HostError(
            f"no probe can be sent from {where}: it has no python3", f"Install python3 on {where}."
        )
    raise HostError(
        f"no probe can be sent from {where}: {said.splitlines()[-1] if said else f'python3 ended with {done.code}'}"
    )


def probe_line(key: str, probe: Probe) -> str:
    """A line for the probe program."""
    payload = base64.b64encode(probe.payload).decode() or "-"
    return f"{key} {probe.protocol} {probe.source} {probe.target} {probe.port} {probe.timeout_ms} {payload}\n"


def parse_answers(output: bytes, count: int) -> tuple[Answer, ...]:
    """What the probe program printed about the probes 0 to `count` - 1: one JSON object a line."""
    found: dict[str, Answer] = {}
    for line in output.splitlines():
        try:
            item = as_mapping(parse_json(line))
            answer = Answer(
                text(item, "result"), port(item, "port", 0), encoded(item, "answer", "")
            )
            key = text(item, "id")
        except UnreadableError:
            continue
        if answer.result in RESULTS:
            found[key] = answer
    return tuple(found.get(str(index), Answer(UNREADABLE)) for index in range(count))


def parse_pid(output: bytes) -> int | None:
    """The number of the process that `listen` started; None if it did not say one."""
    try:
        return number(parse_json(output), "pid")
    except UnreadableError:
        return None
