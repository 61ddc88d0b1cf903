"""Runs the probe program at one place: it sends probes from there, or listens there for other probes.

Shipped images have the program (`/usr/lib/vcloud/guest`). Every other place gets
`vcloud.guests.remote` through stdin, and its python3 runs it. Both read and print the same lines.

An attacker may control the machine that answers. An answer that cannot be read is `UNREADABLE` for
that one probe, and says nothing about the others.
"""

from __future__ import annotations

import base64
import functools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from vcloud.errors import HostError
from vcloud.guests.setup import GUEST
from vcloud.hosts.executed import Executed
from vcloud.proof.checks import FRAME, Connection, Listener, Probe
from vcloud.proof.forged import NO_FRAMES
from vcloud.proof.frames import End
from vcloud.proof.observed import RESULTS, UNREADABLE, Answer
from vcloud.untrusted import (
    UnreadableError,
    as_list,
    as_mapping,
    as_text,
    encoded,
    number,
    parse_json,
    port,
    text,
)

REMOTE = Path(__file__).with_name("remote")
MODULES = ("wire", "packets", "probe", "listen", "program")
"""The modules, sorted so that each comes after those that it imports. The last one holds `main`."""
LONGEST_MS = 1_000_000
"""Every probe takes less than so many milliseconds."""
FRAME_TIMES = 3
PID = re.compile(r"[1-9][0-9]{1,8}")
LET_GO = "import os, sys; os.kill(int(sys.argv[1]), 15)"
TAIL = 300
"""Characters of what a failed program printed last that are shown."""

Run = Callable[[Sequence[str], bytes], Executed]
"""Runs a program, given as argv, with this standard input. Raises GuestError or HostError if that
is not possible.
"""


@dataclass(frozen=True, slots=True)
class Listening:
    """The listeners in a VM that answer probes."""

    pid: int
    """The process of the temporary listeners."""
    busy: frozenset[Listener]
    """Addresses without a temporary listener, because another program listens there."""


@dataclass(frozen=True, slots=True)
class Holding:
    """Connections that are kept open."""

    pid: int
    """The process that keeps them open; 0 if it is not known."""
    ends: tuple[End | None, ...]
    """The client's end of each connection; None for one that could not be opened."""


@dataclass(frozen=True, slots=True)
class Prober:
    """The probe program at one place. Every method raises what `run` raises."""

    run: Run
    shipped: bool
    """The place is a VM of a shipped image, which has the program."""

    def probe(self, probes: Sequence[Probe]) -> tuple[Answer, ...]:
        """Sends the probes side by side, and frames before them. Returns an answer for each, in
        their order.
        """
        frames = [probe for probe in probes if probe.protocol == FRAME]
        sent = self._send_frames(frames) if frames else Answer(UNREADABLE)
        lines = "".join(
            probe_line(str(index), probe)
            for index, probe in enumerate(probes)
            if probe.protocol != FRAME
        )
        answers = parse_answers(self._run(["probe"], lines).stdout if lines else b"", len(probes))
        return tuple(
            sent if probe.protocol == FRAME else answer
            for probe, answer in zip(probes, answers, strict=True)
        )

    def _send_frames(self, frames: Sequence[Probe]) -> Answer:
        """Sends each frame `FRAME_TIMES` times, because one of them may get lost."""
        lines = "".join(f"{probe.card} {probe.payload.hex()}\n" for probe in frames) * FRAME_TIMES
        done = self._run_alone("frames", [], lines)
        said = done.stdout.decode(errors="replace").strip()
        if done.code == 0 and not self.shipped and said in NO_FRAMES:
            return Answer(said)
        return Answer("sent" if done.code == 0 else "error")

    def hold(self, connections: Sequence[Connection], seconds: int) -> Holding:
        """Opens TCP connections and keeps them open until `let_go`, but at most for so many
        seconds.
        """
        lines = "".join(f"{one.source} {one.target} {one.port}\n" for one in connections)
        output = self._run_alone("hold", [str(seconds)], lines).stdout
        pid, ends = parse_held(output, len(connections))
        found = (
            end if end and _is_of(end, one) else None
            for one, end in zip(connections, ends, strict=True)
        )
        return Holding(pid, tuple(found))

    def let_go(self, pid: int) -> None:
        """Ends the connections of `hold`."""
        program = "kill 15, $ARGV[0]" if self.shipped else LET_GO
        self.run([*self._interpreter, program, str(pid)], b"")

    def _run_alone(self, name: str, words: Sequence[str], lines: str) -> Executed:
        """Runs a separate program for a task that the guest program cannot do."""
        program = (REMOTE / f"{name}.{'pl' if self.shipped else 'py'}").read_text()
        return self.run([*self._interpreter, program, *words], lines.encode())

    @property
    def _interpreter(self) -> tuple[str, ...]:
        return ("perl", "-e") if self.shipped else ("python3", "-I", "-S", "-B", "-c")

    def listen(self, listeners: Sequence[Listener], seconds: int) -> Listening | None:
        """Answers on the ports where no service listens yet, for at most `seconds`.

        Returns the listeners; None if the answer cannot be read.
        """
        lines = "".join(f"{item.protocol} {item.address} {item.port}\n" for item in listeners)
        done = self._run(["listen", str(seconds)], lines)
        return parse_listening(done.stdout, listeners) if done.code == 0 else None

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
    """The bytes that the loader reads from stdin before the input of the program."""
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
    # The codes of POSIX shells: not executable, not found.
    if done.code in (126, 127):
        raise HostError(
            f"no probe can be sent from {where}: it has no python3", f"Install python3 on {where}."
        )
    raise HostError(
        f"no probe can be sent from {where}: {said.splitlines()[-1] if said else f'python3 ended with {done.code}'}"
    )


