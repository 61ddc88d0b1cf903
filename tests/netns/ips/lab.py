"""A vApp's inspected zones in network namespaces, with the real Suricata of the IPS image between
every zone and the firewall.

One namespace per zone holds the addresses of all its VMs; one is the firewall, which routes and has
the outside's addresses, too; one is the IPS, with the image's root folder under an overlay and the
image's own scripts.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import itertools
import json
import select
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from tests.netns.namespaces import Sockets, held
from vcloud.data import images_dir
from vcloud.design.model import Design, Nic
from vcloud.guests.setup import ips_archive

SCRIPTS = images_dir() / "ips/files/usr/lib/vcloud"
TURN = images_dir() / "appliance/files/usr/lib/vcloud/appliance-turn"
OUTSIDE4, OUTSIDE6 = "203.0.113.5", "2001:db8:203::5"
SIOCETHTOOL = 0x8946
OFFLOADS_OFF = (0x15, 0x17, 0x19, 0x1F, 0x24, 0x2C)
"""ETHTOOL_SRXCSUM, STXCSUM, SSG, STSO, SGSO and SGRO: what `plain_offloads` does for a VM's card.
"""
LONGEST = 120.0
"""Seconds that anything may take."""
QUIET = 0.15
"""Seconds after which a packet that was dropped has had its chance to arrive."""


class Machine:
    """Namespaces for network, mounts and processes."""

    def __init__(self) -> None:
        self._open = contextlib.ExitStack()
        self.pid = self._open.enter_context(held())
        self._sockets = Sockets(Path(f"/proc/{self.pid}/ns/net"))
        self._open.callback(self._sockets.close)
        self.run("ip", "link", "set", "lo", "up")

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        return self._sockets.make(family, kind, protocol)

    def run(
        self, *argv: str, stdin: bytes = b"", check: bool = True
    ) -> subprocess.CompletedProcess[bytes]:
        enter = ["nsenter", "-t", str(self.pid), "-m", "-n", "-p"]
        done = subprocess.run([*enter, *argv], input=stdin, capture_output=True, timeout=600)
        assert done.returncode == 0 or not check, (argv, done)
        return done

    def ip(self, commands: Iterable[str]) -> None:
        self.run("ip", "-batch", "-", stdin="\n".join(commands).encode())

    def plain_offloads(self, card: str) -> None:
        with self.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            for command in OFFLOADS_OFF:
                value = ctypes.create_string_buffer(struct.pack("II", command, 0))
                with contextlib.suppress(OSError):
                    fcntl.ioctl(
                        control,
                        SIOCETHTOOL,
                        struct.pack("16sP", card.encode(), ctypes.addressof(value)),
                    )

    def close(self) -> None:
        self._open.close()


def connect(one: Machine, card: str, other: Machine, peer: str) -> None:
    """A cable between two machines."""
    subprocess.run(
        [
            "ip",
            "link",
            "add",
            card,
            "netns",
            str(one.pid),
            "type",
            "veth",
            "peer",
            "name",
            peer,
            "netns",
            str(other.pid),
        ],
        check=True,
    )
    for machine, name in ((one, card), (other, peer)):
        machine.ip([f"link set {name} up"])
        machine.plain_offloads(name)


@dataclass(frozen=True, slots=True)
class Seen:
    """What came of an exchange."""

    arrived: bool
    """The payload, to its last byte."""
    alerts: tuple[tuple[int, bool], ...]
    """Sid and whether it was dropped, of every alert on this connection."""

    @property
    def blocked(self) -> set[int]:
        return {sid for sid, dropped in self.alerts if dropped}

    @property
    def logged(self) -> set[int]:
        return {sid for sid, _ in self.alerts}


class IpsLab:
    """The machines of one design. Nothing passes before the first `load`."""

    def __init__(self, design: Design, root: Path, guest: Path, folder: Path) -> None:
        self.design = design
        self._machines = contextlib.ExitStack()
        # Each connection has a port of its own: Suricata goes on dropping a connection's ports once
        # it has dropped it.
        self._ports = itertools.count(20000)
        try:
            self.ips, self.firewall = self._machine(), self._machine()
            self.zones = {zone.name: self._machine() for zone in design.zones}
            self._furnish(root, guest, folder)
            self._wire()
        except BaseException:
            self._machines.close()
            raise

    def __enter__(self) -> IpsLab:
        return self

    def __exit__(self, *_: object) -> None:
        self._machines.close()

    def _machine(self) -> Machine:
        machine = Machine()
        self._machines.callback(machine.close)
        return machine

    def _furnish(self, root: Path, guest: Path, folder: Path) -> None:
        """The image's root folder, or its file system, to be written to without harm, with the
        scripts of this checkout.
        """
        self._root = folder / "root"
        for name in ("upper", "work", "root"):
            (folder / name).mkdir()
        if root.is_file():
            (folder / "image").mkdir()
            self.ips.run("mount", "-o", "loop,ro", str(root), str(folder / "image"))
            root = folder / "image"
        overlay = f"lowerdir={root},upperdir={folder / 'upper'},workdir={folder / 'work'}"
        self.ips.run("mount", "-t", "overlay", "overlay", "-o", overlay, str(self._root))
        for kind, name in (("proc", "proc"), ("sysfs", "sys"), ("tmpfs", "run")):
            self.ips.run("mount", "-t", kind, kind, str(self._root / name))
        self.ips.run("mount", "--bind", "/dev", str(self._root / "dev"))
        place = self.path("/usr/lib/vcloud")
        place.mkdir(parents=True, exist_ok=True)
        for source in (guest, TURN, *SCRIPTS.iterdir()):
            (place / source.name).write_bytes(source.read_bytes())
            (place / source.name).chmod(0o755)
        self.path("/etc/vcloud").mkdir(exist_ok=True)

    def path(self, inside: str) -> Path:
        """A file of the IPS, as this process sees it."""
        return Path(f"/proc/{self.ips.pid}/root{self._root}{inside}")

    def _wire(self) -> None:
        assert self.design.ips is not None
        self.firewall.run(
            "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"
        )
        self.firewall.ip(f"addr add {address} dev lo" for address in (OUTSIDE4, OUTSIDE6))
        cards = self.design.ips.nics
        for outer, inner in zip(cards[::2], cards[1::2], strict=True):
            connect(self.zones[outer.zone], "eth0", self.ips, outer.ifname)
            connect(
                self.ips, inner.ifname, self.firewall, self.design.zone(inner.zone).gateway.ifname
            )
        for zone in self.design.zones:
            if zone.inspected:
                self._address(zone.name, zone.gateway)

    def _address(self, zone: str, gateway: Nic) -> None:
        members = [nic for vm in self.design.workloads for nic in vm.nics if nic.zone == zone]
        own = [
            f"addr add {address} dev eth0 {flag}"
            for nic in members
            for address, flag in ((nic.address4, ""), (nic.address6, "nodad"))
        ]
        routes = [
            line
            for via in (gateway.address4, gateway.address6)
            for line in (f"route add {via} dev eth0", f"route add default via {via}")
        ]
        self.zones[zone].ip([*own, *routes])
        there = [
            f"route add {address} dev {gateway.ifname}"
            for nic in members
            for address in (nic.address4, nic.address6)
        ]
        self.firewall.ip(
            [
                f"addr add {gateway.address4} dev {gateway.ifname}",
                f"addr add {gateway.address6} dev {gateway.ifname} nodad",
                *there,
            ]
        )

    def chroot(self, *argv: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return self.ips.run("chroot", str(self._root), *argv, stdin=stdin, check=False)

    def load(self, files: Mapping[str, bytes], generation: int = 0) -> dict[str, object]:
        """What `ips-load` says of these files; AssertionError with its reason if it refuses them."""
        done = self.chroot("/usr/lib/vcloud/ips-load", str(generation), stdin=ips_archive(files))
        assert done.returncode == 0, done.stderr.decode()
        answer: dict[str, object] = json.loads(done.stdout)
        return answer

    def report(self) -> dict[str, object]:
        answer: dict[str, object] = json.loads(self.chroot("/usr/lib/vcloud/ips-report").stdout)
        return answer

    @property
    def log(self) -> str:
        file = self.path("/var/log/suricata/eve.json")
        return file.read_text() if file.exists() else ""

    def _end_of_log(self) -> int:
        """Where its next whole line begins; Suricata may be half way through one."""
        return self.log.rfind("\n") + 1

    def alerts(self, port: int, since: int = 0) -> tuple[tuple[int, bool], ...]:
        """Of the connections of a client's port, in the log from this place on. ICMP has port 0."""
        whole, _, _half_written = self.log[since:].rpartition("\n")
        events = map(json.loads, whole.splitlines())
        ours = (
            event
            for event in events
            if event["event_type"] == "alert"
            and port in (event.get("src_port", 0), event.get("dest_port", 0))
        )
        return tuple(
            (event["alert"]["signature_id"], event["alert"]["action"] == "blocked")
            for event in ours
        )

    def machine(self, address: str) -> Machine:
        """Where an address is."""
        at = ip_address(address)
        return next(
            (
                self.zones[zone.name]
                for zone in self.design.zones
                if at in zone.prefix4 or at in zone.prefix6
            ),
            self.firewall,
        )

    def tcp(
        self,
        source: str,
        target: str,
        port: int,
        payload: bytes | Sequence[bytes],
        request: bytes = b"",
    ) -> Seen:
        """One connection. The client sends the payload, or the server does once it has got the
        request. Pieces become segments of their own.
        """
        pieces = [payload] if isinstance(payload, bytes) else payload
        since = self._end_of_log()
        with self.connection(source, target, port) as (client, server):
            if request:
                client.sendall(request)
                receive(server, len(request))
                sender, receiver = server, client
            else:
                sender, receiver = client, server
            threading.Thread(target=send_pieces, args=(sender, pieces), daemon=True).start()
            return self._outcome(client.getsockname()[1], receiver, b"".join(pieces), since)

    @contextlib.contextmanager
    def connection(
        self, source: str, target: str, port: int
    ) -> Iterator[tuple[socket.socket, socket.socket]]:
        """Both ends of an open connection."""
        family = socket.AF_INET6 if ":" in target else socket.AF_INET
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(self.machine(target).socket(family, socket.SOCK_STREAM))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((target, port))
            listener.listen()
            listener.settimeout(LONGEST)
            client = stack.enter_context(self.machine(source).socket(family, socket.SOCK_STREAM))
            client.settimeout(LONGEST)
            client.bind((source, next(self._ports)))
            client.connect((target, port))
            server = stack.enter_context(listener.accept()[0])
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                # What a drop left unsent must not outlive the test.
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            yield client, server

    def udp(self, source: str, target: str, port: int, payload: bytes) -> Seen:
        since = self._end_of_log()
        family = socket.AF_INET6 if ":" in target else socket.AF_INET
        with (
            self.machine(target).socket(family, socket.SOCK_DGRAM) as server,
            self.machine(source).socket(family, socket.SOCK_DGRAM) as client,
        ):
            server.bind((target, port))
            client.bind((source, next(self._ports)))
            client.sendto(payload, (target, port))
            return self._outcome(client.getsockname()[1], server, payload, since)

    def echo(self, source: str, target: str, payload: bytes) -> Seen:
        """An ICMP echo request and what came back."""
        since = self._end_of_log()
        six = ":" in target
        kind, protocol = (128, socket.IPPROTO_ICMPV6) if six else (8, socket.IPPROTO_ICMP)
        with self.machine(source).socket(
            socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_RAW, protocol
        ) as raw:
            raw.bind((source, 0))
            head = struct.pack("!BBHHH", kind, 0, 0, 7, 7)
            total = sum(
                struct.unpack(
                    f"!{(len(head + payload) + 1) // 2}H",
                    head + payload + b"\0" * (len(payload) % 2),
                )
            )
            total = (total & 0xFFFF) + (total >> 16)
            head = struct.pack("!BBHHH", kind, 0, ~(total + (total >> 16)) & 0xFFFF, 7, 7)
            raw.sendto(head + payload, (target, 0))
            return self._outcome(0, raw, payload, since)

    def _outcome(self, port: int, receiver: socket.socket, payload: bytes, since: int) -> Seen:
        """Waits until all has arrived, or something was dropped and no more comes."""
        deadline = time.monotonic() + LONGEST
        with Inbox(receiver) as inbox:
            while not inbox.holds(payload) and time.monotonic() < deadline:
                if any(dropped for _, dropped in self.alerts(port, since)):
                    time.sleep(QUIET)
                    break
                time.sleep(0.01)
            return Seen(inbox.holds(payload), self.alerts(port, since))


class Inbox:
    """Reads a socket until it is left."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._got = bytearray()
        self._left = False
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Inbox:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left = True
        self._thread.join()

    def _read(self) -> None:
        while not self._left:
            ready, _, _ = select.select([self._end], [], [], 0.02)
            if ready and not self._take():
                return

    def _take(self) -> bool:
        with contextlib.suppress(OSError):
            data = self._end.recv(1 << 18)
            self._got += data
            return bool(data)
        return False

    def holds(self, payload: bytes) -> bool:
        return len(self._got) >= len(payload) and bytes(self._got).endswith(payload)


def send_pieces(end: socket.socket, pieces: Sequence[bytes]) -> None:
    with contextlib.suppress(OSError):
        for index, piece in enumerate(pieces):
            time.sleep(0.02 if index else 0)
            end.sendall(piece)


def receive(end: socket.socket, size: int) -> bytes:
    """So many bytes; raises TimeoutError."""
    got = b""
    while len(got) < size and (data := end.recv(size - len(got))):
        got += data
    return got
