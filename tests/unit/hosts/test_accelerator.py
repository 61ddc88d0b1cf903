"""What the KVM test boot shows, with sockets in the place of consoles; tests/vm and tests/nested
boot real VMs.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from vcloud.hosts.accelerator import (
    BOOTED_MESSAGE,
    SLOWDOWN_LIMIT,
    Accelerator,
    BootingVm,
    boot_both,
    boot_xml,
    compare_boots,
    explain_failed_start,
)
from vcloud.hosts.connection import open_host
from vcloud.hosts.inventory import HostRef

NOT_HERE, ENDS = b"booting", None
ENDED_FIRST = Accelerator(
    "tcg", "/dev/kvm exists, but a test VM failed: it ended before it reached user space"
)


@pytest.fixture
def consoles() -> Iterator[list[socket.socket]]:
    opened: list[socket.socket] = []
    yield opened
    for end in opened:
        end.close()


def runner(consoles: list[socket.socket], said: bytes | None) -> BootingVm:
    """A VM that has said this; None: it has ended without a word."""
    ours, theirs = socket.socketpair()
    consoles += [ours, theirs]
    if said is None:
        theirs.close()
    else:
        theirs.sendall(said)
    return BootingVm(ours)


@pytest.mark.parametrize(
    ("kvm", "tcg", "expected"),
    [
        (BOOTED_MESSAGE, NOT_HERE, Accelerator("kvm", "a kernel boots under KVM")),
        (BOOTED_MESSAGE, ENDS, Accelerator("kvm", "a kernel boots under KVM")),
        (BOOTED_MESSAGE, BOOTED_MESSAGE, Accelerator("kvm", "a kernel boots under KVM")),
        (ENDS, BOOTED_MESSAGE, ENDED_FIRST),
    ],
)
def test_who_reaches_user_space_decides(
    consoles: list[socket.socket], kvm: bytes | None, tcg: bytes | None, expected: Accelerator
) -> None:
    assert compare_boots(runner(consoles, kvm), runner(consoles, tcg), time.monotonic()) == expected


def test_a_kernel_that_hangs_under_kvm_alone_is_proven_to(consoles: list[socket.socket]) -> None:
    found = compare_boots(
        runner(consoles, NOT_HERE), runner(consoles, BOOTED_MESSAGE), time.monotonic() - 0.1
    )
    assert (found.name, found.proven) == ("tcg", True)
    assert "hangs" in found.reason
    assert SLOWDOWN_LIMIT > 1


def test_a_kernel_that_boots_nowhere_says_nothing_of_kvm(consoles: list[socket.socket]) -> None:
    found = compare_boots(runner(consoles, ENDS), runner(consoles, ENDS), time.monotonic())
    assert (found.name, found.proven) == ("tcg", False)


@pytest.mark.parametrize(
    ("kvm", "tcg", "proven"),
    [(False, True, True), (False, False, False), (True, False, False), (True, True, False)],
)
def test_only_a_vm_that_starts_under_emulation_alone_speaks_against_kvm(
    kvm: bool, tcg: bool, proven: bool
) -> None:
    found = explain_failed_start("cannot allocate memory", kvm, tcg)
    assert (found.name, found.proven) == ("tcg", proven)
    assert "cannot allocate memory" in found.reason


def test_a_host_where_no_vm_starts_at_all_is_not_remembered_as_one_without_kvm() -> None:
    """libvirt's test driver starts neither of the two."""
    with open_host(HostRef("t", "test:///default")) as host:
        found = boot_both(
            host, boot_xml("/kernel", "/initrd", "kvm"), boot_xml("/kernel", "/initrd", "tcg")
        )
        assert (found.name, found.proven) == ("tcg", False)
        assert found.reason.startswith("KVM could not be tested: ")
