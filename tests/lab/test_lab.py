"""Labs of real libvirt hosts: they come up, behave like hosts, cannot be left, survive crashes, and end without a trace."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import paramiko
import pytest
import yaml

import vcloud
from vcloud.errors import Exit, HostError, UsageError
from vcloud.lab import host as hosts
from vcloud.lab import lab as labs
from vcloud.lab import layout, namespaces, texts
from vcloud.lab.layout import Host, Lab

pytestmark = pytest.mark.netns

CHECKOUT = Path(vcloud.__file__).parents[1]
MACHINE = """\
<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>64</memory>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices><interface type='network'><source network='uplink'/><model type='virtio'/></interface></devices>
</domain>
"""
SCANNED = {str(["203.0.113.77", port]) for port in range(1, 501)}


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Lab]]:
    """Names labs in a folder of the tests' own, and ends them afterwards."""
    folder = tmp_path_factory.mktemp("labs")
    made = []

    def lab(name: str) -> Lab:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("VCLOUD_LAB_DIR", str(folder))
            made.append(layout.lab(name))
        return made[-1]

    yield lab
    for one in made:
        labs.down(one)


@pytest.fixture(scope="module")
def pair(make: Callable[[str], Lab]) -> Lab:
    """A lab of two hosts that the tests share, and break."""
    return make("t-lab")


@pytest.fixture
def lab(pair: Lab) -> Lab:
    """The shared lab, whole again whatever the last test did to it."""
    labs.up(pair, 2)
    return pair


def command(argv: list[str], text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, input=text, capture_output=True, text=True, check=False, timeout=60)


def at(lab: Lab, where: str, *argv: str, text: str = "") -> str:
    done = command([*labs.enter(lab, where), *argv], text)
    assert done.returncode == 0, done.stderr
    return done.stdout


def cli(lab: Lab, *argv: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"VCLOUD_LAB_DIR": str(lab.folder.parent), "VCLOUD_LAB": lab.name}
    return subprocess.run(
        [sys.executable, "-m", "vcloud", "lab", *argv],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=CHECKOUT,
        env=environment,
    )


def virsh(uri: str, *argv: str) -> str:
    done = command(["virsh", "--quiet", "--connect", uri, *argv])
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def start_machine(host: Host, tmp_path: Path, name: str = "m") -> None:
    xml = tmp_path / f"{name}.xml"
    xml.write_text(MACHINE.format(name=name))
    virsh(host.uri, "define", str(xml))
    virsh(host.uri, "start", name)


def log(lab: Lab, **wanted: object) -> list[dict[str, object]]:
    """The lines of the responder's log that have these values."""
    lines = map(json.loads, lab.responder_log.read_text().splitlines())
    return [line for line in lines if all(line.get(key) == value for key, value in wanted.items())]


def not_running(lab: Lab) -> set[tuple[str, str]]:
    return {(part.where, part.what) for part in labs.status(lab) if not part.runs}


def pid_in(lab: Lab, where: str, name: str) -> str:
    return at(lab, where, "pgrep", "--oldest", "--exact", name).split()[0]


# Hosts like any other


def test_up_twice_leaves_alone_what_runs(lab: Lab) -> None:
    before = {host.name: (hosts.holder(host), at(lab, host.name, "pgrep", "-x", "libvirtd|virtlogd|sshd")) for host in lab.hosts()}
    began = time.monotonic()
    labs.up(lab, 2)
    assert time.monotonic() - began < 1
    assert before == {host.name: (hosts.holder(host), at(lab, host.name, "pgrep", "-x", "libvirtd|virtlogd|sshd")) for host in lab.hosts()}
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


def test_paramiko_reads_the_same_configuration(lab: Lab) -> None:
    config = paramiko.SSHConfig.from_path(str(lab.ssh_config)).lookup("h1")
    with paramiko.SSHClient() as client:
        client.load_host_keys(config["userknownhostsfile"])
        client.set_missing_host_key_policy(paramiko.RejectPolicy())
        way = paramiko.ProxyCommand(config["proxycommand"])
        client.connect(
            config["hostname"], username=config["user"], key_filename=config["identityfile"], sock=way, allow_agent=False, timeout=20
        )
        assert client.exec_command("hostname")[1].read() == b"h1\n"
        assert "libvirtd.conf" in client.open_sftp().listdir("/etc/libvirt")


