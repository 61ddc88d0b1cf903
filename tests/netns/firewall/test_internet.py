"""Where a flow to `internet` leads, where only a flow to a prefix leads, and who reaches a published
port.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from pathlib import Path

import pytest

from tests.design_builder import UPLINK, build_design, with_flows
from tests.netns import frames
from tests.netns.fabric import LONG, OUTSIDE4, OUTSIDE6, SHORT, Fabric, Live, greeting, unanswered
from tests.netns.firewall.traffic import DATAGRAM, bound, settled
from vcloud.design.internet import is_internet
from vcloud.design.model import Design
from vcloud.design.names import NAT_NETWORK

pytestmark = pytest.mark.timeout(900)

INTERNET = """
    web: internet -> web tcp/80=8080
    out: api -> internet tcp/443 udp/123 icmp
"""
BOX = replace(
    UPLINK,
    network=NAT_NETWORK,
    bridge="",
    address4=IPv4Interface("172.16.5.9/24"),
    gateway4=IPv4Address("172.16.5.1"),
    address6=IPv6Interface("fd77:1::9/64"),
    gateway6=IPv6Address("fd77:1::1"),
    beside=(IPv4Network("198.51.100.0/24"), IPv6Network("2001:db8:77::/64")),
)
"""A box whose vApps are behind its own NAT. It has public addresses beside its private ones."""
LOCAL = {
    "private 10": "10.99.0.5",
    "private 172": "172.16.200.5",
    "private 192": "192.168.7.10",
    "of a provider": "100.64.1.1",
    "metadata": "169.254.169.254",
    "metadata at a public address": "168.63.129.16",
    "protocols": "192.0.0.8",
    "relays of 6to4": "192.88.99.1",
    "benchmark": "198.19.0.11",
    "unique local": "fd00:ec2::254",
    "site-local": "fec0::5",
    "6to4": "2002:c0a8:70a::1",
    "teredo": "2001:0:53aa:64c::1",
    "a translated private address": "64:ff9b::c0a8:70a",
    "of a local translator": "64:ff9b:1::808:808",
    "IPv4 in IPv6": "::c0a8:70a",
    "discarded": "100::1",
    "segments": "5f00::1",
}
BESIDE = {
    "segment": {4: "198.18.0.11", 6: "2001:db8:198:18::b"},
    "NAT": {4: "198.51.100.7", 6: "2001:db8:77::7"},
}
"""Another machine in the host's networks, or the host itself."""
PUBLIC = (OUTSIDE4, OUTSIDE6, "64:ff9b::808:808", "168.63.129.17", "192.31.196.1", "2606::5")
SHOP = build_design("dmz app", {"web": "dmz", "api": "app"}, INTERNET)
BRIEF = 0.2
"""Seconds for one of many that must not answer."""


@pytest.fixture(scope="module", params=["segment", "NAT"])
def place(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, program: Path, place: str) -> Iterator[Fabric]:
    """A vApp on a segment with a router, and one behind the NAT of its host. One machine outside has
    every address of this module.
    """
    uplink = UPLINK if place == "segment" else BOX
    with Fabric(SHOP, uplink, tmp_path_factory.mktemp("fabric"), program) as fabric:
        # Without this Linux takes no packet to some of these addresses.
        fabric.outside.sysctl([("net/ipv4/conf/all/rp_filter", "0")])
        every = {*LOCAL.values(), *BESIDE[place].values(), *PUBLIC} - {OUTSIDE4, OUTSIDE6}
        for address in sorted(every):
            card = "eth0" if address in BESIDE[place].values() else "lo"
            fabric.outside.ip([f"addr add {address} dev {card} nodad"])
        for port in (22, 443, 444):
            fabric.servers.add(fabric.outside, "outside", port)
        fabric.servers.add(fabric.outside, "outside", 123, DATAGRAM)
        for port in (80, 81):
            fabric.servers.add(fabric.vms["web"], "web", port)
        yield fabric


@pytest.fixture
def net(built: Fabric) -> Fabric:
    built.load(SHOP)
    return built


def asks(net: Fabric, address: str, wait: float = LONG) -> bool:
    """Whether a server answers at the address."""
    return greeting(net.vms["api"], address, 443, wait) != ""


def asks_in_vain(net: Fabric, address: str) -> bool:
    """So short that TCP does not ask a second time."""
    return not asks(net, address, BRIEF)


def as_nft_writes(address: str) -> str:
    """nft writes an IPv6 address that holds one of IPv4 with dots."""
    return "::192.168.7.10" if address == LOCAL["IPv4 in IPv6"] else address


