"""Probes that the guest program sends, and the services that answer them."""

from __future__ import annotations

import base64
import json
import subprocess
import time

import pytest

from tests.netns.guest.machines import (
    Machine,
    encode,
)

pytestmark = pytest.mark.netns


FAMILIES = pytest.mark.parametrize(("own", "there"), [("10.8.0.2", "10.8.0.1"), ("fd00:8::2", "fd00:8::1")], ids=["ipv4", "ipv6"])


@FAMILIES
@pytest.mark.usefixtures("lan")
def test_tcp_probes_tell_open_refused_timeout_and_unreachable_apart(guest: Machine, firewall: Machine, own: str, there: str) -> None:
    firewall.nft(
        "tcp dport 81 drop",
        "tcp dport 82 reject with icmpx type admin-prohibited",
        "tcp dport 83 reject",
        "tcp dport 84 reject with tcp reset",
    )
    with firewall.listening(*(f"tcp {there} {port}" for port in (80, 81, 82, 83, 84))):
        lines = [f"{port} tcp {own} {there} {port} 2500" for port in (80, 81, 82, 83, 84, 85)]
        found = guest.probe(*lines, f"any tcp - {there} 80 700")
    assert {name: answer["result"] for name, answer in found.items()} == {
        "80": "open",
        "81": "timeout",
        "82": "unreachable",
        "83": "refused",
        "84": "refused",
        "85": "refused",
        "any": "open",
    }
    assert found["80"]["port"] > 1024
    assert found["80"]["ms"] < 300
    assert 2500 <= found["81"]["ms"] < 3500


@FAMILIES
@pytest.mark.usefixtures("lan")
def test_udp_probes_tell_answered_refused_timeout_and_unreachable_apart(guest: Machine, firewall: Machine, own: str, there: str) -> None:
    firewall.nft(
        "udp dport 91 drop", "udp dport 92 reject with icmpx type admin-prohibited", "udp dport 93 reject with icmpx type no-route"
    )
    with firewall.listening(f"udp {there} 90 {encode('hello')}", *(f"udp {there} {port}" for port in (91, 92, 93, 95))):
        lines = [f"{port} udp {own} {there} {port} 500" for port in range(90, 95)]
        found = guest.probe(*lines, f"95 udp - {there} 95 500 {encode('ping')}")
    results = ["answered", "timeout", "unreachable", "unreachable", "refused", "answered"]
    assert [found[str(port)]["result"] for port in range(90, 96)] == results
    assert found["90"]["answer"] == encode("hello")
    assert found["95"]["answer"] == encode("ping")


@FAMILIES
@pytest.mark.usefixtures("lan")
def test_icmp_probes_are_answered_until_a_rule_forbids_it(guest: Machine, firewall: Machine, own: str, there: str) -> None:
    echo = [f"{number} icmp {source} {there} 0 400" for number, source in enumerate((own, "-", "-"))]
    assert [answer["result"] for answer in guest.probe(*echo).values()] == ["answered"] * 3
    firewall.nft("meta l4proto { icmp, ipv6-icmp } drop")
    assert [answer["result"] for answer in guest.probe(*echo).values()] == ["timeout"] * 3
    firewall.nft(
        "icmp type echo-request reject with icmpx type admin-prohibited", "icmpv6 type echo-request reject with icmpx type admin-prohibited"
    )
    assert [answer["result"] for answer in guest.probe(*echo).values()] == ["unreachable"] * 3


@pytest.mark.usefixtures("lan")
def test_no_route_is_unreachable_and_a_foreign_source_an_error(guest: Machine) -> None:
    guest.enter("ip", "route", "del", "default")
    lines = [f"{protocol} {protocol} - 198.51.100.1 80 500" for protocol in ("tcp", "udp", "icmp")]
    found = guest.probe(*lines, "foreign tcp 10.8.0.77 10.8.0.1 80 500")
    assert [found[name]["result"] for name in ("tcp", "udp", "icmp")] == ["unreachable"] * 3
    assert (found["foreign"]["result"], found["foreign"]["error"]) == ("error", "Address not available")


