"""A VM, or clients outside, that fill the firewall's table of connections leave room for others."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterable, Iterator

import pytest

from tests.netns import frames
from tests.netns.fabric import SHORT, Fabric, Live, Namespace, greeting, unanswered
from tests.netns.firewall.traffic import DESIGN, both_versions, outside, settled
from vcloud.compile.firewall.rules import (
    BURST_OF_VM,
    CLIENT_GROUPS,
    HURRY,
    MOST_DATAGRAMS,
    MOST_OF_CLIENTS,
    MOST_OF_STRANGERS,
    MOST_RESUMED,
    RATE_OF_VM,
    TABLE,
    most_of_vm,
)
from vcloud.views.status import refused_by_vm

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


@contextlib.contextmanager
def silent(net: Fabric) -> Iterator[None]:
    """The servers answer nothing meanwhile, as where an IPS drops what it has not seen begin."""
    servers = [net.vms[name] for name in ("web-1", "web-2")]
    for server in servers:
        drop = "add table inet t; add chain inet t i { type filter hook input priority 0; policy drop; }"
        server.run("nft", drop, check=True)
    try:
        yield
    finally:
        for server in servers:
            server.run("nft", "delete table inet t", check=True)


def refused(net: Fabric) -> dict[str, int]:
    """Whose connections exceeded a limit -> packets, as `status` tells it."""
    found = refused_by_vm(DESIGN, net.report().refused)
    return {f"{one.vm} {one.zone}".strip(): one.packets for one in found}


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
        assert refused(net).keys() == {"api app"}
        assert refused(net)["api app"] >= MORE
    net.forget_connections()
    assert greeting(api, outside(version), 443)


@both_versions
def test_datagrams_that_nobody_answers_are_one_connection(net: Fabric, version: int) -> None:
    """A VM may send more of them, as to a log server, than it may begin connections."""
    api = net.vms["api"]
    (datagram,) = from_api(net, version, 1)
    flood(api, [datagram] * (BURST_OF_VM + 2 * RATE_OF_VM))
    assert greeting(api, outside(version), 443)
    assert net.counted()["ctl:connections"] == 0
    assert refused(net) == {}


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
    assert refused(net) == {}
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
    uplink, space = net.uplink_address(version), MOST_DATAGRAMS // 2 + MORE
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
    assert remembered(net) <= MOST_DATAGRAMS + 8
    assert refused(net)[""] >= 2 * MORE
    assert greeting(net.outside, uplink, 8080), "of another group"
    assert greeting(net.vms["api"], outside(version), 443)
    assert greeting(net.vms["web-1"], net.address("api", version), 8000)


def from_false_addresses(net: Fabric, version: int, count: int, flags: int) -> list[bytes]:
    """TCP packets to a published port, all of the group of addresses in which the client is that
    `net.outside` is there.
    """
    uplink = net.uplink_address(version)
    client = net.uplink.gateway4 if version == 4 else net.uplink.gateway6
    assert client
    group = client.packed[-1 if version == 4 else 5] & 15
    sources = (
        f"192.0.{number // 16}.{16 * (number % 16) + group}"
        if version == 4
        else f"2001:db9:{16 * number + group:x}::1"
        for number in range(count)
    )
    return [
        frames.ethernet(
            "52:54:00:00:00:77", UPLINK_MAC, frames.tcp(source, 40000, uplink, 8080, flags)
        )
        for source in sources
    ]


@both_versions
def test_a_flood_of_syns_with_false_addresses_shuts_out_no_client_that_was_there_before(
    net: Fabric, version: int
) -> None:
    """And a new one waits for a second or two, because what is not completed is soon forgotten."""
    uplink = net.uplink_address(version)
    assert greeting(net.outside, uplink, 8080), "now it is known"
    # So many that all are not sent before the first ones are forgotten.
    count = 4 * MOST_OF_STRANGERS
    flood(net.outside, from_false_addresses(net, version, count, frames.SYN))
    assert settled(lambda: net.counted()["ctl:connections"] >= MORE)
    begun = time.monotonic()
    assert greeting(net.outside, uplink, 8080, SHORT)
    assert time.monotonic() - begun < SHORT
    assert greeting(net.vms["web-1"], net.address("api", version), 8000)
    net.load(DESIGN)
    flood(net.outside, from_false_addresses(net, version, count, frames.SYN))
    assert settled(lambda: net.counted()["ctl:connections"] >= MORE)
    # Half of the connections that the flood has left stand for the usual 5 s. A client repeats its SYN
    # after 1 and 3 s.
    assert greeting(net.outside, uplink, 8080, 4 * HURRY), "a stranger"


@both_versions
def test_a_flood_that_claims_to_go_on_takes_no_room_of_those_who_begin(
    net: Fabric, version: int
) -> None:
    with silent(net):
        flood(net.outside, from_false_addresses(net, version, MOST_RESUMED + MORE, frames.ACK))
        assert settled(lambda: net.counted()["ctl:connections"] >= MORE)
        assert remembered(net) >= MOST_RESUMED - 8
    assert greeting(net.outside, net.uplink_address(version), 8080)


@pytest.mark.parametrize("nics", [0, 1, 2, 8, 40, 64])
def test_all_shares_together_fit_into_the_table(nics: int) -> None:
    group = MOST_OF_CLIENTS + MOST_OF_STRANGERS + MOST_RESUMED + MOST_DATAGRAMS
    clients = 2 * CLIENT_GROUPS * group
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
