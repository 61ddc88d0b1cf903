"""Detectors of leaks: what they find in which traffic, and what they leave alone."""

from __future__ import annotations

import contextlib
import gzip
import smtplib
from email.message import EmailMessage
from email.policy import SMTP

import pytest

from tests.netns.ips.lab import LONGEST, OUTSIDE4, OUTSIDE6, IpsLab, Seen
from tests.netns.ips.servers import (
    mail_server,
    send_mail,
)
from tests.netns.ips.traffic import (
    API,
    CARD,
    CARDS,
    DB,
    DESIGN,
    HARMLESS,
    NO_CARD,
    NOWHERE,
    ORDERS,
    PUBLISHED,
    VERSIONS,
    WEB,
    _detector,
    answer,
    chunked,
    dns_query,
    grouped,
    http2_upload,
    is_stopped,
    upload,
    with_detectors,
)
from vcloud.compile.ips.files import ips_files
from vcloud.compile.ips.rules import SHIPPED, http_request
from vcloud.compile.leaks.rules import rule_sids

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
    "in three segments": lambda n: [
        b"row " + n[:3].encode(),
        n[3:9].encode(),
        n[9:].encode() + b"\n",
    ],
    "form": lambda n: upload(b"card=" + n.encode()),
    "form with %20": lambda n: upload(b"card=" + grouped(n, "%20")),
    "form with +": lambda n: upload(b"card=" + grouped(n, "+") + b"&cvc=123"),
    "form, every digit encoded": lambda n: upload(
        "".join(f"%{ord(digit):x}" for digit in n).encode()
    ),
    "chunks of 5": lambda n: (
        http_request("/", "Transfer-Encoding: chunked\r\n", method="POST")
        + chunked(b"card=" + n.encode() + b"&x=y", 5)
    ),
    "gzip": lambda n: upload(
        gzip.compress(b"abc " * 1000 + n.encode() + b" xyz" * 1000), "Content-Encoding: gzip\r\n"
    ),
    "after 300 kB": lambda n: upload(b"x" * 300_000 + b" " + n.encode()),
    "in the middle of 5 MB": lambda n: upload(
        b"x" * 2_500_000 + b" " + n.encode() + b" " + b"y" * 2_500_000
    ),
    "in the middle of 5 MB in chunks": lambda n: (
        http_request("/", "Transfer-Encoding: chunked\r\n", method="POST")
        + chunked(b"ab " * 800_000 + n.encode() + b" cd" * 800_000, 1000)
    ),
    "path": lambda n: http_request(f"/card/{n}"),
    "query with %20": lambda n: http_request(f"/?card={grouped(n, '%20').decode()}"),
    "header with %20": lambda n: http_request("/", f"X-Card: {grouped(n, '%20').decode()}\r\n"),
    "cookie with %20": lambda n: http_request(
        "/", f"Cookie: card={grouped(n, '%20').decode()}\r\n"
    ),
    "HTTP/2": lambda n: http2_upload(b"card=" + n.encode() + b"&x=y"),
}
SERVER_SENDS = {
    "raw": lambda n: b"row " + n.encode() + b"\n",
    "page": lambda n: answer(b"<p>" + n.encode() + b"</p>"),
    "gzip": lambda n: answer(
        gzip.compress(b"<p>" * 500 + n.encode() + b"</p>" * 500), "Content-Encoding: gzip\r\n"
    ),
    "chunks of 7": lambda n: (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        + chunked(b"<p>" * 50 + n.encode() + b"</p>", 7)
    ),
    "in the middle of 5 MB": lambda n: answer(b"ab " * 800_000 + n.encode() + b" cd" * 800_000),
    "in the middle of 5 MB of gzip": lambda n: answer(
        gzip.compress(b"ab " * 800_000 + n.encode() + b" cd" * 800_000),
        "Content-Encoding: gzip\r\n",
    ),
    "header with %20": lambda n: answer(b"ok", f"X-Card: {grouped(n, '%20').decode()}\r\n"),
    "cookie": lambda n: answer(b"ok", f"Set-Cookie: c={n}; Path=/\r\n"),
    "cookie with %20": lambda n: answer(
        b"ok", f"Set-Cookie: c={grouped(n, '%20').decode()}; Path=/\r\n"
    ),
    "second cookie with %20": lambda n: answer(
        b"ok", f"Set-Cookie: a=b\r\nSet-Cookie: c={grouped(n, '%20').decode()}\r\n"
    ),
    "page with %20": lambda n: answer(b"card=" + grouped(n, "%20")),
    "page with +": lambda n: answer(b"card=" + grouped(n, "+") + b"&x=y"),
    "gzip with %20": lambda n: answer(
        gzip.compress(b"<p>" * 500 + grouped(n, "%20") + b"</p>" * 500),
        "Content-Encoding: gzip\r\n",
    ),
    "page with tabs": lambda n: answer(b"<p>" + grouped(n, "\t") + b"</p>"),
}


@pytest.mark.parametrize("form", CLIENT_SENDS)
def test_a_card_number_that_a_client_sends_is_stopped_and_a_wrong_one_passes(
    shared: IpsLab, form: str
) -> None:
    assert is_stopped(shared.tcp(API[0], OUTSIDE4, 8000, CLIENT_SENDS[form](CARD)))
    assert shared.tcp(API[0], OUTSIDE4, 8000, CLIENT_SENDS[form](NO_CARD)) == Seen(
        arrived=True, alerts=()
    )


