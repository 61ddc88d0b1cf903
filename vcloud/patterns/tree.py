r"""The nodes of a pattern's tree, and functions on all trees: the width of a pattern, its merged
alternatives.

The tree keeps the spelling of what was read (`\v` or `\x0b`), because PCRE may read another
spelling in another way. `parser` makes trees.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

ASCII: Final = frozenset(map(chr, range(128)))
MOST_CODE: Final = 255
ALL: Final = frozenset(map(chr, range(MOST_CODE + 1)))
"""A detector searches bytes; a pattern sees each byte as one character."""
DIGITS: Final = frozenset("0123456789")
SPACES: Final = frozenset(" \t\n\r\f\v")
WORDS: Final = frozenset(
    character for character in ASCII if character.isalnum() or character == "_"
)


class Opening(Enum):
    """What a pair of parentheses does."""

    PLAIN = "(?:"
    CAPTURE = "("
    FLAGS = "(?flags:"
    ATOMIC = "(?>"


@dataclass(frozen=True, slots=True)
class Literal:
    """One certain character."""

    character: str
    spelling: str = field(compare=False)
    start: int = field(compare=False)
    """Index in the pattern."""


@dataclass(frozen=True, slots=True)
class AnyChar:
    """`.`"""


@dataclass(frozen=True, slots=True)
class CharSet:
    r"""One of several characters: `[a-z_]`, `[^"]`, `\d`."""

    characters: frozenset[str]
    """The listed ones, up to MOST_CODE. If `negated`: those that the set does not match."""
    negated: bool
    spelling: str = field(compare=False)

    @property
    def is_bracketed(self) -> bool:
        return self.spelling.startswith("[")

    @property
    def matched(self) -> frozenset[str]:
        return ALL - self.characters if self.negated else self.characters


@dataclass(frozen=True, slots=True)
class Anchor:
    r"""Matches a position between characters: `^`, `$`, `\b`."""

    spelling: str


@dataclass(frozen=True, slots=True)
class Comment:
    """`(?#...)`"""

    spelling: str


@dataclass(frozen=True, slots=True)
class Flags:
    """`(?i)`, at the beginning: flags for the whole pattern."""

    letters: str


@dataclass(frozen=True, slots=True)
class BackReference:
    r"""`\1` or `(?P=name)`: the text that a group matched."""

    spelling: str


@dataclass(frozen=True, slots=True)
class Sequence:
    """Parts one after the other; none of them for an empty pattern."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Alternation:
    """`a|b`, with at least two branches."""

    branches: tuple[Sequence, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """A part that may come several times."""

    part: Node
    least: int
    most: int | None
    """None: without end."""
    spelling: str = field(compare=False)


@dataclass(frozen=True, slots=True)
class Group:
    """A part in parentheses."""

    opening: Opening
    part: Node
    flags: str = ""
    """As in `(?i-s:`."""


@dataclass(frozen=True, slots=True)
class LookAround:
    """`(?=...)`, `(?<!...)` and the like: a condition on the text before or after a position."""

    opening: str
    part: Node


@dataclass(frozen=True, slots=True)
class Condition:
    """`(?(1)a|b)`: one of two parts, depending on whether a group matched."""

    part: Node


Node = (
    Literal
    | AnyChar
    | CharSet
    | Anchor
    | Comment
    | Flags
    | BackReference
    | Sequence
    | Alternation
    | Repeat
    | Group
    | LookAround
    | Condition
)


def children(node: Node) -> tuple[Node, ...]:
    """The nodes directly inside a node."""
    match node:
        case Sequence(parts=nodes) | Alternation(branches=nodes):
            return nodes
        case Repeat() | Group() | LookAround() | Condition():
            return (node.part,)
        case _:
            return ()


def descendants(node: Node) -> Iterator[Node]:
    """A node and all nodes inside it, in the order of the text."""
    yield node
    for child in children(node):
        yield from descendants(child)


def width(node: Node) -> tuple[int, int | None]:
    """The lengths of the shortest and the longest text that a node matches; None if there is no
    longest one.
    """
    match node:
        case Literal() | AnyChar() | CharSet():
            return 1, 1
        case Sequence():
            widths = [width(part) for part in node.parts]
            return sum(least for least, _ in widths), _total([most for _, most in widths])
        case Alternation():
            widths = [width(branch) for branch in node.branches]
            mosts = [most for _, most in widths if most is not None]
            return min(least for least, _ in widths), max(mosts) if len(mosts) == len(
                widths
            ) else None
        case Repeat():
            least, most = width(node.part)
            if node.most is None or most is None:
                return least * node.least, 0 if most == 0 or node.most == 0 else None
            return least * node.least, most * node.most
        case Group():
            return width(node.part)
        case BackReference() | Condition():
            return 0, None
        case Anchor() | Comment() | Flags() | LookAround():
            return 0, 0


def _total(numbers: list[int | None]) -> int | None:
    found = [number for number in numbers if number is not None]
    return sum(found) if len(found) == len(numbers) else None


def merged(alternation: Alternation) -> Sequence:
    """An equal sequence in which the beginning that all branches share comes only once.

    If the rest of each branch is a different character, `(abc|abd)`, the alternation ends in a set,
    `ab[cd]`: only one branch can match, so a search never has to come back and try another.
    """
    branches = [list(_flat(branch)) for branch in alternation.branches]
    parts: list[Node] = []
    while (
        all(branches)
        and _is_leaf(branches[0][0])
        and all(branch[0] == branches[0][0] for branch in branches)
    ):
        parts.append(branches[0][0])
        branches = [branch[1:] for branch in branches]
    if (characters := _distinct(branches)) is not None:
        return Sequence((*parts, CharSet(characters, False, "")))
    return Sequence((*parts, Alternation(tuple(Sequence(tuple(branch)) for branch in branches))))


def either_case(characters: Iterable[str]) -> frozenset[str]:
    """The characters in upper and lower case: a flag may ignore the case."""
    return frozenset(
        form
        for character in characters
        for form in (character, character.lower(), character.upper())
    )


def _distinct(branches: list[list[Node]]) -> frozenset[str] | None:
    """The characters of branches that are one character each, if no two branches match the same;
    else None.
    """
    found = frozenset[str]()
    for branch in branches:
        characters = _choice(branch)
        if characters is None or not found.isdisjoint(characters):
            return None
        found |= characters
    return found


def _flat(node: Node) -> Iterator[Node]:
    """The parts of a sequence. A plain group changes nothing, so its parts are among them."""
    match node:
        case Sequence():
            for part in node.parts:
                yield from _flat(part)
        case Group(opening=Opening.PLAIN):
            yield from _flat(merged(node.part) if isinstance(node.part, Alternation) else node.part)
        case Comment() | Flags():
            return
        case _:
            yield node


def _is_leaf(node: Node) -> bool:
    return isinstance(node, Literal | AnyChar | CharSet | Anchor)


def _choice(branch: list[Node]) -> frozenset[str] | None:
    """The characters that a branch of one character matches, in either case; None for any other
    branch.
    """
    match branch:
        case [Literal(character=character)]:
            return either_case(character)
        case [CharSet() as found]:
            return either_case(found.matched)
        case _:
            return None
