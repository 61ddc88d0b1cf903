"""Where a vApp may run: what a host cannot enforce is refused by name, before anything is touched."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.vapps import shop
from vcloud.errors import Exit, RefusedError
from vcloud.hosts.capabilities import capabilities_of
from vcloud.hosts.connection import open_host
from vcloud.hosts.inventory import HostRef
from vcloud.placement.capabilities import Capabilities, Version
from vcloud.placement.place import on_one, place

HOST = Capabilities("h1", 2, 24 << 30, Version(9, 0, 0), Version(7, 2, 0))
DESIGN = shop()


def test_a_vapp_goes_wholly_to_the_one_host_that_can_enforce_it() -> None:
    placement = place(DESIGN, HOST)
    assert placement == on_one(DESIGN, "h1")
    assert placement.home == "h1"
    assert {placement.host_of(vm.name) for vm in DESIGN.vms} == {"h1"}


def test_a_host_without_network_filters_is_refused_by_name() -> None:
    """On it a VM could send in another VM's name."""
    with pytest.raises(RefusedError, match="h1 cannot bind a VM to its own MAC address") as refused:
        place(DESIGN, replace(HOST, no_filters="no nwfilter driver"))
    assert refused.value.exit is Exit.REFUSED
    assert "no nwfilter driver" in str(refused.value)
    assert "vcloud doctor" in str(refused.value)


def test_a_vm_that_no_memory_of_the_host_could_hold_is_refused() -> None:
    with pytest.raises(RefusedError, match="h1 has 256 MiB in all"):
        place(DESIGN, replace(HOST, memory=256 << 20))


def test_all_that_a_host_lacks_is_said_at_once() -> None:
    with pytest.raises(RefusedError) as refused:
        place(DESIGN, replace(HOST, memory=256 << 20, no_filters="none"))
    assert len(refused.value.problems) == 2


def test_libvirt_says_what_a_host_can_do() -> None:
    """Its test driver has no network filters, and says why."""
    with open_host(HostRef("t", "test:///default")) as host:
        found = capabilities_of(host)
    assert found.host == "t"
    assert found.processors >= 1
    assert found.memory >= 1 << 20
    assert found.libvirt >= Version(9, 0, 0)
    assert "not supported" in found.no_filters
    assert str(Version(9, 0, 0)) == "9.0.0"
