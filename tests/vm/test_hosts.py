"""vcloud.hosts against a real libvirt host over qemu+ssh, with a real VM on it."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import paramiko
import pytest

from tests.design_builder import UPLINK, build_design
from vcloud.compile.libvirt.host import BootFiles
from vcloud.data import images_dir
from vcloud.errors import GuestError, HostError, UsageError
from vcloud.hosts import accelerator, machines
from vcloud.hosts.accelerator import Accelerator
from vcloud.hosts.agent import Agent
from vcloud.hosts.channel import PREFIX, Sshd, authorize, ssh_channel
from vcloud.hosts.connection import Host, open_host
from vcloud.hosts.console import attach
from vcloud.hosts.inventory import HostRef, load_inventory
from vcloud.hosts.lock import vapp_lock
from vcloud.hosts.manifests import delete_manifest, vapp_names, write_manifest
from vcloud.hosts.observe import observe_vapp
from vcloud.hosts.pool import COMPLETE, FOLDER, StoragePool
from vcloud.hosts.uplink import BRIDGE, NETWORK, forget_vapp, make_uplink, uplink_for
from vcloud.hosts.volumes import Base, VappVolumes
from vcloud.images.build import build
from vcloud.images.cache import Image
from vcloud.images.recipe import load_recipe
from vcloud.lab import lab as labs
from vcloud.lab import layout
from vcloud.marks import VmDigests
from vcloud.plan.manifest import Manifest, Phase

pytestmark = pytest.mark.vm

NAME = "t-hosts.vm"
DOMAIN = """\
<domain type="qemu">
  <name>{name}</name>
  <memory unit="MiB">384</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch="x86_64" machine="q35">hvm</type>
    <kernel>{boot.kernel}</kernel>
    <initrd>{boot.initrd}</initrd>
    <cmdline>{boot.cmdline}</cmdline>
  </os>
  <features><acpi/><apic/><tcg><tb-cache unit="MiB">64</tb-cache></tcg></features>
  <cpu mode="maximum"/>
  <devices>
    <disk type="file" device="disk">
      <driver name="qemu" type="qcow2"/><source file="{boot.disk}"/><target dev="vda" bus="virtio"/>
    </disk>
    <controller type="usb" model="none"/>
    <serial type="pty"><log file="{boot.console}" append="off"/><target port="0"/></serial>
    <console type="pty"><target type="serial" port="0"/></console>
    <channel type="unix"><target type="virtio" name="org.qemu.guest_agent.0"/></channel>
    <video><model type="none"/></video>
    <rng model="virtio"><backend model="random">/dev/urandom</backend></rng>
    <memballoon model="none"/>
  </devices>
</domain>
"""


@pytest.fixture(scope="module")
def ref() -> Iterator[HostRef]:
    """A lab of this module's own, with one host."""
    lab = layout.lab("t-hosts-vm")
    try:
        labs.up(lab, 1)
        yield load_inventory(lab.inventory)[0]
    finally:
        labs.down(lab)


@pytest.fixture(scope="module")
def host(ref: HostRef) -> Iterator[Host]:
    with open_host(ref) as opened:
        yield opened


@pytest.fixture(scope="module")
def pool(host: Host) -> StoragePool:
    return StoragePool(host)


@pytest.fixture(scope="module")
def image() -> Image:
    return build(load_recipe(images_dir() / "base"))


@dataclass(frozen=True, slots=True)
class Running:
    """The VM that the tests share."""

    volumes: VappVolumes
    base: Base
    boot: BootFiles
    agent: Agent


@pytest.fixture(scope="module")
def vm(host: Host, image: Image) -> Iterator[Running]:
    volumes = VappVolumes(host)
    base = volumes.upload_image(image)
    boot = volumes.boot_files(NAME, base, image.cmdline)
    volumes.make_root(SimpleNamespace(domain=NAME), boot)
    machines.start_domain(host, NAME, DOMAIN.format(name=NAME, boot=boot))
    agent = machines.agent_of(host, NAME)
    agent.wait(180)
    yield Running(volumes, base, boot, agent)
    machines.remove_domain(host, NAME)
    volumes.delete_of_domain(NAME)


