"""Two kinds of hosts: one as a VM of its own whose KVM works, and a lab's, whose KVM is this
machine's. They end with the tests of the file: a VM with VMs of its own is never idle.
"""

from __future__ import annotations

import base64
import contextlib
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.vm import stock
from tests.vm.driver import Operator, environment
from tests.vm.qemu import MAC, Guest, booted
from vcloud.compile.guest.identity import host_key_lines
from vcloud.data import images_dir
from vcloud.errors import HostError
from vcloud.guests.setup import GUEST, OPEN_GATE, HostKey, new_host_key
from vcloud.hosts.connection import Host, open_host
from vcloud.hosts.inventory import HostRef, load_inventory
from vcloud.hosts.patience import BOOT_VARIABLE
from vcloud.hosts.pool import FOLDER, StoragePool
from vcloud.images.build import build
from vcloud.images.cache import Image
from vcloud.images.recipe import load_recipe
from vcloud.lab import lab as labs
from vcloud.lab.host import ensure_key
from vcloud.lab.layout import Lab

LOOPBACK = "127.0.0.1"
ADDRESS = "10.0.2.15/24"
"""Where QEMU's user network sends what comes in."""
BOOT_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class KvmHost:
    """A host that is a VM, and what a client must know of it."""

    guest: Guest
    port: int
    """Of this machine's loopback. It leads to the host's sshd."""
    key: str
    """The host's public SSH key."""


