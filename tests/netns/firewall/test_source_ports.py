"""From which ports the outside sees what VMs send: never from one that the vApp publishes."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.design_builder import with_flows
from tests.netns.fabric import LONG, SHORT, Fabric
from tests.netns.firewall.traffic import DATAGRAM, DESIGN, FLOWS, STREAM, both_versions, outside

pytestmark = pytest.mark.timeout(900)

PUBLISHED, ASKED = 7001, 5060
CALLS = f"calls: api -> internet udp/{ASKED} tcp/{ASKED}\n pushes: web -> internet udp/{ASKED}"
WITH = with_flows(DESIGN, f"{FLOWS}\n {CALLS}")


@contextmanager
def called(net: Fabric, version: int, kind: int) -> Iterator[socket.socket]:
    """A program outside, at the port that the VM calls."""
    with net.outside.socket(socket.AF_INET if version == 4 else socket.AF_INET6, kind) as server:
        server.settimeout(LONG)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((outside(version), ASKED))
        yield server


@contextmanager
def calling(
    net: Fabric, version: int, kind: int, port: int, vm: str = "api"
) -> Iterator[socket.socket]:
    """A VM that sends from this port."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with net.vms[vm].socket(family, kind) as client:
        client.settimeout(LONG)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        client.bind((net.address(vm, version), port))
        client.connect((outside(version), ASKED))
        yield client


@both_versions
def test_a_vm_that_sends_from_a_published_port_gets_its_answers_and_nobody_elses(
    net: Fabric, version: int
) -> None:
    net.load(WITH)
    net.forget_connections()
    with (
        called(net, version, DATAGRAM) as server,
        calling(net, version, DATAGRAM, PUBLISHED) as client,
    ):
        client.send(b"question")
        question, seen = server.recvfrom(100)
        assert (question, seen[0]) == (b"question", net.uplink_address(version))
        assert seen[1] not in range(7000, 7004)
        server.sendto(b"answer", seen)
        assert client.recv(100) == b"answer"
        # The same program outside, as a client of what the vApp publishes.
        server.sendto(b"order", (net.uplink_address(version), PUBLISHED))
        assert server.recvfrom(100)[0].startswith(b"web-")
        client.settimeout(SHORT)
        with pytest.raises(TimeoutError):
            client.recv(100)


@both_versions
@pytest.mark.parametrize("kind", [STREAM, DATAGRAM], ids=["TCP", "UDP"])
def test_another_port_of_a_vm_stays_as_it_is_and_one_below_1024_stays_below(
    net: Fabric, version: int, kind: int
) -> None:
    net.load(WITH)
    net.forget_connections()
    with called(net, version, kind) as server:
        if kind == STREAM:
            server.listen()
        for port, lowest, highest in (
            (40123, 40123, 40123),
            (123, 123, 123),
            (8080 if kind == STREAM else 7003, 1024, 65535),
        ):
            with calling(net, version, kind, port) as client:
                client.send(b"x")
                peer = server.accept()[1] if kind == STREAM else server.recvfrom(9)[1]
                assert lowest <= peer[1] <= highest, port
                assert peer[1] not in {8080, *range(6000, 6004), *range(7000, 7004), 9100}


@both_versions
def test_the_vm_that_publishes_a_port_may_speak_first_from_it(net: Fabric, version: int) -> None:
    net.load(WITH)
    net.forget_connections()
    # Bound to its address beside the server of the fabric, which is bound to none.
    with (
        called(net, version, DATAGRAM) as server,
        calling(net, version, DATAGRAM, PUBLISHED, "web-1") as client,
    ):
        client.send(b"news")
        assert server.recvfrom(100)[1][:2] == (net.uplink_address(version), PUBLISHED)
        server.sendto(b"thanks", (net.uplink_address(version), PUBLISHED))
        assert client.recv(100) == b"thanks"
