"""One at a time: a lock per vApp, kept on the host, so that two operators on two machines cannot work on one vApp at once.

A lock is a record with a random UUID, and only the name decides who has it. Whoever finds it taken by a process that is known to be gone
(the same machine since the same boot, but no such process) removes exactly that one by its UUID and tries again.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import libvirt

from vcloud.errors import HostError
from vcloud.hosts.connection import Host, translated
from vcloud.hosts.metadata import Record, read_record, remove_record, write_record

PREFIX = "vcloud-lock-"
TRIES = 10
PAUSE = 0.2
"""Seconds between two looks at a lock that somebody else holds."""


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that holds a lock."""

    machine: str
    """Its host name, for people."""
    boot: str
    """Boot id and PID namespace: process numbers are compared only within one."""
    pid: str
    started: str
    """When the process started, in clock ticks since boot: numbers are used again."""
    since: str
    command: str

    def __str__(self) -> str:
        return f"`vcloud {self.command}` on {self.machine} (process {self.pid}, since {self.since})"

    def is_gone(self) -> bool:
        """Whether the process is known to be gone. False for one of another machine, about which nothing is known."""
        return self.boot == _boot() and self.started != _start_time(self.pid)


class LockedError(HostError):
    """Somebody else works on the same vApp."""

    def __init__(self, host: Host, name: str, subject: str, holder: Holder | None) -> None:
        super().__init__(
            f"{subject} on {host.name} is being worked on by {holder or 'somebody unknown'}",
            "Wait for it to end. If it never will, remove its lock: "
            f"virsh --connect '{host.ref.uri}' net-undefine {name}, then `vcloud up` or `vcloud down` cleans up.",
        )
        self.holder = holder


@contextlib.contextmanager
def vapp_lock(host: Host, vapp: str, command: str) -> Iterator[None]:
    """Holds the lock of a vApp. `command` is what it is held for: `up`.

    Raises:
        LockedError: somebody else holds it; nothing waits.
    """
    with named_lock(host, PREFIX + vapp, f"the vApp '{vapp}'", command):
        yield


@contextlib.contextmanager
def named_lock(host: Host, name: str, subject: str, command: str, patience: float = 0) -> Iterator[None]:
    """Holds the lock of that name.

    Args:
        host: an open host.
        name: a libvirt network's name.
        subject: what the lock protects, for the message of who comes second.
        command: what it is held for.
        patience: seconds to wait for somebody else to release it.

    Raises:
        LockedError: somebody else holds it.
    """
    mine = str(uuid.uuid4())
    try:
        with translated(f"{subject} could not be locked on {host.name}"):
            _claim(host, Record(name, mine, asdict(_this_process(command))), subject, time.monotonic() + patience)
        yield
    finally:
        with translated(f"{subject} could not be unlocked on {host.name}"):
            remove_record(host, mine)


def _claim(host: Host, record: Record, subject: str, deadline: float) -> None:
    """Writes the record as soon as the name is free."""
    failures = 0
    while True:
        try:
            return write_record(host, record)
        except libvirt.libvirtError:
            seen = read_record(host, record.name)
            failures += seen is None  # it was released just now; or libvirt refuses for another reason, and does so again
            if failures == TRIES:
                raise
        holder = _holder(seen) if seen else None
        if seen and holder and holder.is_gone():
            remove_record(host, seen.uuid)
        elif seen and time.monotonic() >= deadline:
            raise LockedError(host, record.name, subject, holder)
        elif seen:
            time.sleep(PAUSE)


def _holder(record: Record) -> Holder | None:
    try:
        return Holder(**record.attributes)
    except TypeError:
        return None  # written by another release, or by hand


def _this_process(command: str) -> Holder:
    pid = str(os.getpid())
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Holder(socket.gethostname(), _boot(), pid, _start_time(pid), now, command)


def _boot() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {Path('/proc/self/ns/pid').readlink()}"


def _start_time(pid: str) -> str:
    """Field 22 of /proc/PID/stat; the second field is in parentheses and may hold anything. Empty: there is no such process."""
    try:
        return Path(f"/proc/{int(pid)}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, ValueError):
        return ""
