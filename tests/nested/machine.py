"""A libvirt host as a VM of its own: emulated, but with a processor whose KVM works.

It has no path anywhere. QEMU hands connections to a port on this machine's loopback to its sshd, and lets nothing out.
"""

from __future__ import annotations

import base64
import json
import secrets
import shlex
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vcloud.apply.guest import GUEST, OPEN_GATE, HostKey, new_host_key
from vcloud.compile.identity import host_key_lines
from vcloud.images.cache import Image
from vcloud.lab.host import ensure_key

LOOPBACK = "127.0.0.1"
MAC = "52:54:00:76:63:01"
ADDRESS = "10.0.2.15/24"
"""Where QEMU's user network sends what comes in."""
BOOT_SECONDS = 120
START_SECONDS = 300
"""For systemd to start libvirtd, which asks every QEMU program what it can."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A running machine, by the files of its folder."""

    folder: Path
    image: Image
    port: int

    @property
    def inventory(self) -> Path:
        return self.folder / "hosts.yaml"

    @property
    def console(self) -> Path:
        return self.folder / "console.log"

    @property
    def ssh_config(self) -> Path:
        """In a folder named as a user's is."""
        return self.folder / ".ssh" / "config"

    @property
    def key(self) -> Path:
        return self.folder / ".ssh" / "id_ed25519"

    def start(self) -> subprocess.Popen[bytes]:
        """Boots it. It dies with this process at the latest."""
        assert self.image.kernel
        assert self.image.initrd
        argv = [
            *("setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64"),
            *("-accel", "tcg,thread=multi,tb-size=512", "-machine", "q35", "-cpu", "max,+svm", "-smp", "2", "-m", f"{self.image.memory}B"),
            *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", f"file:{self.console}"),
            *("-kernel", str(self.image.kernel), "-initrd", str(self.image.initrd), "-append", self.image.cmdline),
            *("-drive", f"file={self.image.disk},if=virtio,format=qcow2,snapshot=on", "-device", "virtio-rng-pci"),
            *("-netdev", f"user,id=way-in,restrict=on,ipv6=off,hostfwd=tcp:{LOOPBACK}:{self.port}-:22"),
            *("-device", f"virtio-net-pci,netdev=way-in,mac={MAC}", "-device", "virtio-serial-pci"),
            *("-chardev", f"socket,id=agent,path={self._agent},server=on,wait=off"),
            *("-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"),
        ]
        with (self.folder / "qemu.log").open("wb") as log:
            return subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={"PATH": "/usr/bin", "TMPDIR": str(self.folder)}
            )

    def settle(self) -> None:
        """Gives it its identity, starts its services and writes what a client needs to find it."""
        self.ssh_config.parent.mkdir()
        ensure_key(self.key, "tests")
        key = new_host_key()
        with socket.socket(socket.AF_UNIX) as channel:
            agent = _Agent(channel)
            agent.connect(self._agent)
            agent.run([GUEST, "identity"], self._identity(key))
            agent.run(["/bin/sh", "-c", OPEN_GATE])
        self._write_way_in(key.public)

    @property
    def _agent(self) -> Path:
        return self.folder / "agent"

    def _identity(self, key: HostKey) -> str:
        authorized = base64.b64encode(self.key.with_suffix(".pub").read_bytes()).decode()
        lines = [
            f"seed {base64.b64encode(secrets.token_bytes(64)).decode()}",
            f"clock {time.time():.6f}",
            "hostname kvm-host",
            f"machine-id {secrets.token_hex(16)}",
            f"nic {MAC} eth0",
            f"addr eth0 {ADDRESS}",
            *host_key_lines(key.private, key.public),
            "dir /root/.ssh 0700 root:root",
            f"file /root/.ssh/authorized_keys 0600 root:root {authorized}",
        ]
        return "".join(f"{line}\n" for line in lines)

    def _write_way_in(self, host_key: str) -> None:
        known_hosts = self.ssh_config.with_name("known_hosts")
        known_hosts.write_text(f"[{LOOPBACK}]:{self.port} {host_key}\n")
        self.ssh_config.write_text(f"""\
Host {LOOPBACK}
  IdentityFile {self.key}
  IdentitiesOnly yes
  UserKnownHostsFile {known_hosts}
  GlobalKnownHostsFile none
  StrictHostKeyChecking yes
  BatchMode yes
  LogLevel ERROR
""")
        entry = {"uri": f"qemu+ssh://root@{LOOPBACK}:{self.port}/system", "ssh_config": str(self.ssh_config)}
        self.inventory.write_text(yaml.safe_dump({"hosts": {"nested": entry}}))


class _Agent:
    """The guest agent at the other end of a socket. libvirt, through which vcloud speaks to one, does not know this VM."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._answers = channel.makefile("rb")

    def connect(self, path: Path) -> None:
        """Waits for the agent's first answer."""
        deadline = time.monotonic() + BOOT_SECONDS
        while True:
            try:
                self._channel.connect(str(path))
                break
            except (FileNotFoundError, ConnectionRefusedError):
                assert time.monotonic() < deadline, "QEMU does not start"
                time.sleep(0.1)
        self._channel.settimeout(BOOT_SECONDS)
        self._ask("guest-ping")

    def run(self, argv: list[str], stdin: str = "") -> None:
        """Runs a program to its end, which must be a good one."""
        content = base64.b64encode(stdin.encode()).decode()
        started = self._ask("guest-exec", {"path": argv[0], "arg": argv[1:], "input-data": content, "capture-output": True})
        deadline = time.monotonic() + START_SECONDS
        while not (status := self._ask("guest-exec-status", {"pid": started["pid"]}))["exited"]:
            assert time.monotonic() < deadline, f"{shlex.join(argv)} does not end"
            time.sleep(0.5)
        said = base64.b64decode(status.get("out-data", "") + status.get("err-data", ""))
        assert status.get("exitcode") == 0, f"{shlex.join(argv)}: {said.decode(errors='replace')}"

    def _ask(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        self._channel.sendall(json.dumps({"execute": command, "arguments": arguments or {}}).encode() + b"\n")
        answer = json.loads(self._answers.readline())
        assert "return" in answer, f"{command}: {answer}"
        return answer["return"]


def free_port() -> int:
    """A port of this machine's loopback that nobody uses."""
    with socket.create_server((LOOPBACK, 0)) as server:
        port: int = server.getsockname()[1]
        return port
