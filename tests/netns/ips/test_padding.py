"""The patterns of the shipped rules on long texts."""

from __future__ import annotations

from collections.abc import Iterable

from tests.netns.ips.lab import OUTSIDE4, IpsLab
from tests.netns.ips.replay import Exchange, found
from tests.netns.ips.traffic import DESIGN, WEB
from vcloud.compile.ips.files import ips_files
from vcloud.compile.ips.rules import http_request

PADDED = {
    "digits before a condition that is true": (1500004, "q=" + "1" * 9000 + "&id=", "1' or '1'='1", "1' or '1'='2"),
    "digits before a union": (1500001, "/?q=" + "1" * 5000 + "&id=", "1+union+select+1", "1+union+selects"),
    "comments before a union": (1500004, "q=1+union" + "/*x*/" * 2000 + "&id=", "1+union+select+1", "1+union+selects"),
    "spaces before a file": (1500021, "host=a;cat", " " * 9000 + "/etc/passwd", " " * 9000 + "and dog"),
    "a decoy before a command": (1500021, "host=a;cat" + "<" * 9000 + "x&b=", "a;cat /etc/passwd", "a; cat food"),
    "gaps of a shell": (1500020, "/?h=a|cat", "$IFS" * 1500 + "/etc/hosts", "$IFS" * 1500 + "%01"),
}  # fmt: skip
"""Sid, padding, attack and near miss; in the URL where the text begins with a slash."""


def _sent(texts: Iterable[str]) -> list[Exchange]:
    kind = "Content-Type: application/x-www-form-urlencoded\r\n"
    requests = [
        http_request(text.replace(" ", "%20").replace("'", "%27"))
        if text.startswith("/")
        else http_request("/", kind, text.encode(), "POST")
        for text in texts
    ]
    return [Exchange(OUTSIDE4, WEB[0], request) for request in requests]


def test_padding_does_not_end_the_search_of_a_shipped_rule(still: IpsLab) -> None:
    texts = [(before + attack, before + miss) for _, before, attack, miss in PADDED.values()]
    sids = found(still, ips_files(DESIGN), _sent(text for pair in texts for text in pair))
    stopped = dict(zip(PADDED, sids[::2], strict=True))
    assert stopped == {name: {sid} for name, (sid, *_) in PADDED.items()}
    assert not any(sids[1::2])
