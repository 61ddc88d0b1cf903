"""The firewall's ruleset against real packets. Every denial stands beside what must pass on the same path."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.design_builder import UPLINK, build_design, with_flows
from tests.netns import frames
from tests.netns.fabric import OUTSIDE4, OUTSIDE6, SCRIPTS, Fabric, Live, Namespace, datagram, greeting
from vcloud.compile.firewall.ruleset import render_firewall
from vcloud.design.model import Design

FLOWS = """
    checkout: internet -> web tcp/80=8080 tcp/5000-5003=6000 udp/7000-7003
    admin: internet -> api tcp/9100
    orders: web -> api tcp/8000 udp/53
    alive: web -> api icmp
    stock: api -> db tcp/9000-9010
    store: api -> db tcp/5432
    updates: api -> internet tcp/443 udp/123 icmp
"""
WITHOUT_STORE = FLOWS.replace("    store: api -> db tcp/5432\n", "")
WITHOUT_STOCK = FLOWS.replace("    stock: api -> db tcp/9000-9010\n", "")
DESIGN = build_design("dmz app cde plain:open", {"web": "dmz x2", "api": "app", "db": "cde", "tool": "plain x2"}, FLOWS)
UNDECLARED = 8001
PUSHED = 9007
STREAM, DATAGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fabric]:
    """The vApp with a server on every port that a test speaks of, declared or not."""
    with Fabric(DESIGN, UPLINK, tmp_path_factory.mktemp("fabric")) as fabric:
        for name in ("web-1", "web-2"):
            for port in (22, 80, *range(5000, 5004)):
                fabric.servers.add(fabric.vms[name], name, port)
            for port in range(7000, 7004):
                fabric.servers.add(fabric.vms[name], name, port, DATAGRAM)
        for port in (8000, UNDECLARED, 9100):
            fabric.servers.add(fabric.vms["api"], "api", port)
        for port in (53, 54):
            fabric.servers.add(fabric.vms["api"], "api", port, DATAGRAM)
        for port in (5432, 9000, 9005, 9010, 9011):
            fabric.servers.add(fabric.vms["db"], "db", port)
        fabric.servers.add(fabric.vms["tool-2"], "tool-2", 22)
        for port, kind in ((443, STREAM), (444, STREAM), (123, DATAGRAM)):
            fabric.servers.add(fabric.outside, "outside", port, kind)
        yield fabric


@pytest.fixture
def net(built: Fabric) -> Fabric:
    """The same with fresh rules and counters."""
    built.load(DESIGN)
    return built


both_versions = pytest.mark.parametrize("version", [4, 6], ids=["IPv4", "IPv6"])


def outside(version: int) -> str:
    return OUTSIDE4 if version == 4 else OUTSIDE6


@both_versions
def test_declared_flows_pass_and_are_counted(net: Fabric, version: int) -> None:
    api, db = net.address("api", version), net.address("db", version)
    assert greeting(net.vms["web-1"], api, 8000) == f"api:8000 {net.address('web-1', version)}"
    assert datagram(net.vms["web-2"], api, 53).startswith(b"api:53")
    assert net.vms["web-1"].pings(api)
    assert greeting(net.vms["api"], db, 5432)
    counted = net.counted()
    assert all(counted[f"flow:{name}"] > 0 for name in ("orders", "alive", "store"))
    assert counted["flow:updates"] == 0


@both_versions
def test_what_no_flow_names_is_dropped_and_remembered(net: Fabric, version: int) -> None:
    web, api, db = (net.address(name, version) for name in ("web-1", "api", "db"))
    assert not greeting(net.vms["web-1"], api, UNDECLARED)
    assert not datagram(net.vms["web-1"], api, 54)
    assert not greeting(net.vms["web-1"], db, 5432)
    assert not net.vms["web-1"].pings(db)
    report = net.report()
    assert report.denied[web, api, "tcp", UNDECLARED] == 1
    assert report.denied[web, api, "udp", 54] == 1
    assert report.denied[web, db, "tcp", 5432] == 1
    assert report.denied[web, db, "icmp", 0] == 1
    assert net.counted()["ctl:default-deny"] == 4


@both_versions
def test_flows_have_a_direction(net: Fabric, version: int) -> None:
    assert net.vms["web-1"].pings(net.address("api", version))
    assert not net.vms["api"].pings(net.address("web-1", version))
    assert not greeting(net.vms["api"], net.address("web-1", version), 80)


@both_versions
def test_a_range_passes_from_its_first_to_its_last_port(net: Fabric, version: int) -> None:
    db = net.address("db", version)
    assert all(greeting(net.vms["api"], db, port) for port in (9000, 9005, 9010))
    assert not greeting(net.vms["api"], db, 9011)


@both_versions
def test_replicas_of_a_tier_cannot_meet(net: Fabric, version: int) -> None:
    """Both ends serve port 80 and share a zone; an open zone shows that the servers would answer."""
    one, other = net.vms["web-1"], net.address("web-2", version)
    assert not greeting(one, other, 80)
    assert net.report().denied[net.address("web-1", version), other, "tcp", 80] == 1
    assert greeting(net.vms["tool-1"], net.address("tool-2", version), 22)


@both_versions
def test_a_direct_route_to_a_neighbour_leads_nowhere(net: Fabric, version: int) -> None:
    """Isolated ports: a VM that goes round the firewall gets no answer from its neighbour at layer 2."""
    neighbour, length = net.address("web-2", version), 32 if version == 4 else 128
    net.vms["web-1"].ip([f"route add {neighbour}/{length} dev eth0"])
    try:
        assert not greeting(net.vms["web-1"], neighbour, 80)
    finally:
        net.vms["web-1"].ip([f"route del {neighbour}/{length} dev eth0"])


@both_versions
def test_published_ports_reach_all_replicas_in_turn(net: Fabric, version: int) -> None:
    uplink = net.uplink_address(version)
    served = Counter(greeting(net.outside, uplink, 8080).split()[0] for _ in range(6))
    assert served == {"web-1:80": 3, "web-2:80": 3}


@both_versions
def test_published_ranges_keep_their_order(net: Fabric, version: int) -> None:
    uplink = net.uplink_address(version)
    for offset in range(4):
        assert greeting(net.outside, uplink, 6000 + offset).split(":")[1].startswith(f"{5000 + offset} ")
        assert f":{7000 + offset} ".encode() in datagram(net.outside, uplink, 7000 + offset)
    assert not greeting(net.outside, uplink, 6004)


@both_versions
def test_outside_reaches_nothing_that_is_not_published(net: Fabric, version: int) -> None:
    """Neither ports of the firewall nor, by a route through it, addresses behind it."""
    uplink = net.uplink_address(version)
    assert greeting(net.outside, uplink, 9100)
    assert not greeting(net.outside, uplink, 80)
    assert not net.outside.pings(uplink)
    assert net.counted()["ctl:input"] >= 2
    web, length = net.address("web-1", version), 32 if version == 4 else 128
    net.outside.ip([f"route add {web}/{length} via {uplink} dev eth0"])
    try:
        assert not greeting(net.outside, web, 80)
    finally:
        net.outside.ip([f"route del {web}/{length} via {uplink} dev eth0"])
    assert any(denied[1:] == (web, "tcp", 80) for denied in net.report().denied)


@both_versions
def test_a_vm_does_not_reach_published_ports_of_its_own_vapp(net: Fabric, version: int) -> None:
    assert not greeting(net.vms["api"], net.uplink_address(version), 8080)
    assert greeting(net.outside, net.uplink_address(version), 8080)


@both_versions
def test_outside_sees_only_the_uplinks_address(net: Fabric, version: int) -> None:
    uplink = net.uplink_address(version)
    assert greeting(net.vms["api"], outside(version), 443) == f"outside:443 {uplink}"
    neighbour = str(UPLINK.gateway4 if version == 4 else UPLINK.gateway6)
    assert datagram(net.vms["api"], neighbour, 123).startswith(f"outside:123 {uplink}".encode())
    assert net.vms["api"].pings(outside(version))


@both_versions
def test_what_may_leave_is_declared_too(net: Fabric, version: int) -> None:
    assert not greeting(net.vms["api"], outside(version), 444)
    assert not greeting(net.vms["web-1"], outside(version), 443)
    assert not net.vms["web-1"].pings(outside(version))


@both_versions
def test_a_flow_to_the_internet_is_none_to_the_vapps_own_prefixes(net: Fabric, version: int) -> None:
    """An address of a zone that no VM has would follow the default route."""
    zone = DESIGN.zone("dmz")
    free = str(zone.prefix4[4000] if version == 4 else zone.prefix6[4000])
    assert not greeting(net.vms["api"], free, 443)
    assert net.report().denied[net.address("api", version), free, "tcp", 443] == 1


@both_versions
@pytest.mark.parametrize("vm", ["web-1", "tool-1"])
def test_forged_sources_are_dropped_and_counted(net: Fabric, version: int, vm: str) -> None:
    """Another VM's address, an outsider's, and the right address with the wrong MAC; in an open zone as well."""
    zone = DESIGN.zone(net.card(vm).zone)
    own, mac, api = net.address(vm, version), net.card(vm).mac, net.address("api", version)
    neighbour = net.address(vm.replace("1", "2"), version)
    forged = [(neighbour, mac), (outside(version), mac), (net.address("db", version), mac), (own, "52:54:00:00:00:99")]
    for source, source_mac in forged:
        frames.send(net.vms[vm], "eth0", frames.ethernet(source_mac, zone.gateway.mac, frames.udp(source, 4000, api, 53)))
    assert _settled(lambda: net.counted()["ctl:antispoof"] == len(forged))
    frames.send(net.vms[vm], "eth0", frames.ethernet(mac, zone.gateway.mac, frames.udp(own, 4000, api, 54)))
    assert _settled(lambda: net.report().denied.get((own, api, "udp", 54)) == 1)
    assert net.counted()["ctl:antispoof"] == len(forged)


@both_versions
def test_no_address_of_the_vapp_comes_in_from_outside(net: Fabric, version: int) -> None:
    uplink_mac, outside_mac = DESIGN.firewall.nics[-1].mac, "52:54:00:00:00:77"
    packet = frames.udp(net.address("web-1", version), 4000, net.address("api", version), 53)
    frames.send(net.outside, "eth0", frames.ethernet(outside_mac, uplink_mac, packet))
    assert _settled(lambda: net.counted()["ctl:antispoof"] == 1)


@both_versions
def test_an_answer_that_nobody_asked_for_is_dropped(net: Fabric, version: int) -> None:
    """From the port of an allowed service to any port of its client; the same frame passes while the client has asked."""
    api, web = net.address("api", version), net.address("web-1", version)
    frame = frames.ethernet(net.card("api").mac, DESIGN.zone("app").gateway.mac, frames.udp(api, 53, web, 4444))
    with _bound(net.vms["web-1"], version, 4444) as client:
        frames.send(net.vms["api"], "eth0", frame)
        with pytest.raises(TimeoutError):
            client.recv(100)
        assert net.report().denied[api, web, "udp", 4444] == 1
        client.sendto(b"question", (api, 53))
        assert client.recv(100).startswith(b"api:53")
        frames.send(net.vms["api"], "eth0", frame)
        assert client.recv(100) == b"forged"


@both_versions
def test_a_lone_tcp_answer_is_dropped(net: Fabric, version: int) -> None:
    api, web = net.address("api", version), net.address("web-1", version)
    packet = frames.tcp(api, 8000, web, 4444, frames.ACK)
    frames.send(net.vms["api"], "eth0", frames.ethernet(net.card("api").mac, DESIGN.zone("app").gateway.mac, packet))
    assert _settled(lambda: net.report().denied.get((api, web, "tcp", 4444)) == 1)


@both_versions
def test_fragments_are_judged_as_the_packet_they_make(net: Fabric, version: int) -> None:
    api, large = net.address("api", version), b"z" * 6000
    assert datagram(net.vms["web-1"], api, 53, large).endswith(large)
    assert not datagram(net.vms["web-1"], api, 54, large)
    assert net.report().denied[net.address("web-1", version), api, "udp", 54] == 1


def test_icmp_errors_pass_while_their_flow_is_declared(net: Fabric) -> None:
    """The mark on the connection decides: the same error about the same connection is dropped once the flow is revoked."""
    api, web = net.address("api", 4), net.address("web-1", 4)
    with _bound(net.vms["web-1"], 4, 4445) as client:
        client.connect((api, 53))
        client.send(b"question")
        assert client.recv(100)
        error = frames.unreachable(api, web, frames.udp(web, 4445, api, 53))
        frame = frames.ethernet(net.card("api").mac, DESIGN.zone("app").gateway.mac, error)
        frames.send(net.vms["api"], "eth0", frame)
        with pytest.raises(ConnectionRefusedError):
            client.recv(100)
        net.load(with_flows(DESIGN, FLOWS.replace("orders: web -> api tcp/8000 udp/53", "orders: web -> api tcp/8000")))
        frames.send(net.vms["api"], "eth0", frame)
        with pytest.raises(TimeoutError):
            client.recv(100)


@both_versions
def test_the_firewall_answers_pings_from_its_zones_and_nothing_else(net: Fabric, version: int) -> None:
    gateway = DESIGN.zone("dmz").gateway
    address = str(gateway.address4 if version == 4 else gateway.address6)
    assert net.vms["web-1"].pings(address)
    assert not net.vms["api"].pings(address)
    assert not greeting(net.vms["web-1"], address, 22)


def test_neighbour_discovery_reaches_the_firewall(net: Fabric) -> None:
    """An image that vcloud did not build has no permanent neighbours."""
    gateway = DESIGN.zone("dmz").gateway
    net.vms["web-1"].ip([f"neigh del {gateway.address6} dev eth0"])
    try:
        assert net.vms["web-1"].pings(str(gateway.address6))
    finally:
        net.vms["web-1"].ip([f"neigh replace {gateway.address6} lladdr {gateway.mac} dev eth0 nud permanent"])


@both_versions
def test_a_revoked_flow_dies_at_once_and_the_others_live(net: Fabric, version: int) -> None:
    with (
        Live(net.vms["api"], net.address("db", version), 5432) as revoked,
        Live(net.vms["web-1"], net.address("api", version), 8000) as kept,
        Live(net.outside, net.uplink_address(version), 8080) as published,
        Live(net.vms["api"], outside(version), 443) as leaving,
    ):
        assert revoked.echoes("before")
        net.load(with_flows(DESIGN, WITHOUT_STORE))
        assert not revoked.echoes("after")
        assert all(live.echoes("after") for live in (kept, published, leaving))
        key = (net.address("api", version), net.address("db", version), "tcp", 5432)
        assert net.report().denied[key] >= 1
        net.load(DESIGN)
        assert revoked.line() == "after", "the flow is declared again: TCP's own repetition gets through"


@both_versions
@pytest.mark.parametrize(("before", "after", "port"), [("tcp/80=8080", "tcp/80=8081", 8080), ("5003=6000", "5003=6010", 6002)])
def test_a_connection_to_a_port_that_is_published_no_more_dies_though_the_flow_lives(
    net: Fabric, version: int, before: str, after: str, port: int
) -> None:
    """Its packets reach the same service as those of the port that is published now."""
    other = 9100
    with Live(net.outside, net.uplink_address(version), port) as moved, Live(net.outside, net.uplink_address(version), other) as kept:
        assert moved.echoes("before")
        net.load(with_flows(DESIGN, FLOWS.replace(before, after)))
        assert not moved.echoes("after", wait=0.7)
        assert kept.echoes("after")
        shifted = int(after.rpartition("=")[2]) + port - int(before.rpartition("=")[2])
        assert greeting(net.outside, net.uplink_address(version), shifted)
        assert not greeting(net.outside, net.uplink_address(version), port)


def test_a_revoked_server_push_dies_although_its_client_is_silent(net: Fabric) -> None:
    with _pushed(net) as numbers:
        assert _settled(lambda: len(numbers) > 20)
        net.load(with_flows(DESIGN, WITHOUT_STOCK))
        seen = len(numbers)
        time.sleep(0.5)
        assert len(numbers) <= seen + 2


def test_allowed_connections_live_through_twenty_changes_and_no_denied_one_slips_through(net: Fabric) -> None:
    other = with_flows(DESIGN, FLOWS + "    extra: web -> db tcp/1\n")
    failures: list[str] = []
    stop = threading.Event()

    def keep_asking(version: int) -> None:
        with Live(net.vms["web-1"], net.address("api", version), 8000) as live:
            while not stop.is_set():
                if not live.echoes("x" * 100):
                    failures.append(f"an echo over IPv{version} took over a second")

    def keep_knocking() -> None:
        while not stop.is_set():
            if greeting(net.vms["web-1"], net.address("db", 4), 5432, wait=0.02):
                failures.append("a denied connection was made")

    tasks = [lambda: keep_asking(4), lambda: keep_asking(6), keep_knocking]
    with _pushed(net) as pushed:
        threads = [threading.Thread(target=_noting(task, failures)) for task in tasks]
        for thread in threads:
            thread.start()
        for turn in range(20):
            net.load(other if turn % 2 else DESIGN)
        before_end = len(pushed)
        assert _settled(lambda: len(pushed) > before_end)
        stop.set()
        for thread in threads:
            thread.join()
        assert pushed == list(range(len(pushed)))
    assert failures == []


@both_versions
def test_connections_live_through_a_restart_of_the_firewall(net: Fabric, version: int) -> None:
    """Conntrack forgets all; the client's next packet is judged like its first, a server's alone is not believed."""
    with (
        Live(net.vms["web-1"], net.address("api", version), 8000) as inside,
        Live(net.vms["api"], outside(version), 443) as leaving,
        Live(net.vms["api"], net.address("db", version), 5432) as revoked,
    ):
        net.load_text((SCRIPTS / "closed.nft").read_text(), check=True)
        net.forget_connections()
        assert not inside.echoes("closed", wait=0.3)
        net.load(with_flows(DESIGN, WITHOUT_STORE))
        inside.socket.settimeout(10)  # its next attempt at sending comes when TCP thinks fit
        assert inside.line() == "closed"
        assert inside.echoes("open")
        assert leaving.echoes("open")
        assert not revoked.echoes("open")


def test_a_refused_ruleset_leaves_the_old_one_in_force(net: Fabric) -> None:
    kept = (net.etc / "vcloud/firewall.nft").read_bytes()
    digest = net.report().digest
    broken = render_firewall(with_flows(DESIGN, WITHOUT_STORE), UPLINK).replace("goto flow_stock", "goto flow_nowhere", 1)
    refused = net.load_text(broken)
    assert refused.returncode == 1
    assert "flow_nowhere" in refused.stderr
    assert net.report().digest == digest
    assert greeting(net.vms["api"], net.address("db", 4), 5432)
    assert (net.etc / "vcloud/firewall.nft").read_bytes() == kept
    assert [path.name for path in (net.etc / "vcloud").iterdir()] == ["firewall.nft"]


def test_the_loaded_ruleset_is_kept_for_the_next_boot_and_private(net: Fabric) -> None:
    kept = net.etc / "vcloud/firewall.nft"
    assert kept.read_text() == "flush ruleset\n" + render_firewall(DESIGN, UPLINK)
    assert kept.stat().st_mode & 0o777 == 0o600


def test_the_digest_speaks_of_the_rules_and_of_nothing_else(net: Fabric) -> None:
    digest = net.load(DESIGN)
    assert not greeting(net.vms["web-1"], net.address("db", 4), 5432)
    report = net.report()
    assert report.denied
    assert report.digest == digest == net.load(DESIGN)
    assert net.load(with_flows(DESIGN, WITHOUT_STORE)) != digest
    net.load(DESIGN)
    net.firewall.run("nft", "insert rule inet vcloud hook_forward accept", check=True)
    assert net.report().digest != digest, "a rule added by hand shows"


def test_the_report_names_foreign_tables(net: Fabric) -> None:
    assert net.report().tables == ("inet vcloud",)
    net.firewall.run("nft", "add table ip foreign", check=True)
    try:
        assert set(net.report().tables) == {"inet vcloud", "ip foreign"}
    finally:
        net.firewall.run("nft", "delete table ip foreign", check=True)


def test_closed_lets_nothing_through(net: Fabric) -> None:
    assert greeting(net.vms["web-1"], net.address("api", 4), 8000)
    net.load_text((SCRIPTS / "closed.nft").read_text(), check=True)
    assert not greeting(net.vms["web-1"], net.address("api", 4), 8000)
    assert not net.vms["web-1"].pings(str(DESIGN.zone("dmz").gateway.address4))
    assert not greeting(net.outside, net.uplink_address(4), 8080)


def test_an_uplink_without_ipv6_lets_no_ipv6_out(tmp_path: Path) -> None:
    uplink = replace(UPLINK, address6=None, gateway6=None)
    with Fabric(DESIGN, uplink, tmp_path) as fabric:
        fabric.load(DESIGN)
        fabric.servers.add(fabric.outside, "outside", 443)
        fabric.servers.add(fabric.vms["api"], "api", 8000)
        assert greeting(fabric.vms["api"], OUTSIDE4, 443)
        assert greeting(fabric.vms["web-1"], fabric.address("api", 6), 8000)
        assert not greeting(fabric.vms["api"], OUTSIDE6, 443)


def test_ten_thousand_flows_cost_no_more_per_packet_than_ten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Loads them for real and prints times and throughput; the absolute numbers are the machine's."""
    with Fabric(_many(10), UPLINK, tmp_path) as fabric:
        rates: dict[int, list[float]] = {}
        for count in (10, 10_000, 10, 10_000):
            design = _many(count)
            started = time.perf_counter()
            text = render_firewall(design, UPLINK)
            rendered = time.perf_counter()
            fabric.load_text(text, check=True)
            loaded = time.perf_counter()
            rates.setdefault(count, []).append(_throughput(fabric))
            with capsys.disabled():
                print(f"\n{count} flows: rendered in {rendered - started:.2f} s, loaded in {loaded - rendered:.2f} s", end="")
                print(f", {rates[count][-1] / 1e6:.0f} MB/s")
    ratio = max(rates[10_000]) / max(rates[10])
    with capsys.disabled():
        print(f"throughput with 10,000 flows: {ratio:.0%} of that with 10")
    assert ratio > 0.7


