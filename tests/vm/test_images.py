"""Shipped images, booted for real without KVM: how fast they answer, what runs before and after the
gate, and what survives a reboot.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import paramiko
import pytest

from tests.vm.qemu import MAC, SPARE_PORTS, Guest, booted
from vcloud.data import images_dir
from vcloud.guests.setup import OPEN_GATE
from vcloud.images.build import build
from vcloud.images.cache import Image
from vcloud.images.recipe import load_recipe

pytestmark = [pytest.mark.vm, pytest.mark.timeout(2400)]

WORKLOADS = ("base", "nginx", "postgres")
APPLIANCES = ("firewall", "ips")
ADDRESS = "10.0.2.15"
"""QEMU's user network forwards to it."""
MACHINE_ID = "0123456789abcdef0123456789abcdef"
CLOSED = 'table inet vcloud {\n\tcomment "closed"\n'


@pytest.fixture(scope="session")
def image_of() -> Callable[[str], Image]:
    return lambda name: build(load_recipe(images_dir() / name))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def forwarded(**ports: int) -> tuple[str, ...]:
    """QEMU's arguments for a card without a way out, with ports of this machine's loopback
    forwarded into the guest.
    """
    forwards = "".join(
        f",hostfwd=tcp:127.0.0.1:{outer}-:{inner.strip('p')}" for inner, outer in ports.items()
    )
    return (
        "-netdev",
        f"user,id=net,restrict=on{forwards}",
        "-device",
        f"virtio-net-pci,netdev=net,mac={MAC}",
    )


def identity(*lines: str) -> bytes:
    document = [
        "hostname web-1",
        f"machine-id {MACHINE_ID}",
        f"clock {time.time():.6f}",
        f"nic {MAC} dmz",
        f"addr dmz {ADDRESS}/24",
        *lines,
    ]
    return "".join(f"{line}\n" for line in document).encode()


def file_line(path: str, mode: str, content: bytes) -> str:
    return f"file {path} {mode} root:root {base64.b64encode(content).decode()}"


def give_identity(guest: Guest, *lines: str) -> None:
    done = guest.run("/usr/lib/vcloud/guest", "identity", stdin=identity(*lines))
    # After that come the files that differ from before.
    assert (done.code, done.out.partition("\n")[0]) == (0, "ok"), done


def open_gate(guest: Guest, *lines: str) -> None:
    give_identity(guest, *lines)
    guest.run(*OPEN_GATE)
    guest.wait_until(
        "systemctl is-active multi-user.target && ! systemctl list-jobs --no-legend | grep ."
    )


def host_key(folder: Path) -> tuple[bytes, paramiko.PKey]:
    path = folder / "host_key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path.read_bytes(), paramiko.Ed25519Key.from_private_key_file(str(path))