def test_inventory_describes_every_host(lab: Lab) -> None:
    entries = yaml.safe_load(labs.inventory(lab))["hosts"]
    assert list(entries) == ["h1", "h2"]
    assert virsh(entries["h2"]["uri"], "hostname") == virsh(entries["h2"]["local_uri"], "hostname") == "h2"
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
        assert lab.host(1).behind(folder / "only-on-h1").exists()
        assert not (folder / "only-on-h1").exists()
        assert "only-on-h1" not in at(lab, "h2", "ls", str(folder))


# The outside world


@pytest.mark.parametrize("server", ["203.0.113.10", "[2001:db8:203::10]"])
@pytest.mark.parametrize("port", [80, 443, 65535])
def test_servers_answer_http_on_every_port(lab: Lab, server: str, port: int) -> None:
    path = f"/{uuid.uuid4()}"
    answer = json.loads(at(lab, "h1", "curl", "-sS", "-m", "5", "--data", "hello", f"http://{server}:{port}{path}"))
    host = lab.host(1)
    source = str(host.uplink6 if ":" in server else host.uplink4)
    sha256 = hashlib.sha256(b"hello").hexdigest()
    assert answer == {
        "method": "POST",
        "path": path,
        "size": 5,
        "sha256": sha256,
        "source": source,
        "server": server.strip("[]"),
        "port": port,
    }
    (line,) = log(lab, event="http", path=path)
    assert line["complete"]
    assert line["to"] == [server.strip("[]"), port]


