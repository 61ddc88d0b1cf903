"""Rules that change under open connections, refused rulesets, and what they cost."""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.design_builder import UPLINK, build_design, with_flows
from tests.netns.fabric import (
    OUTSIDE4,
    OUTSIDE6,
    SCRIPTS,
    SHORT,
    Fabric,
    Live,
    greeting,
    unanswered,
)
from tests.netns.firewall.traffic import (
    DESIGN,
    FLOWS,
    STREAM,
    WITHOUT_STOCK,
    WITHOUT_STORE,
    both_versions,
    noting,
    outside,
    pushed,
    settled,
)
from vcloud.compile.firewall.ruleset import render_firewall
from vcloud.design.model import Design

pytestmark = pytest.mark.timeout(900)


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
        assert not revoked.echoes("after", wait=3)
        assert all(live.echoes("after") for live in (kept, published, leaving))
        key = (net.address("api", version), net.address("db", version), "tcp", 5432)
        assert net.report().denied[key] >= 1
        net.load(DESIGN)
        revoked.socket.settimeout(120)  # the longer the flow was revoked, the later TCP repeats
        assert revoked.line() == "after", (
            "the flow is declared again: TCP's own repetition gets through"
        )


@both_versions
@pytest.mark.parametrize(
    ("before", "after", "port"),
    [("tcp/80=8080", "tcp/80=8081", 8080), ("5003=6000", "5003=6010", 6002)],
)
def test_a_connection_to_a_port_that_is_published_no_more_dies_though_the_flow_lives(
    net: Fabric, version: int, before: str, after: str, port: int
) -> None:
    """Its packets reach the same service as those of the port that is published now."""
    other = 9100
    with (
        Live(net.outside, net.uplink_address(version), port) as moved,
        Live(net.outside, net.uplink_address(version), other) as kept,
    ):
        assert moved.echoes("before")
        net.load(with_flows(DESIGN, FLOWS.replace(before, after)))
        assert not moved.echoes("after", wait=SHORT)
        assert kept.echoes("after")
        shifted = int(after.rpartition("=")[2]) + port - int(before.rpartition("=")[2])
        assert greeting(net.outside, net.uplink_address(version), shifted)
        assert unanswered(net.outside, net.uplink_address(version), port)


def test_a_revoked_server_push_dies_although_its_client_is_silent(net: Fabric) -> None:
    with pushed(net) as (numbers, sent):
        assert settled(lambda: len(numbers) > 20)
        net.load(with_flows(DESIGN, WITHOUT_STOCK))
        seen, then = len(numbers), sent()
        assert settled(lambda: sent() > then + 100)
        assert len(numbers) <= seen + 2


def test_allowed_connections_live_through_twenty_changes_and_no_denied_one_slips_through(
    net: Fabric,
) -> None:
    other = with_flows(DESIGN, FLOWS + "    extra: web -> db tcp/1\n")
    failures: list[str] = []
    stop = threading.Event()

    def keep_asking(version: int) -> None:
        with Live(net.vms["web-1"], net.address("api", version), 8000) as live:
            while not stop.is_set():
                if not live.echoes("x" * 100):
                    failures.append(f"a connection over IPv{version} had no echo")

    def keep_knocking() -> None:
        while not stop.is_set():
            if greeting(net.vms["web-1"], net.address("db", 4), 5432, wait=0.02):
                failures.append("a denied connection was made")

    tasks = [lambda: keep_asking(4), lambda: keep_asking(6), keep_knocking]
    with pushed(net) as (numbers, _):
        threads = [threading.Thread(target=noting(task, failures)) for task in tasks]
        for thread in threads:
            thread.start()
        for turn in range(20):
            net.load(other if turn % 2 else DESIGN)
        before_end = len(numbers)
        assert settled(lambda: len(numbers) > before_end)
        stop.set()
        for thread in threads:
            thread.join()
        assert numbers == list(range(len(numbers)))
    assert failures == []


@both_versions
def test_connections_live_through_a_restart_of_the_firewall(net: Fabric, version: int) -> None:
    """Conntrack forgets all; the client's next packet is judged like its first, a server's alone is
    not believed.
    """
    with (
        Live(net.vms["web-1"], net.address("api", version), 8000) as inside,
        Live(net.vms["api"], outside(version), 443) as leaving,
        Live(net.vms["api"], net.address("db", version), 5432) as revoked,
    ):
        net.load_text((SCRIPTS / "closed.nft").read_text(), check=True)
        net.forget_connections()
        assert not inside.echoes("closed", wait=0.3)
        net.load(with_flows(DESIGN, WITHOUT_STORE))
        inside.socket.settimeout(120)  # its next attempt at sending comes when TCP thinks fit
        assert inside.line() == "closed"
        assert inside.echoes("open")
        assert leaving.echoes("open")
        assert not revoked.echoes("open", wait=3)


