"""How often a detector or a shipped rule hits what is innocent, and how often it finds what it is for.

The numbers of docs/limits.md are from the long test: `-m long -s` prints them.
"""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from urllib.parse import quote_plus

import pytest

from tests.netns.ips.lab import OUTSIDE4, IpsLab
from tests.netns.ips.ordinary import KINDS, documents
from tests.netns.ips.replay import Exchange, found
from tests.netns.ips.traffic import API, CARD_SIDS, DESIGN, WEB, upload
from vcloud.compile.ips.files import ips_files
from vcloud.compile.ips.rules import SHIPPED
from vcloud.compile.leaks.card_number import BRANDS, check_digit
from vcloud.values import Protocol

BATCH = 300_000
"""Bytes of one capture, about."""
CARD_RULES, SHIPPED_RULES, OTHERS = "card-number", "shipped rules", "order-list"
ATTACKS = {shipped.rule.sid for shipped in SHIPPED}


def rules_that_hit(lab: IpsLab, messages: Iterator[Exchange]) -> Iterator[set[str]]:
    """Which of the three sets of rules hit each message."""
    for batch in batches(messages):
        for sids in found(lab, ips_files(DESIGN), batch):
            yield {
                CARD_RULES if sid in CARD_SIDS else SHIPPED_RULES if sid in ATTACKS else OTHERS
                for sid in sids
            }


def batches(messages: Iterator[Exchange]) -> Iterator[Sequence[Exchange]]:
    batch, size = list[Exchange](), 0
    for message in messages:
        batch.append(message)
        size += len(message.sent)
        if size > BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def posted(body: bytes) -> Exchange:
    """From a zone that detectors watch to a server of the vApp, so that all rules look at it."""
    return Exchange(API[0], WEB[0], upload(body))


def innocent(size: int) -> tuple[list[str], Iterator[Exchange]]:
    """The kinds of documents of so many bytes together, and the documents as messages."""
    first, second = itertools.tee(
        (kind, document) for kind in KINDS for document in documents(kind, size // len(KINDS))
    )
    return [kind for kind, _ in first], (posted(document) for _, document in second)


def measured(lab: IpsLab, size: int) -> Counter[tuple[str, str]]:
    """(rules, kind of document) -> how many documents they hit. Prints it."""
    kinds, messages = innocent(size)
    hits = Counter(
        (rules, kind)
        for kind, of in zip(kinds, rules_that_hit(lab, messages), strict=True)
        for rules in of
    )
    print(f"\n{size / 1e6:.0f} MB of ordinary data, {len(kinds)} documents of {len(KINDS)} kinds")
    for rules in (CARD_RULES, SHIPPED_RULES, OTHERS):
        of = {kind: count for (name, kind), count in sorted(hits.items()) if name == rules}
        print(f"{rules}: {sum(of.values())} documents hit {of or ''}")
    return hits


def cards(count: int) -> Iterator[str]:
    """Different numbers of every brand, without those that count only after a word."""
    draw = random.Random(5)  # noqa: S311 - repeatable data, no secret
    forms = [
        (prefixes, length)
        for brand in BRANDS
        for prefixes in brand.prefixes
        for length in brand.lengths
        if length not in brand.weak
    ]
    for (first, last), length in itertools.islice(itertools.cycle(forms), count):
        stem = str(draw.randint(first, last))
        stem += "".join(draw.choice("0123456789") for _ in range(length - len(stem) - 1))
        yield stem + check_digit(stem)


def _grouped(number: str, gap: str) -> str:
    ends = {16: (0, 4, 8, 12, 16), 15: (0, 4, 10, 15), 14: (0, 4, 10, 14)}[len(number)]
    return gap.join(number[start:end] for start, end in itertools.pairwise(ends))


STYLES: tuple[Callable[[str], str], ...] = (
    str,
    lambda number: _grouped(number, " "),
    lambda number: _grouped(number, "-"),
)
FRAMES: tuple[Callable[[str], str], ...] = (
    lambda number: json.dumps({"number": number}),
    lambda number: f"\n17,Jo Doe,{number},2026-01-31\n",
    lambda number: f"\n17;{number};12/27;123\n",
    lambda number: f"\n17\t{number}\t2026\n",
    lambda number: f"<pan>{number}</pan>",
    lambda number: f"&number={quote_plus(number)}&x=y",
    lambda number: f"paid with {number}, thanks",
)


def guilty(size: int) -> Iterator[Exchange]:
    """Each document with one card number in its middle, in every frame and style in turn."""
    ways = itertools.cycle(itertools.product(FRAMES, STYLES))
    texts = [text for kind in KINDS for text in documents(kind, size // len(KINDS), seed=2)]
    for text, number, (frame, style) in zip(texts, cards(len(texts)), ways, strict=False):
        half = len(text) // 2
        yield posted(text[:half] + b"\n" + frame(style(number)).encode() + text[half:])


def attacks() -> list[Exchange]:
    """What each shipped rule that looks at a client's bytes must stop, and what it must not."""
    return [
        Exchange(OUTSIDE4, WEB[0], payload)
        for shipped in SHIPPED
        for payload in (shipped.payload.stopped, shipped.payload.passed)
        if shipped.payload.protocol is Protocol.TCP and not shipped.payload.port
    ]


def recall(lab: IpsLab, size: int) -> float:
    """The part of documents with a card number that are hit. Prints it."""
    hits = [CARD_RULES in rules for rules in rules_that_hit(lab, guilty(size))]
    print(f"card-number: {sum(hits)} of {len(hits)} documents with a card number are hit")
    return sum(hits) / len(hits)


def test_a_sample_of_ordinary_data_passes_and_card_numbers_in_it_are_found(still: IpsLab) -> None:
    hits = measured(still, 1_000_000)
    assert hits == {}
    assert recall(still, 500_000) == 1


def test_shipped_rules_find_what_they_are_for(still: IpsLab) -> None:
    sids = found(still, ips_files(DESIGN), attacks())
    assert all(len(of & ATTACKS) == 1 for of in sids[::2])
    assert not any(sids[1::2])


@pytest.mark.long
def test_rates(still: IpsLab) -> None:
    size = 50_000_000
    hits = measured(still, size)
    documents_hit = sum(count for (rules, _), count in hits.items() if rules == CARD_RULES)
    assert documents_hit <= size / 20_000 * 0.005
    assert not any(rules != CARD_RULES for rules, _ in hits)
    assert recall(still, 5_000_000) > 0.99