def test_large_and_chunked_bodies_arrive_whole(lab: Lab, tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_bytes(os.urandom(3_000_000))
    sha256 = hashlib.sha256(body.read_bytes()).hexdigest()
    for headers in ([], ["-H", "Transfer-Encoding: chunked"]):
        answer = json.loads(at(lab, "customer", "curl", "-sS", "-m", "20", *headers, "-T", str(body), "http://203.0.113.20/upload"))
        assert (answer["size"], answer["sha256"]) == (3_000_000, sha256)


def test_body_that_ends_early_is_logged_as_incomplete(lab: Lab) -> None:
    path = f"/{uuid.uuid4()}"
    request = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nonly this"
    at(lab, "h1", "nc", "-N", "-w", "5", "203.0.113.10", "80", text=request)
    (line,) = log(lab, event="http", path=path)
    assert not line["complete"]
    assert line["size"] == len("only this")


@pytest.mark.parametrize("server", ["203.0.113.20", "2001:db8:203::20"])
def test_servers_echo_other_tcp_data_udp_and_ping(lab: Lab, server: str) -> None:
    word = str(uuid.uuid4())
    sha256 = hashlib.sha256(word.encode()).hexdigest()
    assert at(lab, "h2", "nc", "-N", "-w", "5", server, "2525", text=word) == word
    assert at(lab, "h2", "nc", "-u", "-w", "1", server, "5353", text=word) == word
    assert log(lab, event="tcp", to=[server, 2525], sha256=sha256)
    assert log(lab, event="udp", to=[server, 5353], sha256=sha256)
    at(lab, "h2", "ping", "-c", "1", "-W", "2", server)


def test_scan_leaves_a_line_for_every_port(lab: Lab) -> None:
    """Also a connection that is reset at once is evidence that packets came through."""
    at(lab, "h1", "nmap", "-n", "-Pn", "-sT", "-p1-500", "203.0.113.77")
    namespaces.wait_for("The log of the scan", lambda: len({str(line["to"]) for line in log(lab, event="open")} & SCANNED) == 500, 5)


@pytest.mark.parametrize("where", ["h1", "outside"])
def test_nothing_leaves_the_lab(lab: Lab, where: str) -> None:
    """The servers answer on the same path on which the machine's own addresses and the real internet do not."""
    own = json.loads(command(["ip", "-j", "address", "show", "up"]).stdout)
    addresses = [entry["local"] for link in own for entry in link.get("addr_info", ()) if entry["scope"] == "global"]
    at(lab, where, "ping", "-c", "1", "-W", "2", "203.0.113.10")
    for address in (*addresses, "192.0.2.254", "2001:db8:ffff::1"):
        assert command([*labs.enter(lab, where), "ping", "-c", "1", "-W", "1", address]).returncode != 0


def test_machine_has_no_way_into_the_lab(lab: Lab) -> None:
    links = {link["ifname"] for link in json.loads(command(["ip", "-j", "link"]).stdout)}
    assert not links & {"uplink0", "uplink", "management", "eth1", "outside", "h1-uplink", "h1-management"}
    routes = command(["ip", "route", "show", "table", "all"]).stdout + command(["ip", "-6", "route", "show", "table", "all"]).stdout
    assert not any(prefix in routes for prefix in ("198.18.", "198.19.", "203.0.113.", "2001:db8:198", "2001:db8:203"))
    for host in lab.hosts():
        with socket.socket() as knock:
            knock.settimeout(0)  # the first packet, if there were one, would take the machine's default route
            knock.bind(("127.0.0.1", 0))
            assert knock.connect_ex((str(host.management4), 22)) != 0
    assert command([str(lab.ssh), "h1", "true"]).returncode == 0


# Commands


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
    assert {(part["where"], part["what"]) for part in json.loads(done.stdout)} >= {("h1", "libvirtd"), ("outside", "responder")}
    at(lab, "h1", "kill", "-9", pid_in(lab, "h1", "sshd"))
    namespaces.wait_for("The end of sshd", lambda: bool(not_running(lab)), 5)
    done = cli(lab, "status")
    assert done.returncode == Exit.DIFFERENT
    assert "not running" in done.stdout


def test_inventory_is_printed(lab: Lab) -> None:
    assert cli(lab, "inventory").stdout == lab.inventory.read_text()


# Crashes


@pytest.mark.parametrize("daemon", ["virtlogd", "libvirtd", "sshd"])
def test_killed_daemon_is_seen_and_started_again_and_machines_live_on(lab: Lab, tmp_path: Path, daemon: str) -> None:
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
    namespaces.wait_for("The sight of it", lambda: not_running(lab) == {("outside", "responder")}, 5)
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
    assert command([*labs.enter(lab, "h1"), "ping", "-c", "1", "-W", "1", str(lab.host(2).management4)]).returncode != 0
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
        with pytest.raises(HostError, match="another folder"):
            change(other)
    assert not not_running(lab)


# The end


def leftovers(lab: Lab, pids: list[int]) -> list[str]:
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f"{lab.name}-" in line or str(lab.folder) in line]
    alive = [str(pid) for pid in pids if Path(f"/proc/{pid}").exists() and Path(f"/proc/{pid}/status").read_text().find("Z (zombie)") < 0]
    folders = [str(lab.folder)] if lab.folder.exists() else []
    return [*mounts, *alive, *folders, *filter(lab.owns, namespaces.names())]


def all_processes(lab: Lab) -> list[int]:
    return [pid for name in namespaces.names() if lab.owns(name) for pid in namespaces.processes(name)]


def test_down_leaves_nothing(make: Callable[[str], Lab], tmp_path: Path) -> None:
    lab = make("t-end")
    labs.up(lab)
    start_machine(lab.host(1), tmp_path)
    pids = all_processes(lab)
    assert len(pids) > 5
    assert len(leftovers(lab, pids)) > len(pids)
    assert labs.down(lab)
    assert leftovers(lab, pids) == []
    assert not labs.down(lab)
    assert leftovers(lab, pids) == []


def test_down_ends_a_lab_whose_folder_is_gone(make: Callable[[str], Lab], tmp_path: Path) -> None:
    lab = make("t-gone")
    labs.up(lab)
    start_machine(lab.host(1), tmp_path)
    pids = all_processes(lab)
    shutil.rmtree(lab.folder)
    assert labs.down(lab)
    assert leftovers(lab, pids) == []