def stat(host: Host, path: str) -> str:
    return host.shell.run(["stat", "-c", "%a %s", path]).stdout.decode().strip()


def program(text: str, *argv: str) -> subprocess.Popen[str]:
    """A Python program in a process group of its own, as a shell would start it at a terminal."""
    return subprocess.Popen(
        [sys.executable, "-c", text, *argv], stdout=subprocess.PIPE, text=True, start_new_session=True, env=dict(os.environ)
    )


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


# The host


def test_a_shell_on_the_host_by_ssh(host: Host) -> None:
    done = host.shell.run(["sh", "-c", "cat; echo $0 >&2; exit 3", "a 'b' $c"], stdin=b"x" * 3_000_000)
    assert (done.code, len(done.stdout), done.stderr) == (3, 3_000_000, b"a 'b' $c\n")
    with pytest.raises(HostError, match="did not end within 1 s"):
        host.shell.run(["sleep", "60"], timeout=1)


LOCK = """
import sys, time
from pathlib import Path
from vcloud.hosts.connection import open_host
from vcloud.hosts.inventory import load_inventory
from vcloud.hosts.lock import LockedError, vapp_lock
with open_host(load_inventory(Path(sys.argv[1]))[0]) as host:
    print("open", flush=True)
    time.sleep(max(0, float(sys.argv[2]) - time.time()))
    try:
        with vapp_lock(host, "race", "up"):
            print("won", flush=True)
            time.sleep(float(sys.argv[3]))
    except LockedError:
        print("lost", flush=True)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


@pytest.fixture
def locker(ref: HostRef) -> Iterator[Callable[[float, float], subprocess.Popen[str]]]:
    """Starts a process that takes the lock `race` at a time and holds it for so long."""
    assert ref.ssh_config is not None
    started: list[subprocess.Popen[str]] = []

    def start(when: float, hold: float) -> subprocess.Popen[str]:
        started.append(program(LOCK, str(ref.ssh_config and ref.ssh_config.parent / "hosts.yaml"), str(when), str(hold)))
        return started[-1]

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_of_operators_that_begin_at_one_instant_exactly_one_wins(locker: Callable[[float, float], subprocess.Popen[str]]) -> None:
    when = time.time() + 4
    racers = [locker(when, 3) for _ in range(4)]
    assert [line(racer) for racer in racers] == ["open"] * 4
    assert sorted(line(racer) for racer in racers) == ["lost", "lost", "lost", "won"]


def test_ctrl_c_releases_the_lock_though_ssh_hears_it_too(host: Host, locker: Callable[[float, float], subprocess.Popen[str]]) -> None:
    holder = locker(0, 60)
    assert [line(holder), line(holder)] == ["open", "won"]
    os.killpg(holder.pid, signal.SIGINT)
    assert line(holder) == "interrupted"
    assert holder.wait(timeout=10) == 0
    assert "vcloud-lock-race" not in [network.name() for network in host.connection.listAllNetworks()]


def test_the_lock_of_a_killed_operator_is_taken_over(host: Host, locker: Callable[[float, float], subprocess.Popen[str]]) -> None:
    holder = locker(0, 60)
    assert [line(holder), line(holder)] == ["open", "won"]
    os.killpg(holder.pid, signal.SIGKILL)
    holder.wait()
    assert "vcloud-lock-race" in [network.name() for network in host.connection.listAllNetworks()]
    with vapp_lock(host, "race", "up"):
        pass


COUNT = """
import sys
from pathlib import Path
from vcloud.hosts.connection import open_host
from vcloud.hosts.inventory import load_inventory
from vcloud.hosts.observe import observe_vapp
log = Path(sys.argv[2])
calls = lambda: sum("RPC_CLIENT_MSG_TX_QUEUE" in line and "prog=536903814" in line for line in log.read_text().splitlines())
with open_host(load_inventory(Path(sys.argv[1]))[0]) as host:
    before = calls()
    state = observe_vapp(host, "many")
    print(calls() - before, state.manifest is not None, len(state.networks))
