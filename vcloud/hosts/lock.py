"""Locks that a host keeps. One lock per vApp stops two operators on two machines from changing that
vApp at the same time.

A lock is a record (see `metadata`) with a random UUID. libvirt refuses a second record of the same
name, so only one process can hold a lock. When a process finds the lock taken, it reads who holds
it. If the holder has ended (it ran on the same machine since the same boot, and there is no such
process now), the process removes that lock by its UUID and tries again. Removal by UUID never hits
a newer lock of the same name.
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
ATTEMPTS = 10
"""Attempts to write the lock that may fail without anybody holding it, before libvirt's error is
raised.
"""
POLL = 0.2
"""Seconds between two attempts to take a lock that somebody else holds."""


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that holds a lock."""

    machine: str
    """Its host name, to show to people."""
    boot: str
    """The boot id of the machine and the PID namespace. Process numbers can be compared only within
    the same two.
    """
    pid: str
    started: str
    """When the process started, in clock ticks since boot. The kernel reuses process numbers, so
    the number alone does not identify a process.
    """
    since: str
    command: str

    def __str__(self) -> str:
        return f"`vcloud {self.command}` on {self.machine} (process {self.pid}, since {self.since})"

    def is_gone(self) -> bool:
        """Whether the process has certainly ended. False for a process of another machine, because
        vcloud cannot see it.
        """
        return self.boot == _boot_id() and self.started != _start_time(self.pid)


class LockedError(HostError):
    """Another process works on the same vApp."""

    def __init__(self, host: Host, name: str, subject: str, holder: Holder | None) -> None:
        super().__init__(
            f"{subject} on {host.name} is locked by {holder or 'an unknown process'}",
            "Wait until it has ended. If it was killed, remove its lock: "
            f"virsh --connect '{host.ref.uri}' net-undefine {name}. Then run `vcloud up` or `vcloud down` to clean up.",
        )
        self.holder = holder


@contextlib.contextmanager
def vapp_lock(host: Host, vapp: str, command: str) -> Iterator[None]:
    """Holds the lock of a vApp. `command` is the name of the command that needs it, for example
    `up`.

    Raises:
        LockedError: another process holds the lock. This function does not wait.
    """
    with named_lock(host, PREFIX + vapp, f"the vApp '{vapp}'", command):
        yield


@contextlib.contextmanager
def named_lock(
    host: Host, name: str, subject: str, command: str, timeout: float = 0
) -> Iterator[None]:
    """Holds the lock of that name.

    Args:
        host: an open host.
        name: the name of the libvirt network that is the lock.
        subject: what the lock protects. The message for a process that finds the lock taken begins
            with it.
        command: the name of the command that needs the lock.
        timeout: seconds to wait until another process releases the lock.

    Raises:
        LockedError: another process still holds the lock.
    """
    mine = str(uuid.uuid4())
    try:
        with translated(f"{subject} could not be locked on {host.name}"):
            _claim(
                host,
                Record(name, mine, asdict(_this_process(command))),
                subject,
                time.monotonic() + timeout,
            )
        yield
    finally:
        with translated(f"{subject} could not be unlocked on {host.name}"):
            remove_record(host, mine)


def _claim(host: Host, record: Record, subject: str, deadline: float) -> None:
    """Writes the record of the lock as soon as its name is free."""
    failures = 0
    while True:
        try:
            return write_record(host, record)
        except libvirt.libvirtError:
            seen = read_record(host, record.name)
            # Without a record, either the holder released the lock a moment ago, or libvirt refused
            # for another reason. Only the second case happens again and again.
            failures += seen is None
            if failures == ATTEMPTS:
                raise
        holder = _holder(seen) if seen else None
        if seen and holder and holder.is_gone():
            remove_record(host, seen.uuid)
        elif seen and time.monotonic() >= deadline:
            raise LockedError(host, record.name, subject, holder)
        elif seen:
            time.sleep(POLL)


def _holder(record: Record) -> Holder | None:
    try:
        return Holder(**record.attributes)
    except TypeError:
        return None  # another release or a person wrote this record


def _this_process(command: str) -> Holder:
    pid = str(os.getpid())
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Holder(socket.gethostname(), _boot_id(), pid, _start_time(pid), now, command)


def _boot_id() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {Path('/proc/self/ns/pid').readlink()}"


def _start_time(pid: str) -> str:
    """Field 22 (starttime) of /proc/PID/stat, see proc_pid_stat(5). Empty if there is no such
    process.

    Field 2, the program's name, stands in parentheses and may itself hold spaces and parentheses.
    So the fields are counted from the last parenthesis: field 22 is then number 19.
    """
    try:
        return Path(f"/proc/{int(pid)}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, ValueError):
        return ""