@FAMILIES
@pytest.mark.usefixtures("lan")
def test_a_payload_is_delivered_stalled_or_reset(guest: Machine, firewall: Machine, own: str, there: str) -> None:
    """As behind an IPS: the handshake passes, what the packets say decides."""
    firewall.nft("tcp dport 81 meta length > 500 drop", "tcp dport 82 meta length > 500 reject with tcp reset")
    bulk = encode(b"x" * 1000)
    with firewall.listening(f"tcp {there} 80 {encode('HTTP/1.1 200 OK')}", *(f"tcp {there} {port}" for port in (81, 82))) as service:
        found = guest.probe(
            *(f"{port} tcp {own} {there} {port} 1500 {bulk}" for port in (80, 81, 82, 85)),
            f"short tcp - {there} 81 1500 {encode('short')}",
        )
    assert {name: answer["result"] for name, answer in found.items()} == {
        "80": "delivered",
        "81": "stalled",
        "82": "reset",
        "85": "refused",
        "short": "delivered",
    }
    assert found["80"]["answer"] == encode("HTTP/1.1 200 OK")
    assert found["short"]["answer"] == encode("short")
    peers = {(peer["port"], peer["from"], peer["from_port"]): peer["bytes"] for peer in firewall.log(service)}
    assert peers[80, own, found["80"]["port"]] == 1000
    assert peers[81, own, found["81"]["port"]] == 0


@pytest.mark.usefixtures("lan")
def test_a_long_payload_is_delivered_and_an_answer_is_cut_at_8_kib(guest: Machine, firewall: Machine) -> None:
    with firewall.listening("tcp 10.8.0.1 80", f"tcp 10.8.0.1 81 {encode(b'y' * 20_000)}") as service:
        found = guest.probe(f"a tcp - 10.8.0.1 80 5000 {encode(b'x' * 3_000_000)}", f"b tcp - 10.8.0.1 81 5000 {encode('z')}")
    assert [found[name]["result"] for name in "ab"] == ["delivered", "delivered"]
    assert [len(base64.b64decode(found[name]["answer"])) for name in "ab"] == [8192, 8192]
    assert {peer["bytes"] for peer in firewall.log(service)} == {3_000_000, 1}


@pytest.mark.usefixtures("lan")
def test_a_probe_with_an_answer_ends_long_before_its_timeout(guest: Machine, firewall: Machine) -> None:
    with firewall.listening("tcp 10.8.0.1 80"):
        began = time.monotonic()
        found = guest.probe(f"a tcp - 10.8.0.1 80 20000 {encode('x')}")
    assert found["a"]["result"] == "delivered"
    assert time.monotonic() - began < 1.5


@FAMILIES
@pytest.mark.usefixtures("lan")
def test_forged_packets_arrive_with_the_source_that_was_asked_for(guest: Machine, firewall: Machine, own: str, there: str) -> None:
    forged = own + "2"
    firewall.nft(f"{'ip6' if ':' in own else 'ip'} saddr {forged} tcp dport 81 tcp flags syn counter")
    with firewall.listening(f"udp {there} 80") as service:
        found = guest.probe(f"a spoof-udp {forged} {there} 80 500", f"b spoof-tcp {forged} {there} 81 500", f"c udp - {there} 80 500")
        assert [found[name]["result"] for name in "abc"] == ["sent", "sent", "answered"]
        peers = {(peer["from"], peer["from_port"], peer["bytes"]) for peer in firewall.log(service)}
    assert peers == {(forged, found["a"]["port"], 6), (own, found["c"]["port"], 6)}
    assert "counter packets 1 " in firewall.enter("nft", "list", "ruleset").stdout


