"""The two probe programs, the C program of shipped images and the Python program that is sent
elsewhere, on the same cases.

Each case runs one program on two machines (network namespaces joined by a cable), and looks only at
the lines that the program reads and prints.
"""

from __future__ import annotations

import base64
import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from tests.netns.guest.machines import FLAGS, SOURCES, encode
from tests.netns.namespaces import held
from vcloud.guests.probes import python_program, python_words

pytestmark = pytest.mark.netns

LONG = 10_000
"""Milliseconds for a probe that ends with an answer."""
PEERS = pytest.mark.parametrize(
    ("own", "there"), [("10.8.0.2", "10.8.0.1"), ("fd00:8::2", "fd00:8::1")], ids=["ipv4", "ipv6"]
)


@dataclass(frozen=True, slots=True)
class Machine:
    """A network namespace, and the program that runs in it."""

    pid: int
    program: tuple[str, ...]
    before: bytes
    """What the program reads before its input."""

    def enter(self, *argv: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        enter = ["nsenter", "-t", str(self.pid), "-n", "-m", "-p"]
        return subprocess.run(
            [*enter, *argv], input=stdin, capture_output=True, check=False, timeout=600
        )

    def run(self, *words: str, lines: str = "") -> subprocess.CompletedProcess[bytes]:
        return self.enter(*self.program, *words, stdin=self.before + lines.encode())

    def set(self, *argv: str, stdin: str = "") -> str:
        """Changes or shows a setting of the namespace."""
        done = self.enter(*argv, stdin=stdin.encode())
        assert done.returncode == 0, done
        return done.stdout.decode()

    def rules(self, *rules: str) -> None:
        """Replaces the rules that packets meet on their way into this machine."""
        lines = (
            "flush ruleset",
            "table inet t {",
            "chain c {",
            "type filter hook input priority 0",
            *rules,
            "}",
            "}",
        )
        self.set("nft", "-f", "-", stdin="\n".join(lines))

    def probe(self, *lines: str) -> dict[str, dict[str, Any]]:
        done = self.run("probe", lines="\n".join(lines))
        assert done.returncode == 0, done
        answers = [json.loads(line) for line in done.stdout.splitlines()]
        assert len(answers) == len(lines)
        return {answer["id"]: answer for answer in answers}

    @contextmanager
    def listening(self, *lines: str) -> Iterator[dict[str, Any]]:
        done = self.run("listen", "600", lines="\n".join(lines))
        assert done.returncode == 0, done
        service: dict[str, Any] = json.loads(done.stdout)
        yield service
        stopped = self.run("listen-stop", str(service["pid"]))
        assert stopped.returncode == 0, stopped

    def log(self, service: dict[str, Any]) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.set("cat", service["log"]).splitlines()]


