"""The guest program, compiled as for the images and run for real: each machine has its own namespaces, root folder and cards.

Machines live in mount, UTS, network and PID namespaces held by one `cat` that reads a pipe of this process: whatever ends the tests
ends the machines, and with them every card, mount and process. The guest program runs without CAP_SYS_TIME, since the clock is the
only thing it sets that is in no namespace.
"""

import base64
import json
import os
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vcloud.compile.guest.identity import MEMORY_IMAGE_MAC

pytestmark = pytest.mark.netns

SOURCES = Path(__file__).parents[2] / "images/base/guest"
FLAGS = ["-static", "-Os", "-Wall", "-Wextra", "-Werror", "-idirafter", "/usr/include", "-idirafter", "/usr/include/x86_64-linux-gnu"]
GUEST_MAC, FIREWALL_MAC = "52:54:00:00:00:02", "52:54:00:00:00:01"


def run(*argv: str, stdin: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, input=stdin, capture_output=True, text=True, check=check, timeout=60)


@dataclass(frozen=True, slots=True)
class Machine:
    pid: int
    root: Path

    def enter(self, *argv: str, stdin: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
        return run("nsenter", "-t", str(self.pid), "-m", "-u", "-n", "-p", *argv, stdin=stdin, check=check)

    def argv(self, *words: str) -> list[str]:
        drop = ["setpriv", "--bounding-set=-sys_time", "--inh-caps=-sys_time"]
        return [*drop, "nsenter", "-t", str(self.pid), "-m", "-u", "-n", "-p", "chroot", str(self.root), "/guest", *words]

    def guest(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return run(*self.argv(*words), stdin=stdin, check=False)

    def identity(self, *lines: str) -> str:
        result = self.guest("identity", stdin="".join(f"{line}\n" for line in lines))
        assert result.returncode == (0 if result.stdout == "ok\n" else 1), result
        return result.stdout.strip()

    def ip(self, *words: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.enter("ip", "-j", *words).stdout or "[]")
        return found

    def addresses(self, card: str = "eth0") -> set[str]:
        return {f"{at['local']}/{at['prefixlen']}" for at in self.ip("addr", "show", card)[0]["addr_info"] if at["scope"] != "link"}

    def routes(self, family: str, *words: str) -> list[dict[str, Any]]:
        keys = ("dst", "gateway", "dev", "prefsrc")
        found = self.ip(family, "route", "show", *words)
        return [{key: route[key] for key in keys if key in route} for route in found if route.get("protocol") != "kernel"]

    def nft(self, *rules: str) -> None:
        """Replaces the rules that packets meet on their way into this machine."""
        lines = ("flush ruleset", "table inet t {", "chain c {", "type filter hook input priority 0", *rules, "}", "}")
        self.enter("nft", "-f", "-", stdin="\n".join(lines))

    def setting(self, key: str) -> str:
        """A network setting. Unlike other files, those show each reader its own."""
        return self.enter("cat", f"/proc/sys/net/{key}").stdout.strip()

    def file(self, path: str) -> Path:
        return Path(f"/proc/{self.pid}/root{self.root}{path}")

    def probe(self, *lines: str) -> dict[str, dict[str, Any]]:
        result = self.guest("probe", stdin="\n".join(lines))
        assert result.returncode == 0, result
        answers = [json.loads(line) for line in result.stdout.splitlines()]
        assert len(answers) == len(lines)
        return {answer["id"]: answer for answer in answers}

    @contextmanager
    def listening(self, *lines: str) -> Iterator[dict[str, Any]]:
        result = self.guest("listen", "60", stdin="\n".join(lines))
        assert result.returncode == 0, result
        service = json.loads(result.stdout)
        yield service
        assert self.guest("listen-stop", str(service["pid"])).returncode == 0

    def log(self, service: dict[str, Any]) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.file(service["log"]).read_text().splitlines()]


def furnish(machine: Machine, program: Path) -> None:
    """Gives the machine a root folder in which the program can change network settings and its own /etc, and nothing of the host's."""
    root = str(machine.root)
    machine.enter("mount", "-t", "tmpfs", "tmpfs", root)
    machine.enter("mkdir", *(f"{root}/{name}" for name in ("usr", "proc", "sys", "dev", "etc", "run", "tmp")))
    machine.enter("ln", "-s", "usr/bin", "usr/sbin", "usr/lib", "usr/lib64", root)
    machine.enter("mount", "--bind", "/usr", f"{root}/usr")
    machine.enter("mount", "-o", "remount,bind,ro", f"{root}/usr")
    machine.enter("mount", "-t", "proc", "proc", f"{root}/proc")
    machine.enter("mount", "-o", "remount,bind,ro", f"{root}/proc")
    machine.enter("mount", "--bind", "/proc/sys/net", f"{root}/proc/sys/net")
    machine.enter("mount", "-t", "sysfs", "-o", "ro", "sysfs", f"{root}/sys")
    machine.enter("mount", "-t", "tmpfs", "tmpfs", f"{root}/sys/block")  # the host's disks stay out of sight
    for device in ("null", "urandom"):
        machine.file(f"/dev/{device}").touch()
        machine.enter("mount", "--bind", f"/dev/{device}", f"{root}/dev/{device}")
    machine.file("/etc/passwd").write_text("root:x:0:0::/:/bin/sh\npostgres:x:70:71::/:/bin/sh\n")
    machine.file("/etc/group").write_text("root:x:0:\npostgres:x:71:\n")
    machine.file("/guest").write_bytes(program.read_bytes())
    machine.file("/guest").chmod(0o755)


@contextmanager
def new_machine(root: Path, program: Path) -> Iterator[Machine]:
    root.mkdir()
    unshare = ["unshare", "--mount", "--uts", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "cat"]
    with subprocess.Popen(unshare, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as holder:
        children = Path(f"/proc/{holder.pid}/task/{holder.pid}/children")
        while not (pid := children.read_text().strip()) or Path(f"/proc/{pid}/comm").read_text() != "cat\n":
            assert holder.poll() is None
            time.sleep(0.005)
        machine = Machine(int(pid), root)
        furnish(machine, program)
        yield machine


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("guest") / "guest"
    run("musl-gcc", *FLAGS, "-o", str(path), *(str(source) for source in sorted(SOURCES.glob("*.c"))))
    return path


@pytest.fixture
def guest(tmp_path: Path, program: Path) -> Iterator[Machine]:
    with new_machine(tmp_path / "guest", program) as machine:
        yield machine


@pytest.fixture
def firewall(tmp_path: Path, program: Path) -> Iterator[Machine]:
    with new_machine(tmp_path / "firewall", program) as machine:
        yield machine


def plug(guest: Machine, firewall: Machine, mac: str = GUEST_MAC, name: str = "g0", peer_mac: str = FIREWALL_MAC) -> None:
    """Connects the two by a cable, whose ends are down and have the same name in both."""
    ends = ["name", name, "netns", str(guest.pid), "address", mac, "type", "veth"]
    peer = ["peer", "name", name, "netns", str(firewall.pid), "address", peer_mac]
    run("ip", "link", "add", *ends, *peer)


def encode(content: str | bytes) -> str:
    return base64.b64encode(content.encode() if isinstance(content, str) else content).decode()


NIC = f"nic {GUEST_MAC} eth0"
WORKLOAD = (
    NIC,
    "addr eth0 10.8.0.2/32",
    "addr eth0 fd00:8::2/128",
    f"neigh eth0 10.8.0.1 {FIREWALL_MAC}",
    f"neigh eth0 fd00:8::1 {FIREWALL_MAC}",
    "route eth0 10.8.0.1/32",
    "route eth0 fd00:8::1/128",
    "route eth0 0.0.0.0/0 via 10.8.0.1 src 10.8.0.2",
    "route eth0 ::/0 via fd00:8::1 src fd00:8::2",
)
GATEWAY = (
    f"nic {FIREWALL_MAC} dmz",
    "sysctl net/ipv4/ip_forward 1",
    "addr dmz 10.8.0.1/32",
    "addr dmz fd00:8::1/128",
    "route dmz 10.8.0.2/32",
    "route dmz fd00:8::2/128",
    "sysctl net/ipv6/icmp/ratelimit 0",  # else it is one unreachable a second, and a probe without one is a timeout
)


@pytest.fixture
def cable(guest: Machine, firewall: Machine) -> None:
    plug(guest, firewall)


@pytest.fixture
def lan(guest: Machine, firewall: Machine, cable: None) -> None:  # noqa: ARG001
    """Both machines have their identity, and reach each other."""
    assert guest.identity(*WORKLOAD) == "ok"
    assert firewall.identity(*GATEWAY) == "ok"


# --- identity: each directive ---


def test_the_program_is_static_and_small(program: Path) -> None:
    assert "statically linked" in run("file", str(program)).stdout
    assert program.stat().st_size < 200_000


def test_hostname_and_machine_id_are_set(guest: Machine) -> None:
    assert guest.identity("hostname web-1.shop", "machine-id 0123456789abcdef0123456789abcdef") == "ok"
    assert guest.enter("hostname").stdout == "web-1.shop\n"
    assert guest.file("/etc/hostname").read_text() == "web-1.shop\n"
    assert guest.file("/etc/machine-id").read_text() == "0123456789abcdef0123456789abcdef\n"


def test_seed_is_taken_and_clock_needs_the_right_to_set_it(guest: Machine) -> None:
    assert guest.identity(f"seed {encode(os.urandom(64))}") == "ok"
    assert guest.identity("", "clock 1700000000.000000001") == "error 2 clock: Operation not permitted"


def test_a_card_is_found_by_its_mac_named_and_brought_up(guest: Machine, firewall: Machine) -> None:
    plug(guest, firewall, name="other", mac="52:54:00:00:00:99", peer_mac="52:54:00:00:00:98")
    plug(guest, firewall)
    assert guest.identity(NIC) == "ok"
    (card,) = guest.ip("link", "show", "eth0")
    assert card["address"] == GUEST_MAC
    assert "UP" in card["flags"]
    assert "UP" not in guest.ip("link", "show", "other")[0]["flags"]
    assert guest.setting("ipv6/conf/eth0/accept_ra") == "0"


def test_cards_that_have_each_others_names_are_swapped(guest: Machine, firewall: Machine) -> None:
    for name, last in (("eth0", "a"), ("eth1", "b")):
        plug(guest, firewall, name=name, mac=f"52:54:00:00:01:0{last}", peer_mac=f"52:54:00:00:02:0{last}")
        guest.enter("ip", "link", "set", name, "up")
    assert guest.identity("nic 52:54:00:00:01:0b eth0", "nic 52:54:00:00:01:0a eth1") == "ok"
    assert {card["ifname"]: card["address"][-1] for card in guest.ip("link") if card["ifname"] != "lo"} == {"eth0": "b", "eth1": "a"}


def test_a_templates_card_takes_the_address_of_the_vms_own(guest: Machine, firewall: Machine) -> None:
    plug(guest, firewall, name="enp1s0", mac=MEMORY_IMAGE_MAC)
    assert guest.identity(f"mac {MEMORY_IMAGE_MAC} {GUEST_MAC}", NIC) == "ok"
    assert guest.ip("link", "show", "eth0")[0]["address"] == GUEST_MAC
    assert "mac " not in guest.file("/etc/vcloud/identity").read_text()


def test_a_card_that_is_no_templates_keeps_its_address(guest: Machine, firewall: Machine) -> None:
    plug(guest, firewall)
    assert guest.identity(f"mac {MEMORY_IMAGE_MAC} 52:54:00:00:00:77", NIC) == "ok"
    assert guest.ip("link", "show", "eth0")[0]["address"] == GUEST_MAC


def test_a_card_that_comes_late_is_waited_for(guest: Machine, firewall: Machine) -> None:
    with subprocess.Popen(guest.argv("identity"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as waiting:
        assert waiting.stdin is not None
        waiting.stdin.write(f"{NIC}\naddr eth0 10.8.0.2/32\n")
        waiting.stdin.close()
        time.sleep(1)
        assert waiting.poll() is None
        began = time.monotonic()
        plug(guest, firewall)
        assert waiting.stdout is not None
        assert waiting.stdout.read() == "ok\n"
        assert time.monotonic() - began < 1
    assert guest.addresses() == {"10.8.0.2/32"}


def test_a_card_that_never_comes_is_an_error_after_ten_seconds(guest: Machine) -> None:
    began = time.monotonic()
    assert guest.identity("hostname a", NIC) == f"error 2 nic: no card with MAC address {GUEST_MAC}"
    assert 9.5 < time.monotonic() - began < 12


@pytest.mark.usefixtures("cable")
def test_the_network_is_as_the_document_says(guest: Machine) -> None:
    assert guest.identity(*WORKLOAD, "sysctl net/ipv4/ip_local_port_range 20000 30000") == "ok"
    assert guest.addresses() == {"10.8.0.2/32", "fd00:8::2/128"}
    assert guest.routes("-4") == [
        {"dst": "default", "gateway": "10.8.0.1", "dev": "eth0", "prefsrc": "10.8.0.2"},
        {"dst": "10.8.0.1", "dev": "eth0"},
    ]
    assert guest.routes("-6") == [
        {"dst": "fd00:8::1", "dev": "eth0"},
        {"dst": "default", "gateway": "fd00:8::1", "dev": "eth0", "prefsrc": "fd00:8::2"},
    ]
    neighbours = {(entry["dst"], entry["lladdr"], *entry["state"]) for entry in guest.ip("neigh", "show", "nud", "permanent")}
    assert neighbours == {("10.8.0.1", FIREWALL_MAC, "PERMANENT"), ("fd00:8::1", FIREWALL_MAC, "PERMANENT")}
    assert guest.setting("ipv4/ip_local_port_range").split() == ["20000", "30000"]


@pytest.mark.usefixtures("cable")
def test_ipv6_addresses_are_usable_at_once(guest: Machine) -> None:
    """Without duplicate address detection: a source that is still tentative would make the first second's packets fail."""
    assert guest.identity(*WORKLOAD) == "ok"
    (address,) = [at for at in guest.ip("addr", "show", "eth0")[0]["addr_info"] if at["local"] == "fd00:8::2"]
    assert address["nodad"]
    assert "tentative" not in address


@pytest.mark.usefixtures("cable")
def test_rules_lead_to_tables(guest: Machine) -> None:
    tables = ("route eth0 0.0.0.0/0 via 10.8.0.1 table 100", "route eth0 ::/0 via fd00:8::1 table 70000")
    rules = ("rule 10.8.0.2 table 100", "rule fd00:8::2 table 70000")
    assert guest.identity(*WORKLOAD, *tables, *rules) == "ok"
    assert guest.routes("-4", "table", "100") == [{"dst": "default", "gateway": "10.8.0.1", "dev": "eth0"}]
    assert guest.routes("-6", "table", "70000") == [{"dst": "default", "gateway": "fd00:8::1", "dev": "eth0"}]
    assert [rule["table"] for rule in guest.ip("-4", "rule") if rule["src"] == "10.8.0.2"] == ["100"]
    assert [rule["table"] for rule in guest.ip("-6", "rule") if rule["src"] == "fd00:8::2"] == ["70000"]


@pytest.mark.usefixtures("cable")
def test_routes_stand_before_the_other_end_is_up(guest: Machine) -> None:
    """Workloads get their identity while their link is held down."""
    assert guest.identity(*WORKLOAD) == "ok"
    assert "NO-CARRIER" in guest.ip("link", "show", "eth0")[0]["flags"]
    assert len(guest.routes("-6")) == 2


def test_files_and_directories_have_content_mode_and_owner(guest: Machine) -> None:
    content = os.urandom(200_000)
    lines = (
        "dir /etc/app 0750 postgres:postgres",
        f"file /etc/app/deep/er/key 0600 postgres:root {encode(content)}",
        "file /etc/empty 4755 postgres:postgres ",
    )
    assert guest.identity(*lines) == "ok"
    assert guest.identity(*lines) == "ok"
    for path, mode, owner in (("/etc/app", 0o750, (70, 71)), ("/etc/app/deep/er/key", 0o600, (70, 0)), ("/etc/empty", 0o4755, (70, 71))):
        found = guest.file(path).stat()
        assert (stat.S_IMODE(found.st_mode), (found.st_uid, found.st_gid)) == (mode, owner)
    assert guest.file("/etc/app/deep/er/key").read_bytes() == content
    assert guest.file("/etc/app/deep").stat().st_uid == 0
    assert guest.file("/etc/empty").read_bytes() == b""
    assert not list(guest.file("/etc").rglob("*.vcloud-new"))


def test_a_file_that_cannot_be_written_leaves_the_old_one_and_nothing_else(guest: Machine) -> None:
    guest.file("/etc/app").mkdir()
    guest.file("/etc/app/inside").write_text("old")
    assert guest.identity(f"file /etc/app 0644 root:root {encode('new')}") == "error 1 file: /etc/app: Is a directory"
    assert guest.identity(f"file /etc/app/inside 0644 nobody:root {encode('new')}").startswith("error 1 file: no such user")
    assert guest.file("/etc/app/inside").read_text() == "old"
    assert not list(guest.file("/etc").rglob("*.vcloud-new"))


# --- identity: disks ---


@contextmanager
def loop_disk(guest: Machine, image: Path, serial: str) -> Iterator[None]:
    """Shows an image file to the machine as a disk of that serial number."""
    device = Path(run("losetup", "--find", "--show", str(image)).stdout.strip())
    try:
        guest.file(f"/sys/block/{device.name}").mkdir()
        guest.file(f"/sys/block/{device.name}/serial").write_text(serial)
        guest.file(f"/dev/{device.name}").touch()
        guest.enter("mount", "--bind", str(device), str(guest.root / "dev" / device.name))
        yield
    finally:
        guest.enter("umount", str(guest.root / "data"), check=False)
        run("losetup", "--detach", str(device))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "data.img"
    with path.open("wb") as blank:
        blank.truncate(32 << 20)
    return path


def test_a_blank_disk_is_formatted_once_and_mounted_again_and_again(guest: Machine, image: Path) -> None:
    with loop_disk(guest, image, "db-data"):
        assert guest.identity("disk db-data /data") == "ok"
        guest.file("/data/row").write_text("kept")
        assert guest.identity("disk db-data /data") == "ok"
        mounts = [line.split() for line in guest.enter("cat", "/proc/mounts").stdout.splitlines()]
        assert [(kind, "nodev" in options) for _, at, kind, options, *_ in mounts if at.endswith("/data")] == [("ext4", True)]
        guest.enter("umount", str(guest.root / "data"))
        assert guest.guest("boot").stdout == "ok\n"
        assert guest.file("/data/row").read_text() == "kept"


@pytest.fixture
def content(guest: Machine, tmp_path: Path) -> Path:
    """The image's content for /data, as the build writes it: a file system smaller than the disk."""
    (tmp_path / "top").mkdir()
    (tmp_path / "top/row").write_text("from the image")
    layers = guest.root / "run/usr"
    guest.enter("mkdir", "-p", f"{layers}/vcloud/disks")
    guest.enter("mount", "-t", "overlay", "-o", f"lowerdir={layers}:/usr/lib", "overlay", str(guest.root / "usr/lib"))
    path = guest.file("/run/usr/vcloud/disks/data.ext4")
    run("mke2fs", "-q", "-t", "ext4", "-b", "4096", "-d", str(tmp_path / "top"), str(path), "16M")
    return path


@pytest.mark.usefixtures("content")
def test_a_blank_disk_begins_with_what_the_image_has_there_and_keeps_what_is_written(guest: Machine, image: Path) -> None:
    guest.file("/data").mkdir(mode=0o750)
    os.chown(guest.file("/data"), 7, 8)
    with loop_disk(guest, image, "db-data"):
        assert guest.identity("disk db-data /data") == "ok"
        top = guest.file("/data").stat()
        assert (top.st_uid, top.st_gid, top.st_mode & 0o7777) == (7, 8, 0o750)
        assert guest.file("/data/row").read_text() == "from the image"
        guest.file("/data/row").write_text("changed")
        guest.enter("umount", str(guest.root / "data"))
        assert guest.guest("boot").stdout == "ok\n"
        assert guest.file("/data/row").read_text() == "changed"


def test_a_copy_that_was_cut_short_begins_anew(guest: Machine, image: Path, content: Path) -> None:
    whole = content.read_bytes()
    with image.open("r+b") as disk:
        disk.write(b"vcloud is copying the image's content to this disk\n\0".ljust(4096, b"\0") + whole[4096 : 8 << 20])
    with loop_disk(guest, image, "db-data"):
        assert guest.identity("disk db-data /data") == "ok"
        assert guest.file("/data/row").read_text() == "from the image"
        guest.enter("umount", str(guest.root / "data"))
    run("e2fsck", "-fn", str(image))


@pytest.mark.usefixtures("content")
def test_a_disk_too_small_for_what_the_image_puts_there_stays_blank_and_it_is_said(guest: Machine, image: Path) -> None:
    os.truncate(image, 8 << 20)
    with loop_disk(guest, image, "db-data"):
        assert guest.identity("disk db-data /data").endswith("too small; what the image puts there takes 16 MiB")
    assert not any(image.read_bytes())


def test_data_that_is_no_known_file_system_is_never_written_over(guest: Machine, image: Path) -> None:
    with image.open("r+b") as disk:
        disk.seek(70_000)
        disk.write(b"precious")
    before = image.read_bytes()
    with loop_disk(guest, image, "db-data"):
        assert "holds data" in guest.identity("disk db-data /data")
    assert image.read_bytes() == before


def test_a_disk_that_is_not_there_is_an_error(guest: Machine) -> None:
    assert guest.identity("disk absent /data") == "error 1 disk: no disk with serial 'absent'"


# --- identity: documents one after the other ---


def network(machine: Machine) -> list[Any]:
    """All that identity sets in the network, without what changes by itself: lifetimes, and the kernel's own routes."""
    keys = ("local", "prefixlen", "scope")
    addresses = [[{key: at[key] for key in keys} for at in card["addr_info"]] for card in machine.ip("addr", "show")]
    routes = [route for family in ("-4", "-6") for route in machine.ip(family, "route", "show", "table", "all")]
    rules = [machine.ip(family, "rule") for family in ("-4", "-6")]
    return [addresses, [route for route in routes if route["protocol"] != "kernel"], rules]


@pytest.mark.usefixtures("lan")
def test_the_same_document_again_changes_nothing(guest: Machine) -> None:
    before, carrier = network(guest), guest.file("/sys/class/net/eth0/carrier_changes").read_text()
    with subprocess.Popen(
        ["nsenter", "-t", str(guest.pid), "-n", "ip", "monitor", "address"], stdout=subprocess.PIPE, text=True
    ) as monitor:
        time.sleep(0.2)
        assert guest.identity(*WORKLOAD) == "ok"
        time.sleep(0.2)
        monitor.terminate()
        assert monitor.stdout is not None
        assert monitor.stdout.read() == ""
    assert network(guest) == before
    assert guest.file("/sys/class/net/eth0/carrier_changes").read_text() == carrier


def test_a_file_that_is_no_longer_named_is_gone_and_host_keys_stay(guest: Machine) -> None:
    first, second, key = ("/etc/a/one", "/etc/a/two", "/etc/ssh/ssh_host_ed25519_key")
    assert guest.identity(*(f"file {path} 0644 root:root aGk=" for path in (first, second, key))) == "ok"
    assert guest.identity(f"file {first} 0644 root:root aGk=") == "ok"
    assert guest.file(first).read_text() == "hi"
    assert not guest.file(second).exists()
    assert guest.file(key).exists()
    assert guest.guest("boot").stdout == "ok\n"
    assert guest.file(first).exists()
    assert guest.identity("hostname free") == "ok"
    assert not guest.file(first).exists()


@pytest.mark.usefixtures("cable")
def test_the_second_document_replaces_the_first(guest: Machine) -> None:
    more = ("addr eth0 10.8.0.3/32", "addr eth0 fd00:8::3/128", "route eth0 10.9.0.0/24", "route eth0 fd00:9::/64 table 7")
    rules = ("rule 10.8.0.3 table 7", "rule fd00:8::3 table 7", f"neigh eth0 10.8.0.9 {FIREWALL_MAC}")
    assert guest.identity(*WORKLOAD) == "ok"
    alone = network(guest)
    assert guest.identity(*WORKLOAD, *more, *rules) == "ok"
    assert network(guest) != alone
    assert guest.identity(*WORKLOAD) == "ok"
    assert network(guest) == alone
    assert {entry["dst"] for entry in guest.ip("neigh", "show", "nud", "permanent")} == {"10.8.0.1", "fd00:8::1"}


@pytest.mark.usefixtures("cable")
def test_gateways_sources_and_neighbours_can_change_in_place(guest: Machine) -> None:
    assert guest.identity(*WORKLOAD) == "ok"
    other = [line.replace("8.0.1", "8.0.7").replace("8::1", "8::7").replace(FIREWALL_MAC, "52:54:00:00:00:07") for line in WORKLOAD]
    assert guest.identity(*other) == "ok"
    assert {route.get("gateway") for route in guest.routes("-4")} == {"10.8.0.7", None}
    assert {route.get("gateway") for route in guest.routes("-6")} == {"fd00:8::7", None}
    assert {(at["dst"], at["lladdr"]) for at in guest.ip("neigh", "show", "nud", "permanent")} == {
        ("10.8.0.7", "52:54:00:00:00:07"),
        ("fd00:8::7", "52:54:00:00:00:07"),
    }


@pytest.mark.usefixtures("cable")
def test_a_younger_address_survives_the_elder_of_its_subnet(guest: Machine) -> None:
    assert guest.identity(NIC, "addr eth0 10.8.0.2/24", "addr eth0 10.8.0.3/24") == "ok"
    assert guest.identity(NIC, "addr eth0 10.8.0.3/24") == "ok"
    assert guest.addresses() == {"10.8.0.3/24"}


@pytest.mark.usefixtures("cable")
def test_the_length_of_a_prefix_can_change(guest: Machine) -> None:
    assert guest.identity(NIC, "addr eth0 10.8.0.2/24", "addr eth0 fd00:8::2/64") == "ok"
    assert guest.identity(NIC, "addr eth0 10.8.0.2/32", "addr eth0 fd00:8::2/128") == "ok"
    assert guest.addresses() == {"10.8.0.2/32", "fd00:8::2/128"}


def test_foreign_settings_go_from_named_cards_and_stay_on_others(guest: Machine, firewall: Machine) -> None:
    plug(guest, firewall)
    plug(guest, firewall, name="other", mac="52:54:00:00:00:99", peer_mac="52:54:00:00:00:98")
    for card, net in (("g0", "7"), ("other", "6")):
        guest.enter("ip", "link", "set", card, "up")
        guest.enter("ip", "addr", "add", f"192.168.{net}.2/24", "dev", card)
        guest.enter("ip", "route", "add", f"172.16.{net}.0/24", "via", f"192.168.{net}.1")
        guest.enter("ip", "-6", "route", "add", f"fd00:{net}::/64", "dev", card)
    guest.enter("ip", "rule", "add", "from", "192.168.6.2", "table", "6")
    guest.enter("ip", "route", "add", "blackhole", "172.16.99.0/24")
    assert guest.identity(*WORKLOAD) == "ok"
    assert guest.addresses("eth0") == {"10.8.0.2/32", "fd00:8::2/128"}
    assert guest.addresses("other") == {"192.168.6.2/24"}
    destinations = {route["dst"] for family in ("-4", "-6") for route in guest.routes(family)}
    assert destinations == {"default", "10.8.0.1", "fd00:8::1", "172.16.6.0/24", "fd00:6::/64", "172.16.99.0/24"}
    assert "192.168.6.2" in {rule["src"] for rule in guest.ip("rule")}


def test_a_card_that_the_next_document_leaves_out_loses_its_settings(guest: Machine, firewall: Machine) -> None:
    plug(guest, firewall)
    plug(guest, firewall, name="g1", mac="52:54:00:00:00:12", peer_mac="52:54:00:00:00:11")
    assert guest.identity(*WORKLOAD, "nic 52:54:00:00:00:12 eth1", "addr eth1 10.9.0.2/24", "route eth1 10.10.0.0/24 via 10.9.0.1") == "ok"
    assert guest.addresses("eth1") == {"10.9.0.2/24"}
    assert guest.identity(*WORKLOAD) == "ok"
    assert guest.addresses("eth1") == set()
    assert guest.routes("-4", "dev", "eth1") == []


@pytest.mark.usefixtures("cable")
def test_boot_applies_again_what_was_kept_and_keeps_no_secret(guest: Machine, firewall: Machine) -> None:
    extra = ("hostname web-1", "sysctl net/ipv4/ip_forward 1", "rule 10.8.0.2 table 9")
    once = (f"seed {encode(b'secret seed 0123')}", f"file /etc/key 0600 root:root {encode('secret key')}", "machine-id " + "0" * 32)
    assert guest.guest("boot").stdout == "ok\n"  # nothing is kept yet
    assert guest.identity(*WORKLOAD, *extra, *once) == "ok"
    before = network(guest)
    kept = guest.file("/etc/vcloud/identity")
    assert kept.read_text().splitlines() == [*WORKLOAD, *extra, "had /etc/key"]
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    guest.enter("ip", "link", "del", "eth0")  # as after a power cycle
    guest.enter("ip", "rule", "del", "from", "10.8.0.2")
    guest.enter("hostname", "localhost")
    plug(guest, firewall)
    assert guest.guest("boot").stdout == "ok\n"
    assert guest.enter("hostname").stdout == "web-1\n"
    assert [[rule["table"] for rule in guest.ip("rule") if rule["src"] == "10.8.0.2"]] == [["9"]]
    assert guest.addresses() == {"10.8.0.2/32", "fd00:8::2/128"}
    assert network(guest)[1] == before[1]


@pytest.mark.usefixtures("cable")
def test_boot_needs_no_writable_root(guest: Machine) -> None:
    """It runs before the root is remounted."""
    assert guest.identity("hostname web-1", *WORKLOAD) == "ok"
    guest.enter("ip", "addr", "flush", "dev", "eth0")
    guest.enter("mount", "-o", "remount,ro", str(guest.root))
    assert guest.identity("hostname web-2").startswith("error 1 hostname: /etc/hostname: Read-only")  # a read-only root it is
    assert guest.guest("boot").stdout == "ok\n"
    assert guest.addresses() == {"10.8.0.2/32", "fd00:8::2/128"}


# --- identity: hostile documents ---


@pytest.mark.parametrize(
    "line",
    [
        "format-disk /dev/vda",
        "hostname",
        "hostname ",
        "hostname a b",
        "hostname -a",
        "hostname a..b",
        "hostname " + "a" * 65,
        "hostname a;reboot",
        "machine-id 0123",
        "machine-id " + "g" * 32,
        "clock now",
        "clock 1",
        "clock -1.0",
        "clock 1.0000000001",
        "clock 99999999999.0",
        "seed !!!!",
        "seed AAAA",
        "seed QUFBQUFBQUFBQUFBQUFBQQ",
        f"mac {GUEST_MAC} 52:54:00:00:00",
        f"mac eth0 {GUEST_MAC}",
        f"mac {GUEST_MAC}",
        "nic 52:54:00:00:00 eth0",
        "nic 52-54-00-00-00-02 eth0",
        f"nic {GUEST_MAC} ../../etc",
        f"nic {GUEST_MAC} sixteencharacter",
        f"nic {GUEST_MAC} eth%d",
        f"nic {GUEST_MAC} lo",
        f"nic {GUEST_MAC} one\nnic {GUEST_MAC} two",
        f"nic {GUEST_MAC} one\nnic 52:54:00:00:00:99 one",
        "sysctl ../../etc/passwd 1",
        "sysctl net//ipv4 1",
        "sysctl /net/ipv4/ip_forward 1",
        "sysctl net/ipv4/ip_forward",
        "addr eth9 10.0.0.1/32",
        f"{NIC}\naddr eth0 10.0.0.1",
        f"{NIC}\naddr eth0 10.0.0.1/33",
        f"{NIC}\naddr eth0 10.0.0.256/32",
        f"{NIC}\naddr eth0 fd00::1/129",
        f"{NIC}\naddr eth0 fd00::1%eth0/64",
        f"{NIC}\naddr eth0 " + "1" * 4000 + "/1",
        f"{NIC}\nneigh eth0 10.0.0.1 zz:54:00:00:00:02",
        f"{NIC}\nroute eth0 10.0.0.1/24",
        f"{NIC}\nroute eth0 fd00::1/64",
        f"{NIC}\nroute eth0 10.0.0.0/24 via",
        f"{NIC}\nroute eth0 10.0.0.0/24 via fd00::1",
        f"{NIC}\nroute eth0 10.0.0.0/24 dev eth0",
        f"{NIC}\nroute eth0 10.0.0.0/24 table 0",
        f"{NIC}\nroute eth0 10.0.0.0/24 table 255",
        f"{NIC}\nroute eth0 10.0.0.0/24 table 4294967296",
        f"{NIC}\nroute eth0 10.0.0.0/24 via 10.0.0.1 src 10.0.0.2 table 3 more",
        "rule 10.0.0.1 lookup 3",
        "rule 10.0.0.0/24 table 3",
        "dir relative 0755 root:root",
        "dir /etc/../root 0755 root:root",
        "dir /etc/x 0888 root:root",
        "dir /etc/x 755755 root:root",
        "dir /etc/x 0755 root",
        "dir /etc/x 0755 root:nobody-of-that-name",
        "file /etc/x 0644 root:root A",
        "file /etc/x 0644 root:root AA=A",
        "file /etc//x 0644 root:root AAAA",
        "file /etc/" + "x" * 300 + " 0644 root:root AAAA",
        "disk serial data",
        "disk ../vda /data",
        "HOSTNAME a",
        " hostname a",
        "hostname a\r",
        "hostname a\x00b",
        "\x1b[2J",
    ],
)
@pytest.mark.usefixtures("cable")
def test_a_hostile_line_is_refused_by_number(guest: Machine, line: str) -> None:
    answer = guest.identity("hostname before", "", line)
    assert answer.startswith(f"error {3 + line.count(chr(10))} ")
    assert answer.isprintable()


@pytest.mark.usefixtures("cable")
def test_a_malformed_document_has_no_effect_at_all(guest: Machine) -> None:
    assert guest.identity("hostname web-1", *WORKLOAD, "sysctl net/ipv4/ip_forward 1", "route eth0 nowhere").startswith("error 12 route")
    assert guest.enter("hostname").stdout != "web-1\n"
    assert guest.ip("link", "show", "g0")
    assert guest.setting("ipv4/ip_forward") == "0"
    assert not guest.file("/etc/vcloud").exists()


@pytest.mark.usefixtures("cable")
def test_the_kernels_own_words_reach_the_reader(guest: Machine) -> None:
    answer = guest.identity(NIC, "addr eth0 10.8.0.2/32", "route eth0 10.9.0.0/24 src 10.8.0.77")
    assert answer == "error 3 route: Invalid argument (Invalid prefsrc address)"


WORDS = st.sampled_from(
    [
        *("hostname", "machine-id", "clock", "seed", "nic", "sysctl", "addr", "neigh", "route", "rule", "dir", "file", "disk"),
        *("eth0", "eth1", "lo", "via", "src", "table", "10.8.0.2/32", "10.8.0.1", "fd00:8::2/128", "fd00:8::1", "::/0", "0.0.0.0/0"),
        *("net/ipv4/ip_forward", "0", "1", "254", "4294967295", "0644", "1.5", "-", "root:root", "postgres:postgres"),
        *("/etc/x", "/etc/x/y", GUEST_MAC, "AAAA", "0" * 32, "A" * 64),
    ]
)
LINES = st.one_of(
    st.lists(WORDS, max_size=9).map(" ".join),
    st.binary(max_size=60).map(lambda raw: raw.decode("latin-1")),
    st.tuples(WORDS, st.text(max_size=30)).map(" ".join),
)


@pytest.mark.usefixtures("cable")
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(LINES, max_size=8), named=st.booleans())
def test_no_document_crashes_the_program(guest: Machine, lines: list[str], named: bool) -> None:
    document = "\n".join([NIC, *lines] if named else lines)
    result = subprocess.run(
        guest.argv("identity"), input=document.encode("utf-8", "surrogatepass"), capture_output=True, check=False, timeout=60
    )
    assert result.returncode in (0, 1), (result, document)
    assert result.stdout == b"ok\n" if result.returncode == 0 else result.stdout.startswith(b"error ")
    assert result.stdout.count(b"\n") == 1


# --- probe and listen ---

FAMILIES = pytest.mark.parametrize(("own", "there"), [("10.8.0.2", "10.8.0.1"), ("fd00:8::2", "fd00:8::1")], ids=["ipv4", "ipv6"])


@FAMILIES
@pytest.mark.usefixtures("lan")
def test_tcp_probes_tell_open_refused_timeout_and_unreachable_apart(guest: Machine, firewall: Machine, own: str, there: str) -> None:
    firewall.nft(
        "tcp dport 81 drop",
        "tcp dport 82 reject with icmpx type admin-prohibited",
        "tcp dport 83 reject",
        "tcp dport 84 reject with tcp reset",
    )
    with firewall.listening(*(f"tcp {there} {port}" for port in (80, 81, 82, 83, 84))):
        lines = [f"{port} tcp {own} {there} {port} 2500" for port in (80, 81, 82, 83, 84, 85)]
        found = guest.probe(*lines, f"any tcp - {there} 80 700")
    assert {name: answer["result"] for name, answer in found.items()} == {
        "80": "open",
        "81": "timeout",
        "82": "unreachable",
        "83": "refused",
        "84": "refused",
        "85": "refused",
        "any": "open",
    }
    assert found["80"]["port"] > 1024
    assert found["80"]["ms"] < 300
    assert 2500 <= found["81"]["ms"] < 3500


@FAMILIES
@pytest.mark.usefixtures("lan")
def test_udp_probes_tell_answered_refused_timeout_and_unreachable_apart(guest: Machine, firewall: Machine, own: str, there: str) -> None:
    firewall.nft(
        "udp dport 91 drop", "udp dport 92 reject with icmpx type admin-prohibited", "udp dport 93 reject with icmpx type no-route"
    )
    with firewall.listening(f"udp {there} 90 {encode('hello')}", *(f"udp {there} {port}" for port in (91, 92, 93, 95))):
        lines = [f"{port} udp {own} {there} {port} 500" for port in range(90, 95)]
        found = guest.probe(*lines, f"95 udp - {there} 95 500 {encode('ping')}")
    results = ["answered", "timeout", "unreachable", "unreachable", "refused", "answered"]
    assert [found[str(port)]["result"] for port in range(90, 96)] == results
    assert found["90"]["answer"] == encode("hello")
    assert found["95"]["answer"] == encode("ping")


@FAMILIES
@pytest.mark.usefixtures("lan")
def test_icmp_probes_are_answered_until_a_rule_forbids_it(guest: Machine, firewall: Machine, own: str, there: str) -> None:
    echo = [f"{number} icmp {source} {there} 0 400" for number, source in enumerate((own, "-", "-"))]
    assert [answer["result"] for answer in guest.probe(*echo).values()] == ["answered"] * 3
    firewall.nft("meta l4proto { icmp, ipv6-icmp } drop")
    assert [answer["result"] for answer in guest.probe(*echo).values()] == ["timeout"] * 3
    firewall.nft(
        "icmp type echo-request reject with icmpx type admin-prohibited", "icmpv6 type echo-request reject with icmpx type admin-prohibited"
    )
    assert [answer["result"] for answer in guest.probe(*echo).values()] == ["unreachable"] * 3


@pytest.mark.usefixtures("lan")
def test_no_route_is_unreachable_and_a_foreign_source_an_error(guest: Machine) -> None:
    guest.enter("ip", "route", "del", "default")
    lines = [f"{protocol} {protocol} - 198.51.100.1 80 500" for protocol in ("tcp", "udp", "icmp")]
    found = guest.probe(*lines, "foreign tcp 10.8.0.77 10.8.0.1 80 500")
    assert [found[name]["result"] for name in ("tcp", "udp", "icmp")] == ["unreachable"] * 3
    assert (found["foreign"]["result"], found["foreign"]["error"]) == ("error", "Address not available")


@FAMILIES
@pytest.mark.usefixtures("lan")
def test_a_payload_is_delivered_stalled_or_reset(guest: Machine, firewall: Machine, own: str, there: str) -> None:
    """As behind an IPS: the handshake passes, what the packets say decides."""
    firewall.nft("tcp dport 81 meta length > 500 drop", "tcp dport 82 meta length > 500 reject with tcp reset")
    bulk = encode(b"x" * 1000)
    with firewall.listening(f"tcp {there} 80 {encode('HTTP/1.1 200 OK')}", *(f"tcp {there} {port}" for port in (81, 82))) as service:
        found = guest.probe(
            *(f"{port} tcp {own} {there} {port} 1500 {bulk}" for port in (80, 81, 82, 85)),
            f"short tcp - {there} 81 1500 {encode('short')}",
        )
    assert {name: answer["result"] for name, answer in found.items()} == {
        "80": "delivered",
        "81": "stalled",
        "82": "reset",
        "85": "refused",
        "short": "delivered",
    }
    assert found["80"]["answer"] == encode("HTTP/1.1 200 OK")
    assert found["short"]["answer"] == encode("short")
    peers = {(peer["port"], peer["from"], peer["from_port"]): peer["bytes"] for peer in firewall.log(service)}
    assert peers[80, own, found["80"]["port"]] == 1000
    assert peers[81, own, found["81"]["port"]] == 0


@pytest.mark.usefixtures("lan")
def test_a_long_payload_is_delivered_and_an_answer_is_cut_at_8_kib(guest: Machine, firewall: Machine) -> None:
    with firewall.listening("tcp 10.8.0.1 80", f"tcp 10.8.0.1 81 {encode(b'y' * 20_000)}") as service:
        found = guest.probe(f"a tcp - 10.8.0.1 80 5000 {encode(b'x' * 3_000_000)}", f"b tcp - 10.8.0.1 81 5000 {encode('z')}")
    assert [found[name]["result"] for name in "ab"] == ["delivered", "delivered"]
    assert [len(base64.b64decode(found[name]["answer"])) for name in "ab"] == [8192, 8192]
    assert {peer["bytes"] for peer in firewall.log(service)} == {3_000_000, 1}


@pytest.mark.usefixtures("lan")
def test_a_probe_with_an_answer_ends_long_before_its_timeout(guest: Machine, firewall: Machine) -> None:
    with firewall.listening("tcp 10.8.0.1 80"):
        began = time.monotonic()
        found = guest.probe(f"a tcp - 10.8.0.1 80 20000 {encode('x')}")
    assert found["a"]["result"] == "delivered"
    assert time.monotonic() - began < 1.5


@FAMILIES
@pytest.mark.usefixtures("lan")
def test_forged_packets_arrive_with_the_source_that_was_asked_for(guest: Machine, firewall: Machine, own: str, there: str) -> None:
    forged = own + "2"
    firewall.nft(f"{'ip6' if ':' in own else 'ip'} saddr {forged} tcp dport 81 tcp flags syn counter")
    with firewall.listening(f"udp {there} 80") as service:
        found = guest.probe(f"a spoof-udp {forged} {there} 80 500", f"b spoof-tcp {forged} {there} 81 500", f"c udp - {there} 80 500")
        assert [found[name]["result"] for name in "abc"] == ["sent", "sent", "answered"]
        peers = {(peer["from"], peer["from_port"], peer["bytes"]) for peer in firewall.log(service)}
    assert peers == {(forged, found["a"]["port"], 6), (own, found["c"]["port"], 6)}
    assert "counter packets 1 " in firewall.enter("nft", "list", "ruleset").stdout


@FAMILIES
@pytest.mark.usefixtures("lan")
def test_what_is_lost_on_the_way_is_sent_again_but_not_for_ever(guest: Machine, firewall: Machine, own: str, there: str) -> None:
    first = "limit rate 1/hour burst 1 packets counter drop"
    firewall.nft(
        f"udp dport 80 {first}", f"icmp type echo-request {first}", f"icmpv6 type echo-request {first}", "udp dport 81 counter drop"
    )
    with firewall.listening(f"udp {there} 80", f"udp {there} 82") as service:
        found = guest.probe(
            *(f"{protocol} {protocol} {own} {there} {port} 2500" for protocol, port in (("udp", 80), ("icmp", 0))),
            f"never udp {own} {there} 81 2500",
            f"forged spoof-udp {own}2 {there} 82 2500",
        )
        heard = [peer for peer in firewall.log(service) if peer["port"] == 82]
    assert {name: answer["result"] for name, answer in found.items()} == {
        "udp": "answered",
        "icmp": "answered",
        "never": "timeout",
        "forged": "sent",
    }
    assert all(600 <= found[name]["ms"] < 1200 for name in ("udp", "icmp"))
    assert "udp dport 81 counter packets 3 " in firewall.enter("nft", "list", "ruleset").stdout
    assert [(peer["from"], peer["from_port"]) for peer in heard] == [(f"{own}2", found["forged"]["port"])] * 3


@pytest.mark.usefixtures("lan")
def test_many_probes_run_side_by_side(guest: Machine, firewall: Machine) -> None:
    firewall.nft("tcp dport 81 drop")
    with firewall.listening("tcp 10.8.0.1 80", "udp 10.8.0.1 80"):
        began = time.monotonic()
        lines = [f"{number} {('tcp', 'udp', 'icmp')[number % 3]} - 10.8.0.1 80 5000" for number in range(1500)]
        found = guest.probe(*lines, *(f"drop-{number} tcp - 10.8.0.1 81 500" for number in range(500)))
    assert time.monotonic() - began < 8
    assert {found[str(number)]["result"] for number in range(1500)} == {"open", "answered"}
    assert {found[f"drop-{number}"]["result"] for number in range(500)} == {"timeout"}


@pytest.mark.parametrize(
    "line",
    [
        "a",
        "a sctp - 10.8.0.1 80 500",
        "a tcp - host 80 500",
        "a tcp - 10.8.0.1 0 500",
        "a tcp - 10.8.0.1 65536 500",
        "a tcp - 10.8.0.1 80 0",
        "a tcp fd00::1 10.8.0.1 80 500",
        "a spoof-udp - 10.8.0.1 80 500",
        "a tcp - 10.8.0.1 80 500 ???",
        "\x01 tcp - 10.8.0.1 80 500",
    ],
)
def test_a_malformed_probe_is_refused_by_number_before_any_is_sent(guest: Machine, line: str) -> None:
    result = guest.guest("probe", stdin=f"fine tcp - 127.0.0.1 80 500\n{line}\n")
    assert (result.returncode, result.stdout.split(" ", 2)[:2]) == (1, ["error", "2"])


def test_a_listener_says_which_ports_are_busy_and_serves_the_others(guest: Machine) -> None:
    assert guest.identity() == "ok"
    with guest.listening("tcp 127.0.0.1 80", "udp ::1 80") as first:
        assert first["bound"] == ["tcp 127.0.0.1 80", "udp ::1 80"]
        with guest.listening("tcp 127.0.0.1 80", "tcp ::1 80") as second:
            assert (second["bound"], second["busy"]) == (["tcp ::1 80"], ["tcp 127.0.0.1 80"])
    assert guest.guest("listen", "5", stdin="tcp 10.1.1.1 80").stdout == "error 1 10.1.1.1: Address not available\n"
    assert guest.guest("listen", "5", stdin="tcp ::1 80 A").stdout.startswith("error 1 ")


def test_a_listener_ends_by_itself_and_only_listeners_can_be_stopped(guest: Machine) -> None:
    assert guest.identity() == "ok"
    service = json.loads(guest.guest("listen", "1", stdin="tcp 127.0.0.1 80").stdout)
    assert guest.guest("ready", "tcp", "80").returncode == 0
    time.sleep(1.3)
    assert guest.guest("ready", "tcp", "80").returncode == 1
    assert guest.guest("listen-stop", str(service["pid"])).returncode == 0  # over already
    with subprocess.Popen(["nsenter", "-t", str(guest.pid), "-p", "-m", "sleep", "30"]) as other:
        while not (pid := guest.enter("pgrep", "-x", "sleep", check=False).stdout.strip()):
            time.sleep(0.05)
        assert guest.guest("listen-stop", pid).stdout == f"error 0 process {pid} is no guest listen\n"
        assert other.poll() is None
        other.terminate()


# --- the small commands ---


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "10.8.0.2", "fd00:8::2", "0.0.0.0"])  # noqa: S104
@pytest.mark.usefixtures("lan")
def test_ready_finds_a_service_on_any_address(guest: Machine, address: str) -> None:
    assert guest.guest("ready", "tcp", "8080").returncode == 1
    with guest.listening(f"tcp {address} 8080"):
        assert guest.guest("ready", "tcp", "8080").returncode == 0
    assert guest.guest("ready", "tcp", "x").returncode == 1


def test_wait_tcp_waits_as_long_as_it_was_told(guest: Machine) -> None:
    assert guest.identity() == "ok"
    began = time.monotonic()
    assert guest.guest("wait-tcp", "80", "1").returncode == 1
    assert 1 <= time.monotonic() - began < 2
    with subprocess.Popen(guest.argv("wait-tcp", "80", "20")) as waiting:
        time.sleep(0.5)
        assert waiting.poll() is None
        with guest.listening("tcp 127.0.0.1 80"):
            assert waiting.wait(timeout=5) == 0


def test_random_bytes_differ(guest: Machine) -> None:
    one, other = (guest.guest("random", "32").stdout.strip() for _ in range(2))
    assert len(bytes.fromhex(one)) == 32
    assert one != other


def test_bad_usage_is_told_on_stderr(guest: Machine) -> None:
    result = guest.guest("reboot")
    assert (result.returncode, result.stdout) == (2, "")
    assert "usage:" in result.stderr


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        ('{"message": {"count": 1, "return": "NOK"}, "return": "OK"}\n', 0),
        ('{"return": "NOK", "message": "said \\"return\\": \\"OK\\""}', 1),
        ('{"return": "OK", "mess', 1),
    ],
)
def test_suricata_answers_are_read_whole_and_judged_by_their_own_return(guest: Machine, reply: str, status: int) -> None:
    """The wire protocol alone; against a real Suricata it is proved with the IPS image."""
    guest.file("/run/suricata").mkdir()
    with ExitStack() as stack:
        server = stack.enter_context(socket.socket(socket.AF_UNIX))
        server.bind(f"/proc/self/fd/{stack.enter_context(open_folder(guest.file('/run/suricata')))}/command.socket")
        server.listen()
        client = stack.enter_context(
            subprocess.Popen(guest.argv("suricata", "ruleset-reload-rules", '{"a":"}"}'), stdout=subprocess.PIPE, text=True)
        )
        peer = stack.enter_context(server.accept()[0])
        assert json.loads(peer.recv(4096)) == {"version": "0.2"}
        peer.send(b'{"return": "OK"}\n')
        question = peer.recv(4096)
        assert question.endswith(b"\n")
        assert json.loads(question) == {"command": "ruleset-reload-rules", "arguments": {"a": "}"}}
        for part in (reply[:12], reply[12:]):
            peer.send(part.encode())
            time.sleep(0.1)
        peer.shutdown(socket.SHUT_RDWR)
        output = client.communicate(timeout=10)[0]
    assert client.returncode == status
    assert output.strip() == reply.strip() if status == 0 or "NOK" in reply else output.startswith("error 0 ")


@contextmanager
def open_folder(path: Path) -> Iterator[int]:
    """A short way to a long path: the address of a unix socket has 107 bytes."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield folder
    finally:
        os.close(folder)


def test_suricata_that_does_not_run_is_an_error(guest: Machine) -> None:
    assert guest.guest("suricata", "uptime").stdout == "error 0 /run/suricata/command.socket: No such file or directory\n"
    assert guest.guest("suricata", "uptime", "[1]").stdout == "error 0 the arguments are no JSON object\n"
    assert guest.guest("suricata", 'x"}').returncode == 1