@FAMILIES
@pytest.mark.usefixtures("lan")
def test_what_is_lost_on_the_way_is_sent_again_but_not_for_ever(guest: Machine, firewall: Machine, own: str, there: str) -> None:
    first = "limit rate 1/hour burst 1 packets counter drop"
    firewall.nft(
        f"udp dport 80 {first}", f"icmp type echo-request {first}", f"icmpv6 type echo-request {first}", "udp dport 81 counter drop"
    )
    with firewall.listening(f"udp {there} 80", f"udp {there} 82") as service:
        found = guest.probe(
            *(f"{protocol} {protocol} {own} {there} {port} 2500" for protocol, port in (("udp", 80), ("icmp", 0))),
            f"never udp {own} {there} 81 2500",
            f"forged spoof-udp {own}2 {there} 82 2500",
        )
        heard = [peer for peer in firewall.log(service) if peer["port"] == 82]
    assert {name: answer["result"] for name, answer in found.items()} == {
        "udp": "answered",
        "icmp": "answered",
        "never": "timeout",
        "forged": "sent",
    }
    assert all(600 <= found[name]["ms"] < 1200 for name in ("udp", "icmp"))
    assert "udp dport 81 counter packets 3 " in firewall.enter("nft", "list", "ruleset").stdout
    assert [(peer["from"], peer["from_port"]) for peer in heard] == [(f"{own}2", found["forged"]["port"])] * 3


@pytest.mark.usefixtures("lan")
def test_many_probes_run_side_by_side(guest: Machine, firewall: Machine) -> None:
    firewall.nft("tcp dport 81 drop")
    with firewall.listening("tcp 10.8.0.1 80", "udp 10.8.0.1 80"):
        began = time.monotonic()
        lines = [f"{number} {('tcp', 'udp', 'icmp')[number % 3]} - 10.8.0.1 80 5000" for number in range(1500)]
        found = guest.probe(*lines, *(f"drop-{number} tcp - 10.8.0.1 81 500" for number in range(500)))
    assert time.monotonic() - began < 8
    assert {found[str(number)]["result"] for number in range(1500)} == {"open", "answered"}
    assert {found[f"drop-{number}"]["result"] for number in range(500)} == {"timeout"}


@pytest.mark.parametrize(
    "line",
    [
        "a",
        "a sctp - 10.8.0.1 80 500",
        "a tcp - host 80 500",
        "a tcp - 10.8.0.1 0 500",
        "a tcp - 10.8.0.1 65536 500",
        "a tcp - 10.8.0.1 80 0",
        "a tcp fd00::1 10.8.0.1 80 500",
        "a spoof-udp - 10.8.0.1 80 500",
        "a tcp - 10.8.0.1 80 500 ???",
        "\x01 tcp - 10.8.0.1 80 500",
    ],
)
def test_a_malformed_probe_is_refused_by_number_before_any_is_sent(guest: Machine, line: str) -> None:
    result = guest.guest("probe", stdin=f"fine tcp - 127.0.0.1 80 500\n{line}\n")
    assert (result.returncode, result.stdout.split(" ", 2)[:2]) == (1, ["error", "2"])


def test_a_listener_says_which_ports_are_busy_and_serves_the_others(guest: Machine) -> None:
    assert guest.identity() == "ok"
    with guest.listening("tcp 127.0.0.1 80", "udp ::1 80") as first:
        assert first["bound"] == ["tcp 127.0.0.1 80", "udp ::1 80"]
        with guest.listening("tcp 127.0.0.1 80", "tcp ::1 80") as second:
            assert (second["bound"], second["busy"]) == (["tcp ::1 80"], ["tcp 127.0.0.1 80"])
    assert guest.guest("listen", "5", stdin="tcp 10.1.1.1 80").stdout == "error 1 10.1.1.1: Address not available\n"
    assert guest.guest("listen", "5", stdin="tcp ::1 80 A").stdout.startswith("error 1 ")


def test_a_listener_ends_by_itself_and_only_listeners_can_be_stopped(guest: Machine) -> None:
    assert guest.identity() == "ok"
    service = json.loads(guest.guest("listen", "1", stdin="tcp 127.0.0.1 80").stdout)
    assert guest.guest("ready", "tcp", "80").returncode == 0
    time.sleep(1.3)
    assert guest.guest("ready", "tcp", "80").returncode == 1
    assert guest.guest("listen-stop", str(service["pid"])).returncode == 0  # over already
    with subprocess.Popen(["nsenter", "-t", str(guest.pid), "-p", "-m", "sleep", "30"]) as other:
        while not (pid := guest.enter("pgrep", "-x", "sleep", check=False).stdout.strip()):
            time.sleep(0.05)
        assert guest.guest("listen-stop", pid).stdout == f"error 0 process {pid} is no guest listen\n"
        assert other.poll() is None
        other.terminate()
