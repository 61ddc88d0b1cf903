"""The vApp whose zones the IPS inspects, and what its VMs send each other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest

from tests import card_numbers
from tests.design_builder import build_design
from tests.netns.ips.lab import OUTSIDE4, OUTSIDE6, IpsLab, Seen
from vcloud.compile.ips.rules import PayloadPair, http_request
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
GOLDEN = Path(__file__).parents[2] / "golden/artifacts"
CARD, NO_CARD = card_numbers.PUBLISHED[0], "4111111111111112"
PUBLISHED = (
    *card_numbers.PUBLISHED[1:],
    "6200000000000005",
    "3782-822463-10005",
    "3056 930902 5904",
)
HARMLESS = (
    "550e8400-e29b-41d4-a716-446655440000",
    "0.4111111111111111",
    "41111111111111111111",
    "a4111111111111111f",
    "1732406400123",
    "4111   1111   1111   1111",
    "41111\t111111\t11111",
    "4111\t1111\t1111\t1112",
    "4111--1111  1111- 1112",
    "2026-11-24 00:33:12 4111",
    "+49 4111 111",
    "9999999999999999",
    "411111111111111",
    "4111 1111 1111 1112",
)
HOSTILE = (
    r"a/b\/c",
    'say "no"',
    "x;y",
    r"tail\\",
    r"[/\";]{3}",
    r"\Aabc",
    r"(?P<pkt_x>id)=\d+",
    "drop#$HOME_NET",
    "k|6b|k",
)
HOSTILE_TEXTS = ("a/b/c", 'say "no"', "x;y", "tail\\", '/";', "abc", "id=7", "drop#", "|6b|")


def _detector(
    name: str, regex: str, at_least: int, zones: tuple[str, ...], excepted: tuple[str, ...] = ()
) -> Detector:
    return Detector(
        name,
        "regex" if regex else "card-number",
        regex,
        at_least,
        zones,
        excepted,
        Action.BLOCK,
        Product(),
    )


CARDS = _detector("card-number", "", 1, ("app", "cde"), ("acquirer",))
ORDERS = _detector("order-list", "SHOP-[0-9]{8}", 3, ("app", "cde"))


def with_detectors(design: Design, *detectors: Detector, mode: Mode = Mode.PREVENT) -> Design:
    return replace(design, inspection=replace(design.inspection, detectors=detectors, mode=mode))


DESIGN = with_detectors(
    build_design(
        zones="dmz:inspected app:inspected cde:inspected",
        vms={"web": "dmz", "api": "app", "db": "cde"},
        flows=FLOWS,
    ),
    CARDS,
    ORDERS,
)
WEB, API, DB = ((str(vm.nics[0].address4), str(vm.nics[0].address6)) for vm in DESIGN.workloads)
NOWHERE = (OUTSIDE4, OUTSIDE6)
VERSIONS = pytest.mark.parametrize("version", [0, 1], ids=["IPv4", "IPv6"])


def send(lab: IpsLab, probe: PayloadPair, payload: bytes, source: str, target: str) -> Seen:
    if probe.protocol is Protocol.UDP:
        return lab.udp(source, target, probe.port or 8000, payload)
    return lab.tcp(source, target, probe.port or 8000, payload, probe.request)


def form(text: str) -> bytes:
    return http_request(
        "/", "Content-Type: application/x-www-form-urlencoded\r\n", text.encode(), "POST"
    )


def fields(*values: str) -> bytes:
    """What `curl -F` sends."""
    parts = "".join(
        f'--b\r\nContent-Disposition: form-data; name="f"\r\n\r\n{value}\r\n' for value in values
    )
    return http_request(
        "/",
        "Content-Type: multipart/form-data; boundary=b\r\n",
        f"{parts}--b--\r\n".encode(),
        "POST",
    )


def json_body(text: str) -> bytes:
    return http_request("/", "Content-Type: application/json\r\n", text.encode(), "POST")


def search(value: str) -> bytes:
    return http_request(f"/?q={quote(value, safe='')}")


UNION, ALWAYS_TRUE, SQL_BODY, COMMAND, COMMAND_BODY = 1500001, 1500002, 1500004, 1500020, 1500021


def chunked(body: bytes, size: int) -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def upload(body: bytes, headers: str = "") -> bytes:
    return http_request("/", headers, body, "POST")


def answer(body: bytes, headers: str = "") -> bytes:
    return f"HTTP/1.1 200 OK\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body


def dns_query(*labels: bytes) -> bytes:
    return (
        bytes.fromhex("766301000001000000000000")
        + b"".join(bytes([len(label)]) + label for label in labels)
        + bytes.fromhex("0000010001")
    )


def http2_upload(body: bytes) -> bytes:
    """The beginning of an HTTP/2 connection without TLS: settings, a POST with plain HPACK, and the
    body in frames of 9 bytes.
    """

    def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        return (
            len(payload).to_bytes(3, "big")
            + bytes([kind, flags])
            + stream.to_bytes(4, "big")
            + payload
        )

    headers = bytes.fromhex("838684") + b"\x41\x01x"
    pieces = [body[at : at + 9] for at in range(0, len(body), 9)]
    data = b"".join(frame(0, 0, 1, piece) for piece in pieces) + frame(0, 1, 1, b"")
    return (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"") + frame(1, 4, 1, headers) + data
    )


def grouped(number: str, separator: str) -> bytes:
    return separator.join(number[at : at + 4] for at in range(0, len(number), 4)).encode()


CARD_SIDS = {sid for (name, _), sid in rule_sids((CARDS, ORDERS)).items() if name == CARDS.id}


def is_stopped(seen: Seen) -> bool:
    return not seen.arrived and bool(seen.blocked) and seen.logged <= CARD_SIDS
