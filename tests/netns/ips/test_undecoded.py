"""What a leak detector cannot search does not leave in silence, and what is ordinary passes."""

from __future__ import annotations

import base64
import gzip
import zlib

import pytest

from tests.netns.ips.lab import OUTSIDE4, IpsLab, Seen
from tests.netns.ips.traffic import API, CARD, CARDS, ORDERS, answer, chunked, http_request, upload
from vcloud.compile.leaks.undecoded import undecoded_sids

SIDS = undecoded_sids((CARDS, ORDERS))
CODED = {sid: name for (_, name), sid in SIDS.items()}
SECRET = f" {CARD} ".encode()
TEXT = b"".join(b"lorem ipsum %d dolor sit amet\n" % number for number in range(70_000))


def coded(body: bytes, coding: str) -> bytes:
    return answer(body, f"Content-Encoding: {coding}\r\nContent-Type: text/plain\r\n")


def transferred(body: bytes, coding: str) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nTransfer-Encoding: {coding}\r\n\r\n".encode()
    return head + chunked(body, 4000)


def thrice(body: bytes) -> bytes:
    return gzip.compress(gzip.compress(gzip.compress(body)))


ANSWERS = {
    "brotli": (coded(b"\x0b\x02\x80hello\x03", "br"), "answer-content"),
    "zstd": (coded(b"\x28\xb5\x2f\xfd\x04\x58hello", "zstd"), "answer-content"),
    "three layers": (coded(thrice(SECRET), "gzip, gzip, gzip"), "answer-content"),
    "gzip in transfer": (transferred(gzip.compress(SECRET), "gzip, chunked"), "answer-transfer"),
}
READABLE = {
    "gzip": coded(gzip.compress(b"hello " * 100), "gzip"),
    "2 MB in gzip": coded(gzip.compress(TEXT), "gzip"),
    "deflate": coded(zlib.compress(b"hello " * 100), "deflate"),
    "chunks": transferred(b"hello " * 100, "chunked"),
    "chunks of gzip": transferred(gzip.compress(b"hello " * 100), "chunked").replace(
        b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n", 1
    ),
    "named in text": answer(b"Content-Encoding: br\r\n"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_that_cannot_be_decoded_is_stopped_and_says_so(shared: IpsLab, name: str) -> None:
    payload, form = ANSWERS[name]
    seen = shared.tcp(OUTSIDE4, API[0], 8000, payload, request=http_request())
    assert not seen.arrived
    assert SIDS[CARDS.id, form] in seen.blocked


@pytest.mark.parametrize("name", READABLE)
def test_an_answer_that_can_be_decoded_passes(shared: IpsLab, name: str) -> None:
    assert shared.tcp(OUTSIDE4, API[0], 8000, READABLE[name], request=http_request()) == Seen(
        arrived=True, alerts=()
    )


def test_a_card_number_in_gzip_is_found_not_only_unreadable(shared: IpsLab) -> None:
    payload = coded(gzip.compress(TEXT + SECRET), "gzip")
    seen = shared.tcp(OUTSIDE4, API[0], 8000, payload, request=http_request())
    assert not seen.arrived
    assert not seen.blocked & set(CODED)


@pytest.mark.parametrize(
    ("headers", "form"),
    [("Content-Encoding: br\r\n", "request-content"), ("Content-Encoding: gzip\r\n", "")],
)
def test_a_request_that_cannot_be_decoded_is_stopped(
    shared: IpsLab, headers: str, form: str
) -> None:
    body = gzip.compress(b"hello " * 10) if not form else b"\x0b\x02\x80hello\x03"
    seen = shared.tcp(API[0], OUTSIDE4, 8000, upload(body, headers))
    assert seen.arrived is not bool(form)
    assert {CODED[sid] for sid in seen.blocked} == ({form} if form else set())


def test_it_passes_where_no_detector_watches(shared: IpsLab) -> None:
    """From outside to a server, the request leaves no zone of a detector."""
    payload = upload(b"\x0b\x02\x80hello\x03", "Content-Encoding: br\r\n")
    assert shared.tcp(OUTSIDE4, API[0], 8000, payload) == Seen(arrived=True, alerts=())


def mail(*headers: str, body: bytes = b"hello") -> list[bytes]:
    """The client's side of a mail, command by command."""
    lines = ["Subject: x", *headers]
    text = "\r\n".join(lines).encode() + b"\r\n\r\n" + body + b"\r\n.\r\n"
    opening = [b"EHLO a.example\r\n", b"MAIL FROM:<a@example>\r\n", b"RCPT TO:<b@example>\r\n"]
    return [*opening, b"DATA\r\n", text]


ENCODED = base64.b64encode(SECRET * 3)
SIGNED = [f"X-Signature-{number}: " + "a" * 150 for number in range(20)]
"""As many headers as a mail gets on its way: 3 KiB."""
HIDDEN = {
    "body": (mail("Content-Transfer-Encoding: base64", body=ENCODED), "mail-part"),
    "body behind many headers": (
        mail(*SIGNED, "Content-Transfer-Encoding: base64", body=ENCODED),
        "mail-part",
    ),
    "body behind more headers than Suricata shows at a time": (
        mail(*SIGNED * 3, "To: b", "Content-Transfer-Encoding: base64", body=ENCODED),
        "mail-part",
    ),
    "body before many headers": (
        mail("MIME-Version: 1.0", "Content-Transfer-Encoding: base64", *SIGNED, body=ENCODED),
        "mail-part",
    ),
    "body, by a header in two lines": (
        mail("Content-Transfer-Encoding:\r\n base64", body=ENCODED),
        "mail-part",
    ),
    "part": (
        mail(
            "Content-Type: multipart/mixed; boundary=b",
            body=b"--b\r\nContent-Type: text/html\r\nContent-Transfer-Encoding: base64\r\n\r\n"
            + ENCODED
            + b"\r\n--b--",
        ),
        "mail-part",
    ),
    "BDAT": ([*mail()[:3], b"BDAT 20 LAST\r\n" + ENCODED[:20]], "mail-chunks"),
}
PLAIN = {
    "text": mail("Content-Transfer-Encoding: 8bit"),
    "quoted-printable": mail("Content-Transfer-Encoding: quoted-printable", body=b"caf=C3=A9"),
    "attachment": mail(
        "Content-Type: multipart/mixed; boundary=b",
        body=b"--b\r\nContent-Transfer-Encoding: base64\r\n"
        b'Content-Type: text/plain;\r\n name="a.txt"\r\n\r\n'
        + base64.b64encode(b"hello " * 9)
        + b"\r\n--b--",
    ),
    "attachment by its disposition": mail(
        "Content-Type: multipart/mixed; boundary=b",
        body=b"--b\r\nContent-Type: text/plain\r\nContent-Transfer-Encoding: base64\r\n"
        b'Content-Disposition: attachment; filename="a.txt"\r\n\r\n'
        + base64.b64encode(b"hello " * 9)
        + b"\r\n--b--",
    ),
    "attachment of a mail with many headers": mail(
        *SIGNED * 3,
        "Content-Type: multipart/mixed; boundary=b",
        body=b"--b\r\nContent-Transfer-Encoding: base64\r\n"
        b'Content-Type: text/plain;\r\n name="a.txt"\r\n\r\n'
        + base64.b64encode(b"hello " * 999)
        + b"\r\n--b--",
    ),
    "many headers": mail(*SIGNED * 3, "Content-Transfer-Encoding: 8bit", body=b"hello\r\n" * 999),
    "words about it": mail(body=b"Write Content-Transfer-Encoding: base64, or BDAT 7"),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_a_mail_that_cannot_be_decoded_is_stopped_and_says_so(shared: IpsLab, name: str) -> None:
    pieces, form = HIDDEN[name]
    seen = shared.tcp(API[0], OUTSIDE4, 2525, pieces)
    assert not seen.arrived
    assert SIDS[CARDS.id, form] in seen.blocked


@pytest.mark.parametrize("name", PLAIN)
def test_an_ordinary_mail_passes(shared: IpsLab, name: str) -> None:
    assert shared.tcp(API[0], OUTSIDE4, 2525, PLAIN[name]) == Seen(arrived=True, alerts=())
