"""Facts that are read from a host."""

from __future__ import annotations

from pathlib import Path

import pytest

from vcloud.hosts.connection import Host
from vcloud.hosts.inventory import HostRef
from vcloud.hosts.kernel import KSM_RUN, KSM_SHARED, ksm_of
from vcloud.hosts.labels import labels_of


def test_whether_the_kernel_merges_pages_is_read_from_the_host() -> None:
    run, shared = (Path(path) for path in (KSM_RUN, KSM_SHARED))
    merges = run.exists() and (run.read_text().strip() == "1" or shared.read_text().strip() != "0")
    assert ksm_of(Host(HostRef("t", "qemu:///system"), None)) == ("on" if merges else "off")


def test_of_a_host_without_a_shell_it_is_unknown(host: Host) -> None:
    away = HostRef("t", "qemu+tls://t.invalid/system")
    assert ksm_of(Host(away, None)) == ""
    host.ref = away
    with pytest.raises(KeyError):
        _ = labels_of(host).labels["ksm"]
    assert "arch" in labels_of(host).labels
