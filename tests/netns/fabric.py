"""A vApp in network namespaces: real bridges with isolated ports, real addresses, the real ruleset,
and real packets.

One namespace stands for the host and holds the zones' bridges; one each for the firewall, every
workload VM and the outside. Addresses, neighbours, routes and sysctls come from the identity that
the VMs would get, so what passes here is what passes there. `firewall-load` and `firewall-report`
are the programs of the firewall's image; each sees a private, otherwise empty /etc.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import selectors
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

SCRIPTS = images_dir() / "firewall/files/usr/lib/vcloud"
PRIVATE_ETC = 'mount --bind "$0" /etc && exec "$@"'
NOT_PER_NAMESPACE = "net/netfilter/nf_conntrack_max"
OUTSIDE4, OUTSIDE6 = "203.0.113.5", "2001:db8:203::5"
"""A server on the internet, behind the uplink segment's gateway."""
SERIAL = itertools.count()


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

    def ip(self, commands: Iterable[str]) -> None:
        subprocess.run(
            ["ip", "-n", self.name, "-batch", "-"],
            input="\n".join(commands) + "\n",
            text=True,
            check=True,
        )

    def sysctl(self, settings: Iterable[tuple[str, str]]) -> None:
        script = "".join(
            f"echo {value} > /proc/sys/{key}\n"
            for key, value in settings
            if key != NOT_PER_NAMESPACE
        )
        self.run("sh", "-ec", script, check=True)

    def pings(self, address: str, *options: str) -> bool:
        return self.run("ping", "-n", "-c", "1", "-W", "1", *options, address).returncode == 0

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

    def __init__(self, design: Design, uplink: Uplink, folder: Path) -> None:
        self.design, self.uplink = design, uplink
        self.tag = f"vf{os.getpid()}n{next(SERIAL)}"
        self.etc = folder / "etc"
        (self.etc / "vcloud").mkdir(parents=True)
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
            self.outside.ip(
                [
                    f"link add eth0 type veth peer name {nic.ifname} address {nic.mac} netns {where.name}",
                    "link set eth0 up",
                ]
            )
        lines = [line.split() for line in identity_lines(self.design, vm, self.uplink)]
        where.ip(f"link set {nic.ifname} up" for nic in vm.nics)
        where.sysctl((line[1], line[2]) for line in lines if line[0] == "sysctl")
        where.ip(filter(None, map(_as_iproute2, lines)))

    def load(self, design: Design) -> str:
        """Loads the design's ruleset; the digest that the firewall printed."""
        return self.load_text(render_firewall(design, self.uplink), check=True).stdout.strip()

    def load_text(self, ruleset: str, *, check: bool = False) -> subprocess.CompletedProcess[str]:
        return self._script("firewall-load", input=ruleset, check=check)

    def report(self) -> FirewallReport:
        return parse_firewall_report(self._script("firewall-report", check=True).stdout.encode())

    def counted(self) -> Counter[str]:
        """Packets that the rules of each flow and control have counted: `flow:store`, `ctl:input`."""
        counted = Counter[str]()
        for item in json.loads(self._script("firewall-report", check=True).stdout)["ruleset"][
            "nftables"
        ]:
            rule = item.get("rule", {})
            for part in rule.get("expr", ()) if "comment" in rule else ():
                counted[rule["comment"].split()[0]] += part.get("counter", {"packets": 0})[
                    "packets"
                ]
        return counted

    def _script(self, name: str, **options: object) -> subprocess.CompletedProcess[str]:
        return self.firewall.run(
            "unshare",
            "--mount",
            "sh",
            "-c",
            PRIVATE_ETC,
            str(self.etc),
            str(SCRIPTS / name),
            **options,
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

    def __init__(self, source: Namespace, address: str, port: int, wait: float = 5.0) -> None:
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

    def echoes(self, text: str, wait: float = 3.0) -> bool:
        self.socket.settimeout(wait)
        try:
            self.socket.sendall(f"{text}\n".encode())
            return self.line() == text
        except TimeoutError:
            return False


def greeting(source: Namespace, address: str, port: int, wait: float = 0.7) -> str:
    """What the server says (its name and port, and the address it sees), or nothing if no
    connection came about in time.
    """
    try:
        with Live(source, address, port, wait) as live:
            return live.greeting
    except TimeoutError:
        return ""


def datagram(
    source: Namespace, address: str, port: int, payload: bytes = b"x", wait: float = 0.7
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
