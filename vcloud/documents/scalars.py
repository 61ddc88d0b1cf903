"""Finds out what YAML text without quotes means, and refuses texts that YAML readers disagree
about.

Values are read as YAML 1.2 does. A text that a YAML 1.1 reader understands in another way (`no`,
`22:22`, `0644`) is a trap: the file may be read by other tools, and by people, so it must be
unambiguous.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple

from vcloud.documents.field import shown


def _forms(word: str) -> tuple[str, str, str]:
    """The three spellings that YAML knows of a word."""
    return word, word.capitalize(), word.upper()


_WORDS: Final[dict[str, bool | None]] = {
    **dict.fromkeys(("", "~", *_forms("null"))),
    **dict.fromkeys(_forms("true"), True),
    **dict.fromkeys(_forms("false"), False),
}
_SWITCHES: Final = {
    **dict.fromkeys((*_forms("yes"), *_forms("on")), "true"),
    **dict.fromkeys((*_forms("no"), *_forms("off")), "false"),
}
"""YAML 1.1 reads these as true or false, YAML 1.2 as text."""
# 18 digits fit into 64 bits. A longer number is a trap (_ODD_NUMBER), because not all readers have
# larger numbers.
_WHOLE: Final = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})")
_FRACTION: Final = re.compile(
    r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]{1,3})?"
)
_CLOCK: Final = re.compile(r"[-+]?[1-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?")
_OCTAL: Final = re.compile(r"[-+]?0[0-9_]+")
_ODD_NUMBER: Final = re.compile(
    r"[-+]?(?:0[xob][0-9A-Fa-f_]+|[1-9][0-9]*_[0-9_]*|\.(?:inf|Inf|INF)|[1-9][0-9]{18,})|\.(?:nan|NaN|NAN)"
)


class Trap(NamedTuple):
    """Why YAML readers disagree about a text, and how to write it without doubt."""

    what: str
    hint: str


def plain_value(
    text: str, quoted: Callable[[object], str] = shown
) -> str | int | float | bool | Trap | None:
    """The value of a text without quotes, or a Trap, in which `quoted` writes the text."""
    if text in _WORDS:
        return _WORDS[text]
    if text in _SWITCHES:
        word = _SWITCHES[text]
        return Trap(
            f"some YAML readers take {text} without quotes as {word}, others as text",
            f"Write {word}, or '{text}' in quotes for the text.",
        )
    # The empty text is one of _WORDS, so there is a first character.
    return _number(text, quoted) if text[0] in "+-.0123456789" else text


def _number(text: str, quoted: Callable[[object], str]) -> str | int | float | Trap:
    if _WHOLE.fullmatch(text):
        return int(text)
    in_quotes = f"Put it in quotes: '{quoted(text)}'."
    if _CLOCK.fullmatch(text):
        return Trap(
            f"some YAML readers take {quoted(text)} without quotes as a number in base 60",
            in_quotes,
        )
    if _OCTAL.fullmatch(text):
        return Trap(
            f"some YAML readers take {quoted(text)} without quotes as an octal number", in_quotes
        )
    if _ODD_NUMBER.fullmatch(text):
        return Trap(
            f"not all YAML readers take {quoted(text)} as a number",
            f"Write a plain decimal number, or '{quoted(text)}' in quotes for the text.",
        )
    return float(text) if _FRACTION.fullmatch(text) else text
