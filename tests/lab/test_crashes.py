"""What was killed or cut is seen, and the next `up` makes it whole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.lab.places import (
    at,
    command,
    not_running,
    pid_in,
    start_machine,
    virsh,
)
from vcloud.errors import HostError
from vcloud.lab import host as hosts
from vcloud.lab import lab as labs
from vcloud.lab import namespaces, texts
from vcloud.lab.layout import Lab

pytestmark = pytest.mark.netns


@pytest.mark.parametrize("daemon", ["virtlogd", "libvirtd", "sshd"])
def test_killed_daemon_is_seen_and_started_again_and_machines_live_on(
    lab: Lab, tmp_path: Path, daemon: str
) -> None:
    host = lab.host(1)
    start_machine(host, tmp_path, daemon)
    qemu = pid_in(lab, "h1", "qemu-system-x86")
    at(lab, "h1", "kill", "-9", pid_in(lab, "h1", daemon))
    namespaces.wait_for("The sight of it", lambda: not_running(lab) == {("h1", daemon)}, 5)
    labs.up(lab)
    assert not not_running(lab)
    assert pid_in(lab, "h1", "qemu-system-x86") == qemu
    assert virsh(host.uri, "domstate", daemon) == "running"
    virsh(host.uri, "destroy", daemon)
    virsh(host.uri, "undefine", daemon)


def test_killed_responder_is_seen_and_started_again(lab: Lab) -> None:
    for pid in namespaces.processes(lab.outside):
        os.kill(pid, 9)
    namespaces.wait_for(
        "The sight of it", lambda: not_running(lab) == {("outside", "responder")}, 5
    )
    labs.up(lab)
    at(lab, "outside", "curl", "-sS", "-m", "5", "http://203.0.113.10/")


def test_power_cut_takes_all_of_one_host_and_its_disks_stay(lab: Lab, tmp_path: Path) -> None:
    first, second = lab.hosts()
    start_machine(first, tmp_path, "cut")
    pid = hosts.holder(first)
    assert pid is not None
    os.kill(pid, 9)
    namespaces.wait_for("The end of the host", lambda: hosts.holder(first) is None, 5)
    assert {where for where, _ in not_running(lab)} == {"h1"}
    assert virsh(second.uri, "hostname") == "h2"
    assert command([str(lab.ssh), "h1", "true"]).returncode != 0
    labs.up(lab)
    assert virsh(first.uri, "domstate", "cut") == "shut off"
    assert virsh(first.uri, "net-list", "--name") == "uplink"
    virsh(first.uri, "undefine", "cut")


def test_cut_wire_separates_and_is_laid_again(lab: Lab) -> None:
    at(lab, "h1", "ping", "-c", "1", "-W", "1", str(lab.host(2).management4))
    namespaces.configure(lab.switch, ["link delete h2-management", "link delete h2-uplink"])
    assert (
        command(
            [*labs.enter(lab, "h1"), "ping", "-c", "1", "-W", "1", str(lab.host(2).management4)]
        ).returncode
        != 0
    )
    labs.up(lab)
    at(lab, "h1", "ping", "-c", "1", "-W", "1", str(lab.host(2).management4))
    at(lab, "h2", "ping", "-c", "1", "-W", "1", "2001:db8:203::10")


def test_stopped_uplink_network_is_started_again(lab: Lab) -> None:
    virsh(lab.host(1).uri, "net-destroy", "uplink")
    labs.up(lab)
    assert virsh(lab.host(1).uri, "net-list", "--name") == "uplink"


def test_half_started_host_is_started_from_the_beginning(lab: Lab) -> None:
    host = lab.host(2)
    at(lab, "h2", "umount", str(texts.mounts(host)[-1][1]))
    assert ("h2", "host") in not_running(lab)
    before = hosts.holder(host)
    labs.up(lab)
    assert hosts.holder(host) != before
    assert virsh(host.uri, "hostname") == "h2"


def test_lab_in_another_folder_is_not_touched(lab: Lab, tmp_path: Path) -> None:
    other = Lab(lab.name, tmp_path / lab.name)
    for change in (labs.up, labs.down):
        other.folder.mkdir(exist_ok=True)
        with pytest.raises(HostError, match="but its folder is not"):
            change(other)
    assert not not_running(lab)