@pytest.mark.parametrize("form", SERVER_SENDS)
def test_a_card_number_in_an_answer_is_stopped_and_a_wrong_one_passes(
    shared: IpsLab, form: str
) -> None:
    """A client outside the set fetches it: the internet, and another zone."""
    assert is_stopped(
        shared.tcp(OUTSIDE4, API[0], 8000, SERVER_SENDS[form](CARD), request=http_request())
    )
    assert is_stopped(
        shared.tcp(WEB[1], DB[1], 8000, SERVER_SENDS[form](CARD), request=http_request())
    )
    assert shared.tcp(
        OUTSIDE4, API[0], 8000, SERVER_SENDS[form](NO_CARD), request=http_request()
    ) == Seen(arrived=True, alerts=())


@pytest.mark.parametrize("number", PUBLISHED)
def test_card_numbers_of_every_brand_are_found(shared: IpsLab, number: str) -> None:
    assert is_stopped(shared.tcp(DB[0], OUTSIDE4, 8000, upload(b"card=" + number.encode())))


@pytest.mark.parametrize("text", HARMLESS)
def test_digits_that_are_no_card_number_pass(shared: IpsLab, text: str) -> None:
    assert shared.tcp(DB[0], OUTSIDE4, 8000, upload(f"value={text}&x=y".encode())) == Seen(
        arrived=True, alerts=()
    )


@VERSIONS
@pytest.mark.parametrize("size", [0, 1440], ids=["small", "across fragments"])
def test_datagrams_are_searched(shared: IpsLab, version: int, size: int) -> None:
    stopped, passed = (
        shared.udp(
            API[version], NOWHERE[version], 9000, b"z" * size + number.encode() + b"y" * size
        )
        for number in (CARD, NO_CARD)
    )
    assert is_stopped(stopped)
    assert passed == Seen(arrived=True, alerts=())


def test_names_that_are_asked_for_are_searched(shared: IpsLab) -> None:
    stopped, passed = (
        shared.udp(DB[0], OUTSIDE4, 53, dns_query(n[:8].encode(), n[8:].encode(), b"example"))
        for n in (CARD, NO_CARD)
    )
    assert is_stopped(stopped)
    assert passed == Seen(arrived=True, alerts=())


@VERSIONS
def test_echo_requests_are_searched(shared: IpsLab, version: int) -> None:
    stopped, passed = (
        shared.echo(DB[version], NOWHERE[version], number.encode()) for number in (CARD, NO_CARD)
    )
    assert is_stopped(stopped)
    assert passed == Seen(arrived=True, alerts=())


def test_attachments_of_mail_are_searched(shared: IpsLab) -> None:
    for number, passes in ((CARD, False), (NO_CARD, True)):
        mail = EmailMessage()
        mail["Subject"], mail["From"], mail["To"] = "report", "a@example", "b@example"
        mail.set_content("See the attachment.")
        mail.add_attachment(
            b"hello " * 30 + number.encode() + b" bye" * 30,
            maintype="application",
            subtype="octet-stream",
            filename="report.bin",
        )
        patience = LONGEST if passes else 2
        with mail_server(shared.machine(OUTSIDE4), OUTSIDE4, patience) as (port, mails):
            with contextlib.suppress(smtplib.SMTPException, OSError):
                send_mail(shared, DB[0], port, mail.as_bytes(policy=SMTP), patience)
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
        assert shared.tcp(API[version], DB[version], 8000, upload(CARD.encode())) == Seen(
            arrived=True, alerts=()
        )
        assert shared.tcp(
            API[version], DB[version], 8000, answer(CARD.encode()), request=http_request()
        ) == Seen(arrived=True, alerts=())
        assert shared.tcp(WEB[version], API[version], 8000, upload(CARD.encode())) == Seen(
            arrived=True, alerts=()
        )


def test_zones_that_no_detector_names_are_not_searched(shared: IpsLab) -> None:
    assert shared.tcp(WEB[0], OUTSIDE4, 80, upload(CARD.encode())) == Seen(arrived=True, alerts=())


def test_a_pattern_counts(shared: IpsLab) -> None:
    three, two = (
        b"SHOP-12345678 SHOP-12345679\nSHOP-12345670",
        b"SHOP-12345678 SHOP-12345679\nSHOP-1234567x",
    )
    sids = {sid for (name, _), sid in rule_sids((CARDS, ORDERS)).items() if name == ORDERS.id}
    stopped = shared.tcp(API[0], OUTSIDE4, 80, upload(three))
    assert not stopped.arrived
    assert stopped.blocked
    assert stopped.logged <= sids
    assert shared.tcp(API[0], OUTSIDE4, 80, upload(two)) == Seen(arrived=True, alerts=())


def test_a_pattern_with_what_urls_decode_is_found_in_an_answer(own: IpsLab) -> None:
    """In plain text that only the search of the decoded body, or only the other one, would find."""
    detectors = (
        _detector("plus", r"key=a\+b%41", 1, ("app",)),
        _detector("decoded", "word=a bA", 1, ("app",)),
    )
    own.load(ips_files(with_detectors(DESIGN, *detectors)))
    for good, near in ((b"key=a+b%41", b"key=a+b%42"), (b"word=a+b%41", b"word=a+b%42")):
        stopped, passed = (
            answer(gzip.compress(text * 20), "Content-Encoding: gzip\r\n") for text in (good, near)
        )
        assert not own.tcp(OUTSIDE4, API[0], 8000, stopped, request=http_request()).arrived
        assert own.tcp(OUTSIDE4, API[0], 8000, passed, request=http_request()) == Seen(
            arrived=True, alerts=()
        )


def test_the_log_holds_no_card_number(shared: IpsLab) -> None:
    """In any form in which one was sent."""
    for form in (*CLIENT_SENDS.values(),):
        shared.tcp(DB[0], OUTSIDE4, 8000, form(CARD))
    text = "".join(file.read_text() for file in shared.path("/var/log/suricata").iterdir())
    assert '"event_type":"alert"' in text
    assert "41111111" not in "".join(character for character in text if character not in " -+%")