@pytest.mark.parametrize("name", [*WORKLOADS, *APPLIANCES])
def test_the_agent_answers_without_a_network(
    name: str,
    image_of: Callable[[str], Image],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    """How long it takes is recorded, as CPU time too, which is the wall clock of a machine with
    nothing else to do.
    """
    with booted(image_of(name), tmp_path, arguments=forwarded()) as guest:
        cpu, wall = guest.cpu, time.monotonic() - guest.started
        assert guest.run("true").code == 0
    record_property("agent_cpu_seconds", round(cpu, 1))
    record_property("agent_wall_seconds", round(wall, 1))


@pytest.fixture(scope="module", params=WORKLOADS)
def workload(
    request: pytest.FixtureRequest,
    image_of: Callable[[str], Image],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Guest]:
    """A workload at its gate: nobody has told it who it is."""
    with booted(image_of(request.param), tmp_path_factory.mktemp(request.param)) as guest:
        guest.wait_until(
            "systemctl is-active vcloud-gate.target && ! systemctl list-jobs --no-legend | grep ."
        )
        yield guest


def test_at_the_gate_nothing_has_failed_and_nothing_listens(workload: Guest) -> None:
    assert workload.shell("systemctl list-units --failed --no-legend") == ""
    assert workload.shell("ss --listening --tcp --udp --numeric --no-header") == ""
    assert workload.run("/usr/bin/systemctl", "is-active", "ssh.service").out == "inactive\n"


def test_an_image_carries_neither_keys_nor_traces_of_the_machine_that_built_it(
    workload: Guest,
) -> None:
    assert workload.shell("find /etc/ssh -name 'ssh_host_*'") == ""
    assert workload.shell("cat /etc/resolv.conf /etc/hostname") == "vcloud\n"
    assert workload.shell("ls /boot /tmp") == "/boot:\n\n/tmp:\n"


def test_packages_are_whole_and_apt_works(workload: Guest) -> None:
    assert workload.shell("dpkg --audit") == ""
    workload.shell("apt-get check")


def test_what_is_plugged_in_at_the_gate_gets_its_names(workload: Guest) -> None:
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", str(workload.folder / "extra.qcow2"), "64M"],
        check=True,
    )
    workload.qmp(
        "blockdev-add",
        driver="qcow2",
        **{"node-name": "extra"},
        file={"driver": "file", "filename": f"{workload.folder}/extra.qcow2"},
    )
    workload.qmp(
        "device_add", driver="virtio-blk-pci", drive="extra", serial="extra", bus=SPARE_PORTS[0]
    )
    workload.qmp("netdev_add", type="hubport", id="late", hubid=0)
    workload.qmp("device_add", driver="virtio-net-pci", netdev="late", mac=MAC, bus=SPARE_PORTS[1])
    workload.wait_until("test -b /dev/disk/by-id/virtio-extra")
    workload.wait_until(f"grep -q {MAC} /sys/class/net/*/address")
    assert workload.shell("systemctl list-units --failed --no-legend") == ""


def test_a_workload_becomes_itself_and_stays_so_after_a_reboot(
    image_of: Callable[[str], Image], tmp_path: Path
) -> None:
    """Identity, pinned host key and services come with the gate; after a reboot they come by
    themselves.
    """
    private, public = host_key(tmp_path)
    port = free_port()
    key_lines = (
        file_line("/etc/ssh/ssh_host_ed25519_key", "0600", private),
        file_line("/root/.ssh/authorized_keys", "0600", public_line(public)),
    )
    with booted(image_of("base"), tmp_path, arguments=forwarded(p22=port)) as guest:
        open_gate(guest, *key_lines)
        for boot in ("first", "second"):
            assert guest.shell("systemctl list-units --failed --no-legend") == "", boot
            assert guest.shell("hostname; cat /etc/machine-id") == f"web-1\n{MACHINE_ID}\n"
            assert ADDRESS in guest.shell("ip -brief address show dev dmz")
            assert (
                ssh_login(
                    port,
                    public,
                    paramiko.Ed25519Key.from_private_key_file(str(tmp_path / "host_key")),
                )
                == "web-1"
            )
            if boot == "first":
                guest.reboot()
                guest.wait_until("systemctl is-active multi-user.target")


def public_line(key: paramiko.PKey) -> bytes:
    return f"{key.get_name()} {key.get_base64()}\n".encode()


def ssh_login(port: int, host: paramiko.PKey, client_key: paramiko.PKey) -> str:
    client = paramiko.SSHClient()
    client.get_host_keys().add(f"[127.0.0.1]:{port}", host.get_name(), host)
    client.set_missing_host_key_policy(paramiko.RejectPolicy())
    client.connect(
        "127.0.0.1",
        port,
        "root",
        pkey=client_key,
        timeout=600,
        banner_timeout=600,
        auth_timeout=600,
        look_for_keys=False,
        allow_agent=False,
    )
    with client:
        return client.exec_command("hostname", timeout=600)[1].read().decode().strip()


