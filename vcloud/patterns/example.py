"""Texts that a regular expression matches, and just does not match, for the probes of leak detectors."""

from __future__ import annotations

import re
import re._constants as code  # type: ignore[import-not-found]
import re._parser as parser  # type: ignore[import-not-found]
from collections.abc import Iterable, Iterator
from typing import Any, Final

from vcloud.errors import VcloudError

_ALPHABET: Final = "aA0_-. :/@#" + "".join(map(chr, range(0x21, 0x7F))) + "\t\n"
"""In order of preference."""
_CATEGORIES: Final = {
    code.CATEGORY_DIGIT: r"\d",
    code.CATEGORY_NOT_DIGIT: r"\D",
    code.CATEGORY_SPACE: r"\s",
    code.CATEGORY_NOT_SPACE: r"\S",
    code.CATEGORY_WORD: r"\w",
    code.CATEGORY_NOT_WORD: r"\W",
}


class NoExampleError(VcloudError):
    """No text was found that tests a pattern."""


def matching_text(pattern: str) -> str:
    """A short text that the pattern matches. Raises NoExampleError when none was found: look-arounds are not solved, only checked."""
    try:
        text = "".join(_texts(parser.parse(pattern)))
    except LookupError:
        text = ""
    if not re.search(pattern, text):
        raise NoExampleError(f"no text was found that the pattern '{pattern}' matches", "Its probe must be made by hand.")
    return text


def near_miss(pattern: str, text: str) -> str:
    """The text with one character changed so that the pattern no longer matches. Raises NoExampleError."""
    for place in reversed(range(len(text))):
        for other in _ALPHABET:
            changed = text[:place] + other + text[place + 1 :]
            if other != text[place] and not re.search(pattern, changed):
                return changed
    raise NoExampleError(f"no text was found that the pattern '{pattern}' just does not match", "Its probe must be made by hand.")


def _texts(tree: Iterable[tuple[Any, Any]]) -> Iterator[str]:
    """The shortest text of each element in turn. Raises LookupError where there is none."""
    for operation, argument in tree:
        if operation is code.LITERAL:
            yield chr(argument)
        elif operation is code.NOT_LITERAL:
            yield _first(character for character in _ALPHABET if ord(character) != argument)
        elif operation is code.ANY:
            yield _ALPHABET[0]
        elif operation is code.IN:
            yield _first(character for character in _candidates(argument) if _in_set(character, argument))
        elif operation is code.BRANCH:
            yield "".join(_texts(argument[1][0]))
        elif operation in (code.MAX_REPEAT, code.MIN_REPEAT, code.POSSESSIVE_REPEAT):
            least, _, inner = argument
            yield "".join(_texts(inner)) * least
        elif operation is code.SUBPATTERN:
            yield from _texts(argument[-1])
        elif operation is code.ATOMIC_GROUP:
            yield from _texts(argument)
        elif operation not in (code.AT, code.ASSERT, code.ASSERT_NOT):
            raise LookupError(operation)


def _first(characters: Iterator[str]) -> str:
    for character in characters:
        return character
    raise LookupError


def _candidates(members: Iterable[tuple[Any, Any]]) -> Iterator[str]:
    """What a set names comes first, then everything else, for sets that exclude."""
    for operation, argument in members:
        if operation is code.LITERAL:
            yield chr(argument)
        elif operation is code.RANGE:
            yield chr(argument[0])
    yield from _ALPHABET


def _in_set(character: str, members: Iterable[tuple[Any, Any]]) -> bool:
    negated = hit = False
    for operation, argument in members:
        if operation is code.NEGATE:
            negated = True
        elif operation is code.LITERAL:
            hit |= ord(character) == argument
        elif operation is code.RANGE:
            hit |= argument[0] <= ord(character) <= argument[1]
        elif operation is code.CATEGORY:
            hit |= re.fullmatch(_CATEGORIES[argument], character) is not None
    return hit != negated