def to_prefixes(*prefixes: str) -> Design:
    lines = (f"lan-{number}: api -> {one} tcp/443" for number, one in enumerate(prefixes))
    return with_flows(SHOP, INTERNET + "\n".join(lines))


def wide(address: str) -> str:
    return f"{address}/{128 if ':' in address else 32}"


def test_a_flow_to_the_internet_leads_to_public_addresses_only(net: Fabric, place: str) -> None:
    """Neither to the host and its neighbours. With a flow that names them, the same machine answers."""
    local = {**LOCAL, "beside 4": BESIDE[place][4], "beside 6": BESIDE[place][6]}
    assert [address for address in PUBLIC if not asks(net, address)] == []
    assert {name: a for name, a in local.items() if not asks_in_vain(net, a)} == {}
    assert net.counted()["ctl:not-internet"] == len(local)
    denied = net.report().denied
    assert all(
        denied[net.address("api", 6 if ":" in address else 4), address, "tcp", 443] == 1
        for address in map(as_nft_writes, local.values())
    )
    net.load(to_prefixes(*map(wide, local.values())))
    assert {name: a for name, a in local.items() if not asks(net, a)} == {}
    assert [address for address in PUBLIC if not asks(net, address)] == []


def test_neither_a_connection_nor_a_ping_leads_there(net: Fabric) -> None:
    api = net.vms["api"]
    assert greeting(api, OUTSIDE4, 443)
    assert api.pings(OUTSIDE4)
    for address in ("192.168.7.10", "fd00:ec2::254"):
        assert unanswered(api, address, 443)
        assert api.pings_in_vain(address)


def test_the_gateway_is_reachable_unless_it_is_the_host(net: Fabric, place: str) -> None:
    """As a router it forwards to the internet in both."""
    for gateway in (str(net.uplink.gateway4), str(net.uplink.gateway6)):
        answers = place == "segment"
        assert asks(net, gateway, LONG if answers else BRIEF) is answers
        address = IPv4Address(gateway) if "." in gateway else IPv6Address(gateway)
        assert is_internet(net.uplink, address) is answers
    net.load(to_prefixes(str(net.uplink.gateway4), str(net.uplink.gateway6)))
    assert asks(net, str(net.uplink.gateway4))
    assert asks(net, str(net.uplink.gateway6))


def test_a_router_with_a_private_address_tells_about_the_way(net: Fabric) -> None:
    """The first router of most boxes has one. Its errors pass, and what it says of itself does not."""
    with bound(net.vms["api"], 4, 4500) as client:
        client.sendto(b"question", (OUTSIDE4, 123))
        own = net.uplink_address(4)
        quoted = frames.udp(own, 4500, OUTSIDE4, 123, b"")
        assert settled(lambda: net.counted()["flow:out"] > 0)
        nics = "52:54:00:00:00:77", SHOP.firewall.nics[-1].mac
        error = frames.error("192.168.7.10", own, 11, 0, quoted + b"expired")
        with frames.listening(net.vms["api"], "eth0") as until:
            answer = frames.udp("192.168.7.10", 123, own, 4500, b"unasked")
            frames.send(net.outside, "eth0", frames.ethernet(*nics, answer))
            frames.send(net.outside, "eth0", frames.ethernet(*nics, error))
            assert b"unasked" not in b"".join(until(b"expired"))


def test_packets_that_hide_a_private_address_in_ipv6_go_nowhere(net: Fabric) -> None:
    """Programs write ::ffff:192.168.7.10 for an address of IPv4. On a wire it is none."""
    card, gateway = net.card("api"), SHOP.zone("app").gateway.mac
    source = net.address("api", 6)
    hidden = ("::ffff:192.168.7.10", "::ffff:0:192.168.7.10", "fe80::1", "ff0e::1", "::1", "::")
    for address in hidden:
        packet = frames.udp(source, 4501, address, 123, b"hidden")
        frames.send(net.vms["api"], "eth0", frames.ethernet(card.mac, gateway, packet))
    with frames.listening(net.outside, "eth0") as until:
        for address in hidden:
            packet = frames.udp(source, 4501, address, 123, b"hidden")
            frames.send(net.vms["api"], "eth0", frames.ethernet(card.mac, gateway, packet))
        packet = frames.udp(source, 4501, OUTSIDE6, 123, b"plain")
        frames.send(net.vms["api"], "eth0", frames.ethernet(card.mac, gateway, packet))
        assert b"hidden" not in b"".join(until(b"plain"))


