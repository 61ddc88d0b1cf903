"""Whether KVM works on a host is found by booting a kernel."""

from __future__ import annotations

import pytest

from tests.vm.hosts.running import (
    NAME,
    Running,
)
from vcloud.hosts import accelerator
from vcloud.hosts.accelerator import Accelerator
from vcloud.hosts.connection import Host
from vcloud.hosts.observe import observe_vapp
from vcloud.marks import NO_VM

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3000)]


def test_the_accelerator_is_tried_once(host: Host, vm: Running) -> None:
    vm.volumes.pool.delete([accelerator.VOLUME])  # other tests of this host may have tried it
    assert accelerator.stored_accelerator(host) is None
    first = accelerator.find_accelerator(host, vm.base.kernel, vm.base.initrd)
    assert first.name in ("kvm", "tcg")
    assert first.reason
    assert accelerator.host_accelerator(host) == first
    assert accelerator.find_accelerator(host, "/none", "/none") == first, (
        "a second test boot would need a kernel"
    )
    assert [domain.name() for domain in host.connection.listAllDomains()] == [NAME], (
        "nothing of the test boot stays"
    )


def runners(vm: Running) -> tuple[str, str]:
    """Two for the race, both emulated, so that it ends alike on any machine."""
    first, second = (accelerator.boot_xml(vm.base.kernel, vm.base.initrd, "tcg") for _ in range(2))
    return first, second


def test_kvm_wins_by_reaching_user_space(host: Host, vm: Running) -> None:
    goes, other = runners(vm)
    hangs = other.replace("panic=-1", "rdinit=/none init=/none")
    assert accelerator.boot_both(host, goes, hangs) == Accelerator(
        "kvm", "a kernel boots under KVM"
    )


def test_a_kernel_that_hangs_is_given_up_soon_after_emulation_got_there(
    host: Host, vm: Running
) -> None:
    """It finds no init, and waits for ever."""
    goes, other = runners(vm)
    found = accelerator.boot_both(host, other.replace("panic=-1", "rdinit=/none init=/none"), goes)
    assert found.name == "tcg"
    assert "hangs" in found.reason
    assert [domain.name() for domain in host.connection.listAllDomains()] == [NAME], (
        "nothing of the test boot stays"
    )


def test_a_vm_that_ends_before_it_reaches_user_space_does_not_count(
    host: Host, vm: Running
) -> None:
    goes, other = runners(vm)
    found = accelerator.boot_both(
        host, other.replace("panic=-1", "panic=-1 rdinit=/none init=/none"), goes
    )
    assert found == Accelerator(
        "tcg", "/dev/kvm exists, but a test VM failed: it ended before it reached user space"
    )


@pytest.mark.usefixtures("vm")
def test_the_state_of_a_running_vm_is_seen(host: Host) -> None:
    state = observe_vapp(host, "t-hosts")
    domain = state.domain(NAME)
    assert domain is not None
    assert (domain.running, domain.paused, domain.marks) == (True, False, NO_VM)
