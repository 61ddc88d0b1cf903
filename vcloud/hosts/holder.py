"""The process that holds a lock: what it writes about itself, and whether it has ended.

A lock of a process that lives must never count as left behind. So a process has ended only if the
kernel says so. What cannot be seen counts as alive: a process of another machine, of another PID
namespace, or of another user where /proc hides the processes of other users (its mount option
`hidepid`).
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

INITIAL_NAMESPACE = "pid:[4026531836]"
"""The PID namespace of a machine itself. The kernel gives it this number on every machine."""
ENDED = frozenset("ZXx")
"""States of a process that runs no more, see proc_pid_stat(5). Its parent has not noticed yet."""
STOPPED = "T"
"""State of a process that a signal has stopped: SIGSTOP, or Ctrl-Z at a terminal."""
NUMBER = re.compile(r"[1-9][0-9]{0,8}")
"""The number of a process."""
SYS = Path("/sys")
NO_UUID = re.compile(r"|[0-]+|[f-]+|03000200-0400-0500-0006-000700080009")
"""A board that has no UUID of its own. Some makers give all of their boards the last one."""
SHARED = re.compile(r"00:00:00:00:00:00|52:54:00:12:34:[0-9a-f]{2}")
"""Addresses of cards that many machines have: none, and those that QEMU gives by itself."""
LONGEST = 200
"""Characters that one attribute of a holder may have."""


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that holds a lock."""

    machine: str
    """Its host name, to show to people."""
    boot: str
    """The boot id of the machine and the PID namespace. Process numbers can be compared only within
    the same two. Empty if they could not be read.
    """
    pid: str
    started: str
    """When the process started, in clock ticks since boot. The kernel reuses process numbers, so
    the number alone does not identify a process.
    """
    since: str
    command: str
    machine_id: str = ""
    """A digest of the machine's id and host name. Empty if the machine has no id, and in the locks
    of earlier releases.
    """
    hardware: str = ""
    """A digest of what a copy of the machine does not share: the UUID of its board and the addresses
    of its network cards. Empty if nothing of this can be read, and in the locks of earlier releases.
    """

    def __str__(self) -> str:
        return f"`vcloud {self.command}` on {self.machine} (process {self.pid}, since {self.since})"

    def is_gone(self) -> bool:
        """Whether the process has certainly ended."""
        here = this_process(self.command)
        if not self.boot or self.boot != here.boot:
            return self._ended_with_its_machine(here)
        # Two virtual machines that woke from one memory have one boot id.
        if _differ(self.machine_id, here.machine_id) or _differ(self.hardware, here.hardware):
            return False
        found = _process(self.pid)
        if found is None:
            return _is_absent(self.pid)
        state, started = found
        return state in ENDED or started != self.started

    def is_stopped(self) -> bool:
        """Whether the process is stopped by a signal and goes on when somebody continues it."""
        found = _process(self.pid) if self.boot == this_process(self.command).boot else None
        return found == (STOPPED, self.started)

    def _ended_with_its_machine(self, here: Holder) -> bool:
        """Whether the process ran on this machine before the machine was booted again.

        Machines that were made from one image may have one machine id and one name, so the hardware
        must be the same, too. That of containers may be one, so this is asked only of processes that
        run in no container.
        """
        return (
            bool(self.machine_id and self.hardware)
            and (self.machine_id, self.hardware) == (here.machine_id, here.hardware)
            and self.boot.endswith(f" {INITIAL_NAMESPACE}")
            and here.boot.endswith(f" {INITIAL_NAMESPACE}")
        )


def this_process(command: str) -> Holder:
    """This process, as it writes itself into a lock."""
    pid = str(os.getpid())
    _, started = _process(pid) or ("", "")
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Holder(
        socket.gethostname(),
        _boot_id(),
        pid,
        started,
        now,
        command,
        _machine_id(),
        hardware_digest(SYS),
    )


def holder_in(attributes: Mapping[str, str]) -> Holder | None:
    """The holder that the attributes of a lock describe. None if another release or a person wrote
    them.
    """
    if not all(len(text) <= LONGEST and text.isprintable() for text in attributes.values()):
        return None
    try:
        return Holder(**attributes)
    except TypeError:
        return None


def _boot_id() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""  # /proc was mounted with `subset=pid`


def _machine_id() -> str:
    """The machine's own id is no secret, but machine-id(5) asks that it is not given away."""
    try:
        machine = Path("/etc/machine-id").read_text().strip()
    except OSError:
        machine = ""
    text = f"vcloud lock {machine} {socket.gethostname()}"
    return hashlib.sha256(text.encode()).hexdigest()[:16] if machine else ""


def _differ(one: str, other: str) -> bool:
    """Whether both are known and not the same."""
    return bool(one and other) and one != other


def hardware_digest(sys: Path) -> str:
    """A digest of the machine's hardware, by what the kernel tells in `sys` (/sys); empty where it
    tells nothing that a copy of the machine would not have.

    Only root may read the UUID of the board. So a lock that root wrote counts as one of another
    machine for everybody else, who leaves it alone. Cards without a device are software: their
    addresses change with each boot.
    """
    board = _line(sys / "class/dmi/id/product_uuid").lower()
    cards = sorted(
        address
        for card in (sys / "class/net").glob("*/device")
        if (address := _line(card.with_name("address")).lower()) and not SHARED.fullmatch(address)
    )
    known = [*([] if NO_UUID.fullmatch(board) else [board]), *cards]
    return (
        hashlib.sha256(f"vcloud lock {' '.join(known)}".encode()).hexdigest()[:16] if known else ""
    )


def _line(path: Path) -> str:
    """The content of a file of one line; empty where it cannot be read."""
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _process(pid: str) -> tuple[str, str] | None:
    """The state and the start time of a process: fields 3 and 22 of /proc/PID/stat, see
    proc_pid_stat(5). None if they cannot be read.

    Field 2, the program's name, stands in parentheses and may itself hold spaces and parentheses.
    So the fields are counted from the last parenthesis.
    """
    if not NUMBER.fullmatch(pid):
        return None
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], fields[19]


def _is_absent(pid: str) -> bool:
    """Whether the kernel knows no such process. Unlike /proc, the kernel does not hide one."""
    if not NUMBER.fullmatch(pid):
        return False
    try:
        os.kill(int(pid), 0)
    except OSError as error:
        return error.errno == errno.ESRCH
    return False
