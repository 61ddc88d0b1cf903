"""What every field of every document shares: how a wrong value is shown, and what is said about it."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from vcloud.errors import UsageError

LONGEST_WORD: Final = 63
PARAMETER_LENGTH: Final = 4096
CONTENT_LENGTH: Final = 1 << 20
_NO_CONTENT: Final = re.compile(r"[^\n\t\x20-\x7e\xa0-\ud7ff\ue000-\U0010ffff]")


class FieldError(UsageError, ValueError):
    """One value is wrong; where it stands is known to whoever asked."""


def shown(value: object) -> str:
    """A value as messages quote it: on one line, printable and short."""
    text = str(value).lower() if isinstance(value, bool) else "nothing" if value is None else str(value)
    plain = "".join(char if char.isprintable() else repr(char)[1:-1] for char in text[:60])
    return plain if len(text) <= 60 else f"{plain}..."


def kind_of(value: object) -> str:
    """What a value is, in the words of the file."""
    kinds = {str: "text", bool: "true or false", int: "a number", float: "a number with a fraction", list: "a list", type(None): "nothing"}
    return "a mapping" if isinstance(value, dict) else kinds.get(type(value), "something else")


def nearest(word: str, known: Collection[str], called: str = "Known here") -> str:
    """A hint that names the closest of the known words, or lists them."""
    from difflib import get_close_matches

    if close := get_close_matches(word[:LONGEST_WORD], known, n=1, cutoff=0.6):
        return f"Did you mean '{close[0]}'?"
    listed = sorted(known)
    return f"{called}: {', '.join(listed[:12])}{', ...' if len(listed) > 12 else ''}." if listed else "None is declared here."


class Suggestions:
    """`nearest` for the first wrong words of a file only: each search looks at all that are known."""

    def __init__(self, most: int = 50) -> None:
        self.left = most

    def nearest(self, word: str, known: Collection[str], called: str = "Known here") -> str:
        if self.left == 0:
            return ""
        self.left -= 1
        return nearest(word, known, called)


def text_of(value: object) -> str:
    """The value itself when it is text."""
    if isinstance(value, str):
        return value
    hint = "Put it in quotes." if isinstance(value, int | float) else ""
    raise FieldError(f"text is wanted, not {kind_of(value)}", hint)


def matching(value: object, pattern: str, called: str, wanted: str) -> str:
    """Text that a pattern accepts as a whole."""
    text = text_of(value)
    if not re.fullmatch(pattern, text):
        raise FieldError(f"'{shown(text)}' is not {called}", wanted)
    return text


def parse_content(value: object, limit: int = CONTENT_LENGTH) -> str:
    """Many lines for a guest."""
    text = text_of(value)
    if len(text) > limit:
        raise FieldError(f"this text has {len(text)} characters, at most {limit} are allowed")
    if found := _NO_CONTENT.search(text):
        raise FieldError(
            f"the text has the control character {found[0]!r}",
            "Only printable characters, tabs and line ends are allowed; put other data into a file and name it as source.",
        )
    return text
