"""Payment card numbers: which digits can be one, and harmless ones for probes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Brand:
    """The numbers that a card scheme issues."""

    name: str
    prefixes: tuple[tuple[int, int], ...]
    """Ranges of the first four digits, both ends included."""
    lengths: tuple[int, ...]


BRANDS: Final = (
    Brand("Visa", ((4000, 4999),), (13, 16, 19)),
    Brand("Mastercard", ((5100, 5599), (2221, 2720)), (16,)),
    Brand("American Express", ((3400, 3499), (3700, 3799)), (15,)),
    Brand("Diners Club", ((3000, 3059), (3095, 3095), (3600, 3699), (3800, 3999)), (14, 16, 17, 18, 19)),
    Brand("Discover", ((6011, 6011), (6440, 6599)), (16, 17, 18, 19)),
    Brand("JCB", ((3528, 3589),), (16, 17, 18, 19)),
    Brand("UnionPay", ((6200, 6299),), (16, 17, 18, 19)),
)
"""Maestro is left out: it has no ranges of its own, and any length from 12 on, so that every tenth customer number would be one."""

FEWEST_DIGITS: Final = min(length for brand in BRANDS for length in brand.lengths)
MOST_DIGITS: Final = max(length for brand in BRANDS for length in brand.lengths)


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
    for place, digit in enumerate(map(int, reversed(digits))):
        doubled = digit * 2 if place % 2 == 0 else digit
        total += doubled - 9 if doubled > 9 else doubled
    return str(-total % 10)


def example_numbers(count: int) -> tuple[str, ...]:
    """Different numbers that are right in form; 4111 11 is what payment providers publish for tests."""
    stems = (f"411111{number:09d}" for number in range(111111111, 111111111 + count))
    return tuple(stem + check_digit(stem) for stem in stems)


def wrong_numbers(count: int) -> tuple[str, ...]:
    """The same with wrong check digits."""
    return tuple(number[:-1] + str((int(number[-1]) + 1) % 10) for number in example_numbers(count))