"""


def test_a_settled_vapp_is_read_in_five_calls(host: Host, ref: HostRef, tmp_path: Path) -> None:
    """Counted by libvirt's own log of what it sends, and the same for two networks as for none."""
    design = build_design(zones="dmz app", vms={"web": "dmz x2", "api": "app"}, vapp="many")
    digests = tuple((vm.name, VmDigests("r", "h", "i")) for vm in design.vms)
    manifest = Manifest(Phase.READY, design, UPLINK, "tcg", (), digests, (), "", "f", "", "2030-01-01T00:00:00+00:00", "0")
    networks = [zone.network for zone in design.zones]
    try:
        write_manifest(host, manifest)
        for network in networks:
            xml = f"<network><name>{network.name}</name><uuid>{network.uuid}</uuid><bridge name='{network.bridge}'/></network>"
            machines.make_network(host, network.name, xml)
        log = tmp_path / "log"
        debug = {"LIBVIRT_LOG_FILTERS": "1:rpc", "LIBVIRT_LOG_OUTPUTS": f"1:file:{log}"}
        assert ref.ssh_config is not None
        argv = [sys.executable, "-c", COUNT, str(ref.ssh_config.parent / "hosts.yaml"), str(log)]
        done = subprocess.run(argv, env=os.environ | debug, capture_output=True, text=True, check=True)
        count, found, standing = done.stdout.split()
        assert (found, standing) == ("True", "2")
        assert 1 <= int(count) <= 5
    finally:
        for network in networks:
            machines.remove_network(host, network.name)
        delete_manifest(host, "many")


# Storage


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "some.qcow2"
    path.write_bytes(os.urandom(5_000_000))
    return path


def sha256_there(host: Host, path: str) -> str:
    return host.shell.run(["sha256sum", path]).stdout.decode().split()[0]


def test_an_upload_arrives_whole_private_and_once(host: Host, pool: StoragePool, source: Path) -> None:
    seen: list[int] = []
    path = pool.upload(source, "up-whole", ".qcow2", lambda done, _: seen.append(done))
    assert sha256_there(host, path) == hashlib.sha256(source.read_bytes()).hexdigest()
    assert stat(host, path) == "600 5000000"
    assert seen[-1] == 5_000_000
    assert len(seen) > 10
    again: list[int] = []
    assert pool.upload(source, "up-whole", ".qcow2", lambda done, _: again.append(done)) == path
    assert again == []


def test_an_interrupted_upload_is_never_used(host: Host, pool: StoragePool, source: Path) -> None:
    def interrupt(done: int, _: int) -> None:
        if done > 1_000_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pool.upload(source, "up-broken", ".qcow2", interrupt)
    assert pool.uploaded("up-broken", ".qcow2") is None
    assert pool.names("up-broken") == ()
    path = pool.upload(source, "up-broken", ".qcow2")
    assert sha256_there(host, path) == hashlib.sha256(source.read_bytes()).hexdigest()


UPLOAD = """
import sys
from pathlib import Path
from vcloud.hosts.connection import open_host
from vcloud.hosts.inventory import load_inventory
from vcloud.hosts.pool import StoragePool
with open_host(load_inventory(Path(sys.argv[1]))[0]) as host:
    def progress(done, size):
        if done > size // 2:
            print("half", flush=True); input()
    StoragePool(host).upload(Path(sys.argv[2]), "up-killed", ".qcow2", progress)
"""


