"""A vApp in network namespaces: real bridges with isolated ports, real addresses, the real ruleset,
and real packets.

One namespace stands for the host and holds the zones' bridges; one each for the firewall, every
workload VM and the outside. Addresses, neighbours, routes and sysctls come from the identity that
the VMs would get, so what passes here is what passes there. `firewall-load`, `firewall-report` and
`guest` are the programs of the firewall's image; each sees a private, otherwise empty /etc and /run.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import selectors
import shutil
import socket
import struct
import subprocess
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tests.netns.namespaces import Sockets
from vcloud.compile.firewall.ruleset import render_firewall
from vcloud.compile.guest.identity import identity_lines
from vcloud.data import images_dir
from vcloud.design.model import Design, Nic, Uplink, Vm
from vcloud.proof.firewall_report import FirewallReport, parse_firewall_report
from vcloud.proof.guest_network import Claim, differences

SCRIPTS = images_dir() / "firewall/files/usr/lib/vcloud"
TURN = images_dir() / "appliance/files/usr/lib/vcloud/appliance-turn"
PRIVATE = 'mount --bind "$0/etc" /etc && mount --bind "$0/run" /run && exec "$@"'
NOT_PER_NAMESPACE = {
    *("net/netfilter/nf_conntrack_max", "net/netfilter/nf_conntrack_buckets"),
    *(f"net/{ip}/neigh/default/gc_thresh{number}" for ip in ("ipv4", "ipv6") for number in (2, 3)),
}
OUTSIDE4, OUTSIDE6 = "203.0.113.5", "2001:db8:203::5"
"""A server on the internet, behind the uplink segment's gateway."""
SERIAL = itertools.count()
LONG, SHORT = 60.0, 0.7
"""Seconds for what must happen, and for what must not happen."""


class Namespace:
    """A network namespace that `ip netns` knows."""

    def __init__(self, name: str) -> None:
        self.name = name
        subprocess.run(["ip", "netns", "add", name], check=True)
        self._sockets = Sockets(Path("/run/netns", name))

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        return self._sockets.make(family, kind, protocol)

    def run(self, *argv: str, **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["ip", "netns", "exec", self.name, *argv], text=True, capture_output=True, **options
        )  # type: ignore[call-overload, no-any-return]

    def ip(self, commands: Iterable[str], *options: str) -> None:
        subprocess.run(
            ["ip", *options, "-n", self.name, "-batch", "-"],
            input="\n".join(commands) + "\n",
            text=True,
            check=True,
        )

    def sysctl(self, settings: Iterable[tuple[str, str]]) -> None:
        script = "".join(
            f"echo {value} > /proc/sys/{key}\n"
            for key, value in settings
            if key not in NOT_PER_NAMESPACE
        )
        self.run("sh", "-ec", script, check=True)

    def pings(self, address: str, *options: str, wait: float = LONG) -> bool:
        question = ("ping", "-n", "-c", "1", "-W", f"{wait:g}", *options, address)
        return self.run(*question).returncode == 0

    def pings_in_vain(self, address: str, *options: str) -> bool:
        return not self.pings(address, *options, wait=1)

    def close(self) -> None:
        self._sockets.close()
        subprocess.run(["ip", "netns", "delete", self.name], check=True)


class Servers:
    """Answers on any number of sockets. TCP: says its own name, then echoes. UDP: its name and what
    it got.
    """

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._wake, waker = socket.socketpair()
        self._selector.register(waker, selectors.EVENT_READ, None)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def add(self, where: Namespace, label: str, port: int, kind: int = socket.SOCK_STREAM) -> None:
        """Listens in both versions of IP on every address of the namespace."""
        server = where.socket(socket.AF_INET6, kind)
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("::", port))
        if kind == socket.SOCK_STREAM:
            server.listen(256)
        self._selector.register(server, selectors.EVENT_READ, f"{label}:{port}")

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    return
                with contextlib.suppress(OSError):
                    self._answer(key.fileobj, key.data)  # type: ignore[arg-type]

    def _answer(self, ready: socket.socket, label: str) -> None:
        if ready.type == socket.SOCK_DGRAM:
            data, peer = ready.recvfrom(65536)
            ready.sendto(f"{label} {_bare(peer[0])}\n".encode() + data, peer)
        elif ready.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            connection, peer = ready.accept()
            connection.sendall(f"{label} {_bare(peer[0])}\n".encode())
            self._selector.register(connection, selectors.EVENT_READ, label)
        elif data := ready.recv(65536):
            ready.sendall(data)
        else:
            self._selector.unregister(ready)
            ready.close()

    def close(self) -> None:
        self._wake.send(b"x")
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._wake.close()


