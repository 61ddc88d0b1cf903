"""Detectors with a pattern: what they count, and what long texts do to them."""

from __future__ import annotations

import gzip
import random
from collections.abc import Mapping

import pytest

from tests.netns.ips.lab import OUTSIDE4, IpsLab
from tests.netns.ips.replay import Exchange, found
from tests.netns.ips.traffic import API, DESIGN, _detector, answer, upload, with_detectors
from vcloud.compile.ips.files import ips_files
from vcloud.compile.ips.rules import http_request
from vcloud.compile.leaks.rules import rule_sids
from vcloud.patterns.pattern import parse_pattern

WINDOW = 65_536
"""Bytes of a long text: more than Suricata searches at once, where no encoding makes it larger."""


def post(body: bytes, headers: str = "") -> Exchange:
    return Exchange(API[0], OUTSIDE4, upload(body, headers))


def alerted(
    lab: IpsLab, regex: str, at_least: int, exchanges: Mapping[str, Exchange]
) -> dict[str, set[str]]:
    """The channels in which a detector finds its data, for each exchange in which it does."""
    detector = _detector("tried", regex, at_least, ("app",))
    channels = {sid: channel for (_, channel), sid in rule_sids((detector,)).items()}
    sids = found(lab, ips_files(with_detectors(DESIGN, detector)), tuple(exchanges.values()))
    seen = zip(exchanges, sids, strict=True)
    return {name: {channels[sid] for sid in of} for name, of in seen if of}


BODY, RAW = {"http-request-body", "tcp"}, {"tcp"}
ANSWER = {"http-response-body", "http-response-body-decoded", "tcp"}


def test_matches_far_apart_are_counted_in_every_place(still: IpsLab) -> None:
    def apart(distance: int, second: bytes = b"MRN-654321") -> bytes:
        return b"id MRN-123456 " + b"x y " * (distance // 4) + second + b" end"

    noise = random.Random(1).randbytes(100_000).hex().encode()  # noqa: S311 - no secret
    right = {
        "near": (post(apart(9)), BODY),
        "10 kB": (post(apart(10_000)), BODY),
        "20 kB": (post(apart(20_000)), BODY),
        "1 MB": (post(apart(1_000_000)), BODY),
        "the same again": (post(apart(1_000_000, b"MRN-123456")), BODY),
        "gzip": (
            post(gzip.compress(b"MRN-111111" + noise + b"MRN-222222"), "Content-Encoding: gzip\r\n"),
            {"http-request-body"},
        ),
        "no protocol": (Exchange(API[0], OUTSIDE4, apart(30_000)), RAW),
        "answer": (Exchange(OUTSIDE4, API[0], http_request(), answer=answer(apart(30_000))), ANSWER),
        "two requests": (
            Exchange(API[0], OUTSIDE4, upload(b"MRN-123456") * 2 + upload(b"MRN-123457")), BODY
        ),
    }  # fmt: skip
    wrong = {
        "near miss, near": post(apart(9, b"MRN-65432x")),
        "near miss, 20 kB": post(apart(20_000, b"MRN-65432x")),
        **{
            f"one, at {at}": post(b"y" * at + b" MRN-123456 " + b"z" * 60_000)
            for at in range(0, 40_000, 997)
        },
    }  # fmt: skip
    sent = {name: exchange for name, (exchange, _) in right.items()} | wrong
    assert alerted(still, "MRN-[0-9]{6}", 2, sent) == {
        name: channels for name, (_, channels) in right.items()
    }


def test_a_match_that_the_end_of_a_window_cuts_counts_once(still: IpsLab) -> None:
    """A packet has 1,448 bytes, of which the head of the request is a part."""
    sent = {
        f"{at}": post(b"y" * at + b" ID123456789012345678901234567890 " + b"z" * 9000)
        for at in range(1300, 1448, 3)
    }
    assert alerted(still, "ID[0-9]+", 2, sent) == {}
    assert len(alerted(still, "ID[0-9]+", 1, sent)) == len(sent)


HEAVY = {
    "[a-z]+@corp": ("a", "bob@corp"),
    "[a-z]+[0-9]*@corp": ("ab", "bob1@corp"),
    "(?i)[A-Z]{1,64}[a-z0-9]{0,64}@corp": ("aB", "BOB@corp"),
    "a{1,100}a{1,100}b": ("a", "aab"),
    "a.{1,500}b": ("ax", "axb"),
    "x+y+z+": ("xxxxy", "xyz"),
    "(?:ab){1,1000}c": ("ab", "abc"),
    "(?:abc|abd)+": ("ab", "abcabd"),
    "[a-f0-9]+x": ("a0f", "ffx"),
    r"[\w.+-]+@[\w-]+\.[\w.-]+": ("a@b", "bob@corp.example"),
    r"[a-z0-9._%+-]{1,64}@[a-z0-9.-]{1,255}\.[a-z]{2,24}": ("a@a-", "bob@corp.example"),
    "SELECT .{0,100} FROM .{0,100} WHERE": ("SELECT  FROM ", "SELECT a FROM b WHERE"),
    "-----BEGIN [A-Z ]*PRIVATE KEY-----": ("-----BEGIN A", "-----BEGIN RSA PRIVATE KEY-----"),
    r"(?<=id=)[0-9]{3,}x": ("id=12", "id=1234x"),
    r"\bfoo\b.*\bbar\b": ("foo ", "foo bar"),
    "(?i)password\\s*[:=]\\s*\\S+": ("password ", "PassWord : x"),
    r"(?:Mr|Mrs|Dr)\.? [A-Z][a-z]{1,20} [A-Z][a-z]{1,30}": ("Mr Aa", "Dr. Jane Doe"),
}  # fmt: skip
"""A pattern, a piece of text that costs it much, and a text that it matches."""


@pytest.mark.parametrize("regex", HEAVY)
def test_a_text_that_costs_a_pattern_much_neither_hides_a_match_nor_is_one(
    still: IpsLab, regex: str
) -> None:
    piece, match = HEAVY[regex]
    assert parse_pattern(regex) == regex
    body = (piece * WINDOW)[:WINDOW].encode() + b"\n"
    # PCRE looks first for the last character that a match must have.
    decoy = b"\n" + match[-1].encode()
    sent = {"match": post(body + match.encode()), "no match": post(body + decoy)}
    sent |= {"raw": Exchange(API[0], OUTSIDE4, body + match.encode() + b"\n")}
    assert alerted(still, regex, 1, sent) == {"match": BODY, "raw": RAW}


def test_a_search_that_pcre_gives_up_counts_as_found(still: IpsLab) -> None:
    """`validate` refuses this pattern; ordinary text does not bring it to the limit."""
    regex = "(?:a|b|ab)+(?:a|b|ab)+c"
    sent = {"heavy": post(b"ab" * 100 + b"\nc"), "ordinary": post(b"ab\nc")}
    assert set(alerted(still, regex, 1, sent)) == {"heavy"}
    assert set(alerted(still, regex, 2, sent)) == {"heavy"}
