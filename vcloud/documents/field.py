"""What the fields of all documents share: how messages show a wrong value, and the most common
checks.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from vcloud.errors import UsageError

if TYPE_CHECKING:
    from pydantic_core import CoreSchema

LONGEST_WORD: Final = 63
PARAMETER_LENGTH: Final = 4096
CONTENT_LENGTH: Final = 1 << 20
# Matches everything but line ends, tabs, and printable ASCII and Unicode. Surrogates are excluded,
# because each is only half a character.
_CONTROL: Final = re.compile(r"[^\n\t\x20-\x7e\xa0-\ud7ff\ue000-\U0010ffff]")
_KINDS: Final = {
    str: "text",
    bool: "true or false",
    int: "a number",
    float: "a number with a fraction",
    list: "a list",
    type(None): "empty",
}


class FieldError(UsageError, ValueError):
    """One value is wrong. The code that asked for the value knows its position."""


def shown(value: object) -> str:
    """A value as messages quote it: on one line, printable and short."""
    text = (
        str(value).lower()
        if isinstance(value, bool)
        else "nothing"
        if value is None
        else str(value)
    )
    plain = "".join(char if char.isprintable() else repr(char)[1:-1] for char in text[:60])
    return plain if len(text) <= 60 else f"{plain}..."


def kind_of(value: object) -> str:
    """What a value is, in words that complete "this is ..."."""
    return "a mapping" if isinstance(value, dict) else _KINDS.get(type(value), "something else")


def nearest(word: str, known: Collection[str], what: str = "name") -> str:
    """A hint that names the closest of the known words, or lists them. `what` is the noun for one
    such word, in the singular.
    """
    from difflib import get_close_matches

    # The word is cut off, because the time of the comparison can grow with the square of its
    # length.
    if close := get_close_matches(word[:LONGEST_WORD], known, n=1, cutoff=0.6):
        return f"Did you mean '{close[0]}'?"
    if not known:
        return f"This file declares no {what}s."
    listed = sorted(known)
    return f"Known {what}s: {', '.join(listed[:12])}{', ...' if len(listed) > 12 else ''}."


class Suggestions:
    """`nearest` for the first wrong words of a file only, because each search compares all known
    words.
    """

    def __init__(self, most: int = 50) -> None:
        self.left = most

    def nearest(self, word: str, known: Collection[str], what: str = "name") -> str:
        if self.left == 0:
            return ""
        self.left -= 1
        return nearest(word, known, what)


def text_of(value: object) -> str:
    """The value itself if it is text. Raises FieldError."""
    if isinstance(value, str):
        return value
    hint = "Put it in quotes." if isinstance(value, int | float) else ""
    raise FieldError(f"expected text, but this is {kind_of(value)}", hint)


@dataclass(frozen=True, slots=True)
class Shape:
    """The shape of a short text: a name, an id, a host name. It is the check, the message and the
    JSON schema in one.

    As pydantic's annotation it is all that a field needs: `Annotated[str, Shape(...)]`.
    """

    pattern: str
    """A regular expression that means the same to Python and to JSON schema, for the whole text."""
    wrong: str
    """What the message says about a text of another shape: "is not a valid name"."""
    wanted: str
    """The hint: how to write it."""
    reserved: frozenset[str] = frozenset()
    """Words of the right shape that cannot be used."""

    def parse(self, value: object) -> str:
        """The text, if it has the shape. Raises FieldError."""
        text = text_of(value)
        if not re.fullmatch(self.pattern, text):
            raise FieldError(f"'{shown(text)}' {self.wrong}", self.wanted)
        if text in self.reserved:
            words = ", ".join(sorted(self.reserved))
            raise FieldError(
                f"'{text}' is a reserved word", f"Choose another name. Reserved words are: {words}."
            )
        return text

    def json_schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": f"^(?:{self.pattern})$"}

    def __get_pydantic_core_schema__(self, source: object, handler: object) -> CoreSchema:
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(self.parse)

    def __get_pydantic_json_schema__(self, schema: object, handler: object) -> dict[str, Any]:
        return self.json_schema()


def parse_content(value: object, limit: int = CONTENT_LENGTH) -> str:
    """Text of several lines, of at most `limit` characters, without control characters. Raises
    FieldError.
    """
    text = text_of(value)
    if len(text) > limit:
        raise FieldError(f"this text has {len(text)} characters; the maximum is {limit}")
    if found := _CONTROL.search(text):
        raise FieldError(
            f"the text contains the control character {found[0]!r}",
            "Use printable characters, tabs and line ends only. Put other data into a file and name it as source.",
        )
    return text