class Fabric:
    """The namespaces of one design. Nothing passes before the first `load`."""

    def __init__(self, design: Design, uplink: Uplink, folder: Path, program: Path) -> None:
        self.design, self.uplink = design, uplink
        self.tag = f"vf{os.getpid()}n{next(SERIAL)}"
        self.generations = itertools.count(1)
        self.folder = folder
        self.etc = folder / "etc"
        (self.etc / "vcloud").mkdir(parents=True)
        (folder / "run").mkdir()
        shutil.copytree(SCRIPTS, folder / "programs")
        shutil.copy(TURN, folder / "programs")
        shutil.copy(program, folder / "programs")
        self._cleanup = contextlib.ExitStack()
        try:
            self._build()
        except BaseException:
            self._cleanup.close()
            raise

    def __enter__(self) -> Fabric:
        return self

    def __exit__(self, *exception: object) -> None:
        self._cleanup.close()

    def _build(self) -> None:
        self.host = self._namespace("host")
        self.outside = self._namespace("outside")
        self.firewall = self._namespace("fw")
        self.vms = {vm.name: self._namespace(vm.name) for vm in self.design.workloads}
        self.servers = Servers()
        self._cleanup.callback(self.servers.close)
        self._bridges()
        self.load_text((SCRIPTS / "closed.nft").read_text(), check=True)
        self._identify(self.firewall, self.design.firewall)
        for vm in self.design.workloads:
            self._identify(self.vms[vm.name], vm)
        self._connect_outside()

    def _namespace(self, name: str) -> Namespace:
        namespace = Namespace(f"{self.tag}-{name}")
        self._cleanup.callback(namespace.close)
        namespace.sysctl(
            (("net/ipv6/conf/default/accept_dad", "0"), ("net/ipv6/conf/all/disable_ipv6", "0"))
        )
        namespace.ip(["link set lo up"])
        return namespace

    def _bridges(self) -> None:
        self.host.sysctl(
            [("net/ipv6/conf/default/disable_ipv6", "1")]
        )  # libvirt does this for a network without addresses
        commands = []
        for zone in self.design.zones:
            commands += [
                f"link add {zone.network.bridge} type bridge mcast_snooping 0",
                f"link set {zone.network.bridge} up",
            ]
            commands += self._plug(zone.gateway, self.firewall, zone.network.bridge)
        for vm in self.design.workloads:
            for nic in vm.nics:
                commands += self._plug(
                    nic, self.vms[vm.name], self.design.zone(nic.zone).network.bridge
                )
        self.host.ip(commands)

    def _plug(self, nic: Nic, where: Namespace, bridge: str) -> Iterator[str]:
        yield f"link add {nic.tap} type veth peer name {nic.ifname} address {nic.mac} netns {where.name}"
        yield f"link set {nic.tap} master {bridge} up"
        yield f"link set {nic.tap} type bridge_slave isolated {'on' if nic.isolated else 'off'}"

    def _connect_outside(self) -> None:
        gateway6 = self.uplink.gateway6
        self.outside.ip(
            [
                f"addr add {self.uplink.gateway4}/{self.uplink.address4.network.prefixlen} dev eth0",
                *([f"addr add {gateway6}/64 dev eth0"] if gateway6 else []),
                f"addr add {OUTSIDE4}/32 dev lo",
                f"addr add {OUTSIDE6}/128 dev lo",
            ]
        )

    def _identify(self, where: Namespace, vm: Vm) -> None:
        """What `guest identity` does, with iproute2."""
        if vm is self.design.firewall:
            nic = vm.nics[-1]
            (self.etc / "vcloud/identity").write_text("\n".join(self._firewall_identity()))
            self.outside.ip(
                [
                    f"link add eth0 type veth peer name {nic.ifname} address {nic.mac} netns {where.name}",
                    "link set eth0 up",
                ]
            )
        lines = [line.split() for line in identity_lines(self.design, vm, self.uplink)]
        where.ip(f"link set {nic.ifname} up" for nic in vm.nics)
        where.sysctl((line[1], line[2]) for line in lines if line[0] == "sysctl")
        for version in ("-4", "-6"):
            where.ip((rule for line in lines for rule in _mark_rules(line)), version)
        where.ip(filter(None, map(_as_iproute2, lines)))

    def load(self, design: Design) -> str:
        """Loads the design's ruleset; the digest that the firewall printed."""
        return self.load_text(render_firewall(design, self.uplink), check=True).stdout.split()[0]

    def load_text(
        self, ruleset: str, generation: int | None = None, *, check: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """`firewall-load` of the next run, if `generation` names no other."""
        number = next(self.generations) if generation is None else generation
        return self._script("firewall-load", str(number), input=ruleset, check=check)

    def begin_load(self, generation: int) -> subprocess.Popen[str]:
        """`firewall-load` of a run, which gets its ruleset when it is written to its stdin."""
        return subprocess.Popen(
            [
                "ip",
                "netns",
                "exec",
                self.firewall.name,
                *self._argv("firewall-load", str(generation)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def is_locked(self) -> bool:
        """Whether a load goes on."""
        with (self.folder / "run/vcloud-firewall-load").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def is_awaited(self) -> bool:
        """Whether a load waits until another one has ended."""
        inode = (self.folder / "run/vcloud-firewall-load").stat().st_ino
        locks = Path("/proc/locks").read_text().splitlines()
        return any("->" in line and f":{inode} " in line for line in locks)

    def report(self, *words: str) -> FirewallReport:
        done = self._script("firewall-report", *(words or ("counts",)), check=True)
        return parse_firewall_report(done.stdout.encode())

    def report_within(self, memory: int) -> subprocess.CompletedProcess[str]:
        """`firewall-report` whose programs may have so many bytes of address space."""
        return self.firewall.run("prlimit", f"--as={memory}", *self._argv("firewall-report"))

    def differences(self) -> dict[Claim, tuple[str, ...]]:
        """What differs in the firewall from its identity. Its NICs are ends of cables here, and some
        settings are the whole machine's. Where the machine's kernel does not tell its hooks, they
        differ in nothing.
        """
        found = [
            (*words[:3], "-", *words[4:]) if words[0] == "link" and words[3] == "veth" else words
            for words in self.report().network
            if NOT_PER_NAMESPACE.isdisjoint(words)
            and (words[0], words[3:4]) != ("hook", ("unseen",))
        ]
        named = differences(self._firewall_identity(), found)
        return {claim: texts for claim, texts in named.items() if texts}

    def give_identity(self) -> None:
        """What `up` does to the firewall to mend it: the guest program applies the identity."""
        self._script("guest", "boot", check=True)

    def _firewall_identity(self) -> list[str]:
        lines = identity_lines(self.design, self.design.firewall, self.uplink)
        return [line for line in lines if NOT_PER_NAMESPACE.isdisjoint(line.split())]

    def counted(self) -> Counter[str]:
        """Packets that the rules of each flow and control have counted: `flow:store`, `ctl:input`."""
        counted = Counter[str]()
        for item in json.loads(self._script("firewall-report", "counts", check=True).stdout)[
            "ruleset"
        ]["nftables"]:
            rule = item.get("rule", {})
            for part in rule.get("expr", ()) if "comment" in rule else ():
                counted[rule["comment"].split()[0]] += part.get("counter", {"packets": 0})[
                    "packets"
                ]
        return counted

    def _script(self, *argv: str, **options: object) -> subprocess.CompletedProcess[str]:
        return self.firewall.run(*self._argv(*argv), **options)

    def _argv(self, name: str, *argv: str) -> tuple[str, ...]:
        program = str(self.folder / "programs" / name)
        return (
            "unshare",
            "--mount",
            "--uts",
            "sh",
            "-c",
            PRIVATE,
            str(self.folder),
            program,
            *argv,
        )

    def forget_connections(self) -> None:
        """What a restart of the firewall VM does to conntrack."""
        message = struct.pack(
            "=IHHIIBBH", 20, (1 << 8) | 2, 1 | 4, 1, 0, 0, 0, 0
        )  # CTNETLINK, DELETE of everything, with acknowledgement
        with self.firewall.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as netlink:
            netlink.send(message)
            (error,) = struct.unpack_from("=i", netlink.recv(4096), 16)
        if error:
            raise OSError(-error, "flushing conntrack")

    def card(self, vm: str) -> Nic:
        return next(one for one in self.design.workloads if one.name == vm).nics[0]

    def address(self, vm: str, version: int) -> str:
        card = self.card(vm)
        return str(card.address4 if version == 4 else card.address6)

    def uplink_address(self, version: int) -> str:
        interface = self.uplink.address4 if version == 4 else self.uplink.address6
        return str(interface.ip) if interface else ""


class Live:
    """A TCP connection to one of `Servers`, after its greeting."""

    def __init__(self, source: Namespace, address: str, port: int, wait: float = LONG) -> None:
        self.socket = source.socket(
            socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM
        )
        self.socket.settimeout(wait)
        try:
            self.socket.connect((address, port))
            self.greeting = self.line()
        except OSError:
            self.socket.close()
            raise

    def __enter__(self) -> Live:
        return self

    def __exit__(self, *exception: object) -> None:
        self.socket.close()

    def line(self) -> str:
        data = b""
        while not data.endswith(b"\n"):
            data += self.socket.recv(4096)
        return data.decode().strip()

    def echoes(self, text: str, wait: float = LONG) -> bool:
        self.socket.settimeout(wait)
        try:
            self.socket.sendall(f"{text}\n".encode())
            return self.line() == text
        except TimeoutError:
            return False


def greeting(source: Namespace, address: str, port: int, wait: float = LONG) -> str:
    """What the server says (its name and port, and the address it sees), or nothing if no
    connection came about in time.
    """
    try:
        with Live(source, address, port, wait) as live:
            return live.greeting
    except TimeoutError:
        return ""


def unanswered(source: Namespace, address: str, port: int, wait: float = SHORT) -> bool:
    """Whether no connection comes about."""
    return greeting(source, address, port, wait) == ""


def datagram(
    source: Namespace, address: str, port: int, payload: bytes = b"x", wait: float = LONG
) -> bytes:
    """The answer to a datagram, or nothing."""
    with source.socket(
        socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM
    ) as client:
        client.settimeout(wait)
        client.connect((address, port))
        try:
            client.send(payload)
            return client.recv(65536)
        except TimeoutError:
            return b""


def _bare(address: str) -> str:
    return address.removeprefix("::ffff:")


def _as_iproute2(line: Sequence[str]) -> str:
    match line:
        case ["addr", ifname, address]:
            return f"addr add {address} dev {ifname}" + (" nodad" if ":" in address else "")
        case ["neigh", ifname, address, mac]:
            return f"neigh replace {address} lladdr {mac} dev {ifname} nud permanent"
        case ["route", ifname, destination, *rest]:
            return f"route replace {destination} dev {ifname} {' '.join(rest)}" + (
                " onlink" if "via" in rest else ""
            )
        case ["rule", address, "table", table]:
            return f"rule add from {address} lookup {table}"
    return ""


def _mark_rules(line: Sequence[str]) -> Iterator[str]:
    if line[0] == "route-mark":
        yield f"rule add fwmark {line[1]} lookup main priority 1000 protocol 86"
        yield "rule add iif lo lookup main priority 1001 protocol 86"
        yield "rule add blackhole priority 1002 protocol 86"
