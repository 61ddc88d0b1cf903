"""How often a pattern may have to be tried at one place of a text before it is known not to match there.

Repetitions multiply where a text can be shared out among them in several ways (`a{1,9}a{1,9}b`), and do not where what stands between
them, or they themselves, can match nothing of their neighbours (`[a-z]{1,64}@[a-z]{1,64}`).
"""

from __future__ import annotations

import re._constants as code  # type: ignore[import-not-found]
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any, Final

ENDLESS: Final = 1000
"""Tries that a repetition without end counts for."""
REPEATS: Final = frozenset({code.MAX_REPEAT, code.MIN_REPEAT, code.POSSESSIVE_REPEAT})

_BYTES: Final = 256
_ALL: Final = frozenset(map(chr, range(_BYTES)))
_ASCII: Final = frozenset(map(chr, range(128)))
_DIGITS: Final = frozenset("0123456789")
_SPACES: Final = frozenset(" \t\n\r\f\v")
_WORDS: Final = frozenset(character for character in _ASCII if character.isalnum() or character == "_")
_CATEGORIES: Final = {
    code.CATEGORY_DIGIT: _DIGITS,
    code.CATEGORY_NOT_DIGIT: _ALL - _DIGITS,
    code.CATEGORY_SPACE: _SPACES,
    code.CATEGORY_NOT_SPACE: _ALL - _SPACES,
    code.CATEGORY_WORD: _WORDS,
    code.CATEGORY_NOT_WORD: _ALL - _WORDS,
}


@dataclass(frozen=True, slots=True)
class _Piece:
    """A part of a pattern: the characters it can match, in how many ways, and whether it always matches some."""

    characters: frozenset[str]
    ways: int
    needed: bool


def tries(tree: Any) -> int:
    """The product of the ways in which the repetitions of a parsed pattern can share out a text, at most."""
    return _together(tuple(_pieces(tree)))


def _together(pieces: tuple[_Piece, ...]) -> int:
    """Within a run of pieces that can match the same characters all multiply; the end of each run is certain."""
    runs: list[list[int]] = [[]]
    reach: frozenset[str] = frozenset()
    for piece in pieces:
        if piece.needed and not piece.characters & reach:
            runs.append([])
            reach = frozenset()
        if piece.ways > 1:
            runs[-1].append(piece.ways)
            reach |= piece.characters
    found = [run for run in runs if run]
    return prod(prod(run) // max(run) for run in found) * max(map(max, found), default=1)


def _pieces(tree: Any) -> Iterator[_Piece]:
    for operation, argument in tree:
        if operation in REPEATS:
            yield from _repeated(*argument)
        elif operation is code.BRANCH:
            branches = [tuple(_pieces(branch)) for branch in argument[1]]
            yield _Piece(frozenset().union(*map(_characters, branches)), sum(map(_together, branches)), all(map(_is_needed, argument[1])))
        elif operation is code.SUBPATTERN:
            yield from _pieces(argument[-1])
        elif operation is code.ATOMIC_GROUP:
            yield from _pieces(argument)
        elif operation in (code.ASSERT, code.ASSERT_NOT):
            inside = tuple(_pieces(argument[1]))
            yield _Piece(_characters(inside), _together(inside), False)
        elif operation is not code.AT:
            yield _Piece(_single(operation, argument), 1, True)


def _repeated(least: int, most: Any, inner: Any) -> Iterator[_Piece]:
    """What repeats something variable does so a few times at most: `pattern` has seen to it."""
    pieces = tuple(_pieces(inner))
    within = _together(pieces)
    if least == most and within > 1:
        yield from (piece for _ in range(least) for piece in pieces)
        return
    width = ENDLESS if most is code.MAXREPEAT else min(int(most) - least + 1, ENDLESS)
    ways = width - 1 + within if within == 1 or most == 1 else width * within ** int(most)
    yield _Piece(_characters(pieces), ways, least > 0 and _is_needed(inner))


def _is_needed(tree: Any) -> bool:
    return bool(tree.getwidth()[0])


def _characters(pieces: Iterable[_Piece]) -> frozenset[str]:
    return frozenset().union(*(piece.characters for piece in pieces))


def _single(operation: Any, argument: Any) -> frozenset[str]:
    """What one character can be, in either case: the pattern may ignore it."""
    if operation is code.LITERAL:
        return _either_case({chr(argument)})
    if operation is code.IN:
        return _of_set(argument)
    return _ALL


def _of_set(members: Iterable[tuple[Any, Any]]) -> frozenset[str]:
    found: set[str] = set()
    negated = False
    for operation, argument in members:
        if operation is code.NEGATE:
            negated = True
        elif operation is code.LITERAL:
            found.add(chr(argument))
        elif operation is code.RANGE:
            found.update(map(chr, range(argument[0], argument[1] + 1)))
        else:
            found |= _CATEGORIES[argument]
    return _ALL - found if negated else _either_case(found)


def _either_case(characters: Iterable[str]) -> frozenset[str]:
    return frozenset(form for character in characters for form in (character, character.lower(), character.upper()))
