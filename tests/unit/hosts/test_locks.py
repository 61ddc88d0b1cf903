"""Locks that are lost, left behind, or held by a process of which little can be seen, on libvirt's
own test driver: a real libvirt without a daemon.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from vcloud.errors import HostError, VcloudError
from vcloud.hosts import machines
from vcloud.hosts.connection import Host, open_host
from vcloud.hosts.holder import (
    INITIAL_NAMESPACE,
    Holder,
    hardware_digest,
    holder_in,
    this_process,
)
from vcloud.hosts.inventory import HostRef
from vcloud.hosts.lock import (
    POLL,
    PREFIX,
    PRUNE_LOCK,
    TRUSTED,
    LockedError,
    LostLockError,
    named_lock,
    prune_lock,
    remove_ended_locks,
    using_images,
    vapp_lock,
)
from vcloud.hosts.metadata import Record, read_record, remove_record, write_record

NETWORK = "<network><name>shop.dmz</name><bridge name='vc-1'/></network>"
ELSEWHERE = "another machine's boot"


@pytest.fixture
def host() -> Iterator[Host]:
    with open_host(HostRef("t", "test:///default")) as opened:
        yield opened


@pytest.fixture
def other(host: Host) -> Iterator[Host]:  # noqa: ARG001
    """The same host, as somebody else has opened it."""
    with open_host(HostRef("t", "test:///default")) as opened:
        yield opened


def using_images_of(host: Host) -> AbstractContextManager[None]:
    return using_images(host, "image memory make")


def names(host: Host) -> set[str]:
    return {network.name() for network in host.connection.listAllNetworks()}


@contextmanager
def running() -> Iterator[tuple[subprocess.Popen[bytes], Holder]]:
    """A process that lives, and what it would write into a lock."""
    with subprocess.Popen(["sleep", "600"]) as process:
        try:
            yield process, replace(this_process("up"), pid=str(process.pid), started=start(process))
        finally:
            process.kill()


def start(process: subprocess.Popen[bytes]) -> str:
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19]


def ended() -> Holder:
    with running() as (process, holder):
        process.kill()
    return holder


def leave(host: Host, name: str, holder: Holder) -> str:
    """A lock that this holder has left, or holds."""
    record = Record(name, str(uuid.uuid4()), asdict(holder))
    write_record(host, record)
    return record.uuid


# --- a lock that is lost


def test_who_has_lost_a_lock_changes_nothing_more(host: Host, other: Host) -> None:
    """A person removes the lock of a process that is only stopped, as the message for others says.
    The process goes on when the answer of before no longer counts.
    """

    def work() -> None:
        with vapp_lock(host, "shop", "up") as lock:
            machines.make_network(host, "shop.dmz", NETWORK)
            machines.remove_network(host, "shop.dmz")
            remove_record(other, lock.uuid)
            time.sleep(TRUSTED)
            machines.make_network(host, "shop.dmz", NETWORK)

    with pytest.raises(LostLockError) as caught:
        work()
    assert "the lock of the vApp 'shop' on t was removed" in caught.value.what
    assert "changes nothing more" in caught.value.hint
    assert "shop.dmz" not in names(other)
    assert "shop.dmz" not in names(host), "without the lock, the host can be used again"


def test_who_holds_the_lock_now_is_named_and_keeps_it(host: Host, other: Host) -> None:
    with vapp_lock(host, "shop", "up") as lock:
        remove_record(other, lock.uuid)
        later = leave(other, PREFIX + "shop", replace(this_process("down"), machine="box2"))
        with pytest.raises(LostLockError) as caught:
            lock.require()
    assert "now `vcloud down` on box2 (process" in caught.value.what
    kept = read_record(other, PREFIX + "shop")
    assert kept is not None
    assert kept.uuid == later
    remove_record(other, later)


def test_a_failure_that_comes_from_a_lost_lock_is_told_as_that(host: Host, other: Host) -> None:
    """The other one has removed what this process was at work on."""

    def work() -> None:
        with vapp_lock(host, "shop", "up") as lock:
            remove_record(other, lock.uuid)
            raise HostError("there is no domain 'shop.web' on t")

    with pytest.raises(LostLockError) as caught:
        work()
    assert isinstance(caught.value.__cause__, HostError)


@pytest.mark.parametrize("error", [HostError("full"), VcloudError("no"), ValueError("a bug")])
def test_a_failure_under_a_lock_that_is_held_is_told_as_it_is(host: Host, error: Exception) -> None:
    with pytest.raises(type(error), match=str(error)), vapp_lock(host, "shop", "up"):
        raise error
    assert PREFIX + "shop" not in names(host)


def test_no_step_works_around_a_lost_lock() -> None:
    """Where waking a VM fails with a HostError, for example, the VM is booted instead."""
    assert not issubclass(LostLockError, HostError)


def test_a_lock_within_a_lost_one_is_released(host: Host, other: Host) -> None:
    with vapp_lock(host, "shop", "up") as lock:
        with named_lock(host, "vcloud-uplink-lock", "the uplink", "up"):
            remove_record(other, lock.uuid)
            time.sleep(TRUSTED)
            with pytest.raises(LostLockError):
                names(host)
        assert names(other) & {"vcloud-uplink-lock", PREFIX + "shop"} == set()
    assert not names(host) & {"vcloud-uplink-lock", PREFIX + "shop"}


def test_when_the_connection_breaks_the_failure_is_told_and_not_the_lock() -> None:

    def work(error: HostError | None) -> None:
        with (
            open_host(HostRef("t", "test:///default")) as broken,
            vapp_lock(broken, "shop", "up"),
        ):
            broken.opened.close()
            if error:
                raise error

    with pytest.raises(HostError, match=r"^the disk is full$"):
        work(HostError("the disk is full"))
    with pytest.raises(HostError, match="could not be unlocked"):
        work(None)


# --- whoever uses images, and whoever deletes copies of them


@pytest.mark.parametrize("user", [lambda host: vapp_lock(host, "shop", "up"), using_images_of])
def test_who_uses_images_keeps_others_from_deleting_them(
    host: Host, other: Host, user: Callable[[Host], AbstractContextManager[object]]
) -> None:
    with (
        user(host),
        pytest.raises(LockedError, match="deleting copies of images on t is locked"),
        prune_lock(other),
    ):
        raise AssertionError
    with prune_lock(other):
        assert PRUNE_LOCK in names(host)
    assert PRUNE_LOCK not in names(host)


def test_many_may_use_images_at_the_same_time(host: Host, other: Host) -> None:
    with using_images_of(host), using_images_of(other), vapp_lock(host, "shop", "up"):
        assert len([name for name in names(host) if name.startswith("vcloud-images-")]) == 2


@pytest.mark.parametrize("user", [lambda host: vapp_lock(host, "shop", "up"), using_images_of])
def test_who_uses_images_waits_until_nobody_deletes_them(
    host: Host, other: Host, user: Callable[[Host], AbstractContextManager[object]]
) -> None:
    def run() -> None:
        with user(other):
            used.set()

    used, thread = threading.Event(), threading.Thread(target=run)
    with prune_lock(host):
        thread.start()
        while not any(name.startswith(("vcloud-images-", PREFIX)) for name in names(host)):
            time.sleep(0.01)
        assert not used.wait(3 * POLL)
    thread.join(30)
    assert used.is_set()


def test_a_deletion_that_was_killed_stops_nobody(host: Host) -> None:
    leave(host, PRUNE_LOCK, ended())
    with vapp_lock(host, "shop", "up"):
        assert PRUNE_LOCK not in names(host)
    leave(host, PRUNE_LOCK, ended())
    with prune_lock(host):
        pass


# --- locks that are left behind


def test_who_takes_a_lock_removes_all_that_ended_processes_have_left(host: Host) -> None:
    """Of other vApps, of memory images, of the host's uplink; those that may be held stay."""
    left = ("vcloud-lock-old", "vcloud-template-0123456789abcdef", "vcloud-uplink-lock")
    gone = ended()
    for name in left:
        leave(host, name, gone)
    with running() as (_, alive):
        kept = [
            leave(host, "vcloud-lock-busy", alive),
            leave(host, "vcloud-lock-far", replace(gone, boot=ELSEWHERE, machine_id="other")),
            leave(host, "vcloud-manifest-no-lock", gone),
        ]
        with vapp_lock(host, "shop", "up"):
            assert not names(host) & set(left)
        assert {"vcloud-lock-busy", "vcloud-lock-far", "vcloud-manifest-no-lock"} <= names(host)
    remove_ended_locks(host)
    assert "vcloud-lock-busy" not in names(host)
    assert "vcloud-lock-far" in names(host)
    for record in kept:
        remove_record(host, record)


