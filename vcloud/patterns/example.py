"""Texts that a pattern matches, and texts that it just does not match. `verify` sends them to prove
a leak detector.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from vcloud.errors import VcloudError
from vcloud.patterns.parser import parsed
from vcloud.patterns.tree import (
    Alternation,
    AnyChar,
    BackReference,
    CharSet,
    Condition,
    Group,
    Literal,
    Node,
    Repeat,
    Sequence,
    either_case,
)

_ALPHABET: Final = "aA0_-. :/@#" + "".join(map(chr, range(0x21, 0x7F))) + "\t\n"
"""The characters of examples, in order of preference."""


class NoExampleError(VcloudError):
    """No text was found that tests a pattern."""


def matching_text(pattern: str) -> str:
    """A short text that the pattern matches.

    Raises:
        NoExampleError: none was found. The search ignores look-arounds, and only checks them at the
            end.
    """
    try:
        text = "".join(_texts(parsed(pattern)))
    except LookupError:
        text = ""
    if not re.search(pattern, text):
        what = f"vcloud found no text that the pattern '{pattern}' matches, so it cannot test the pattern"
        raise NoExampleError(what, "Test it by hand, or simplify the pattern.")
    return text


def near_miss(pattern: str, text: str) -> str:
    """The text with one character changed, so that the pattern no longer matches. Raises
    NoExampleError.
    """
    # From the end, so that both texts begin alike.
    for index in reversed(range(len(text))):
        for other in _ALPHABET:
            changed = text[:index] + other + text[index + 1 :]
            if other != text[index] and not re.search(pattern, changed):
                return changed
    what = f"vcloud found no text that the pattern '{pattern}' just does not match, so it cannot test the pattern"
    raise NoExampleError(what, "Test it by hand, or make the pattern more specific.")


def _texts(node: Node) -> Iterator[str]:
    """The shortest text of each part in turn. Raises LookupError for a part that has none."""
    match node:
        case Literal(character=character):
            yield character
        case AnyChar():
            yield _ALPHABET[0]
        case CharSet():
            yield _preferred(node.matched)
        case Alternation():
            yield from _texts(node.branches[0])
        case Repeat():
            yield "".join(_texts(node.part)) * node.least
        case Sequence():
            for part in node.parts:
                yield from _texts(part)
        case Group():
            yield from _texts(node.part)
        case BackReference() | Condition():
            raise LookupError(node)


def _preferred(characters: frozenset[str]) -> str:
    """The first character of the alphabet that is in the set, or the lowest one of the set.

    A character whose other case is in the set, too, comes first: it also matches where a flag
    ignores the case.
    """
    in_both_cases = frozenset(
        character for character in characters if either_case(character) <= characters
    )
    for candidates in (in_both_cases, characters):
        if found := next(
            (character for character in _ALPHABET if character in candidates),
            min(candidates, default=""),
        ):
            return found
    raise LookupError("an empty set")
