"""Card numbers: in which texts they are found, and which other numbers pass."""

from __future__ import annotations

import random
import uuid

from tests.netns.ips.lab import OUTSIDE4, IpsLab
from tests.netns.ips.replay import Exchange, found
from tests.netns.ips.traffic import API, CARD, DESIGN, upload
from vcloud.compile.ips.files import ips_files

CARD_TEXTS = (
    f'{{"number":"{CARD}"}}',
    f'{{"n":{CARD}}}',
    f"<card>{CARD}</card>",
    f"a;{CARD};b",
    f"a,{CARD},2026\n",
    f"{CARD}.00",
    f"total.{CARD}",
    f"id 123 {CARD} 5",
    f"x_{CARD}_y",
    f"d{CARD}",
    f"{CARD}CAFE",
    "4111 1111 1111 1111 1227 123",
    "4111 1111 1111 1111 123",
    "No 7 4111 1111 1111 1111",
    "17\t4111 1111 1111 1111\t2026",
    "'4111-1111-1111-1111'",
    "3782 822463 10005",
    "378282246310005",
    "name,card_number\nJo,4222222222222\n",
    "card 6759649826438453",
)
OTHER_TEXTS = (
    "4222222222222",
    "6759649826438453",
    "card 4006381333931",
    "+4915112345678",
    "1234 4111 1111 1111 1111 5678",
    "2024 4111 1111 1111 1111",
    "4111-1111 1111-1111",
    "DE89 3704 0044 0532 0130 00",
    "[0.4111111111111111,1.5]",
    "a3f94111111111111111b2",
)


def posted(text: str) -> Exchange:
    return Exchange(API[0], OUTSIDE4, upload(text.encode()))


def hit(lab: IpsLab, texts: tuple[str, ...]) -> tuple[str, ...]:
    sids = found(lab, ips_files(DESIGN), [posted(text) for text in texts])
    return tuple(text for text, of in zip(texts, sids, strict=True) if of)


def test_card_numbers_are_found_as_programs_and_people_write_them(still: IpsLab) -> None:
    assert hit(still, CARD_TEXTS) == CARD_TEXTS


def test_other_numbers_pass(still: IpsLab) -> None:
    assert hit(still, OTHER_TEXTS) == ()


def test_long_lists_of_numbers_pass_wherever_a_window_cuts_them(still: IpsLab) -> None:
    draw = random.Random(3)  # noqa: S311 - repeatable data, no secret
    now = 1_764_423_456
    lists = {
        "times": [f'{{"t": {now + n}000, "ns": {now + n}{draw.getrandbits(29):09}}},' for n in range(150)],
        "uuids": [str(uuid.UUID(int=draw.getrandbits(128), version=4)) for _ in range(500)],
        "small": [" ".join(str(draw.randint(1, 999)) for _ in range(700))],
        "long": [f"9{draw.getrandbits(60):019}" for _ in range(300)],
    }  # fmt: skip
    texts = tuple("\n".join(lines) for lines in lists.values())
    assert hit(still, texts) == ()
    with_card = tuple(f"{text}\n{CARD}\n{text}" for text in texts)
    assert hit(still, with_card) == with_card


def test_a_list_of_numbers_of_which_every_tenth_is_right_is_not_one_of_cards(
    still: IpsLab,
) -> None:
    orders = "\n".join(str(4_000_000_000_000_000 + number) for number in range(60))
    cards = "\n".join([CARD] * 20 + ["5555555555554444", "5105105105105100"])
    assert hit(still, (orders, cards)) == (cards,)
