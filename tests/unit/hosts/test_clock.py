"""The clock of a host, as it is asked for."""

from __future__ import annotations

import time

from vcloud.hosts.clock import Clock
from vcloud.hosts.connection import Host
from vcloud.hosts.inventory import HostRef


def host(uri: str) -> Host:
    """A host that libvirt is never asked of."""
    return Host(HostRef("h", uri), None)  # type: ignore[arg-type]


def test_the_hosts_own_clock_is_told_and_goes_on() -> None:
    clock = Clock(host("qemu:///system"))
    before = time.time()
    first = clock.now()
    assert first is not None
    assert abs(clock.ahead()) < 10
    assert before - 10 <= first <= time.time() + 10
    time.sleep(0.05)
    later = clock.now()
    assert later is not None
    assert 0.04 < later - first < 5


def test_a_host_that_nobody_can_log_in_to_has_no_clock_that_can_be_read() -> None:
    assert Clock(host("qemu+tls://h.example/system")).now() is None
    assert Clock(host("qemu+tls://h.example/system")).ahead() == 0