def _many(count: int) -> Design:
    rows = (f"f{number}: a -> b tcp/{10000 + number}" for number in range(count))
    return build_design("left right", {"a": "left", "b": "right"}, "\n".join(rows))


def _throughput(fabric: Fabric, size: int = 400_000_000) -> float:
    """Bytes per second of one TCP connection through the firewall."""
    chunk = bytes(1 << 20)
    with fabric.vms["b"].socket(socket.AF_INET, STREAM) as server, fabric.vms["a"].socket(socket.AF_INET, STREAM) as client:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("0.0.0.0", 10000))  # noqa: S104
        server.listen()
        client.connect((fabric.address("b", 4), 10000))
        receiver, _ = server.accept()

        def send() -> None:
            for _ in range(size // len(chunk)):
                client.sendall(chunk)
            client.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        started = time.perf_counter()
        sender.start()
        received, buffer = 0, bytearray(1 << 20)
        with receiver:
            while count := receiver.recv_into(buffer):
                received += count
        sender.join()
        return received / (time.perf_counter() - started)


def _settled(happened: Callable[[], bool], seconds: float = 2.0) -> bool:
    """Whether it becomes true in time: packets need a moment."""
    deadline = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _noting(task: Callable[[], None], failures: list[str]) -> Callable[[], None]:
    def run() -> None:
        try:
            task()
        except Exception as error:
            failures.append(repr(error))

    return run


@contextlib.contextmanager
def _bound(where: Namespace, version: int, port: int) -> Iterator[socket.socket]:
    with where.socket(socket.AF_INET if version == 4 else socket.AF_INET6, DATAGRAM) as client:
        client.settimeout(0.7)
        client.bind(("" if version == 4 else "::", port))
        yield client


@contextlib.contextmanager
def _pushed(net: Fabric) -> Iterator[list[int]]:
    """What a server sends of its own accord, one number every 5 ms; the list grows while they come in."""
    numbers: list[int] = []

    def read() -> None:
        with contextlib.suppress(OSError), client.makefile("r") as lines:
            numbers.extend(map(int, lines))

    with net.vms["db"].socket(socket.AF_INET, STREAM) as server, net.vms["api"].socket(socket.AF_INET, STREAM) as client:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((net.address("db", 4), PUSHED))
        server.listen()
        client.connect(server.getsockname())
        pushing, _ = server.accept()
        stop = threading.Event()

        def push() -> None:
            number = 0
            while not stop.wait(0.005):
                pushing.sendall(f"{number}\n".encode())
                number += 1

        threads = [threading.Thread(target=push), threading.Thread(target=read)]
        for thread in threads:
            thread.start()
        try:
            yield numbers
        finally:
            stop.set()
            client.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join()
            pushing.close()