@pytest.fixture(scope="session", params=["c", "python"])
def program(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[tuple[str, ...], bytes]:
    """The words that run a program, and what it reads before its input."""
    if request.param == "python":
        return python_words(), python_program()
    path = tmp_path_factory.mktemp("guest") / "guest"
    subprocess.run(
        [
            "musl-gcc",
            *FLAGS,
            "-o",
            str(path),
            *(str(source) for source in sorted(SOURCES.glob("*.c"))),
        ],
        check=True,
    )
    return (str(path),), b""


@contextmanager
def new_machine(program: tuple[tuple[str, ...], bytes]) -> Iterator[Machine]:
    with held(script="mount -t tmpfs tmpfs /run && ip link set lo up") as pid:
        yield Machine(pid, *program)


@pytest.fixture(scope="module")
def pair(program: tuple[tuple[str, ...], bytes]) -> Iterator[tuple[Machine, Machine]]:
    """A machine that probes, and one that is probed."""
    with new_machine(program) as near, new_machine(program) as far:
        cable = [
            "name",
            "g0",
            "netns",
            str(near.pid),
            "type",
            "veth",
            "peer",
            "name",
            "g0",
            "netns",
            str(far.pid),
        ]
        subprocess.run(["ip", "link", "add", *cable], check=True)
        for machine, number in ((near, 2), (far, 1)):
            machine.set("ip", "link", "set", "g0", "up")
            machine.set("ip", "address", "add", f"10.8.0.{number}/24", "dev", "g0")
            machine.set("ip", "address", "add", f"fd00:8::{number}/64", "dev", "g0", "nodad")
            machine.set(
                "sysctl", "-q", "-w", "net.ipv6.icmp.ratelimit=0", "net.ipv4.icmp_ratelimit=0"
            )
        yield near, far


@pytest.fixture
def near(pair: tuple[Machine, Machine]) -> Machine:
    return pair[0]


@pytest.fixture
def far(pair: tuple[Machine, Machine]) -> Iterator[Machine]:
    pair[1].rules()
    return pair[1]


def results(found: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {key: answer["result"] for key, answer in found.items()}


@PEERS
def test_tcp_probes_tell_open_refused_timeout_and_unreachable_apart(
    near: Machine, far: Machine, own: str, there: str
) -> None:
    far.rules(
        "tcp dport 81 drop",
        "tcp dport 82 reject with icmpx type admin-prohibited",
        "tcp dport 83 reject",
        "tcp dport 84 reject with tcp reset",
    )
    with far.listening(*(f"tcp {there} {port}" for port in (80, 81, 82, 83, 84))):
        lines = [f"{port} tcp {own} {there} {port} {LONG}" for port in (80, 82, 83, 84, 85)]
        lines += [f"81 tcp {own} {there} 81 1500", f"any tcp - {there} 80 {LONG}"]
        found = near.probe(*lines)
    expected = {
        "80": "open",
        "81": "timeout",
        "82": "unreachable",
        "83": "refused",
        "84": "refused",
        "85": "refused",
        "any": "open",
    }
    assert results(found) == expected
    assert found["80"]["port"] > 1024
    # Only the Python program sends from outside, where vcloud does not choose the address.
    assert found["any"].get("sender", "") == (own if near.before else "")
    assert found["81"]["ms"] >= 1500


@PEERS
def test_udp_probes_tell_answered_refused_timeout_and_unreachable_apart(
    near: Machine, far: Machine, own: str, there: str
) -> None:
    far.rules(
        "udp dport 91 drop",
        "udp dport 92 reject with icmpx type admin-prohibited",
        "udp dport 93 reject with icmpx type no-route",
    )
    with far.listening(
        f"udp {there} 90 {encode('hello')}", *(f"udp {there} {port}" for port in (91, 92, 93, 95))
    ):
        lines = [f"{port} udp {own} {there} {port} {LONG}" for port in (90, 92, 93, 94)]
        lines += [f"91 udp {own} {there} 91 500", f"95 udp - {there} 95 {LONG} {encode('ping')}"]
        found = near.probe(*lines)
    expected = ["answered", "timeout", "unreachable", "unreachable", "refused", "answered"]
    assert [found[str(port)]["result"] for port in range(90, 96)] == expected
    assert (found["90"]["answer"], found["95"]["answer"]) == (encode("hello"), encode("ping"))


@PEERS
def test_icmp_probes_are_answered_until_a_rule_forbids_it(
    near: Machine, far: Machine, own: str, there: str
) -> None:
    def echoes(milliseconds: int) -> set[str]:
        sources = enumerate((own, "-", "-"))
        lines = (f"{number} icmp {source} {there} 0 {milliseconds}" for number, source in sources)
        return set(results(near.probe(*lines)).values())

    assert echoes(LONG) == {"answered"}
    far.rules("icmp type echo-request drop", "icmpv6 type echo-request drop")
    assert echoes(400) == {"timeout"}
    far.rules(
        *(
            f"{name} type echo-request reject with icmpx type admin-prohibited"
            for name in ("icmp", "icmpv6")
        )
    )
    assert echoes(LONG) == {"unreachable"}


def test_no_route_is_unreachable_and_a_foreign_source_an_error(near: Machine) -> None:
    kinds = ("tcp", "udp", "icmp")
    lines = [f"{protocol} {protocol} - 198.51.100.1 80 {LONG}" for protocol in kinds]
    found = near.probe(*lines, f"foreign tcp 10.8.0.77 10.8.0.1 80 {LONG}")
    assert results(found) == {
        "tcp": "unreachable",
        "udp": "unreachable",
        "icmp": "unreachable",
        "foreign": "error",
    }
    assert (
        "address" in found["foreign"]["error"].lower()
    )  # the C library and Python word it differently


@PEERS
def test_a_payload_is_delivered_stalled_or_reset(
    near: Machine, far: Machine, own: str, there: str
) -> None:
    """As behind an IPS: the handshake passes, and then the content of the packets decides."""
    far.rules(
        "tcp dport 81 meta length > 500 drop",
        "tcp dport 82 meta length > 500 reject with tcp reset",
    )
    bulk = encode(b"x" * 1000)
    with far.listening(
        f"tcp {there} 80 {encode('HTTP/1.1 200 OK')}", *(f"tcp {there} {port}" for port in (81, 82))
    ) as service:
        lines = [f"{port} tcp {own} {there} {port} {LONG} {bulk}" for port in (80, 82, 85)]
        lines += [f"81 tcp {own} {there} 81 1500 {bulk}"]
        found = near.probe(*lines, f"short tcp - {there} 81 {LONG} {encode('short')}")
    assert results(found) == {
        "80": "delivered",
        "81": "stalled",
        "82": "reset",
        "85": "refused",
        "short": "delivered",
    }
    assert (found["80"]["answer"], found["short"]["answer"]) == (
        encode("HTTP/1.1 200 OK"),
        encode("short"),
    )
    peers = {
        (peer["port"], peer["from"], peer["from_port"]): peer["bytes"] for peer in far.log(service)
    }
    assert peers[80, own, found["80"]["port"]] == 1000
    assert peers[81, own, found["81"]["port"]] == 0


def test_a_long_payload_is_delivered_and_an_answer_is_cut_at_8_kib(
    near: Machine, far: Machine
) -> None:
    with far.listening("tcp 10.8.0.1 80", f"tcp 10.8.0.1 81 {encode(b'y' * 20_000)}") as service:
        found = near.probe(
            f"a tcp - 10.8.0.1 80 60000 {encode(b'x' * 3_000_000)}",
            f"b tcp - 10.8.0.1 81 60000 {encode('z')}",
        )
    assert results(found) == {"a": "delivered", "b": "delivered"}
    assert [len(base64.b64decode(found[name]["answer"])) for name in "ab"] == [8192, 8192]
    assert {peer["bytes"] for peer in far.log(service)} == {3_000_000, 1}


def test_a_probe_with_an_answer_ends_long_before_its_timeout(near: Machine, far: Machine) -> None:
    with far.listening("tcp 10.8.0.1 80"):
        began = time.monotonic()
        found = near.probe(f"a tcp - 10.8.0.1 80 200000 {encode('x')}")
    assert found["a"]["result"] == "delivered"
    assert time.monotonic() - began < 100


@PEERS
def test_forged_packets_arrive_with_the_source_that_was_asked_for(
    near: Machine, far: Machine, own: str, there: str
) -> None:
    forged = own + "2"
    far.rules(f"{'ip6' if ':' in own else 'ip'} saddr {forged} tcp dport 81 tcp flags syn counter")
    with far.listening(f"udp {there} 80") as service:
        lines = (
            f"a spoof-udp {forged} {there} 80 500",
            f"b spoof-tcp {forged} {there} 81 500",
            f"c udp - {there} 80 {LONG}",
        )
        found = near.probe(*lines)
        peers = {(peer["from"], peer["from_port"], peer["bytes"]) for peer in far.log(service)}
    assert results(found) == {"a": "sent", "b": "sent", "c": "answered"}
    assert peers == {(forged, found["a"]["port"], 6), (own, found["c"]["port"], 6)}
    assert "counter packets 1 " in far.set("nft", "list", "ruleset")


@PEERS
def test_what_is_lost_on_the_way_is_sent_again_but_not_for_ever(
    near: Machine, far: Machine, own: str, there: str
) -> None:
    first = "limit rate 1/hour burst 1 packets counter drop"
    far.rules(
        f"udp dport 80 {first}",
        *(f"{name} type echo-request {first}" for name in ("icmp", "icmpv6")),
        "udp dport 81 counter drop",
    )
    with far.listening(f"udp {there} 80", f"udp {there} 82") as service:
        found = near.probe(
            f"udp udp {own} {there} 80 {LONG}",
            f"icmp icmp {own} {there} 0 {LONG}",
            f"never udp {own} {there} 81 2500",
            f"forged spoof-udp {own}2 {there} 82 2500",
        )
        heard = [
            (peer["from"], peer["from_port"]) for peer in far.log(service) if peer["port"] == 82
        ]
    assert results(found) == {
        "udp": "answered",
        "icmp": "answered",
        "never": "timeout",
        "forged": "sent",
    }
    assert all(found[name]["ms"] >= 600 for name in ("udp", "icmp"))
    assert "udp dport 81 counter packets 3 " in far.set("nft", "list", "ruleset")
    assert heard == [(f"{own}2", found["forged"]["port"])] * 3


def test_many_probes_run_side_by_side(near: Machine, far: Machine) -> None:
    far.rules("tcp dport 81 drop")
    with far.listening("tcp 10.8.0.1 80", "udp 10.8.0.1 80"):
        began = time.monotonic()
        lines = [
            f"{number} {('tcp', 'udp', 'icmp')[number % 3]} - 10.8.0.1 80 30000"
            for number in range(600)
        ]
        found = near.probe(
            *lines, *(f"drop-{number} tcp - 10.8.0.1 81 500" for number in range(300))
        )
    assert time.monotonic() - began < 60  # one after the other they would take 150 s
    assert {found[str(number)]["result"] for number in range(600)} == {"open", "answered"}
    assert {found[f"drop-{number}"]["result"] for number in range(300)} == {"timeout"}


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
        "a tcp - 10.8.0.1 80 500 AAA",
        "\x01 tcp - 10.8.0.1 80 500",
        "a tcp - 10.8.0.1 \u0661 500",
    ],
)
def test_a_malformed_probe_is_refused_by_number_before_any_is_sent(
    near: Machine, line: str
) -> None:
    done = near.run("probe", lines=f"\nfine tcp - 127.0.0.1 80 500\n{line}\n")
    assert (done.returncode, done.stdout.split(b" ", 2)[:2]) == (1, [b"error", b"3"])
    assert done.stdout.count(b"\n") == 1