def test_sshd_does_not_start_without_the_key_that_it_was_given(
    image_of: Callable[[str], Image], tmp_path: Path
) -> None:
    with booted(image_of("base"), tmp_path, arguments=forwarded()) as guest:
        open_gate(guest)
        assert guest.run("/usr/bin/systemctl", "is-active", "ssh.service").out == "inactive\n"
        assert guest.shell("systemctl list-units --failed --no-legend") == ""
        assert guest.shell("find /etc/ssh -name 'ssh_host_*'") == ""


def test_nginx_serves_behind_the_gate_and_takes_a_configuration(
    image_of: Callable[[str], Image], tmp_path: Path
) -> None:
    port = free_port()
    server = b"server { listen 80 default_server; listen [::]:80 default_server; location / { return 200 'the shop'; } }\n"
    with booted(image_of("nginx"), tmp_path, arguments=forwarded(p80=port)) as guest:
        open_gate(guest)
        assert "Welcome to nginx" in get(port)
        give_identity(guest, file_line("/etc/nginx/conf.d/shop.conf", "0644", server))
        guest.shell("systemctl reload nginx")
        deadline = time.monotonic() + 600
        while get(port) != "the shop":  # workers of before may take a last connection
            assert time.monotonic() < deadline
        assert guest.shell("systemctl list-units --failed --no-legend") == ""


def get(port: int) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    connection.request("GET", "/")
    return connection.getresponse().read().decode()


def test_postgres_has_its_cluster_on_all_of_a_blank_disk_and_wants_passwords(
    image_of: Callable[[str], Image], tmp_path: Path
) -> None:
    disk = tmp_path / "data.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(disk), "1G"], check=True)
    data = (
        "-blockdev",
        f"qcow2,node-name=data,file.driver=file,file.filename={disk}",
        "-device",
        "virtio-blk-pci,drive=data,serial=data",
    )
    connect = f"psql -h {ADDRESS} -U shop -d postgres -Atc 'TABLE kept'"
    with booted(image_of("postgres"), tmp_path, arguments=(*forwarded(), *data)) as guest:
        open_gate(guest, f"disk data {dict(image_of('postgres').disks)['data']}")
        assert (
            guest.shell("findmnt --noheadings --output SOURCE /var/lib/postgresql").strip()
            == "/dev/vdb"
        )
        assert (
            int(guest.shell("df --output=size --block-size=1M /var/lib/postgresql").split()[1])
            > 900
        )
        assert (
            guest.shell(
                "stat -c '%U %a' /usr/lib/vcloud/disks/var/lib/postgresql.ext4 /var/lib/postgresql"
            )
            == "root 600\npostgres 755\n"
        )
        statements = "CREATE ROLE shop LOGIN PASSWORD 'secret'; CREATE TABLE kept AS SELECT 'here' AS note; GRANT SELECT ON kept TO shop"
        guest.shell(f'runuser -u postgres -- psql -v ON_ERROR_STOP=1 -qc "{statements}"')
        assert guest.shell(f"PGPASSWORD=secret {connect}") == "here\n"
        assert (
            "password authentication failed"
            in guest.run("/bin/sh", "-c", f"PGPASSWORD=wrong {connect}").err
        )
        assert guest.shell("systemctl list-units --failed --no-legend") == ""
        guest.reboot()
        guest.wait_until("systemctl is-active multi-user.target postgresql.service")
        assert guest.shell(f"PGPASSWORD=secret {connect}") == "here\n"


@pytest.mark.long
def test_postgres_serves_without_a_data_disk(
    image_of: Callable[[str], Image], tmp_path: Path
) -> None:
    with booted(image_of("postgres"), tmp_path, arguments=forwarded()) as guest:
        open_gate(guest)
        assert guest.shell("runuser -u postgres -- psql -Atc 'SELECT 42'") == "42\n"
        listening = guest.shell("ss --listening --tcp --numeric --no-header")
        assert "0.0.0.0:5432" in listening
        assert "[::]:5432" in listening