def test_a_prefix_is_no_more_than_itself(net: Fabric) -> None:
    """Neither its neighbours, nor other ports, nor other VMs; and inside it the longest one counts
    the packets.
    """
    design = with_flows(
        SHOP,
        """
        all: api -> 192.168.0.0/16 tcp/443
        one: api -> 192.168.7.0/24 tcp/443-444
        six: api -> fd00:ec2::/64 tcp/443
        """,
    )
    net.load(design)
    api = net.vms["api"]
    assert greeting(api, "192.168.7.10", 443)
    assert greeting(api, "192.168.7.10", 444)
    assert greeting(api, "fd00:ec2::254", 443)
    assert unanswered(api, "192.168.7.10", 22)
    assert unanswered(api, "10.99.0.5", 443)
    assert unanswered(api, OUTSIDE4, 443)
    assert unanswered(net.vms["web"], "192.168.7.10", 443)
    assert api.pings_in_vain("192.168.7.10")


def test_a_flow_to_a_prefix_is_none_to_the_zones_in_it(net: Fabric) -> None:
    net.load(with_flows(SHOP, "all: api -> 10.0.0.0/8 tcp/80 tcp/443 icmp"))
    assert asks(net, "10.99.0.5")
    assert unanswered(net.vms["api"], net.address("web", 4), 80)
    free = str(SHOP.zone("dmz").prefix4[4000])
    assert asks_in_vain(net, free)


def test_a_connection_dies_with_the_flow_to_its_prefix(net: Fabric) -> None:
    net.load(to_prefixes("192.168.7.0/24"))
    with Live(net.vms["api"], "192.168.7.10", 443) as live:
        assert live.echoes("before")
        net.load(SHOP)
        assert not live.echoes("after", wait=SHORT)
        net.load(to_prefixes("192.168.0.0/16"))
        live.socket.settimeout(LONG)
        assert live.line() == "after"


def from_address(net: Fabric, source: str, port: int, wait: float = LONG) -> str:
    """What a client outside with this address gets from a published port."""
    six = ":" in source
    with net.outside.socket(10 if six else 2, 1) as client:
        client.settimeout(wait)
        client.bind((source, 0))
        try:
            client.connect((net.uplink_address(6 if six else 4), port))
            return client.recv(100).decode()
        except TimeoutError:
            return ""


def test_a_published_port_is_open_to_every_client_outside(net: Fabric, place: str) -> None:
    """Also to those in the host's own networks: without them, nobody reaches a box behind NAT."""
    clients = (
        OUTSIDE4,
        OUTSIDE6,
        "192.168.7.10",
        "10.99.0.5",
        "fd00:ec2::254",
        *BESIDE[place].values(),
    )
    assert [client for client in clients if not from_address(net, client, 8080)] == []


def test_a_port_published_to_a_prefix_is_open_to_its_clients_only(net: Fabric) -> None:
    net.load(
        with_flows(
            SHOP,
            """
            lan: 192.168.0.0/16 -> web tcp/80=8080
            six: fd00:ec2::/64 -> web tcp/80=8080
            """,
        )
    )
    assert from_address(net, "192.168.7.10", 8080).startswith("web:80 192.168.7.10")
    assert from_address(net, "fd00:ec2::254", 8080).startswith("web:80 fd00:ec2::254")
    for client in (OUTSIDE4, OUTSIDE6, "10.99.0.5", "fec0::5"):
        assert not from_address(net, client, 8080, wait=SHORT)
    assert net.counted()["ctl:input"] >= 4


def test_one_port_leads_elsewhere_for_other_clients(net: Fabric) -> None:
    net.load(
        with_flows(
            SHOP,
            """
            lan: 192.168.0.0/16 -> web tcp/80=8080
            wan: 203.0.113.0/24 -> web tcp/81=8080
            """,
        )
    )
    assert from_address(net, "192.168.7.10", 8080).startswith("web:80 ")
    assert from_address(net, OUTSIDE4, 8080).startswith("web:81 ")


def test_a_clients_connection_dies_with_its_prefix(net: Fabric) -> None:
    net.load(with_flows(SHOP, "lan: 192.168.0.0/16 -> web tcp/80=8080"))
    with net.outside.socket(2, 1) as client:
        client.settimeout(LONG)
        client.bind(("192.168.7.10", 0))
        client.connect((net.uplink_address(4), 8080))
        assert client.recv(100)
        net.load(with_flows(SHOP, "lan: 192.168.8.0/24 -> web tcp/80=8080"))
        client.sendall(b"after\n")
        client.settimeout(SHORT)
        with pytest.raises(TimeoutError):
            client.recv(100)
        net.load(with_flows(SHOP, "lan: 192.168.7.0/24 -> web tcp/80=8080"))
        client.settimeout(LONG)
        assert client.recv(100) == b"after\n"
        assert settled(lambda: net.counted()["flow:lan"] > 0)