def test_an_upload_whose_operator_is_killed_is_never_used_and_swept(host: Host, ref: HostRef, pool: StoragePool, source: Path) -> None:
    assert ref.ssh_config is not None
    killed = program(UPLOAD, str(ref.ssh_config.parent / "hosts.yaml"), str(source))
    assert line(killed) == "half"
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    rest = pool.names("up-killed")
    assert len(rest) == 1
    assert not rest[0].endswith(COMPLETE)
    assert pool.uploaded("up-killed", ".qcow2") is None
    first = pool.upload(source, "up-killed", ".qcow2")
    assert rest[0] in pool.names("up-killed"), "it may still be on its way"
    host.shell.run(["touch", "-d", "2 hours ago", pool.path(rest[0])])
    pool.delete([Path(first).name, Path(first).name + COMPLETE])
    pool.upload(source, "up-killed", ".qcow2")
    assert rest[0] not in pool.names("up-killed")


def test_two_who_upload_the_same_at_once_are_both_right(host: Host, ref: HostRef, source: Path) -> None:
    paths: list[str] = []
    together = threading.Barrier(2, timeout=30)

    def operator() -> None:
        waited: list[None] = []

        def meet(done: int, _: int) -> None:
            if done > 1_000_000 and not waited:
                waited.append(None)
                together.wait()

        with open_host(ref) as mine:
            paths.append(StoragePool(mine).upload(source, "up-twice", ".qcow2", meet))

    threads = [threading.Thread(target=operator) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(paths)) == 2
    assert {sha256_there(host, path) for path in paths} == {hashlib.sha256(source.read_bytes()).hexdigest()}
    assert StoragePool(host).uploaded("up-twice", ".qcow2") in paths


def test_a_full_disk_is_said_before_anything_is_made(pool: StoragePool) -> None:
    with pytest.raises(HostError) as caught:
        pool.require_space(pool.free + (1 << 30), "the image 'x'")
    assert "MiB are missing" in caught.value.what
    assert FOLDER in caught.value.hint
    pool.require_space(1 << 20, "the image 'x'")


def test_disks_are_made_once_and_kept(host: Host, pool: StoragePool) -> None:
    path = pool.make_disk("vm.t-hosts.a.data.qcow2", 1 << 30)
    host.shell.run(["qemu-io", "-c", "write -P 7 0 64k", path])
    written = sha256_there(host, path)
    assert pool.make_disk("vm.t-hosts.a.data.qcow2", 1 << 30) == path
    assert sha256_there(host, path) == written
    assert stat(host, path).split()[0] == "600"
    overlay = pool.make_overlay("root.t-hosts.a.qcow2", path)
    report = host.shell.run(["qemu-img", "info", overlay]).stdout.decode()
    assert "virtual size: 1 GiB" in report
    assert f"backing file: {path}" in report
    assert pool.names("vm.t-hosts.", "root.t-hosts.") == ("root.t-hosts.a.qcow2", "vm.t-hosts.a.data.qcow2")
    VappVolumes(host).delete(VappVolumes(host).volumes_of_vapp("t-hosts"))
    VappVolumes(host).delete(["vm.t-hosts.a.data.qcow2"])
    assert VappVolumes(host).volumes_of_vapp("t-hosts") == ()


def test_a_vapps_volumes_are_not_those_of_one_with_a_longer_name(host: Host, pool: StoragePool) -> None:
    pool.make_disk("vm.shop.a.data.qcow2", 1 << 20)
    pool.make_disk("vm.shop-2.a.data.qcow2", 1 << 20)
    assert VappVolumes(host).volumes_of_vapp("shop") == ("vm.shop.a.data.qcow2",)
    pool.delete(["vm.shop.a.data.qcow2", "vm.shop-2.a.data.qcow2"])


# The uplink


