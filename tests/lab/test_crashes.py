"""What was killed or cut is seen, and the next `up` makes it whole."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.lab.places import (
    at,
    cli,
    command,
    not_running,
    pid_in,
    start_machine,
    vcloud,
    virsh,
)
from vcloud.errors import Exit, HostError
from vcloud.hosts.connection import open_host, translated
from vcloud.hosts.inventory import HostRef
from vcloud.lab import host as hosts
from vcloud.lab import lab as labs
from vcloud.lab import namespaces, texts
from vcloud.lab.layout import Host, Lab

pytestmark = pytest.mark.netns


@pytest.mark.parametrize("daemon", ["virtlogd", "libvirtd", "sshd"])
def test_killed_daemon_is_seen_and_started_again_and_machines_live_on(
    lab: Lab, tmp_path: Path, daemon: str
) -> None:
    host = lab.host(1)
    start_machine(host, tmp_path, daemon)
    qemu = pid_in(lab, "h1", "qemu-system-x86")
    at(lab, "h1", "kill", "-9", pid_in(lab, "h1", daemon))
    namespaces.wait_for("The sight of it", lambda: not_running(lab) == {("h1", daemon)}, 60)
    labs.up(lab)
    assert not not_running(lab)
    assert pid_in(lab, "h1", "qemu-system-x86") == qemu
    assert virsh(host.uri, "domstate", daemon) == "running"
    virsh(host.uri, "destroy", daemon)
    virsh(host.uri, "undefine", daemon)


def test_a_connection_that_broke_is_called_so(lab: Lab) -> None:
    host = lab.host(1)
    with open_host(HostRef(host.name, host.local_uri)) as opened:
        at(lab, "h1", "kill", "-9", pid_in(lab, "h1", "libvirtd"))
        for _ in range(2):  # the call that breaks, and the ones after it
            with pytest.raises(HostError) as caught, translated("it failed"):
                opened.connection.getHostname()
            assert caught.value.hint.startswith("The connection broke.")


def test_killed_responder_is_seen_and_started_again(lab: Lab) -> None:
    for pid in namespaces.processes(lab.outside):
        os.kill(pid, 9)
    namespaces.wait_for(
        "The sight of it", lambda: not_running(lab) == {("outside", "responder")}, 60
    )
    labs.up(lab)
    at(lab, "outside", "curl", "-sS", "-m", "30", "http://203.0.113.10/")


def test_power_cut_takes_all_of_one_host_and_its_disks_stay(lab: Lab, tmp_path: Path) -> None:
    first, second = lab.hosts()
    start_machine(first, tmp_path, "cut")
    kill_holder(first)
    assert {where for where, _ in not_running(lab)} == {"h1"}
    assert virsh(second.uri, "hostname") == "h2"
    assert command([str(lab.ssh), "h1", "true"]).returncode != 0
    labs.up(lab)
    assert virsh(first.uri, "domstate", "cut") == "shut off"
    assert virsh(first.uri, "net-list", "--name") == "uplink"
    virsh(first.uri, "undefine", "cut")


def test_networks_that_ran_on_a_host_when_it_died_start_again(lab: Lab, tmp_path: Path) -> None:
    """The kernel keeps their bridges in the host's network namespace, and the libvirtd of the next
    start knows nothing of them.
    """
    host = lab.host(1)
    definition = tmp_path / "zone.xml"
    definition.write_text("<network><name>zone</name><bridge name='vb-zone'/></network>")
    for command_line in (
        ("net-define", str(definition)),
        ("net-autostart", "zone"),
        ("net-start", "zone"),
    ):
        virsh(host.uri, *command_line)
    at(lab, "h1", "nft", "add", "table", "inet", "left")
    kill_holder(host)
    assert "vb-zone" in namespaces.links(host.namespace), "the case is not the one that it is about"
    labs.up(lab)
    assert set(virsh(host.uri, "net-list", "--name").split()) == {"uplink", "zone"}
    assert "left" not in at(lab, "h1", "nft", "list", "tables")
    at(lab, "h2", "ping", "-c", "1", "-W", "30", str(host.management4))
    virsh(host.uri, "net-destroy", "zone")
    virsh(host.uri, "net-undefine", "zone")


def kill_holder(host: Host) -> None:
    pid = hosts.holder(host)
    assert pid is not None
    os.kill(pid, 9)
    namespaces.wait_for("The end of the host", lambda: hosts.holder(host) is None, 60)


def test_cut_wire_separates_and_is_laid_again(lab: Lab) -> None:
    at(lab, "h1", "ping", "-c", "1", "-W", "30", str(lab.host(2).management4))
    namespaces.configure(lab.switch, ["link delete h2-management", "link delete h2-uplink"])
    assert (
        command(
            [*labs.enter(lab, "h1"), "ping", "-c", "1", "-W", "1", str(lab.host(2).management4)]
        ).returncode
        != 0
    )
    labs.up(lab)
    at(lab, "h1", "ping", "-c", "1", "-W", "30", str(lab.host(2).management4))
    at(lab, "h2", "ping", "-c", "1", "-W", "30", "2001:db8:203::10")


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


def test_lab_in_another_folder_is_not_touched_when_its_hosts_have_died(
    lab: Lab, tmp_path: Path
) -> None:
    """Its namespaces tell whose they are; no process is left that could."""
    for host in lab.hosts():
        kill_holder(host)
    other = Lab(lab.name, tmp_path / lab.name)
    for change in (labs.up, labs.down):
        other.folder.mkdir(exist_ok=True)
        with pytest.raises(HostError, match=f"belongs to the lab in '{lab.folder}'"):
            change(other)
    labs.up(lab)
    assert not not_running(lab)


def answering(lab: Lab) -> dict[str, bool]:
    """Each host that `host list` shows, and whether it could be asked."""
    rows = json.loads(vcloud(lab, "host", "list", "-o", "json").stdout)
    return {row["name"]: not row["error"] for row in rows}


def test_a_host_without_power_is_shown_hides_no_other_and_comes_back_without_vms(
    lab: Lab, tmp_path: Path
) -> None:
    host = lab.host(2)
    start_machine(host, tmp_path, "lost")
    failed = cli(lab, "fail", "h2")
    assert failed.returncode == 0, failed.stderr
    assert {where for where, _ in not_running(lab)} == {"h2"}
    assert answering(lab) == {"h1": True, "h2": False}

    assert cli(lab, "heal", "h2").returncode == 0
    assert not not_running(lab)
    assert virsh(host.uri, "domstate", "lost") == "shut off"
    assert answering(lab) == {"h1": True, "h2": True}
    virsh(host.uri, "undefine", "lost")


def test_a_host_that_is_only_cut_off_runs_on_where_nobody_reaches_it(
    lab: Lab, tmp_path: Path
) -> None:
    host = lab.host(2)
    start_machine(host, tmp_path, "alone")
    qemu = pid_in(lab, "h2", "qemu-system-x86")
    assert cli(lab, "fail", "--cut", "h2").returncode == 0
    assert not_running(lab) == {("h2", "network")}
    assert answering(lab) == {"h1": True, "h2": False}
    assert pid_in(lab, "h2", "qemu-system-x86") == qemu

    assert cli(lab, "heal", "h2").returncode == 0
    assert not not_running(lab)
    assert virsh(host.uri, "domstate", "alone") == "running"
    assert command(["ssh", "-F", str(lab.ssh_config), "h2", "true"]).returncode == 0
    at(lab, "h2", "ping", "-c", "1", "-W", "30", str(lab.host(1).uplink4))
    virsh(host.uri, "destroy", "alone")
    virsh(host.uri, "undefine", "alone")


def test_only_a_host_of_the_lab_can_fail(lab: Lab) -> None:
    for argv in (("fail", "h9"), ("heal", "h9")):
        done = cli(lab, *argv)
        assert done.returncode == Exit.INVALID
        assert "Its hosts are h1, h2" in done.stderr
    assert not not_running(lab)
