"""Flows that carry one protocol: what begins otherwise is stopped at its first bytes, and honest
clients and servers pass.
"""

from __future__ import annotations

import itertools
import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.design_builder import build_design
from tests.netns.ips.lab import LONGEST, OUTSIDE4, IpsLab, Seen, send_pieces
from tests.netns.ips.segments import segments
from tests.netns.ips.traffic import (
    NOWHERE,
    VERSIONS,
    dns_query,
    http2_upload,
    upload,
    with_detectors,
)
from vcloud.compile.ips.apps import AppCheck, app_rules
from vcloud.compile.ips.files import ips_files
from vcloud.compile.ips.openings import HTTP_METHODS
from vcloud.compile.ips.rules import http_request, tls_hello
from vcloud.design.model import Design
from vcloud.values import App, Mode

PORTS = "tcp/21 tcp/22 tcp/25 tcp/53 tcp/80 tcp/443 tcp/3306 tcp/5432 tcp/6379"
DESIGN = with_detectors(
    build_design(
        zones="dmz:inspected cde:inspected",
        vms={"web": "dmz", "db": "cde"},
        flows=f"""
            in: internet -> web {PORTS}
            inside: web -> db {PORTS}
            out: web -> internet {PORTS} tcp/440-450
            any: internet -> web tcp/9000
        """,
    )
)
WEB, DB = ((str(vm.nics[0].address4), str(vm.nics[0].address6)) for vm in DESIGN.workloads)
ENDS = {"in": (NOWHERE, WEB), "inside": (WEB, DB), "out": (WEB, NOWHERE)}
CHECKS = app_rules(DESIGN).checks
PORT = {held.app: held.payload.port for held in CHECKS}