def test_the_nat_network_stands_as_long_as_a_vapp_needs_it(host: Host) -> None:
    plain = Host(dataclasses.replace(host.ref, uplink=None), host.connection)
    designs = [build_design(zones="dmz", vms={"web": "dmz"}, vapp=name) for name in ("other", "elsewhere")]
    uplink = uplink_for(plain, "shop")
    uplinks = (uplink, uplink_for(host, "elsewhere"))
    assert uplinks[1].network != NETWORK
    try:
        make_uplink(plain, uplink)
        make_uplink(plain, uplink)
        addresses = host.shell.run(["ip", "-brief", "address", "show", BRIDGE]).stdout.decode()
        assert f"{uplink.gateway4}/24" in addresses
        assert f"{uplink.gateway6}/64" in addresses
        assert host.shell.run(["pgrep", "dnsmasq"]).code == 1, "it answers neither DHCP nor DNS"
        for design, own in zip(designs, uplinks, strict=True):
            write_manifest(host, Manifest(Phase.READY, design, own, "tcg", (), (), (), "", "", "", "", "0"))
        forget_vapp(plain, "shop")
        assert BRIDGE in host.shell.run(["ip", "-brief", "link"]).stdout.decode()
        forget_vapp(plain, "other")
        assert vapp_names(host) == ("elsewhere",)
    finally:
        for design in designs:
            forget_vapp(plain, design.vapp)
    assert vapp_names(host) == ()
    assert NETWORK not in [network.name() for network in host.connection.listAllNetworks()]
    assert BRIDGE not in host.shell.run(["ip", "-brief", "link"]).stdout.decode()


# The guest agent


def test_an_agent_that_does_not_come_is_said_in_time(host: Host) -> None:
    xml = "<domain type='qemu'><name>t-hosts.mute</name><memory unit='MiB'>64</memory><os><type machine='q35'>hvm</type></os><devices>{}</devices></domain>"
    channel = "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"
    machines.start_domain(host, "t-hosts.mute", xml.format(channel))
    agent = machines.agent_of(host, "t-hosts.mute")
    try:
        begin = time.monotonic()
        with pytest.raises(GuestError, match=r"'t-hosts.mute' does not answer after 1 s") as caught:
            agent.wait(1)
        assert time.monotonic() - begin < 3
        assert "vcloud logs t-hosts/mute" in caught.value.hint
    finally:
        machines.remove_domain(host, "t-hosts.mute")
    with pytest.raises(GuestError, match="is not running"):
        agent.wait(20)


def test_a_command_runs_to_its_end(vm: Running) -> None:
    done = vm.agent.execute(["/bin/sh", "-c", 'cat; echo "$1" >&2; exit 3', "sh", "a 'b' $c"], stdin=b"in")
    assert (done.code, done.stdout, done.stderr, done.truncated) == (3, b"in", b"a 'b' $c\n", False)
    assert vm.agent.execute(["true"]).code == 0
    assert vm.agent.execute(["/bin/sh", "-c", "kill -9 $$"]).code == 137


@pytest.mark.parametrize("size", [0, 65_536, 65_537, 1_000_000])
def test_stdin_of_any_length_arrives(vm: Running, size: int) -> None:
    content = os.urandom(size)
    done = vm.agent.execute(["sha256sum"], stdin=content)
    assert done.stdout.decode().split()[0] == hashlib.sha256(content).hexdigest()
    time.sleep(0.5)
    assert vm.agent.execute(["/bin/sh", "-c", "ls -d /run/vcloud-* 2>/dev/null"]).stdout == b"", "nothing of it stays in the guest"


def test_a_program_that_is_not_there_is_said(vm: Running) -> None:
    with pytest.raises(GuestError, match="no-such-program"):
        vm.agent.execute(["no-such-program"])


def test_a_program_that_takes_too_long_is_killed(vm: Running) -> None:
    with pytest.raises(GuestError, match="did not end within 1 s"):
        vm.agent.execute(["sleep", "4321"], timeout=1)
    time.sleep(0.5)
    assert vm.agent.execute(["pgrep", "-f", "sleep 4321"]).code == 1