@pytest.mark.parametrize("name", ["base", *APPLIANCES])
@pytest.mark.parametrize("way", ["agent", "acpi"])
def test_a_vm_powers_off(
    name: str, way: str, image_of: Callable[[str], Image], tmp_path: Path
) -> None:
    with booted(image_of(name), tmp_path) as guest:
        guest.wait_until("pidof power")
        if way == "agent":
            guest.shut_down("powerdown")
        else:
            guest.qmp("system_powerdown")
        assert guest.process.wait(600) == 0
    check = subprocess.run(
        [
            "qemu-img",
            "convert",
            "-O",
            "raw",
            str(tmp_path / "root.qcow2"),
            str(tmp_path / "root.raw"),
        ],
        check=False,
    )
    assert check.returncode == 0
    assert (
        subprocess.run(
            ["e2fsck", "-fn", str(tmp_path / "root.raw")], check=False, capture_output=True
        ).returncode
        == 0
    )


def test_the_firewall_drops_everything_until_it_has_rules_and_keeps_them(
    image_of: Callable[[str], Image], tmp_path: Path
) -> None:
    rules = b"table inet vcloud {\n\tchain hook_forward {\n\t\ttype filter hook forward priority filter; policy drop;\n\t}\n}\n"
    with booted(image_of("firewall"), tmp_path) as guest:
        assert guest.shell("nft list ruleset").startswith(CLOSED)
        done = guest.run("/usr/lib/vcloud/firewall-load", stdin=rules)
        loaded = hashlib.sha256(rules).hexdigest()
        assert re.fullmatch(rf"[0-9a-f]{{64}}\n{loaded}\n", done.out), done
        kept = guest.shell("nft list ruleset")
        assert not kept.startswith(CLOSED)
        guest.reboot()
        assert guest.shell("nft list ruleset") == kept
        for broken in ("no rules", "", "flush ruleset"):
            guest.shell(f"echo '{broken}' > /etc/vcloud/firewall.nft")
            guest.reboot()
            assert guest.shell("nft list ruleset").startswith(CLOSED)


def test_an_appliance_runs_nothing_but_its_work(
    image_of: Callable[[str], Image], tmp_path: Path
) -> None:
    with booted(image_of("firewall"), tmp_path) as guest:
        assert guest.shell("ss --listening --tcp --udp --numeric --no-header") == ""
        programs = set(guest.shell("ps -e -o comm= | grep -v '^k' | sort -u").split()) & {
            "sshd",
            "systemd",
            "systemd-udevd",
            "dbus-daemon",
        }
        assert programs == set()
        assert guest.run("/bin/sh", "-c", "command -v sshd ssh systemctl").code != 0
        guest.shell("kill $(pidof power)")
        guest.wait_until("pidof power")


def test_the_ips_is_a_wire_without_a_word_of_its_own(
    image_of: Callable[[str], Image], tmp_path: Path
) -> None:
    with booted(image_of("ips"), tmp_path, arguments=forwarded()) as guest:
        give_identity(guest)
        assert "inet6" not in guest.shell("ip address show dev dmz")
        assert guest.shell("cat /proc/sys/net/ipv4/ip_forward") == "0\n"
        assert re.search(r"libluajit: +yes", guest.shell("suricata --build-info"))
        assert guest.run("/bin/sh", "-c", "pidof suricata").code != 0


def test_the_probe_reaches_user_space_and_powers_off(
    image_of: Callable[[str], Image], tmp_path: Path
) -> None:
    guest = Guest(image_of("base"), tmp_path, append="vcloud.probe")
    try:
        assert guest.process.wait(600) == 0
    finally:
        guest.stop()
    assert "vcloud-probe: user space reached" in guest.console.read_text()


@pytest.mark.long
def test_a_vm_without_its_root_disk_says_so_and_powers_off(
    image_of: Callable[[str], Image], tmp_path: Path
) -> None:
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", str(tmp_path / "root.qcow2"), "64M"], check=True
    )
    guest = Guest(image_of("base"), tmp_path)
    try:
        assert guest.process.wait(600) == 0
    finally:
        guest.stop()
    assert "vcloud-init: mount /dev/vda" in guest.console.read_text()