@pytest.fixture(scope="module")
def apps(
    ips_root: Path, program: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[IpsLab]:
    with IpsLab(DESIGN, ips_root, program, tmp_path_factory.mktemp("ips")) as lab:
        assert lab.load(ips_files(DESIGN))["rules_failed"] == 0
        yield lab


def sids(app: App, flow: str = "in") -> set[int]:
    return {
        int(sid) for held in CHECKS if (held.flow, held.app) == (flow, app) for sid in held.sids
    }


@VERSIONS
@pytest.mark.parametrize("held", CHECKS, ids=lambda held: f"{held.flow}-{held.app}-{held.number}")
def test_each_flow_carries_its_protocol_and_nothing_else(
    apps: IpsLab, held: AppCheck, version: int
) -> None:
    """From outside, to outside, and between two zones, where packets cross the IPS twice."""
    source, target = (ends[version] for ends in ENDS[held.flow])
    stopped, passed = (
        apps.tcp(source, target, held.payload.port, payload)
        for payload in (held.payload.stopped, held.payload.passed)
    )
    assert (stopped.arrived, stopped.blocked) == (False, set(map(int, held.sids)))
    assert passed == Seen(arrived=True, alerts=())


def bytewise(payload: bytes) -> list[bytes]:
    return [bytes([byte]) for byte in payload]


GET = http_request()
POST = upload(b"x" * 5000)
HELLO = tls_hello(0x0303, 1)
ASK_TLS, ASK_GSS = bytes.fromhex("0000000804d2162f"), bytes.fromhex("0000000804d21630")
START = struct.pack("!II", 34, 196608) + b"user\0shop\0database\0shop\0\0"
QUERY = dns_query(b"example", b"com")
LOGIN = bytes.fromhex("54000001 8da20b00 00000001 21") + bytes(23) + b"root\0\x14" + bytes(20)
RESP = b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n"
HONEST: dict[str, tuple[App, bytes | Sequence[bytes]]] = {
    "GET byte by byte": (App.HTTP, bytewise(GET)),
    "POST with its body in later segments": (App.HTTP, [POST[:150], POST[150:]]),
    "pipelined": (App.HTTP, GET * 20),
    "h2c upgrade": (
        App.HTTP,
        http_request("/", "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"),
    ),
    "HTTP/2 with prior knowledge": (App.HTTP, http2_upload(b"hello")),
    "HTTP/2 preface in two segments": (
        App.HTTP,
        [http2_upload(b"hello")[:18], http2_upload(b"hello")[18:]],
    ),
    "websocket": (App.HTTP, http_request("/ws", "Upgrade: websocket\r\n")),
    "hello in three segments": (App.TLS, [HELLO[:1], HELLO[1:3], HELLO[3:]]),
    "hello byte by byte": (App.TLS, bytewise(HELLO)),
    "start": (App.POSTGRES, START),
    "start byte by byte": (App.POSTGRES, bytewise(START)),
    "asks for TLS, then TLS": (App.POSTGRES, [ASK_TLS, HELLO]),
    "asks for GSS, then TLS, then neither": (App.POSTGRES, [ASK_GSS, ASK_TLS, START]),
    "TLS at once": (App.POSTGRES, HELLO),
    "cancels": (App.POSTGRES, bytes.fromhex("0000001004d2162e") + b"12345678"),
    "login": (App.MYSQL, LOGIN),
    "login in two segments": (App.MYSQL, [LOGIN[:4], LOGIN[4:]]),
    "asks for TLS": (App.MYSQL, LOGIN[:36]),
    "commands": (App.REDIS, RESP * 20),
    "commands byte by byte": (App.REDIS, bytewise(RESP * 3)),
    "inline command": (App.REDIS, b"PING\r\n"),
    "long inline command": (App.REDIS, b"SET a " + b"b" * 300 + b"\r\n"),
    "redis over TLS": (App.REDIS, HELLO),
    "version": (App.SSH, b"SSH-2.0-OpenSSH_9.2\r\n"),
    "version in two segments": (App.SSH, [b"SS", b"H-2.0-x\r\n"]),
    "query": (App.DNS, struct.pack("!H", len(QUERY)) + QUERY),
    "length and query apart": (App.DNS, [struct.pack("!H", len(QUERY)), QUERY]),
    "greeting": (App.SMTP, b"EHLO a.example\r\n"),
    "greeting in small letters and two segments": (App.SMTP, [b"he", b"lo a.example\r\n"]),
    "user": (App.FTP, b"USER jo\r\n"),
    "asks for TLS over FTP": (App.FTP, b"AUTH TLS\r\n"),
}


@VERSIONS
@pytest.mark.parametrize("name", HONEST)
def test_an_honest_client_passes_and_nothing_is_logged(
    apps: IpsLab, name: str, version: int
) -> None:
    app, payload = HONEST[name]
    for source, target in (ENDS["in"], ENDS["inside"]):
        assert apps.tcp(source[version], target[version], PORT[app], payload) == Seen(
            arrived=True, alerts=()
        )


@pytest.mark.parametrize("method", HTTP_METHODS)
def test_the_rules_for_http_run_on_each_method_that_passes(apps: IpsLab, method: str) -> None:
    request = http_request("/?id=1+UNION+SELECT+1", method=method)
    seen = apps.tcp(OUTSIDE4, WEB[0], 80, request)
    assert not seen.arrived
    assert 1500001 in seen.blocked
    assert not seen.blocked & sids(App.HTTP)


ODD: dict[str, tuple[App, bytes | Sequence[bytes]]] = {
    "line before it": (App.HTTP, b"\r\n" + GET),
    "space before it": (App.HTTP, b" " + GET),
    "unknown method": (App.HTTP, http_request(method="FETCH")),
    "small letters": (App.HTTP, http_request(method="get")),
    "PROXY line": (App.HTTP, b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + GET),
    "PROXY line in two segments": (
        App.HTTP,
        [b"P", b"ROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + GET],
    ),
    "binary PROXY header": (App.HTTP, b"\r\n\r\n\0\r\nQUIT\n" + bytes(16) + GET),
    "byte by byte": (App.HTTP, bytewise(b"GEN / HTTP/1.1\r\n")),
    "preface of another version": (App.HTTP, b"PRI * HTTP/1.1\r\n\r\n" + GET),
    "TLS": (App.HTTP, HELLO),
    "record of TLS with something else in it": (App.TLS, b"\x16\x03\x01\x00\x20\x02" + bytes(31)),
    "HTTP": (App.TLS, GET),
    "after it asked for TLS": (App.POSTGRES, [ASK_TLS, b"own protocol"]),
    "HTTP to a database": (App.POSTGRES, GET),
    "HTTP to redis": (App.REDIS, http_request("/", "", b"FLUSHALL\r\n", "POST")),
    "SSH to a name server": (App.DNS, b"SSH-2.0-x\r\n"),
    "unknown command": (App.SMTP, b"TUNNEL a.example\r\n"),
}


@pytest.mark.parametrize("name", ODD)
def test_what_begins_otherwise_is_stopped_from_its_first_bytes_on(apps: IpsLab, name: str) -> None:
    app, payload = ODD[name]
    seen = apps.tcp(OUTSIDE4, WEB[0], PORT[app], payload)
    assert not seen.arrived
    assert sids(app) <= seen.blocked


def test_a_later_request_of_an_unknown_method_is_stopped(apps: IpsLab) -> None:
    """Its twin is the same method in lines that are a body."""
    keep = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    seen = apps.tcp(OUTSIDE4, WEB[0], 80, [keep, http_request("/", "", b"a=1", "FETCH")])
    assert (seen.arrived, len(seen.blocked)) == (False, 1)
    body = http_request("/", "", http_request(method="FETCH"), "POST")
    assert apps.tcp(OUTSIDE4, WEB[0], 80, [keep, body]) == Seen(arrived=True, alerts=())


def greet(lab: IpsLab, version: int, app: App, pieces: Sequence[bytes]) -> Seen:
    """The server speaks first, and slowly."""
    since = lab._end_of_log()
    with lab.connection(NOWHERE[version], WEB[version], PORT[app]) as (client, server):
        threading.Thread(target=send_pieces, args=(server, pieces), daemon=True).start()
        return lab._outcome(client.getsockname()[1], client, b"".join(pieces), since)


GREETINGS: dict[str, tuple[App, Sequence[bytes], Sequence[bytes]]] = {
    "mail": (App.SMTP, [b"220 mail.example ESMTP\r\n"], [b"HELLO own\r\n"]),
    "mail of many lines, in pieces": (App.SMTP, [b"2", b"20-a\r\n", b"220 b\r\n"], [b"2", b"x"]),
    "files": (App.FTP, [b"220-hi\r\n220 x\r\n"], [b"own protocol"]),
    "shell": (App.SSH, [b"SSH-2.0-x\r\n"], [b"SSH-3.0-x\r\n"]),
    "shell with lines before it": (
        App.SSH,
        [b"wel", b"come\r\nto here\r\n", b"SS", b"H-2.0-x\r\n"],
        [b"welcome\r\n", b"\0own"],
    ),
    "database": (App.MYSQL, [b"\x4a\0\0\0\x0a8.0.36\0" + bytes(60)], [b"own protocol"]),
}


@VERSIONS
@pytest.mark.parametrize("name", GREETINGS)
def test_a_server_that_speaks_first_must_speak_its_protocol(
    apps: IpsLab, name: str, version: int
) -> None:
    app, honest, own = GREETINGS[name]
    assert greet(apps, version, app, honest) == Seen(arrived=True, alerts=())
    stopped = greet(apps, version, app, own)
    assert (stopped.arrived, len(stopped.blocked)) == (False, 1)


@pytest.mark.parametrize("app", [App.HTTP, App.TLS, App.POSTGRES, App.REDIS, App.DNS])
def test_a_server_does_not_speak_before_the_client_does(apps: IpsLab, app: App) -> None:
    stopped = greet(apps, 0, app, [b"HTTP/1.1 200 OK\r\n\r\n"])
    assert (stopped.arrived, len(stopped.blocked)) == (False, 1)


def test_a_flow_without_a_protocol_lets_anything_begin(apps: IpsLab) -> None:
    assert apps.tcp(OUTSIDE4, WEB[0], 9000, b"\r\nown protocol") == Seen(arrived=True, alerts=())


def test_of_a_range_of_ports_outwards_only_443_is_for_tls(apps: IpsLab) -> None:
    assert apps.tcp(WEB[0], OUTSIDE4, 444, b"own protocol") == Seen(arrived=True, alerts=())


# --- segments that no honest stack sends

CLIENT_PORTS = itertools.count(41000)
LONG = upload(b"x" * 3000)


def exchange(
    lab: IpsLab, steps: Sequence[tuple[int, bytes]], must: bytes, port: int = 80
) -> tuple[bytes, set[int]]:
    """Sends pieces at their offsets, in this order. What the VM got, and what was stopped. What it
    must get is waited for.
    """
    number, since = next(CLIENT_PORTS), lab._end_of_log()
    with segments(lab, "dmz", number, WEB[0], port) as (client, listener):
        client.connect()
        server, _ = listener.accept()
        with server:
            for offset, data in steps:
                client.send(offset, data)
                time.sleep(0.05)
            return drained(server, must), {
                sid for sid, dropped in lab.alerts(number, since) if dropped
            }


def drained(server: socket.socket, must: bytes) -> bytes:
    got = b""
    while True:
        server.settimeout(LONGEST if len(got) < len(must) else 1)
        try:
            data = server.recv(65536)
        except TimeoutError:
            return got
        if not data:
            return got
        got += data


@pytest.mark.parametrize(
    ("steps", "got"),
    [
        pytest.param([(2, GET), (0, b"\r\n")], b"", id="the first bytes last"),
        pytest.param(
            [(0, b"G"), (8, GET), (1, b"ARBAGE ")], b"G", id="a gap behind the first byte"
        ),
        pytest.param([(0, b"\r\n" + GET + b"y" * 4000)], b"", id="in fragments"),
        pytest.param([(0, b"G"), (1, b"ARBAGE " + GET + b"y" * 4000)], b"G", id="fragments later"),
        pytest.param([(0, b"GE"), (0, b"\r\n" + GET)], b"GE", id="the same bytes again, changed"),
        pytest.param(
            [(at, (GET * 200)[at : at + 1400]) for at in range(1400, 9000, 1400)]
            + [(0, b"\r\n" * 700)],
            b"",
            id="much before the first bytes",
        ),
    ],
)
def test_segments_cannot_choose_what_is_taken_for_the_beginning(
    apps: IpsLab, steps: list[tuple[int, bytes]], got: bytes
) -> None:
    assert exchange(apps, steps, got) == (got, sids(App.HTTP))


def test_a_byte_before_the_first_one_does_not_count(apps: IpsLab) -> None:
    """The VM would take what follows that byte for the beginning."""
    assert exchange(apps, [(-1, http_request())], b"") == (b"", set())


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([(0, LONG[:1400]), (2800, LONG[2800:]), (1400, LONG[1400:2800])], id="later"),
        pytest.param(
            [
                (1400, LONG[1400:2800]),
                (0, LONG[:1400]),
                (1400, LONG[1400:2800]),
                (2800, LONG[2800:]),
            ],
            id="the first, and what came too early is sent again",
        ),
        pytest.param([(0, LONG[:10]), (0, LONG[:1400]), (1400, LONG[1400:])], id="sent again"),
        pytest.param([(0, upload(b"x" * 4000))], id="fragments"),
    ],
)
def test_honest_segments_in_another_order_pass(
    apps: IpsLab, steps: list[tuple[int, bytes]]
) -> None:
    whole = upload(b"x" * 4000) if len(steps) == 1 else LONG
    assert exchange(apps, steps, whole) == (whole, set())