def test_too_much_output_is_said_and_has_a_way_out(vm: Running) -> None:
    argv = ["/bin/sh", "-c", "head -c 4000000 /dev/zero; echo err >&2; exit 4"]
    with pytest.raises(GuestError, match="more output than"):
        vm.agent.execute(argv)
    done = vm.agent.execute_at_length(argv)
    assert (done.code, len(done.stdout), done.stderr) == (4, 4_000_000, b"err\n")


def test_files_are_written_in_one_step_and_read(vm: Running) -> None:
    content = bytes(range(256)) * 1000
    vm.agent.write_file("/root/a file", content, 0o640)
    vm.agent.write_file("/root/a file", content[:-1], 0o600)
    assert vm.agent.read_file("/root/a file") == content[:-1]
    assert vm.agent.execute(["stat", "-c", "%a", "/root/a file"]).stdout == b"600\n"
    with pytest.raises(GuestError, match="could not be written"):
        vm.agent.write_file("/none/a", b"")
    with pytest.raises(GuestError, match="No such file"):
        vm.agent.read_file("/none/a")


def test_a_file_without_an_end_is_given_up(vm: Running) -> None:
    with pytest.raises(GuestError, match="more than 32 MiB"):
        vm.agent.read_file("/dev/zero")


LIAR = r"""
use Fcntl;
sysopen(my $port, "/dev/virtio-ports/org.qemu.guest_agent.0", O_RDWR) or die "liar: $!";
my ($heard, $read) = ("");
while (defined($read = sysread($port, my $part, 4096))) {
    select(undef, undef, undef, 0.05) unless $read;
    $heard .= $part;
    while ($heard =~ s/^(.*)\n//) {
        my ($said, $answer) = ($1, '[{"pid": "many"}]');
        $answer = $1 if $said =~ /guest-sync/ && $said =~ /"id"\s*:\s*(\d+)/;
        syswrite($port, qq({"return": $answer}\n));
    }
}
"""
"""An agent that libvirt believes to be there, and that answers everything alike."""


def test_an_agent_that_answers_nonsense_is_an_error_like_any_other(vm: Running) -> None:
    """Somebody who has broken into a VM may put his own agent in place. Afterwards the real one answers again."""
    vm.agent.write_file("/run/liar.pl", LIAR.encode())
    unit = "systemctl stop qemu-guest-agent; timeout 10 perl /run/liar.pl; systemctl start qemu-guest-agent"
    assert vm.agent.execute(["systemd-run", "--no-block", "sh", "-c", unit]).code == 0
    time.sleep(4)
    with pytest.raises(GuestError, match="answers nonsense"):
        vm.agent.execute(["true"])
    with pytest.raises(GuestError, match="answers nonsense"):
        vm.agent.read_file("/etc/hostname")
    time.sleep(8)
    vm.agent.wait(60)
    assert vm.agent.execute(["true"]).code == 0


def test_the_end_of_a_console_is_read_without_what_acts_on_terminals(vm: Running) -> None:
    vm.agent.execute(["/bin/sh", "-c", r"printf 'first\nsecond \033[31mred\n' > /dev/ttyS0"])
    time.sleep(0.5)
    lines = vm.volumes.console_tail(NAME, 2)
    assert lines == ["first", "second red"]
    assert vm.volumes.console_tail("t-hosts.none", 2) == []


# Channels and consoles


@pytest.fixture(scope="module")
def pinned(vm: Running) -> str:
    """A host key in the guest; its public half."""
    make = 'mkdir -p /etc/ssh && ssh-keygen -q -t ed25519 -N "" -f /etc/ssh/t_key && cat /etc/ssh/t_key.pub'
    return vm.agent.execute(["/bin/sh", "-c", make]).stdout.decode().split()[1]


def new_key(folder: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "key")], check=True)
    return folder / "key"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return new_key(tmp_path)


