"""The detector kind `card-number`: payment card numbers.

A pattern finds candidates fast. A Lua script then judges them: it looks at prefix, length and check
digit, and it counts the different numbers of a connection, which a pattern cannot.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from vcloud.compile.environment import render
from vcloud.compile.leaks.channels import CHANNELS, Channel
from vcloud.design.model import Detector
from vcloud.values import CARD_NUMBER

NAME: Final = CARD_NUMBER


@dataclass(frozen=True, slots=True)
class Brand:
    """The numbers that a card scheme issues."""

    name: str
    prefixes: tuple[tuple[int, int], ...]
    """Ranges of the first four digits, both ends included."""
    lengths: tuple[int, ...]
    weak: tuple[int, ...] = ()
    """Lengths that many other numbers have, too: times, telephone, article and order numbers. A
    number of such a length counts only after a word such as `card` or `visa` (`WORDS`).
    """


BRANDS: Final = (
    Brand("Visa", ((4000, 4999),), (13, 16, 19), weak=(13, 19)),
    Brand("Mastercard", ((5100, 5599), (2221, 2720)), (16,)),
    Brand("American Express", ((3400, 3499), (3700, 3799)), (15,)),
    Brand(
        "Diners Club",
        ((3000, 3059), (3095, 3095), (3600, 3699), (3800, 3999)),
        (14, 16, 17, 18, 19),
        weak=(17, 18, 19),
    ),
    Brand("Discover", ((6011, 6011), (6440, 6599)), (16, 17, 18, 19), weak=(17, 18, 19)),
    Brand("JCB", ((3528, 3589),), (16, 17, 18, 19), weak=(17, 18, 19)),
    Brand("UnionPay", ((6200, 6299),), (16, 17, 18, 19), weak=(17, 18, 19)),
    Brand(
        "Maestro",
        ((5018, 5018), (5020, 5020), (5038, 5038), (5893, 5893), (6304, 6304), (6759, 6763)),
        (12, 13, 14, 15, 16, 17, 18, 19),
        weak=(12, 13, 14, 15, 16, 17, 18, 19),
    ),
)

FEWEST_DIGITS: Final = min(length for brand in BRANDS for length in brand.lengths)
MOST_DIGITS: Final = max(length for brand in BRANDS for length in brand.lengths)
SEPARATORS: Final = " \t-"
"""Characters that may stand between two groups of digits."""
WIDEST_GAP: Final = 2
"""At most so many separators may stand between two groups of digits."""
FORMS: Final = (
    *((4,) * 3 + (last,) for last in (1, 2, 3, 4)),
    *((4,) * 4 + (last,) for last in (1, 2, 3)),
    (4, 6, 4),
    (4, 6, 5),
    (6, 13),
)
"""The lengths of the groups in which people write card numbers."""
MOST_GROUPS: Final = 6
"""At most so many groups of digits with the same gap may stand together: a card number, its expiry
and its code. More groups are taken for the row of a table.
"""
WORDS: Final = (
    *("card", "karte", "carte", "carta", "tarjeta", "kredit", "credit", "debit"),
    *("visa", "maestro", "amex", "diners", "discover", "unionpay", "%f[%a]jcb"),
    *("%f[%a]pan%f[%A]", "%f[%a]ccn?%f[%A]"),
)
"""Patterns of Lua for lower case, one of which must stand before a weak number."""
CONTEXT: Final = 200
"""The word may stand at most so many bytes before the number."""
MOST_CUT: Final = 300
"""At most so many ends of longer numbers are remembered for the next window."""
LIST: Final = 10
"""A window with at least so many numbers that look like card numbers is taken for a list."""
SHARE: Final = 4
"""If at least one of so many numbers of a list has a right check digit, it is a list of cards."""
# The numbers of all brands begin with 2 to 6.
CANDIDATE: Final = rf"[2-6](?:[ \t.-]{{0,{WIDEST_GAP}}}\d){{{FEWEST_DIGITS - 1}}}"
"""The beginning of every number. It takes the dots of dotted channels, too, so that one pattern
serves all channels.
"""


def search(detector: Detector, channel: Channel) -> str:
    return f'pcre:"/{CANDIDATE}/O"; lua:lua/{_script_name(detector, channel)};'


def scripts(detector: Detector) -> Mapping[str, str]:
    """One script for all channels that give a script its data in the same way."""
    channels = {_script_name(detector, channel): channel for channel in CHANNELS}
    return {name: _script(detector, channel) for name, channel in channels.items()}


def _script(detector: Detector, channel: Channel) -> str:
    separators = separators_in(channel)
    return render(
        "suricata/card-number.lua.j2",
        detector=detector.id,
        argument=channel.argument,
        # In a pattern of Lua, `%` takes the next character as it is.
        separators="".join(f"%{separator}" for separator in separators).replace("\t", r"\t"),
        dotted=channel.dotted,
        widest=WIDEST_GAP,
        at_least=detector.at_least,
        fewest=FEWEST_DIGITS,
        most=MOST_DIGITS,
        brands=BRANDS,
        forms=["".join(f"{length} " for length in form) for form in FORMS],
        most_groups=MOST_GROUPS,
        words=WORDS,
        context=CONTEXT,
        longest_form=max(map(len, FORMS)),
        most_cut=MOST_CUT,
        list=LIST,
        share=SHARE,
    )


def sample_texts(detector: Detector) -> tuple[str, str]:
    """See `DetectorKind`. The second text has the same numbers, but the last one has a wrong check
    digit.
    """
    right, wrong = example_numbers(detector.at_least), wrong_numbers(detector.at_least)
    return _lines(right), _lines((*right[:-1], wrong[-1]))


def is_found(detector: Detector, text: str) -> bool:
    """See `DetectorKind`. Only numbers that are written without separators are found."""
    return sum(map(is_card_number, set(re.findall(r"\d+", text)))) >= detector.at_least


def separators_in(channel: Channel) -> str:
    """Characters that may stand between two groups of digits in this channel."""
    return SEPARATORS + ("." if channel.dotted else "")


def is_card_number(digits: str) -> bool:
    """Whether a string of digits has a brand's prefix and length and a right check digit."""
    issued = any(
        first <= int(digits[:4]) <= last and len(digits) in brand.lengths
        for brand in BRANDS
        for first, last in brand.prefixes
        if len(digits) >= FEWEST_DIGITS
    )
    return issued and check_digit(digits[:-1]) == digits[-1]


def check_digit(digits: str) -> str:
    """The digit that completes a number after Luhn (ISO/IEC 7812-1)."""
    total = 0
    for position, digit in enumerate(map(int, reversed(digits))):
        doubled = digit * 2 if position % 2 == 0 else digit
        total += doubled - 9 if doubled > 9 else doubled
    return str(-total % 10)


def example_numbers(count: int) -> tuple[str, ...]:
    """Different valid numbers that belong to nobody: payment providers publish the prefix 4111 11
    for tests.
    """
    stems = (f"411111{number:09d}" for number in range(111111111, 111111111 + count))
    return tuple(stem + check_digit(stem) for stem in stems)


def wrong_numbers(count: int) -> tuple[str, ...]:
    """The example numbers with wrong check digits."""
    return tuple(number[:-1] + str((int(number[-1]) + 1) % 10) for number in example_numbers(count))


def _script_name(detector: Detector, channel: Channel) -> str:
    return f"{detector.id}-{channel.argument}{'-dotted' if channel.dotted else ''}.lua"


def _lines(numbers: tuple[str, ...]) -> str:
    return "".join(f"{number}\n" for number in numbers)