def test_data_in_the_packet_that_opens_the_connection_is_dropped(apps: IpsLab) -> None:
    number, since = next(CLIENT_PORTS), apps._end_of_log()
    with segments(apps, "dmz", number, WEB[0], 80) as (client, _):
        client.ask(b"\r\n")
        assert not client.is_answered(0.5)
        assert any(dropped for _, dropped in apps.alerts(number, since))
        client.ask(b"")
        assert client.is_answered(LONGEST)


# --- changes


def test_where_the_ips_only_detects_it_is_said_once_and_passes(own_apps: IpsLab) -> None:
    own_apps.load(ips_files(with_detectors(DESIGN, mode=Mode.DETECT)))
    seen = own_apps.tcp(OUTSIDE4, WEB[0], 80, [b"\r\n" + GET, GET, GET])
    assert seen.arrived
    assert seen.alerts == tuple((sid, False) for sid in sids(App.HTTP))


def test_a_flow_that_gets_a_protocol_keeps_its_connections(own_apps: IpsLab) -> None:
    """They are not looked at, because their beginning is gone. New ones are."""
    other = changed(DESIGN, App.OTHER)
    own_apps.load(ips_files(other))
    with own_apps.connection(OUTSIDE4, WEB[0], 80) as (client, server):
        client.sendall(b"own protocol")
        assert server.recv(100) == b"own protocol"
        own_apps.load(ips_files(DESIGN), 1)
        client.sendall(b" goes on")
        assert server.recv(100) == b" goes on"
    stopped = own_apps.tcp(OUTSIDE4, WEB[0], 80, b"own protocol")
    assert (stopped.arrived, stopped.blocked) == (False, sids(App.HTTP))


@pytest.fixture
def own_apps(ips_root: Path, program: Path, tmp_path: Path) -> Iterator[IpsLab]:
    with IpsLab(DESIGN, ips_root, program, tmp_path) as lab:
        yield lab


def changed(design: Design, app: App) -> Design:
    """The design with flows that carry something else."""
    flows = tuple(replace(flow, apps=(app,) * len(flow.services)) for flow in design.flows)
    return replace(design, flows=flows)
