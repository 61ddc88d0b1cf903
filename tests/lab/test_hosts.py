"""Hosts of a lab are libvirt hosts like any other, and commands reach them."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import paramiko
import pytest
import yaml

from tests.lab.places import (
    at,
    cli,
    command,
    not_running,
    pid_in,
    start_machine,
    virsh,
)
from vcloud.errors import Exit
from vcloud.lab import host as hosts
from vcloud.lab import lab as labs
from vcloud.lab import layout, namespaces
from vcloud.lab.layout import Lab

pytestmark = pytest.mark.netns


def test_up_twice_leaves_alone_what_runs(lab: Lab) -> None:
    before = {
        host.name: (hosts.holder(host), at(lab, host.name, "pgrep", "-x", "libvirtd|virtlogd|sshd"))
        for host in lab.hosts()
    }
    labs.up(lab, 2)
    assert before == {
        host.name: (hosts.holder(host), at(lab, host.name, "pgrep", "-x", "libvirtd|virtlogd|sshd"))
        for host in lab.hosts()
    }
    assert labs.status(lab)
    assert not not_running(lab)


def test_up_with_a_smaller_number_keeps_the_hosts(lab: Lab) -> None:
    labs.up(lab, 1)
    assert [host.name for host in lab.hosts()] == ["h1", "h2"]


def test_virsh_reaches_hosts_through_ssh_and_socket(lab: Lab) -> None:
    for host in lab.hosts():
        for uri in (host.uri, host.local_uri):
            assert virsh(uri, "hostname") == host.name
            assert virsh(uri, "net-list", "--name") == "uplink"
            assert virsh(uri, "net-list", "--name", "--autostart") == "uplink"
    assert "<ip" not in virsh(lab.host(1).uri, "net-dumpxml", "uplink")


def test_hosts_have_identities_that_stay(lab: Lab) -> None:
    for host in lab.hosts():
        assert f"<uuid>{host.uuid}</uuid>" in virsh(host.local_uri, "capabilities")
    assert len({host.uuid for host in lab.hosts()}) == 2
    assert uuid.UUID(Lab(lab.name, Path("/elsewhere")).host(1).uuid) == uuid.UUID(lab.host(1).uuid)


def test_ssh_takes_the_pinned_host_key_and_no_other(lab: Lab) -> None:
    assert command([str(lab.ssh), "h2", "hostname"]).stdout == "h2\n"
    pinned = lab.known_hosts.read_text()
    one, other = (line.rpartition(" ") for line in pinned.splitlines())
    lab.known_hosts.write_text(f"{one[0]} {other[2]}\n")
    assert "Host key verification failed" in command([str(lab.ssh), "h1", "hostname"]).stderr
    lab.known_hosts.write_text(pinned)
    assert command([str(lab.ssh), "h1", "hostname"]).stdout == "h1\n"


def test_commands_over_ssh_do_not_read_the_bashrc_of_the_machines_root(lab: Lab) -> None:
    """It may be slow, and what it prints would come before an answer of libvirt."""
    home = command([str(lab.ssh), "h1", 'printf "%s" "$HOME"']).stdout
    (lab.host(1).machine_path(Path(home)) / ".bashrc").write_text("echo of the host itself\n")
    assert command([str(lab.ssh), "h1", "hostname"]).stdout == "of the host itself\nh1\n"
    assert not (lab.host(2).machine_path(Path(home)) / ".bashrc").exists()
    (lab.host(1).machine_path(Path(home)) / ".bashrc").unlink()


def test_paramiko_reads_the_same_configuration(lab: Lab) -> None:
    config = paramiko.SSHConfig.from_path(str(lab.ssh_config)).lookup("h1")
    with paramiko.SSHClient() as client:
        client.load_host_keys(config["userknownhostsfile"])
        client.set_missing_host_key_policy(paramiko.RejectPolicy())
        way = paramiko.ProxyCommand(config["proxycommand"])
        client.connect(
            config["hostname"],
            username=config["user"],
            key_filename=config["identityfile"],
            sock=way,
            allow_agent=False,
            timeout=120,
        )
        assert client.exec_command("hostname")[1].read() == b"h1\n"
        assert "libvirtd.conf" in client.open_sftp().listdir("/etc/libvirt")


def test_inventory_describes_every_host(lab: Lab) -> None:
    entries = yaml.safe_load(labs.inventory(lab))["hosts"]
    assert list(entries) == ["h1", "h2"]
    assert (
        virsh(entries["h2"]["uri"], "hostname")
        == virsh(entries["h2"]["local_uri"], "hostname")
        == "h2"
    )
    assert entries["h1"]["ssh_config"] == str(lab.ssh_config)
    assert entries["h1"]["uplink"] == {
        "network": "uplink",
        "prefix4": "198.18.0.0/16",
        "gateway4": "198.18.0.1",
        "prefix6": "2001:db8:198:18::/64",
        "gateway6": "2001:db8:198:18::1",
    }


def test_machine_runs_and_migrates_between_hosts(lab: Lab, tmp_path: Path) -> None:
    """Live migration proves that they are two hosts: libvirt refuses to migrate to itself."""
    first, second = lab.hosts()
    start_machine(first, tmp_path)
    assert "master uplink0" in at(lab, "h1", "ip", "-o", "link", "show", "type", "tun")
    virsh(first.uri, "migrate", "--live", "--unsafe", "--undefinesource", "m", second.uri)
    assert virsh(first.uri, "list", "--all", "--name") == ""
    assert virsh(second.uri, "domstate", "m") == "running"
    virsh(second.uri, "destroy", "m")


def test_host_has_folders_of_its_own(lab: Lab) -> None:
    for folder in layout.PRIVATE_FOLDERS:
        at(lab, "h1", "touch", f"{folder}/only-on-h1")
        assert lab.host(1).machine_path(folder / "only-on-h1").exists()
        assert not (folder / "only-on-h1").exists()
        assert "only-on-h1" not in at(lab, "h2", "ls", str(folder))


def test_exec_passes_the_exit_code_and_the_arguments(lab: Lab) -> None:
    done = cli(lab, "exec", "h1", "--", "sh", "-c", 'hostname; echo "$1"; exit 7', "sh", "--name")
    assert (done.returncode, done.stdout) == (7, "h1\n--name\n")


def test_exec_outside_sees_the_file_system_of_the_machine(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "here").touch()
    assert cli(lab, "exec", "customer", "--", "ls", str(tmp_path)).stdout == "here\n"
    assert cli(lab, "exec", "h1", "--", "ls", str(tmp_path)).returncode != 0


def test_exec_names_the_places_there_are(lab: Lab) -> None:
    done = cli(lab, "exec", "h9", "--", "true")
    assert done.returncode == Exit.INVALID
    assert "outside, h1, h2" in done.stderr


def test_status_tells_and_exits_with_what_runs(lab: Lab) -> None:
    done = cli(lab, "status", "-o", "json")
    assert done.returncode == Exit.DONE
    assert {(part["where"], part["what"]) for part in json.loads(done.stdout)} >= {
        ("h1", "libvirtd"),
        ("outside", "responder"),
    }
    at(lab, "h1", "kill", "-9", pid_in(lab, "h1", "sshd"))
    namespaces.wait_for("The end of sshd", lambda: bool(not_running(lab)), 60)
    done = cli(lab, "status")
    assert done.returncode == Exit.DIFFERENT
    assert "not running" in done.stdout


def test_inventory_is_printed(lab: Lab) -> None:
    assert cli(lab, "inventory").stdout == lab.inventory.read_text()