@pytest.fixture(scope="module")
def base() -> Image:
    return build(load_recipe(images_dir() / "base"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the host that is a VM."""
    return tmp_path_factory.mktemp("kvm-host")


@pytest.fixture(scope="module")
def machine(folder: Path) -> Iterator[KvmHost]:
    """A stock Debian libvirt host whose KVM works."""
    # One processor: with two, a kernel of the host dies sooner or later while two guests run under
    # the emulated virtualisation.
    processor = ("-cpu", "max,+svm,-xsave,-avx,-avx2,-f16c", "-smp", "1")
    with booted_host(folder, processor) as host:
        yield host


@contextlib.contextmanager
def booted_host(folder: Path, processor: Sequence[str]) -> Iterator[KvmHost]:
    """A stock Debian libvirt host with such a processor, as QEMU's options say it.

    It has no path anywhere: QEMU hands a port of this machine's loopback to its sshd, and lets
    nothing out. Its second disk has the images that its VMs boot from.
    """
    port, key = free_port(), new_host_key()
    drive = folder / "stock.raw"
    stock.drive(drive, ("base", "firewall"))
    network = f"user,id=way-in,restrict=on,ipv6=off,hostfwd=tcp:{LOOPBACK}:{port}-:22"
    card = ("-netdev", network, "-device", f"virtio-net-pci,netdev=way-in,mac={MAC}")
    disk = ("-blockdev", f"raw,node-name=stock,file.driver=file,file.filename={drive}")
    with booted(
        build(load_recipe(images_dir() / "kvm-host")),
        folder,
        arguments=(*processor, *card, *disk, "-device", "virtio-blk-pci,drive=stock"),
    ) as guest:
        settings = folder / ".ssh"
        settings.mkdir()
        ensure_key(settings / "id_ed25519", "tests")
        settle(guest, identity(key, (settings / "id_ed25519.pub").read_bytes()))
        yield KvmHost(guest, port, key.public)


@pytest.fixture(scope="module")
def inventory(machine: KvmHost, folder: Path) -> Path:
    """An inventory of that host alone."""
    return write_way_in(folder, machine.port, machine.key)


@pytest.fixture(scope="module")
def nested(inventory: Path) -> Iterator[Host]:
    with await_host(load_inventory(inventory)[0]) as host:
        yield host


@contextlib.contextmanager
def await_host(ref: HostRef) -> Iterator[Host]:
    """Its first key exchange may take longer than any client waits, while it starts its services."""
    deadline = time.monotonic() + BOOT_SECONDS
    with contextlib.ExitStack() as opened:
        while True:
            try:
                host = opened.enter_context(open_host(ref))
                break
            except HostError:
                if time.monotonic() > deadline:
                    raise
        yield host


@pytest.fixture(scope="module")
def operator(inventory: Path, tmp_path_factory: pytest.TempPathFactory) -> Operator:
    """Somebody at the command line who knows that host only."""
    return Operator(
        environment("none", tmp_path_factory.mktemp("home"))
        | {"VCLOUD_INVENTORY": str(inventory), BOOT_VARIABLE: str(BOOT_SECONDS)}
    )


@pytest.fixture(scope="module")
def accelerator_before(operator: Operator, machine: KvmHost, nested: Host) -> str:
    """What `vcloud doctor` says of the accelerator while the host has no image. Then the host gets
    its images.
    """
    said = accelerator_of(operator)
    machine.guest.shell(f"mkdir -p {FOLDER} && mount /dev/vdb {FOLDER}")
    StoragePool(nested).refresh()
    return said


def accelerator_of(operator: Operator) -> str:
    """What `vcloud doctor` says of it."""
    findings = operator.run("doctor", "-o", "json").data
    return str(next(finding["detail"] for finding in findings if finding["check"] == "accelerator"))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """h1 has this machine's KVM, whatever it is worth; h2 has none that can be opened."""
    lab = Lab("t-kvm", tmp_path_factory.mktemp("labs") / "t-kvm")
    labs.up(lab, 2)
    try:
        nothing = (
            ("mount", "--bind", "/etc/hosts", "/dev/kvm"),
            ("mount", "-o", "remount,bind,ro", "/dev/kvm"),
        )
        for command in nothing:
            subprocess.run([*labs.enter(lab, "h2"), *command], check=True)
        yield lab
    finally:
        labs.down(lab)


def free_port() -> int:
    """A port of this machine's loopback that nobody uses."""
    with socket.create_server((LOOPBACK, 0)) as server:
        port: int = server.getsockname()[1]
        return port


def identity(key: HostKey, authorized: bytes) -> str:
    lines = [
        f"seed {base64.b64encode(secrets.token_bytes(64)).decode()}",
        f"clock {time.time():.6f}",
        "hostname kvm-host",
        f"machine-id {secrets.token_hex(16)}",
        f"nic {MAC} eth0",
        f"addr eth0 {ADDRESS}",
        *host_key_lines(key.private, key.public),
        "dir /root/.ssh 0700 root:root",
        f"file /root/.ssh/authorized_keys 0600 root:root {base64.b64encode(authorized).decode()}",
    ]
    return "".join(f"{line}\n" for line in lines)


def settle(machine: Guest, document: str) -> None:
    """Gives the host its identity and starts its services."""
    for command, stdin in (((GUEST, "identity"), document.encode()), (OPEN_GATE, b"")):
        done = machine.run(*command, stdin=stdin, timeout=BOOT_SECONDS)
        assert done.code == 0, done


def write_way_in(folder: Path, port: int, host_key: str) -> Path:
    """What a client needs to know: the host's key, how to log in, and an inventory, which is
    returned.
    """
    settings = folder / ".ssh"
    (settings / "known_hosts").write_text(f"[{LOOPBACK}]:{port} {host_key}\n")
    (settings / "config").write_text(f"""\
Host {LOOPBACK}
  IdentityFile {settings}/id_ed25519
  IdentitiesOnly yes
  UserKnownHostsFile {settings}/known_hosts
  GlobalKnownHostsFile none
  StrictHostKeyChecking yes
  BatchMode yes
  LogLevel ERROR
""")
    entry = {"uri": f"qemu+ssh://root@{LOOPBACK}:{port}/system", "ssh_config": f"{settings}/config"}
    inventory = folder / "hosts.yaml"
    inventory.write_text(yaml.safe_dump({"hosts": {"nested": entry}}))
    return inventory
