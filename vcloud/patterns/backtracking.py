"""Estimates how many ways a search tries at one position of a text, at most, before it knows that
the pattern does not match there.

The numbers of two repetitions multiply if both can match the same characters, because they can
share out a text in several ways (`a{1,9}a{1,9}b`). They do not multiply if the repetitions match
different characters, or if a part between them does (`[a-z]{1,64}@[a-z]{1,64}`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Final

from vcloud.patterns.tree import (
    ALL,
    Alternation,
    Anchor,
    AnyChar,
    CharSet,
    Comment,
    Flags,
    Group,
    Literal,
    LookAround,
    Node,
    Repeat,
    Sequence,
    either_case,
    merged,
    width,
)

ENDLESS: Final = 1000
"""So many tries are assumed for an endless repetition of a character."""
ENDLESS_GROUP: Final = 100_000
"""So many tries are assumed for an endless repetition of a group. PCRE counts each round of a group
against its limit, but the repetition of a character only once.
"""


@dataclass(frozen=True, slots=True)
class _Piece:
    """A part of a pattern: the characters that it can match, the number of ways in which it can
    match, and whether it always matches at least one character.
    """

    characters: frozenset[str]
    ways: int
    needed: bool
    first: frozenset[str]
    """The characters with which its matches can begin."""


def tries(tree: Node) -> int:
    """In how many ways the repetitions of a pattern can share out a text, at most."""
    return _together(tuple(_pieces(_without_tail(tree))))


def _without_tail(tree: Node) -> Node:
    """The pattern without the optional rounds of a repetition at its end. Nothing follows them that
    could fail, so no search comes back to them.
    """
    match tree:
        case Sequence(parts=(*others, Repeat() as last)):
            return Sequence((*others, replace(last, most=last.least)))
        case _:
            return tree


def _together(pieces: tuple[_Piece, ...]) -> int:
    """The number of ways of several pieces together. The ways of neighbours that can match the same
    characters multiply; such a run ends at a piece that matches none of these characters.
    """
    runs: list[list[int]] = [[]]
    reach: frozenset[str] = frozenset()
    for piece in pieces:
        # The repetitions before this piece must end here, because none of them can match the
        # characters that this piece needs.
        if piece.needed and not piece.characters & reach:
            runs.append([])
            reach = frozenset()
        if piece.ways > 1:
            # If no repetition before this piece can match its first character, there is only one
            # place where this piece can begin.
            if runs[-1] and not piece.first & reach:
                runs[-1][-1] += piece.ways
            else:
                runs[-1].append(piece.ways)
            reach |= piece.characters
    found = [run for run in runs if run]
    return prod(prod(run) // max(run) for run in found) * max(map(max, found), default=1)


def _pieces(node: Node) -> Iterator[_Piece]:
    match node:
        case Sequence():
            for part in node.parts:
                yield from _pieces(part)
        case Group():
            yield from _pieces(node.part)
        case Repeat():
            yield from _repeated(node)
        case Alternation():
            yield from _chosen(merged(node))
        case LookAround():
            inside = tuple(_pieces(node.part))
            characters = _characters(inside)
            yield _Piece(characters, _together(inside), False, characters)
        case Anchor() | Comment() | Flags():
            return
        case _:
            matched = _matched(node)
            yield _Piece(matched, 1, True, matched)


def _chosen(sequence: Sequence) -> Iterator[_Piece]:
    """The pieces of an alternation in which `merged` has joined the beginnings of all branches."""
    for part in sequence.parts:
        if not isinstance(part, Alternation):
            yield from _pieces(part)
            continue
        branches = [tuple(_pieces(branch)) for branch in part.branches]
        yield _Piece(
            frozenset[str]().union(*map(_characters, branches)),
            sum(map(_together, branches)),
            all(map(_is_needed, part.branches)),
            frozenset[str]().union(*map(_first, branches)),
        )


def _repeated(node: Repeat) -> Iterator[_Piece]:
    """If the repeated part itself varies, it repeats only a few times: `pattern` has checked that."""
    pieces = tuple(_pieces(node.part))
    within = _together(pieces)
    if node.least == node.most and within > 1:
        yield from (piece for _ in range(node.least) for piece in pieces)
        return
    endless = ENDLESS if _is_character(node.part) else ENDLESS_GROUP
    choices = endless if node.most is None else min(node.most - node.least + 1, endless)
    rounds = ENDLESS if node.most is None else node.most
    ways = choices - 1 + within if within == 1 or rounds == 1 else choices * within**rounds
    needed = node.least > 0 and _is_needed(node.part)
    yield _Piece(_characters(pieces), ways, needed, _first(pieces))


def _is_character(node: Node) -> bool:
    """Whether PCRE repeats it as one character."""
    return isinstance(node, Literal | CharSet | AnyChar)


def _first(pieces: Iterable[_Piece]) -> frozenset[str]:
    """The characters with which a match of the pieces can begin."""
    found = frozenset[str]()
    for piece in pieces:
        found |= piece.first
        if piece.needed:
            break
    return found


def _is_needed(node: Node) -> bool:
    """Whether each match has at least one character."""
    return width(node)[0] > 0


def _characters(pieces: Iterable[_Piece]) -> frozenset[str]:
    return frozenset[str]().union(*(piece.characters for piece in pieces))


def _matched(node: Node) -> frozenset[str]:
    """The characters that a node for one character can match. Upper and lower case count as the
    same, because a flag may ignore the case.
    """
    match node:
        case Literal(character=character):
            return either_case(character)
        case CharSet(negated=False, characters=characters):
            return either_case(characters)
        case CharSet():
            return node.matched
        case _:
            return ALL
