"""Machines of one guest program each: what they can be asked, and how they are made.

A machine lives in mount, UTS, network and PID namespaces. The guest program runs without
CAP_SYS_TIME, because the clock is the only thing it sets that is in no namespace.
"""

from __future__ import annotations

import base64
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.netns.namespaces import held

SOURCES = Path(__file__).parents[3] / "images/base/guest"
FLAGS = [
    "-static",
    "-Os",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-idirafter",
    "/usr/include",
    "-idirafter",
    "/usr/include/x86_64-linux-gnu",
]
GUEST_MAC, FIREWALL_MAC = "52:54:00:00:00:02", "52:54:00:00:00:01"


def run(*argv: str, stdin: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv, input=stdin, capture_output=True, text=True, check=check, timeout=600
    )


@dataclass(frozen=True, slots=True)
class Machine:
    pid: int
    root: Path

    def enter(
        self, *argv: str, stdin: str = "", check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        return run(
            "nsenter", "-t", str(self.pid), "-m", "-u", "-n", "-p", *argv, stdin=stdin, check=check
        )

    def argv(self, *words: str) -> list[str]:
        drop = ["setpriv", "--bounding-set=-sys_time", "--inh-caps=-sys_time"]
        return [
            *drop,
            "nsenter",
            "-t",
            str(self.pid),
            "-m",
            "-u",
            "-n",
            "-p",
            "chroot",
            str(self.root),
            "/guest",
            *words,
        ]

    def guest(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return run(*self.argv(*words), stdin=stdin, check=False)

    def identity(self, *lines: str) -> str:
        result = self.guest("identity", stdin="".join(f"{line}\n" for line in lines))
        assert result.returncode == (0 if result.stdout.startswith("ok\n") else 1), result
        return result.stdout.strip()

    def ip(self, *words: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.enter("ip", "-j", *words).stdout or "[]")
        return found

    def addresses(self, card: str = "eth0") -> set[str]:
        return {
            f"{at['local']}/{at['prefixlen']}"
            for at in self.ip("addr", "show", card)[0]["addr_info"]
            if at["scope"] != "link"
        }

    def routes(self, family: str, *words: str) -> list[dict[str, Any]]:
        keys = ("dst", "gateway", "dev", "prefsrc")
        found = self.ip(family, "route", "show", *words)
        return [
            {key: route[key] for key in keys if key in route}
            for route in found
            if route.get("protocol") != "kernel"
        ]

    def setting(self, key: str) -> str:
        """A network setting. Unlike other files, those show each reader its own."""
        return self.enter("cat", f"/proc/sys/net/{key}").stdout.strip()

    def file(self, path: str) -> Path:
        return Path(f"/proc/{self.pid}/root{self.root}{path}")

    @contextmanager
    def listening(self, *lines: str) -> Iterator[dict[str, Any]]:
        result = self.guest("listen", "600", stdin="\n".join(lines))
        assert result.returncode == 0, result
        service = json.loads(result.stdout)
        yield service
        assert self.guest("listen-stop", str(service["pid"])).returncode == 0

    def sleeps_in(self, program: str, call: int) -> bool:
        """Whether a program of this machine sleeps in this system call (of x86-64)."""
        pids = self.enter("pgrep", "-x", program, check=False).stdout.split()
        return any(
            self.enter("cat", f"/proc/{pid}/syscall", check=False).stdout.split()[:1] == [str(call)]
            for pid in pids
        )


def furnish(machine: Machine, program: Path) -> None:
    """Gives the machine a root folder in which the program can change network settings and its own
    /etc, and nothing of the host's.
    """
    root = str(machine.root)
    machine.enter("mount", "-t", "tmpfs", "tmpfs", root)
    machine.enter(
        "mkdir", *(f"{root}/{name}" for name in ("usr", "proc", "sys", "dev", "etc", "run", "tmp"))
    )
    machine.enter("ln", "-s", "usr/bin", "usr/sbin", "usr/lib", "usr/lib64", root)
    machine.enter("mount", "--bind", "/usr", f"{root}/usr")
    machine.enter("mount", "-o", "remount,bind,ro", f"{root}/usr")
    machine.enter("mount", "-t", "proc", "proc", f"{root}/proc")
    machine.enter("mount", "-o", "remount,bind,ro", f"{root}/proc")
    machine.enter("mount", "--bind", "/proc/sys/net", f"{root}/proc/sys/net")
    machine.enter("mount", "-t", "sysfs", "-o", "ro", "sysfs", f"{root}/sys")
    machine.enter(
        "mount", "-t", "tmpfs", "tmpfs", f"{root}/sys/block"
    )  # the host's disks stay out of sight
    for device in ("null", "urandom"):
        machine.file(f"/dev/{device}").touch()
        machine.enter("mount", "--bind", f"/dev/{device}", f"{root}/dev/{device}")
    machine.file("/etc/passwd").write_text("root:x:0:0::/:/bin/sh\npostgres:x:70:71::/:/bin/sh\n")
    machine.file("/etc/group").write_text("root:x:0:\npostgres:x:71:\n")
    machine.file("/guest").write_bytes(program.read_bytes())
    machine.file("/guest").chmod(0o755)


POLL, RECVMSG, FLOCK = 7, 47, 73
"""System calls in which a program waits for something to happen."""


def until(what: str, holds: Callable[[], bool], seconds: float = 300) -> None:
    """Waits for something that happens soon. The time is long because the machine may be busy."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"{what}: not after {seconds:g} s"
        time.sleep(0.02)


@contextmanager
def new_machine(root: Path, program: Path) -> Iterator[Machine]:
    root.mkdir()
    with held("uts") as pid:
        machine = Machine(pid, root)
        furnish(machine, program)
        yield machine


def plug(
    guest: Machine,
    firewall: Machine,
    mac: str = GUEST_MAC,
    name: str = "g0",
    peer_mac: str = FIREWALL_MAC,
) -> None:
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
