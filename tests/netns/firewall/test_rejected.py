"""Zones whose VMs are told what no flow allows."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.design_builder import UPLINK, build_design
from tests.netns import frames
from tests.netns.fabric import LONG, SHORT, Fabric, greeting, unanswered
from tests.netns.firewall.traffic import DATAGRAM, STREAM, both_versions, outside

pytestmark = pytest.mark.timeout(900)

RST = 0x04
FLOWS = """
    shop: internet -> office tcp/80
    pages: office -> server tcp/80
    news: office -> internet tcp/443
    back: server -> office tcp/81
"""
DESIGN = build_design("loud:reject silent", {"office": "loud x2", "server": "silent"}, FLOWS)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, program: Path) -> Iterator[Fabric]:
    with Fabric(DESIGN, UPLINK, tmp_path_factory.mktemp("fabric"), program) as fabric:
        for name in ("office-1", "office-2", "server"):
            for port in (22, 80, 81):
                fabric.servers.add(fabric.vms[name], name, port)
        fabric.servers.add(fabric.outside, "outside", 443)
        yield fabric


@pytest.fixture
def net(built: Fabric) -> Fabric:
    built.load(DESIGN)
    return built


def outcome(
    net: Fabric, name: str, address: str, port: int, kind: int = STREAM, wait: float = LONG
) -> str:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with net.vms[name].socket(family, kind) as client:
        client.settimeout(wait)
        try:
            client.connect((address, port))
            if kind == DATAGRAM:
                client.send(b"x")
                client.recv(100)
        except OSError as error:
            return type(error).__name__
        return "open"


@both_versions
def test_who_calls_what_no_flow_allows_hears_it_at_once(net: Fabric, version: int) -> None:
    server, neighbour = net.address("server", version), net.address("office-2", version)
    loud = net.vms["office-1"]
    assert greeting(loud, server, 80)
    assert outcome(net, "office-1", server, 22) == "ConnectionRefusedError"
    assert outcome(net, "office-1", neighbour, 80) == "ConnectionRefusedError"
    assert outcome(net, "office-1", outside(version), 22) == "ConnectionRefusedError"
    assert outcome(net, "office-1", server, 53, DATAGRAM) != "TimeoutError"
    counted = net.counted()
    assert counted["ctl:rejected"] == 4 + 3, "four packets, three answers of TCP"
    assert counted["ctl:icmp-error"] == 1
    assert counted["ctl:default-deny"] == 0
    assert net.report().denied[net.address("office-1", version), server, "tcp", 22] == 1


@both_versions
def test_other_zones_and_the_outside_hear_nothing(net: Fabric, version: int) -> None:
    for address, port in ((net.address("office-1", version), 22), (outside(version), 443)):
        assert outcome(net, "server", address, port, wait=SHORT) == "TimeoutError"
    assert unanswered(net.outside, net.uplink_address(version), 22)
    assert net.counted()["ctl:rejected"] == 0


@both_versions
def test_a_forged_source_or_a_reset_gets_no_answer(net: Fabric, version: int) -> None:
    """Neither is the firewall made to send to somebody else, nor to answer answers."""
    card, gateway = net.card("office-1"), DESIGN.zone("loud").gateway.mac
    own, server = net.address("office-1", version), net.address("server", version)
    other = net.address("office-2", version)
    with frames.listening(net.vms["office-2"], "eth0") as until:
        for source, flags in ((other, frames.SYN), (own, RST)):
            packet = frames.tcp(source, 4000, server, 22, flags)
            frames.send(net.vms["office-1"], "eth0", frames.ethernet(card.mac, gateway, packet))
        assert greeting(net.vms["server"], other, 81)
        assert all(b"\x0f\xa0" not in frame[34:60] for frame in until(b"81"))
    assert net.counted()["ctl:antispoof"] == 1


@both_versions
def test_a_revoked_connection_is_reset(net: Fabric, version: int) -> None:
    """Its client hears it too, and need not wait."""
    family = socket.AF_INET6 if version == 6 else socket.AF_INET
    with net.vms["office-1"].socket(family, STREAM) as client:
        client.settimeout(LONG)
        client.connect((net.address("server", version), 80))
        assert client.recv(100)
        net.load(build_design("loud:reject silent", {"office": "loud x2", "server": "silent"}))
        client.sendall(b"x\n")
        with pytest.raises(ConnectionResetError):
            client.recv(100)