def ports(host: Host) -> int:
    return host.connection.lookupByName(NAME).XMLDesc().count(f'name="{PREFIX}'.replace('"', "'"))


def test_ssh_reaches_a_vm_that_has_no_network(host: Host, vm: Running, pinned: str, key: Path) -> None:
    allowed = authorize(vm.agent, "/run/vcloud/ssh", key.with_suffix(".pub").read_text())
    with ssh_channel(host, NAME, Sshd(allowed, "/etc/ssh/t_key")) as connection:
        assert ports(host) == 1
        transport = paramiko.Transport(connection)
        transport.start_client(timeout=60)
        assert transport.get_remote_server_key().get_base64() == pinned
        transport.auth_publickey("root", paramiko.Ed25519Key.from_private_key_file(str(key)))
        session = transport.open_session()
        session.exec_command("head -c 1000000 /dev/zero; exit 5")
        received = b"".join(iter(lambda: session.recv(65536), b""))
        assert (len(received), session.recv_exit_status()) == (1_000_000, 5)
        transport.close()
    assert ports(host) == 0
    time.sleep(1)
    assert vm.agent.execute(["pgrep", "sshd"]).code == 1, "its sshd has gone with it"


def test_a_key_that_was_not_authorized_does_not_get_in(host: Host, vm: Running, pinned: str, key: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = new_key(tmp_path / "other")
    allowed = authorize(vm.agent, "/run/vcloud/ssh", key.with_suffix(".pub").read_text())
    with ssh_channel(host, NAME, Sshd(allowed, "/etc/ssh/t_key")) as connection:
        transport = paramiko.Transport(connection)
        transport.start_client(timeout=60)
        assert transport.get_remote_server_key().get_base64() == pinned
        with pytest.raises(paramiko.AuthenticationException):
            transport.auth_publickey("root", paramiko.Ed25519Key.from_private_key_file(str(other)))
        transport.close()
    assert ports(host) == 0


PROXY = """
import sys
from pathlib import Path
from vcloud.hosts.channel import Sshd, serve_proxy
from vcloud.hosts.connection import open_host
from vcloud.hosts.inventory import load_inventory
with open_host(load_inventory(Path(sys.argv[1]))[0]) as host:
    serve_proxy(host, sys.argv[2], Sshd(sys.argv[3], "/etc/ssh/t_key"))
"""


def test_it_is_a_proxy_command_for_ssh(host: Host, ref: HostRef, vm: Running, pinned: str, key: Path, tmp_path: Path) -> None:
    allowed = authorize(vm.agent, "/run/vcloud/ssh", key.with_suffix(".pub").read_text())
    (tmp_path / "proxy.py").write_text(PROXY)
    (tmp_path / "known").write_text(f"guest ssh-ed25519 {pinned}\n")
    assert ref.ssh_config is not None
    proxy = f"{sys.executable} {tmp_path}/proxy.py {ref.ssh_config.parent}/hosts.yaml {NAME} {allowed}"
    options = [f"ProxyCommand={proxy}", f"UserKnownHostsFile={tmp_path}/known", "StrictHostKeyChecking=yes", f"IdentityFile={key}"]
    flags = [part for option in (*options, "BatchMode=yes", "IdentitiesOnly=yes") for part in ("-o", option)]
    argv = ["ssh", "-F", "/dev/null", *flags, "root@guest", "cat; exit 6"]
    environment = os.environ | {"PYTHONPATH": os.getcwd()}  # noqa: PTH109
    done = subprocess.run(argv, input=b"x" * 100_000, capture_output=True, env=environment, timeout=120, check=False)
    assert (done.returncode, len(done.stdout)) == (6, 100_000), done.stderr
    deadline = time.monotonic() + 10
    while ports(host) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert ports(host) == 0, "ssh does not wait for its proxy, which cleans up all the same"


CONSOLE = """
import sys
from pathlib import Path
from vcloud.hosts.connection import open_host
from vcloud.hosts.console import attach
from vcloud.hosts.inventory import load_inventory
with open_host(load_inventory(Path(sys.argv[1]))[0]) as host:
    attach(host, sys.argv[2])
"""


def test_a_console_shows_takes_keys_and_gives_the_terminal_back(ref: HostRef, vm: Running) -> None:
    assert ref.ssh_config is not None
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    argv = [sys.executable, "-c", CONSOLE, str(ref.ssh_config.parent / "hosts.yaml"), NAME]
    assert vm.agent.execute(["systemctl", "stop", "vcloud-console.service"]).code == 0, "it would take the keys"
    reader = vm.agent.start(["/bin/sh", "-c", "read -r typed < /dev/ttyS0; echo got:$typed > /dev/ttyS0"])
    assert reader > 0
    with subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        assert "Ctrl-] leaves" in shown(ours, "leaves")
        time.sleep(1)
        os.write(ours, b"hello\r")
        assert "got:hello" in shown(ours, "got:hello")
        assert termios.tcgetattr(theirs) != before
        os.write(ours, b"\x1d")
        assert process.wait(timeout=10) == 0
    assert termios.tcgetattr(theirs) == before
    os.close(ours)
    os.close(theirs)


def test_a_console_needs_a_terminal(host: Host) -> None:
    with pytest.raises(UsageError, match="needs a terminal"):
        attach(host, NAME)


def shown(terminal: int, words: str) -> str:
    """What a terminal shows up to these words, within 20 s."""
    text, deadline = "", time.monotonic() + 20
    while words not in text and time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.2)[0]:
            text += os.read(terminal, 4096).decode(errors="replace")
    return text