def test_a_listener_says_which_ports_are_busy_and_serves_the_others(near: Machine) -> None:
    with near.listening("tcp 127.0.0.1 80", "udp 0:0::1 80") as first:
        assert first["bound"] == ["tcp 127.0.0.1 80", "udp ::1 80"]
        with near.listening("tcp 127.0.0.1 80", "tcp ::1 80") as second:
            assert (second["bound"], second["busy"]) == (["tcp ::1 80"], ["tcp 127.0.0.1 80"])
    for line in ("tcp 10.1.1.1 80", "tcp ::1 80 A", "icmp ::1 80", "tcp ::1"):
        assert near.run("listen", "5", lines=line).stdout.startswith(b"error 1 ")


def test_the_oldest_of_too_many_peers_makes_room(near: Machine, far: Machine) -> None:
    with far.listening("tcp 10.8.0.1 80") as service:
        script = "import socket,sys\nheld=[socket.create_connection(('10.8.0.1', 80)) for _ in range(600)]\nheld[-1].send(b'x')\nprint(held[-1].recv(1))"
        assert near.set("python3", "-c", script) == "b'x'\n"
    assert len(far.log(service)) == 600


def test_a_listener_ends_by_itself_and_only_listeners_can_be_stopped(near: Machine) -> None:
    # Long enough for a probe to begin on a busy machine.
    pid = json.loads(near.run("listen", "30", lines="tcp 127.0.0.1 80").stdout)["pid"]
    assert results(near.probe(f"a tcp - 127.0.0.1 80 {LONG}")) == {"a": "open"}
    deadline = time.monotonic() + 300
    while results(near.probe(f"a tcp - 127.0.0.1 80 {LONG}")) != {"a": "refused"}:
        assert time.monotonic() < deadline
    assert near.run("listen-stop", str(pid)).returncode == 0
    other = near.set("sh", "-c", "sleep 600 >/dev/null 2>&1 & echo $!").strip()
    assert (
        near.run("listen-stop", other).stdout
        == f"error 0 process {other} is no guest listen\n".encode()
    )
    near.set("kill", other)  # it ran until now


