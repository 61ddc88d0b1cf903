"""Locks that a host keeps. One lock per vApp stops two operators on two machines from changing that
vApp at the same time.

A lock is a record (see `metadata`) with a random UUID. libvirt refuses a second record of the same
name, so only one process can hold a lock. When a process finds the lock taken, it reads who holds
it. If the holder has certainly ended (see `holder`), the process removes that lock by its UUID and
tries again. Removal by UUID never hits a newer lock of the same name. Whoever takes the lock of a
vApp also removes all other locks of processes that have ended.

A person may remove the lock of a process that still lives, for example of one that is only stopped.
When that process goes on, it must change nothing more. So while it works under the lock of a vApp,
each call to libvirt and each message to a guest first asks whether the host still has the lock
(`Host.require_lock`). The answer counts for a moment, so that this costs little. A process that was
stopped finds that the moment is over. Only the one call can still happen that it was about to make
when it was stopped.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict

import libvirt

from vcloud.errors import HostError, VcloudError
from vcloud.hosts.connection import Host, found_or_none, translated
from vcloud.hosts.holder import Holder, holder_in, this_process
from vcloud.hosts.metadata import (
    TRIAL,
    Record,
    read_record,
    record_of,
    remove_record,
    undefine_record,
    write_record,
)

PREFIX = "vcloud-lock-"
PRUNE_LOCK = "vcloud-prune-lock"
"""The lock that a process holds while it deletes copies of images."""
NAMES = re.compile(
    rf"vcloud-lock-.+|vcloud-(uplink|templates|sealing|prune)-lock|vcloud-template-[0-9a-f]+|vcloud-images-[0-9a-f]+|{TRIAL}[0-9a-f]+"
)
"""The names of all locks: of a vApp, of the host's uplink, of the list of memory images, of the key
of what is sealed, of the copies of images, of one memory image that is being made, and of a run that
uses images without a vApp. And those of trials (`metadata.require_room`), which have a holder too.
"""
PRUNE_TIMEOUT = 120
"""Seconds to wait while another process deletes copies of images."""
ATTEMPTS = 10
"""Attempts to write the lock that may fail without anybody holding it, before libvirt's error is
raised.
"""
POLL = 0.2
"""Seconds between two attempts to take a lock that somebody else holds."""
TRUSTED = 0.2
"""Seconds for which the answer counts that this process still holds its lock."""


class LockedError(HostError):
    """Somebody else holds the lock."""

    def __init__(self, host: Host, lock: Record, subject: str, holder: Holder | None) -> None:
        if holder and holder.is_stopped():
            hint = (
                f"That process is stopped. Continue it (kill -CONT {holder.pid}) or end it "
                f"(kill -KILL {holder.pid}). Then run this command again."
            )
        else:
            hint = (
                "Wait until it has ended. If it was killed, remove its lock: "
                f"{_removal(host, lock.uuid)}. Then run `vcloud up` or `vcloud down` to clean up. "
                "A process that has lost its lock stops before its next change."
            )
        super().__init__(
            f"{subject} on {host.name} is locked by {holder or 'an unknown process'}", hint
        )


def _removal(host: Host, lock: str) -> str:
    """The commands that remove a lock, which somebody may have started like a network."""
    virsh = f"virsh --connect '{host.ref.uri}'"
    with contextlib.suppress(libvirt.libvirtError):
        if host.opened.networkLookupByUUIDString(lock).isActive():
            return f"{virsh} net-destroy {lock}; {virsh} net-undefine {lock}"
    return f"{virsh} net-undefine {lock}"


class LostLockError(VcloudError):
    """Somebody has removed the lock under which this process worked.

    It is no HostError, so that no step takes it for a failure that it can work around.
    """

    def __init__(self, host: Host, subject: str, now: Holder | None) -> None:
        holds = f"; now {now} holds it" if now else ""
        super().__init__(
            f"the lock of {subject} on {host.name} was removed while this process worked under it{holds}",
            "This process has stopped and changes nothing more. See `vcloud status`; `vcloud up` finishes what was begun.",
        )


class Lock:
    """A lock that this process takes. Several threads may ask at the same time."""

    def __init__(self, host: Host, record: Record, subject: str) -> None:
        self._host = host
        self._record = record
        self._subject = subject
        self._asked = _now()
        """A time at which the host had the lock, or before the lock was taken."""

    @property
    def uuid(self) -> str:
        """The UUID of the lock. No other process ever had a lock with this UUID."""
        return self._record.uuid

    def require(self) -> None:
        """Asks the host whether it still has this lock.

        Raises:
            LostLockError: the host has it no more.
            HostError: the host does not answer.
        """
        asked = _now()
        with translated(f"the lock of {self._subject} could not be found on {self._host.name}"):
            if not self._is_there():
                raise LostLockError(self._host, self._subject, self._holder_now())
        self._asked = asked

    def require_lately(self) -> None:
        """Like `require`, but an answer that is younger than `TRUSTED` counts as well."""
        if _now() - self._asked > TRUSTED:
            self.require()

    def _is_there(self) -> bool:
        lookup = self._host.opened.networkLookupByUUIDString
        return found_or_none(lookup, self.uuid) is not None

    def _holder_now(self) -> Holder | None:
        """Who holds the lock of that name now."""
        network = found_or_none(self._host.opened.networkLookupByName, self._record.name)
        record = network and found_or_none(record_of, network)
        return holder_in(record.attributes) if record else None


@contextlib.contextmanager
def vapp_lock(host: Host, vapp: str, command: str) -> Iterator[Lock]:
    """Holds the lock of a vApp. `command` is the name of the command that needs it, for example
    `up`. In the block, all that this process does on the host requires the lock.

    Raises:
        LockedError: another process holds the lock. This function does not wait.
        LostLockError: the lock was removed meanwhile. What the block raised then came from that.
    """
    with named_lock(host, PREFIX + vapp, f"the vApp '{vapp}'", command) as lock:
        _await_prune(host, remove_ended_locks(host))
        try:
            with host.under(lock.require_lately):
                yield lock
        except LostLockError:
            raise
        except Exception as error:
            try:
                lock.require()
            except LostLockError as lost:
                raise lost from error
            except HostError:
                pass  # the connection broke, of which the first error tells more
            raise


@contextlib.contextmanager
def named_lock(
    host: Host, name: str, subject: str, command: str, timeout: float = 0
) -> Iterator[Lock]:
    """Holds the lock of that name.

    Args:
        host: an open host.
        name: the name of the libvirt network that is the lock. `NAMES` knows it.
        subject: what the lock protects. The message for a process that finds the lock taken begins
            with it.
        command: the name of the command that needs the lock.
        timeout: seconds to wait until another process releases the lock.

    Raises:
        LockedError: another process still holds the lock.
        HostError: libvirt refuses the lock, or its release after a block that has succeeded.
    """
    record = Record(name, str(uuid.uuid4()), asdict(this_process(command)))
    lock = Lock(host, record, subject)
    try:
        with translated(f"{subject} could not be locked on {host.name}"):
            _claim(host, record, subject, time.monotonic() + timeout)
        yield lock
    except BaseException:
        # Also if the claim failed: libvirt may have stored the record although its answer was lost.
        # The UUID is new, so nobody else's lock is removed. What went wrong before is what the user
        # must hear of: a lock that stays names a process that has ended, so that the next command
        # removes it.
        with contextlib.suppress(libvirt.libvirtError):
            _release(host, record.uuid)
        raise
    with translated(f"{subject} could not be unlocked on {host.name}"):
        _release(host, record.uuid)


@contextlib.contextmanager
def using_images(host: Host, command: str) -> Iterator[None]:
    """While the block runs, no other process deletes copies of images on the host. Many processes may
    be in such a block. Whoever holds the lock of a vApp is in one, too.

    Raises LockedError where another process goes on deleting copies.
    """
    name = f"vcloud-images-{secrets.token_hex(8)}"
    with named_lock(host, name, "the use of images", command):
        _await_prune(host, remove_ended_locks(host))
        yield


@contextlib.contextmanager
def prune_lock(host: Host) -> Iterator[Lock]:
    """While the block runs, no other process takes copies of images on the host for its VMs. All that
    this process does on the host requires the lock.

    Who uses images takes a lock and then looks for this one. Who deletes them takes this lock and then
    looks for the others. So of two that begin at the same time, at least one sees the other.

    Raises LockedError where a process uses images, or goes on deleting them.
    """
    with (
        named_lock(host, PRUNE_LOCK, "the copies of images", "image prune", PRUNE_TIMEOUT) as lock,
        host.under(lock.require_lately),
    ):
        refuse_runs(host)
        yield lock


def refuse_runs(host: Host) -> None:
    """Raises LockedError where a process is at work that may use copies of images."""
    for record, holder in remove_ended_locks(host).values():
        if record.name != PRUNE_LOCK:
            raise LockedError(host, record, "deleting copies of images", holder)


def _await_prune(host: Host, locks: Mapping[str, tuple[Record, Holder | None]]) -> None:
    """Waits until nobody deletes copies of images any more. `locks` are those of the host."""
    deadline = time.monotonic() + PRUNE_TIMEOUT
    found = locks.get(PRUNE_LOCK)
    while found:
        record, holder = found
        if holder and holder.is_gone():
            remove_record(host, record.uuid)
        elif time.monotonic() >= deadline:
            raise LockedError(host, record, "the copies of images", holder)
        else:
            time.sleep(POLL)
        with translated(f"the locks of {host.name} could not be read"):
            seen = read_record(host, PRUNE_LOCK)
        found = (seen, holder_in(seen.attributes)) if seen else None


def remove_ended_locks(host: Host) -> dict[str, tuple[Record, Holder | None]]:
    """Removes the locks of all processes that have certainly ended, whatever they protect. Returns the
    others by their names. Raises HostError.
    """
    left = {}
    with translated(f"the locks of {host.name} could not be read"):
        for network in host.connection.listAllNetworks():
            if not NAMES.fullmatch(network.name()):
                continue
            record = found_or_none(record_of, network)
            holder = holder_in(record.attributes) if record else None
            if record and holder and holder.is_gone():
                remove_record(host, record.uuid)
            elif record:
                left[record.name] = (record, holder)
    return left


def _now() -> float:
    """Seconds of a clock that goes on while this machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _release(host: Host, lock: str) -> None:
    """Also where the lock of the vApp is lost, so that no other lock of this process stays."""
    network = found_or_none(host.opened.networkLookupByUUIDString, lock)
    if network is not None:
        undefine_record(network)


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
        holder = holder_in(seen.attributes) if seen else None
        if seen and holder and holder.is_gone():
            # Several processes may get here at the same time. All of them remove the same record,
            # and only one of them can write the next one.
            remove_record(host, seen.uuid)
        elif seen and time.monotonic() >= deadline:
            raise LockedError(host, seen, subject, holder)
        elif seen:
            time.sleep(POLL)