def test_a_refused_ruleset_leaves_the_old_one_in_force(net: Fabric) -> None:
    kept = (net.etc / "vcloud/firewall.nft").read_bytes()
    digest = net.report().digest
    broken = render_firewall(with_flows(DESIGN, WITHOUT_STORE), UPLINK).replace(
        "goto flow_stock", "goto flow_nowhere", 1
    )
    refused = net.load_text(broken)
    assert refused.returncode == 65
    assert "flow_nowhere" in refused.stderr
    assert net.report().digest == digest
    assert greeting(net.vms["api"], net.address("db", 4), 5432)
    assert (net.etc / "vcloud/firewall.nft").read_bytes() == kept
    assert {path.name for path in (net.etc / "vcloud").iterdir()} == {"firewall.nft", "identity"}


def test_the_loaded_ruleset_is_kept_for_the_next_boot_and_private(net: Fabric) -> None:
    kept = net.etc / "vcloud/firewall.nft"
    assert kept.read_text() == "flush ruleset\n" + render_firewall(DESIGN, UPLINK)
    assert kept.stat().st_mode & 0o777 == 0o600


def test_the_digest_speaks_of_the_rules_and_of_nothing_else(net: Fabric) -> None:
    digest = net.load(DESIGN)
    assert unanswered(net.vms["web-1"], net.address("db", 4), 5432)
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
    assert unanswered(net.vms["web-1"], net.address("api", 4), 8000)
    assert net.vms["web-1"].pings_in_vain(str(DESIGN.zone("dmz").gateway.address4))
    assert unanswered(net.outside, net.uplink_address(4), 8080)


def test_an_uplink_without_ipv6_lets_no_ipv6_out(tmp_path: Path, program: Path) -> None:
    uplink = replace(UPLINK, address6=None, gateway6=None)
    with Fabric(DESIGN, uplink, tmp_path, program) as fabric:
        fabric.load(DESIGN)
        fabric.servers.add(fabric.outside, "outside", 443)
        fabric.servers.add(fabric.vms["api"], "api", 8000)
        assert greeting(fabric.vms["api"], OUTSIDE4, 443)
        assert greeting(fabric.vms["web-1"], fabric.address("api", 6), 8000)
        assert unanswered(fabric.vms["api"], OUTSIDE6, 443)


def test_ten_thousand_flows_cost_no_more_per_packet_than_ten(
    tmp_path: Path, program: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Loads them for real and prints times and throughput. The absolute numbers are the machine's.

    Throughput is bytes per second of processor time, so that other work on the machine does not
    change it: the kernel forwards a packet in the time of the process that sent it.
    """
    with Fabric(many(10), UPLINK, tmp_path, program) as fabric:
        rates: dict[int, list[float]] = {}
        for count in (10, 10_000, 10, 10_000):
            design = many(count)
            started = time.perf_counter()
            text = render_firewall(design, UPLINK)
            rendered = time.perf_counter()
            fabric.load_text(text, check=True)
            loaded = time.perf_counter()
            rates.setdefault(count, []).append(throughput(fabric))
            with capsys.disabled():
                print(
                    f"\n{count} flows: rendered in {rendered - started:.2f} s, loaded in {loaded - rendered:.2f} s",
                    end="",
                )
                print(f", {rates[count][-1] / 1e6:.0f} MB/s")
    ratio = max(rates[10_000]) / max(rates[10])
    with capsys.disabled():
        print(f"throughput with 10,000 flows: {ratio:.0%} of that with 10")
    assert ratio > 0.7


def many(count: int) -> Design:
    rows = (f"f{number}: a -> b tcp/{10000 + number}" for number in range(count))
    return build_design("left right", {"a": "left", "b": "right"}, "\n".join(rows))


def throughput(fabric: Fabric, size: int = 400_000_000) -> float:
    """Bytes of one TCP connection through the firewall, per second of processor time that this
    process took for both ends.
    """
    chunk = bytes(1 << 20)
    with (
        fabric.vms["b"].socket(socket.AF_INET, STREAM) as server,
        fabric.vms["a"].socket(socket.AF_INET, STREAM) as client,
    ):
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
        started = time.process_time()
        sender.start()
        received, buffer = 0, bytearray(1 << 20)
        with receiver:
            while count := receiver.recv_into(buffer):
                received += count
        sender.join()
        return received / (time.process_time() - started)