def test_a_machine_without_a_new_enough_python_says_so() -> None:
    """The loader is the first that such a machine runs."""
    old = ["python3", "-c", f"import sys\nsys.version_info = (3, 8)\n{python_words()[-1]}", "probe"]
    done = subprocess.run(
        old, input=python_program(), capture_output=True, check=False, timeout=600
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == b"RuntimeError: python3 is older than 3.9"


def test_a_probe_leaves_by_the_card_that_it_is_told_as_if_there_were_a_route() -> None:
    """The Python program only: a host may have a route to a zone's bridge tomorrow."""
    python = python_words(), python_program()
    with new_machine(python) as near, new_machine(python) as far:
        for machine, address in ((near, "10.8.1.2/32"), (far, "10.8.0.1/32")):
            machine.set("ip", "address", "add", address, "dev", "lo")
        ends = f"g0 netns {near.pid} type veth peer name g0 netns {far.pid}".split()
        subprocess.run(["ip", "link", "add", *ends], check=True)
        for machine, back in ((near, "fd00::1/128"), (far, "10.8.1.2/32")):
            machine.set("ip", "link", "set", "g0", "up")
            machine.set("ip", "route", "add", back, "dev", "g0")
        with far.listening("tcp 10.8.0.1 80"):
            found = near.probe(
                f"routed tcp - 10.8.0.1 80 {LONG} -",
                f"by-card tcp - 10.8.0.1 80 {LONG} - g0",
                f"closed tcp - 10.8.0.1 81 {LONG} - g0",
                f"no-card tcp - 10.8.0.1 80 {LONG} - g9",
            )
        assert results(found) == {
            "routed": "unreachable",
            "by-card": "open",
            "closed": "refused",
            "no-card": "error",
        }
        near.set("sysctl", "-q", "-w", "net.ipv6.conf.g0.disable_ipv6=1")
        assert results(near.probe(f"6 tcp - fd00:8::1 80 {LONG} - g0")) == {"6": "unreachable"}