def test_a_process_that_waits_for_its_parent_to_notice_its_end_has_ended() -> None:
    with running() as (process, holder):
        assert not holder.is_gone()
        process.kill()
        while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            time.sleep(0.01)
        assert holder.is_gone()


def test_a_stopped_process_lives_and_the_message_says_how_it_goes_on(host: Host) -> None:
    with running() as (process, holder):
        os.kill(process.pid, signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        assert not holder.is_gone()
        lock = leave(host, PREFIX + "shop", holder)
        with pytest.raises(LockedError) as caught, vapp_lock(host, "shop", "up"):
            pass
        assert f"kill -CONT {process.pid}" in caught.value.hint
        os.kill(process.pid, signal.SIGCONT)
        os.waitpid(process.pid, os.WCONTINUED)
        with pytest.raises(LockedError) as caught, vapp_lock(host, "shop", "up"):
            pass
        assert f"net-undefine {lock}" in caught.value.hint
        assert "kill" not in caught.value.hint.replace("If it was killed", "")
    remove_record(host, lock)


@pytest.mark.parametrize(
    ("changes", "gone"),
    [
        ({"boot": f"of before {INITIAL_NAMESPACE}"}, True),
        ({"boot": f"of before {INITIAL_NAMESPACE}", "machine_id": "another"}, False),
        ({"boot": f"of before {INITIAL_NAMESPACE}", "machine_id": ""}, False),
        ({"boot": "of before pid:[4026532999]"}, False),
        ({"boot": f"of before {INITIAL_NAMESPACE}", "hardware": "another"}, False),
        ({"boot": f"of before {INITIAL_NAMESPACE}", "hardware": ""}, False),
        ({"machine_id": "another"}, False),
        ({"hardware": "another"}, False),
        ({"hardware": ""}, True),
    ],
)
def test_what_ended_with_its_machine_is_told_from_what_may_live(
    changes: dict[str, str], gone: bool
) -> None:
    """By the boot, the PID namespace, the machine's id and its hardware. Two machines that woke from
    one memory have one boot id, and two copies of one machine have one machine id.
    """
    here = this_process("up")
    assert here.machine_id
    rebooted = "boot" in changes
    knows_itself = here.boot.endswith(INITIAL_NAMESPACE) and bool(here.hardware)
    assert replace(ended(), **changes).is_gone() is (gone and (knows_itself or not rebooted))


CARD = "08:00:27:00:00:01"


def machine(
    path: Path, cards: dict[str, str], board: str = "", software: dict[str, str] | None = None
) -> str:
    """The digest of a machine with these cards (name -> address) and this UUID of its board."""
    for name, address in (cards | (software or {})).items():
        (path / "class/net" / name).mkdir(parents=True)
        (path / "class/net" / name / "address").write_text(f"{address}\n")
        if name in cards:
            (path / "class/net" / name / "device").mkdir()
    if board:
        (path / "class/dmi/id").mkdir(parents=True)
        (path / "class/dmi/id/product_uuid").write_text(f"{board}\n")
    return hardware_digest(path)


def test_copies_of_one_machine_are_told_apart_by_their_hardware(tmp_path: Path) -> None:
    here = machine(tmp_path / "here", {"eth0": CARD}, software={"docker0": "02:42:00:00:00:01"})
    again = machine(tmp_path / "again", {"eth0": CARD}, software={"docker0": "02:42:00:00:00:02"})
    copy = machine(tmp_path / "copy", {"eth0": "08:00:27:00:00:02"})
    assert here == again != copy
    boards = [
        machine(tmp_path / name, {"eth0": CARD}, f"4c4c4544-0042-3510-8052-b4c04f{name}")
        for name in ("314e32", "314e33")
    ]
    assert len({here, *boards}) == 3


@pytest.mark.parametrize(
    ("cards", "board"),
    [
        ({}, ""),
        ({"eth0": "52:54:00:12:34:56"}, "00000000-0000-0000-0000-000000000000"),
        ({"eth0": "00:00:00:00:00:00"}, "03000200-0400-0500-0006-000700080009"),
    ],
)
def test_hardware_that_many_machines_share_tells_nothing(
    tmp_path: Path, cards: dict[str, str], board: str
) -> None:
    """A lock of such a machine counts as held: nobody can tell that it was booted again."""
    assert machine(tmp_path, cards, board) == ""


@pytest.mark.parametrize("pid", ["0", "-1", "x", "", "٣", "9" * 30])
def test_a_process_number_that_is_none_means_nothing(pid: str) -> None:
    """Whoever may write to the host's libvirt may have written it."""
    assert not replace(this_process("up"), pid=pid, started="").is_gone()


def test_a_holder_that_nobody_writes_is_none() -> None:
    written = asdict(this_process("up"))
    assert asdict(holder_in(written) or ended()) == written
    assert holder_in(written | {"machine": "a\nb"}) is None
    assert holder_in(written | {"machine": "a" * 1000}) is None
    assert holder_in(written | {"more": "x"}) is None
    del written["hardware"], written["machine_id"]  # earlier releases did not write it
    assert holder_in(written) is not None