def test_up_and_down_finish_what_a_kill_or_a_reboot_left(make: Callable[[str], Lab]) -> None:
    """A reboot leaves folders only, a killed `ip netns add` a file that is no namespace, a killed ssh-keygen half a pair of keys."""
    lab = make("t-half")
    labs.up(lab)
    for name in filter(lab.owns, namespaces.names()):
        namespaces.delete(name)
    (namespaces.FOLDER / lab.host(1).namespace).touch()
    lab.host(1).host_key.with_suffix(".pub").unlink()
    labs.up(lab)
    assert virsh(lab.host(1).uri, "hostname") == "h1"
    for name in filter(lab.owns, namespaces.names()):
        namespaces.delete(name)
    (namespaces.FOLDER / lab.switch).touch()
    assert labs.down(lab)
    assert leftovers(lab, []) == []


def test_two_labs_side_by_side_do_not_meet(lab: Lab, make: Callable[[str], Lab]) -> None:
    """They have the same addresses, so only their wires keep them apart."""
    other = make("t-lab-2")
    labs.up(other)
    path = f"/{uuid.uuid4()}"
    at(other, "h1", "curl", "-sS", "-m", "5", f"http://203.0.113.10{path}")
    assert log(other, event="http", path=path)
    assert not log(lab, event="http", path=path)
    assert virsh(other.host(1).uri, "capabilities") != virsh(lab.host(1).uri, "capabilities")
    labs.down(other)
    assert not not_running(lab)


def test_several_ups_at_once_make_one_lab(make: Callable[[str], Lab]) -> None:
    lab = make("t-rush")
    argv = [sys.executable, "-m", "vcloud", "lab", "up"]
    environment = os.environ | {"VCLOUD_LAB_DIR": str(lab.folder.parent), "VCLOUD_LAB": lab.name}
    rush = [subprocess.Popen(argv, cwd=CHECKOUT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(3)]
    assert [one.wait(60) for one in rush] == [0, 0, 0]
    assert not not_running(lab)
    assert len(at(lab, "h1", "pgrep", "-x", "libvirtd").split()) == 1
    rush = [
        subprocess.Popen([*argv[:-1], verb], cwd=CHECKOUT, env=environment, stderr=subprocess.DEVNULL)
        for verb in ("down", "up", "down", "up")
    ]
    assert [one.wait(60) for one in rush] == [0, 0, 0, 0]
    labs.down(lab)
    assert leftovers(lab, []) == []


# Refusals


@pytest.mark.parametrize("name", ["", "Lab", "1ab", "a/b", "../x", "a" * 21, "a b", "a;b", "a\n"])
def test_names_that_do_not_fit_are_refused(name: str) -> None:
    with pytest.raises(UsageError):
        layout.lab(name)


@pytest.mark.parametrize("folder", ["relative", "/a b", "/x" * 60, "/a'b"])
def test_folders_that_do_not_fit_are_refused(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VCLOUD_LAB_DIR", folder)
    with pytest.raises(UsageError):
        layout.lab("x")


@pytest.mark.parametrize("count", [0, -1, layout.MAX_HOSTS + 1])
def test_impossible_numbers_of_hosts_are_refused(count: int, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        labs.up(Lab("t-none", tmp_path / "t-none"), count)
    assert not (tmp_path / "t-none").exists()


def test_without_root_one_sentence_says_so(tmp_path: Path) -> None:
    os.seteuid(65534)
    try:
        with pytest.raises(HostError, match="takes root"):
            labs.up(Lab("t-none", tmp_path / "t-none"))
    finally:
        os.seteuid(0)


def test_missing_programs_are_named_with_their_packages(tmp_path: Path) -> None:
    """In a mount namespace in which two programs cannot be run: /dev/null lies over them."""
    hidden = [namespaces.program(name) for name in ("nc", "virsh")]
    script = "".join(f"mount --bind /dev/null {path} && " for path in hidden) + f"exec {sys.executable} -m vcloud lab up --name t-none"
    environment = os.environ | {"VCLOUD_LAB_DIR": str(tmp_path)}
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, cwd=CHECKOUT, env=environment, timeout=60
    )
    assert done.returncode == Exit.FAILED, done
    assert re.search(r"nc, virsh\.\n  Run: apt-get install -y libvirt-clients netcat-openbsd$", done.stderr.strip()), done
    assert not (tmp_path / "t-none").exists()
