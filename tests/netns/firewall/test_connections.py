"""A VM, or clients outside, that fill the firewall's table of connections leave room for others."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable

import pytest

from tests.netns import frames
from tests.netns.fabric import SHORT, Fabric, Live, Namespace, greeting, unanswered
from tests.netns.firewall.traffic import DESIGN, both_versions, outside, settled
from vcloud.compile.firewall.rules import (
    BURST_OF_VM,
    CLIENT_GROUPS,
    MOST_OF_CLIENTS,
    RATE_OF_VM,
    TABLE,
    most_of_vm,
)

pytestmark = pytest.mark.timeout(900)

LIMIT = most_of_vm(sum(len(vm.nics) for vm in DESIGN.workloads))
MORE = 300
"""Connections beyond a limit."""
UPLINK_MAC = DESIGN.firewall.nics[-1].mac
ELSEWHERE = {4: "203.0.113.{}", 6: "2001:db8:{}::1"}
"""A client outside, by the part of its address that says in which group it is counted."""


def flood(where: Namespace, packets: Iterable[bytes]) -> None:
    with where.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind(("eth0", 0))
        for packet in packets:
            raw.send(packet)


def remembered(net: Fabric) -> int:
    """Connections in the firewall's table."""
    told = net.firewall.run("cat", "/proc/sys/net/netfilter/nf_conntrack_count", check=True)
    return int(told.stdout)


@pytest.fixture(autouse=True)
def _nothing_is_remembered(net: Fabric) -> None:
    net.forget_connections()


def from_api(net: Fabric, version: int, count: int, port: int = 123) -> list[bytes]:
    """Datagrams of one VM on a flow to the outside, each from another port of its own."""
    source = net.address("api", version)
    macs = net.card("api").mac, DESIGN.zone("app").gateway.mac
    return [
        frames.ethernet(*macs, frames.udp(source, 1024 + number, outside(version), port))
        for number in range(count)
    ]


@both_versions
def test_a_vm_that_fills_the_table_gets_its_share_and_the_others_go_on(
    net: Fabric, version: int
) -> None:
    """Its own connections of before go on, too; only those that it begins are refused."""
    api, web = net.vms["api"], net.vms["web-1"]
    with Live(api, outside(version), 443) as before:
        flood(api, from_api(net, version, LIMIT + MORE))
        assert settled(lambda: net.counted()["ctl:connections"] >= MORE)
        assert LIMIT - 8 <= remembered(net) <= LIMIT + 8
        assert unanswered(api, outside(version), 443)
        assert before.echoes("goes on")
        assert greeting(web, net.address("api", version), 8000)
        assert greeting(net.outside, net.uplink_address(version), 8080)
        denied = net.report().denied
        assert denied[net.address("api", version), outside(version), "udp", 123] >= MORE
    net.forget_connections()
    assert greeting(api, outside(version), 443)


@both_versions
def test_its_other_version_of_ip_has_its_own_share(net: Fabric, version: int) -> None:
    flood(net.vms["api"], from_api(net, version, LIMIT + MORE))
    assert settled(lambda: net.counted()["ctl:connections"] >= MORE)
    assert unanswered(net.vms["api"], outside(version), 443)
    assert greeting(net.vms["api"], outside(10 - version), 443)


@both_versions
def test_what_no_flow_allows_takes_no_room(net: Fabric, version: int) -> None:
    flood(net.vms["api"], from_api(net, version, 2000, port=124))
    assert settled(lambda: net.counted()["ctl:default-deny"] >= 2000)
    assert remembered(net) < 8
    assert net.counted()["ctl:connections"] == 0
    assert greeting(net.vms["api"], outside(version), 443)


