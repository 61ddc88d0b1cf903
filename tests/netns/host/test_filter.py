"""What a VM can send past its network filter: nothing reaches the host's own end of the bridge, which
has no address there and yet takes in packets for every address of the host.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.netns import frames
from tests.netns.host.machine import DESIGN, words_of
from tests.netns.namespaces import Sockets, held
from vcloud.compile.libvirt.nwfilter import (
    BROADCAST,
    OPEN_RULES,
    FilterRule,
    closed_rules,
)

BRIDGE_MAC, VM_MAC, OTHER_MAC = "52:54:00:00:00:01", "52:54:00:00:00:02", "52:54:00:00:00:03"
HOST, VM = "192.0.2.9", "10.68.41.178"
PORT = 5140
GATEWAY = DESIGN.zone("app").gateway.mac
RULES: dict[str, tuple[FilterRule, ...]] = {
    "none": (),
    "open": OPEN_RULES,
    "closed": closed_rules(DESIGN),
}
ANY_MULTICAST, NEIGHBOURS = "01:00:5e:00:00:01", "33:33:00:00:00:01"
ARP, IPV4, IPV6 = 0x0806, 0x0800, 0x86DD
START = f"""\
ip link set lo up
ip address add {HOST}/32 dev lo
ip link add zone address {BRIDGE_MAC} type bridge forward_delay 0
sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.zone.rp_filter=0
sysctl -qw net.ipv6.conf.zone.disable_ipv6=1
ip link set zone up
for name in vm firewall; do
    ip link add $name type veth peer name port-$name
    ip link set port-$name master zone up
    ip link set $name up
done
bridge link set dev port-vm isolated on
"""


@dataclass(frozen=True, slots=True)
class Zone:
    """A host with one zone. A frame that is sent from `vm` comes in at an isolated port."""

    sockets: Sockets

    def send(self, frame: bytes) -> None:
        with self.sockets.make(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind(("vm", 0))
            raw.send(frame)

    def reaches_host(self, target: str) -> bool:
        """Whether a datagram for the host, in a frame for this MAC address, is taken in there."""
        with self.sockets.make(socket.AF_INET, socket.SOCK_DGRAM) as listener:
            listener.bind(("", PORT))
            packet = frames.udp(VM, 4000, HOST, PORT, b"secret")
            self.send(frames.ethernet(VM_MAC, target, packet))
            # The bridge has handled the frame when this one has come back through it.
            self.passes(GATEWAY, IPV4)
            listener.setblocking(False)
            try:
                return listener.recv(100) == b"secret"
            except BlockingIOError:
                return False

    def passes(self, target: str, kind: int, source: str = VM_MAC) -> bool:
        """Whether a frame reaches the firewall. One that surely does is sent behind it."""
        with self.sockets.make(
            socket.AF_PACKET, socket.SOCK_RAW, socket.htons(frames.ALL_ETHERNET)
        ) as firewall:
            firewall.bind(("firewall", 0))
            firewall.settimeout(30)
            self.send(_frame(source, target, kind, b"first"))
            self.send(_frame(VM_MAC, GATEWAY, IPV4, b"last"))
            seen = []
            while not seen or b"last" not in seen[-1]:
                seen.append(firewall.recv(2000))
            return any(b"first" in frame for frame in seen)


def _frame(source: str, target: str, kind: int, content: bytes) -> bytes:
    packets = {
        IPV4: frames.udp(VM, 4000, "198.51.100.7", 9, content),
        IPV6: frames.udp("2001:db8::2", 4000, "2001:db8:7::7", 9, content),
        ARP: content.ljust(60, b"\0"),
    }
    macs = bytes.fromhex((target + source).replace(":", ""))
    return macs + kind.to_bytes(2, "big") + packets[kind]


@pytest.fixture(params=RULES)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def zone(kind: str) -> Iterator[Zone]:
    script = [START, "ebtables -t nat -N filter"]
    script += [f"ebtables -t nat -A filter {words_of(rule, VM_MAC)}" for rule in RULES[kind]]
    with held(
        "uts", script="\n".join([*script, "ebtables -t nat -A PREROUTING -i port-vm -j filter"])
    ) as pid:
        sockets = Sockets(Path(f"/proc/{pid}/ns/net"))
        yield Zone(sockets)
        sockets.close()


@pytest.mark.parametrize("target", [BRIDGE_MAC, BROADCAST, ANY_MULTICAST, NEIGHBOURS])
def test_no_packet_of_a_vm_in_a_closed_zone_reaches_its_host(
    zone: Zone, kind: str, target: str
) -> None:
    assert zone.reaches_host(target) == (kind != "closed")


def test_what_a_vm_needs_passes_and_no_other_frame(zone: Zone, kind: str) -> None:
    assert zone.passes(GATEWAY, IPV4)
    assert zone.passes(GATEWAY, IPV6)
    assert zone.passes(BROADCAST, ARP)
    assert zone.passes(NEIGHBOURS, IPV6)
    for target, ethertype in ((OTHER_MAC, IPV4), (BROADCAST, IPV4), (NEIGHBOURS, ARP)):
        assert zone.passes(target, ethertype) == (kind != "closed")
    assert zone.passes(GATEWAY, IPV4, source=OTHER_MAC) == (kind == "none")