# The accelerator


def test_the_accelerator_is_tried_once(host: Host, vm: Running) -> None:
    assert accelerator.remembered(host) is None
    first = accelerator.probe(host, vm.base.kernel, vm.base.initrd)
    assert first.name in ("kvm", "tcg")
    assert first.reason
    begin = time.monotonic()
    assert accelerator.probe_host(host) == first
    assert time.monotonic() - begin < 2
    assert [domain.name() for domain in host.connection.listAllDomains()] == [NAME], "nothing of the trial stays"


def runners(vm: Running) -> tuple[str, str]:
    """Two for the race, both emulated, so that it ends alike on any machine."""
    first, second = (accelerator.trial_xml(vm.base.kernel, vm.base.initrd, "tcg") for _ in range(2))
    return first, second


def test_kvm_wins_by_reaching_user_space(host: Host, vm: Running) -> None:
    goes, other = runners(vm)
    hangs = other.replace("panic=-1", "rdinit=/none init=/none")
    assert accelerator.trial(host, goes, hangs) == Accelerator("kvm", "a kernel boots under KVM")


def test_a_kernel_that_hangs_is_given_up_soon_after_emulation_got_there(host: Host, vm: Running) -> None:
    """It finds no init, and waits for ever."""
    goes, other = runners(vm)
    found = accelerator.trial(host, other.replace("panic=-1", "rdinit=/none init=/none"), goes)
    assert found.name == "tcg"
    assert "hangs" in found.reason
    assert [domain.name() for domain in host.connection.listAllDomains()] == [NAME], "nothing of the trial stays"


def test_a_vm_that_ends_before_it_reaches_user_space_does_not_count(host: Host, vm: Running) -> None:
    goes, other = runners(vm)
    found = accelerator.trial(host, other.replace("panic=-1", "panic=-1 rdinit=/none init=/none"), goes)
    assert found == Accelerator("tcg", "KVM is there, but a VM under it ends before it reaches user space")


@pytest.mark.usefixtures("vm")
def test_the_state_of_a_running_vm_is_seen(host: Host) -> None:
    state = observe_vapp(host, "t-hosts")
    domain = state.domain(NAME)
    assert domain is not None
    assert (domain.running, domain.paused, domain.vapp) == (True, False, "")