@both_versions
def test_pings_are_counted_too(net: Fabric, version: int) -> None:
    """Each number of a ping is a connection for the kernel."""
    api = net.vms["api"]
    source, macs = (
        net.address("api", version),
        (net.card("api").mac, DESIGN.zone("app").gateway.mac),
    )
    kind = 8 if version == 4 else 128
    pings = (
        frames.ethernet(
            *macs, frames.error(source, outside(version), kind, 0, b"", word=number << 16)
        )
        for number in range(LIMIT + MORE)
    )
    flood(api, pings)
    assert settled(lambda: net.counted()["ctl:connections"] >= MORE)
    assert remembered(net) <= LIMIT + 8
    # With a number that was not among them, or the ping is a packet of one of these connections.
    assert api.pings_in_vain(outside(version), "-e", str(LIMIT + MORE))
    assert net.vms["web-1"].pings(net.address("api", version))


@both_versions
def test_connections_that_end_at_once_do_not_fill_the_table_either(
    net: Fabric, version: int
) -> None:
    """The server answers each SYN, and the VM's kernel ends what it has not begun. The kernel does not
    count such connections, so only their rate has a limit.
    """
    source, sent, before = net.address("api", version), 20_000, time.monotonic()
    macs = net.card("api").mac, DESIGN.zone("app").gateway.mac
    flood(
        net.vms["api"],
        (
            frames.ethernet(
                *macs, frames.tcp(source, 1024 + number, outside(version), 443, frames.SYN)
            )
            for number in range(sent)
        ),
    )
    allowed = BURST_OF_VM + RATE_OF_VM * (time.monotonic() - before + 1)
    assert settled(lambda: net.counted()["ctl:connections"] >= sent - allowed)
    assert remembered(net) <= allowed
    assert greeting(net.vms["web-1"], net.address("api", version), 8000)
    late = "after a pause"
    assert settled(lambda: greeting(net.vms["api"], outside(version), 443, SHORT) != ""), late


@both_versions
def test_clients_outside_that_flood_leave_room_for_other_clients_and_for_vms(
    net: Fabric, version: int
) -> None:
    """One client with all its ports, and its neighbour in the same group of addresses."""
    uplink, space = net.uplink_address(version), MOST_OF_CLIENTS // 2 + MORE
    # In IPv6 two networks that one subscriber may have.
    parts = ("32", "48") if version == 4 else ("20:7", "20:8")
    clients = [ELSEWHERE[version].format(part) for part in parts]
    packets = [
        frames.ethernet(
            "52:54:00:00:00:77", UPLINK_MAC, frames.udp(client, 1024 + number, uplink, 7000)
        )
        for client in clients
        for number in range(space)
    ]
    flood(net.outside, packets)
    assert settled(lambda: net.counted()["ctl:connections"] >= 2 * MORE)
    assert remembered(net) <= MOST_OF_CLIENTS + 8
    assert greeting(net.outside, uplink, 8080), "of another group"
    assert greeting(net.vms["api"], outside(version), 443)
    assert greeting(net.vms["web-1"], net.address("api", version), 8000)


@pytest.mark.parametrize("nics", [0, 1, 2, 8, 40, 64])
def test_all_shares_together_fit_into_the_table(nics: int) -> None:
    clients = 2 * CLIENT_GROUPS * MOST_OF_CLIENTS
    assert 2 * nics * most_of_vm(nics) + clients <= TABLE


def test_the_kernel_forgets_soon_what_is_not_answered(net: Fabric) -> None:
    """As the identity says, and not as Linux does by default."""
    told = {
        name: int(
            net.firewall.run(
                "cat", f"/proc/sys/net/netfilter/nf_conntrack_{name}", check=True
            ).stdout
        )
        for name in (
            "udp_timeout",
            "icmp_timeout",
            "tcp_timeout_syn_sent",
            "tcp_timeout_syn_recv",
            "tcp_timeout_time_wait",
            "tcp_timeout_close",
        )
    }
    assert max(told.values()) <= 20
    assert told["tcp_timeout_syn_sent"] == told["tcp_timeout_syn_recv"] == 5
    assert told["tcp_timeout_time_wait"] == told["tcp_timeout_close"] == 2
    assert net.differences() == {}
