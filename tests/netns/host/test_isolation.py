"""The reporter on real processes: where they may run, what of their memory is locked or may be merged,
and what the kernel says for all.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.netns.host.machine import DESIGN, PYTHON, RUNNING, UPLINK, Machine
from vcloud.design.isolation import Isolation
from vcloud.design.model import Design, Vm
from vcloud.plan.host_difference import ON_DEMAND, HostDifference, HostKind
from vcloud.plan.host_report import Guest, HostReport
from vcloud.plan.host_side import host_differences

WEB = next(vm for vm in DESIGN.vms if vm.name == "web")
HOLD = """\
import ctypes, mmap, sys
kept = mmap.mmap(-1, 8 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
libc = ctypes.CDLL(None, use_errno=True)
for what in sys.argv[1:]:
    if what == "lock":
        place = ctypes.addressof(ctypes.c_char.from_buffer(kept))
        assert libc.mlock(ctypes.c_void_p(place), ctypes.c_size_t(8 << 20)) == 0, ctypes.get_errno()
    elif what == "merge":
        kept.madvise(mmap.MADV_MERGEABLE)
    elif what == "merge all":
        if libc.prctl(67, 1, 0, 0, 0):  # PR_SET_MEMORY_MERGE, Linux 6.4
            kept.madvise(mmap.MADV_MERGEABLE)
print("ready", flush=True)
sys.stdin.read()
"""
"""A program of its own that does with its memory what QEMU does."""


@pytest.fixture(scope="module")
def qemu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python under the name of QEMU: the reporter goes by the name of the program's file."""
    program = tmp_path_factory.mktemp("bin") / "qemu-holder"
    program.write_bytes(Path(PYTHON).resolve().read_bytes())
    program.chmod(0o755)
    return program


@contextmanager
def holder(host: Machine, qemu: Path, *what: str) -> Iterator[Guest]:
    """A process that does something with its memory, as the reporter sees it."""
    before = {guest.pid for guest in host.report().guests}
    with host.running(str(qemu), "-c", HOLD, *what):
        (found,) = [guest for guest in host.report().guests if guest.pid not in before]
        yield found


def test_memory_is_told_as_locked_only_if_it_is(host: Machine, qemu: Path) -> None:
    with holder(host, qemu) as bare:
        assert bare.locked == 0
    with holder(host, qemu, "lock") as locked:
        assert locked.locked >= 8 << 20


@pytest.mark.parametrize("what", ["merge", "merge all"])
def test_memory_that_the_kernel_may_merge_is_told(host: Machine, qemu: Path, what: str) -> None:
    with holder(host, qemu) as bare:
        assert not bare.merges
    with holder(host, qemu, what) as merging:
        assert merging.merges


def test_a_pinned_process_is_told_with_all_its_threads(host: Machine) -> None:
    """By its real affinity, which libvirt need not know."""
    everywhere = os.sched_getaffinity(0)
    pid = int(host.run(f"cat /mnt/{WEB.domain}.number"))
    host.run(f"taskset -a -p -c 0 {pid}")
    try:
        pinned = guest_of(host.report(), pid)
        assert len(pinned.threads) >= 2, "QEMU has more than one thread"
        assert {thread.processors for thread in pinned.threads} == {frozenset({0})}
    finally:
        listed = ",".join(map(str, sorted(everywhere)))
        host.run(f"taskset -a -p -c {listed} {pid}")
    assert {thread.processors for thread in guest_of(host.report(), pid).threads} == {
        frozenset(everywhere)
    }


def test_the_kernels_settings_are_those_of_its_files(host: Machine) -> None:
    kernel = host.report().kernel
    for found, path in (
        (kernel.ksm, "/sys/kernel/mm/ksm/run"),
        (kernel.smt, "/sys/devices/system/cpu/smt/active"),
    ):
        assert found == (Path(path).read_text().strip() if Path(path).exists() else "")


def demanding(isolation: Isolation) -> Design:
    def changed(vm: Vm) -> Vm:
        return replace(vm, isolation=isolation)

    return replace(
        DESIGN,
        firewall=changed(DESIGN.firewall),
        ips=changed(DESIGN.ips) if DESIGN.ips else None,
        workloads=tuple(map(changed, DESIGN.workloads)),
    )


def differences(design: Design, report: HostReport, **cores: object) -> list[HostDifference]:
    found = host_differences(design, RUNNING, UPLINK.bridge, report, **cores)  # type: ignore[arg-type]
    return [one for one in found if one.kind in ON_DEMAND]


def test_real_processes_that_share_all_break_every_demand_and_bare_ones_none(
    host: Machine,
) -> None:
    """QEMU without options lets the kernel merge its memory, locks none of it and has no label."""
    strict = demanding(
        Isolation(own_cpus=True, locked_memory=True, no_page_sharing=True, svirt=True)
    )
    report = host.report()
    # This QEMU has no machine, and so no memory of a guest that could be merged.
    kinds = {one.kind for one in differences(strict, report)}
    assert {HostKind.CORES, HostKind.LOCKING, HostKind.LABEL} <= kinds
    assert differences(DESIGN, report) == []


def test_a_real_process_on_the_cores_of_a_vapp_is_named(host: Machine, qemu: Path) -> None:
    own = demanding(Isolation(own_cpus=True))
    with holder(host, qemu):
        report = host.report()
        cores = {vm.name: (0,) for vm in DESIGN.vms}
        found = differences(own, report, cores=cores, owned=(0,))
        foreign = [one for one in found if one.kind is HostKind.INTRUDER]
        assert len(foreign) == 1
        assert "may run on the host's processors 0, which are the vApp's own" in foreign[0].what
        nobody = max(os.sched_getaffinity(0)) + 1
        away = differences(own, report, cores=cores, owned=(nobody,))
        assert not [one for one in away if one.kind is HostKind.INTRUDER]


def guest_of(report: HostReport, pid: int) -> Guest:
    return next(guest for guest in report.guests if guest.pid == pid)


def test_the_program_under_another_name_is_no_qemu(host: Machine) -> None:
    """The twin of all above: only QEMU's processes are looked at so closely."""
    before = len(host.report().guests)
    with host.running(PYTHON, "-c", HOLD, "lock"):
        assert len(host.report().guests) == before