def probe_line(key: str, probe: Probe) -> str:
    """A line for the probe program."""
    payload = base64.b64encode(probe.payload).decode() or "-"
    card = f" {probe.card}" if probe.card else ""
    return f"{key} {probe.protocol} {probe.source} {probe.target} {probe.port} {probe.timeout_ms} {payload}{card}\n"


def parse_answers(output: bytes, count: int) -> tuple[Answer, ...]:
    """The answers that the probe program printed for the probes 0 to `count` - 1, one JSON object
    per line.
    """
    found: dict[str, Answer] = {}
    for line in output.splitlines():
        try:
            item = as_mapping(parse_json(line))
            answer = Answer(
                text(item, "result"),
                port(item, "port", 0),
                encoded(item, "answer", ""),
                _whole(item.get("ms")),
                text(item, "sender", ""),
            )
            key = text(item, "id")
        except UnreadableError:
            continue
        if answer.result in RESULTS:
            found[key] = answer
    return tuple(found.get(str(index), Answer(UNREADABLE)) for index in range(count))


def parse_held(output: bytes, count: int) -> tuple[int, tuple[End | None, ...]]:
    """The output of `hold`: one line for each connection, and the number of the process that keeps
    them open. If it cannot be read: 0 and no ends.
    """
    *lines, last = output.decode(errors="replace").splitlines() or [""]
    word, _, pid = last.partition(" ")
    if len(lines) != count or word != "pid" or not PID.fullmatch(pid):
        return 0, (None,) * count
    return int(pid), tuple(map(_end, lines))


def _is_of(end: End, connection: Connection) -> bool:
    """Whether this can be the client's end of the connection. A hostile VM must not choose the
    target of other machines' forged packets.
    """
    if connection.target is None or end.address.version != connection.target.version:
        return False
    return connection.source in ("-", str(end.address))


def _end(line: str) -> End | None:
    address, _, number_of_port = line.partition(" ")
    try:
        return End(ip_address(address), port({"port": int(number_of_port)}, "port"))
    except (ValueError, UnreadableError):
        return None


def _whole(ms: object) -> int:
    """Milliseconds, rounded up; 0 if they are no number that makes sense."""
    return math.ceil(ms) if isinstance(ms, int | float) and 0 <= ms < LONGEST_MS else 0


def parse_listening(output: bytes, listeners: Sequence[Listener]) -> Listening | None:
    """The output of `listen`: the process that it started, and the ports that were taken. None if
    it cannot be read.
    """
    try:
        said = as_mapping(parse_json(output))
        pid = number(said, "pid")
        taken = {as_text(line) for line in as_list(said.get("busy", []))}
    except UnreadableError:
        return None
    busy = (item for item in listeners if f"{item.protocol} {item.address} {item.port}" in taken)
    return Listening(pid, frozenset(busy))
