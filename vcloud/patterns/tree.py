r"""Regular expressions as a typed tree, as Python's `re` reads them.

`parsed` is the only parser. It expects text that `re.compile` accepts without a warning, in printable ASCII and without
the flag `x`; what it makes of other text has no meaning. The tree keeps the spelling of what it read (`\v` or `\x0b`),
because PCRE may read another spelling in another way.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

ASCII: Final = frozenset(map(chr, range(128)))
MOST_CODE: Final = 255
ALL: Final = frozenset(map(chr, range(MOST_CODE + 1)))
"""A detector searches bytes; a pattern sees each byte as one character."""
_DIGITS: Final = frozenset("0123456789")
_SPACES: Final = frozenset(" \t\n\r\f\v")
_WORDS: Final = frozenset(character for character in ASCII if character.isalnum() or character == "_")


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


def parsed(text: str) -> Node:
    """The tree of a pattern that `re.compile` accepts."""
    return _Parser(text).alternation()


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
    """The lengths of the shortest and the longest text that a node matches; None if there is no longest one."""
    match node:
        case Literal() | AnyChar() | CharSet():
            return 1, 1
        case Sequence():
            widths = [width(part) for part in node.parts]
            return sum(least for least, _ in widths), _total([most for _, most in widths])
        case Alternation():
            widths = [width(branch) for branch in node.branches]
            mosts = [most for _, most in widths if most is not None]
            return min(least for least, _ in widths), max(mosts) if len(mosts) == len(widths) else None
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
    """The same as a sequence, in which the characters that all branches begin with come once.

    If the rest of each branch is a different character, `(abc|abd)`, the alternation ends in a set, `ab[cd]`: only one
    branch can match, so a search never has to come back and try another.
    """
    branches = [list(_flat(branch)) for branch in alternation.branches]
    parts: list[Node] = []
    while all(branches) and _is_leaf(branches[0][0]) and all(branch[0] == branches[0][0] for branch in branches):
        parts.append(branches[0][0])
        branches = [branch[1:] for branch in branches]
    if (characters := _distinct(branches)) is not None:
        return Sequence((*parts, CharSet(characters, False, "")))
    return Sequence((*parts, Alternation(tuple(Sequence(tuple(branch)) for branch in branches))))


def either_case(characters: Iterable[str]) -> frozenset[str]:
    """The characters in upper and lower case: a flag may ignore the case."""
    return frozenset(form for character in characters for form in (character, character.lower(), character.upper()))


def _distinct(branches: list[list[Node]]) -> frozenset[str] | None:
    """The characters of branches that are one character each, if no two branches match the same; else None."""
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
    """The characters that a branch of one character matches, in either case; None for any other branch."""
    match branch:
        case [Literal(character=character)]:
            return either_case(character)
        case [CharSet() as found]:
            return either_case(found.matched)
        case _:
            return None


_ESCAPED_CHARACTERS: Final = {"a": "\a", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_CLASSES: Final = {
    "d": (_DIGITS, False),
    "D": (_DIGITS, True),
    "s": (_SPACES, False),
    "S": (_SPACES, True),
    "w": (_WORDS, False),
    "W": (_WORDS, True),
}
_CHARACTER: Final = re.compile(
    r"\\(?:x(?P<hex>[0-9A-Fa-f]{2})|u(?P<four>[0-9A-Fa-f]{4})|U(?P<eight>[0-9A-Fa-f]{8})|N\{[^}]*\}"
    r"|(?P<octal>0[0-7]{0,2}|[0-3][0-7]{2})|.)"
)
_SET_OCTAL: Final = re.compile(r"\\([0-7]{1,3})")
_REFERENCE: Final = re.compile(r"\\[1-9][0-9]?|\(\?P=\w+\)")
_COUNT: Final = re.compile(r"\{(?P<least>[0-9]*)(?P<range>,(?P<most>[0-9]*))?\}")
_OPENING: Final = re.compile(
    r"\((?:\?(?:(?P<comment>#[^)]*\))|(?P<look><?[=!])|(?P<atomic>>)|P?<\w+>|(?P<condition>\(\w+\))"
    r"|(?P<flags>[A-Za-z]*(?:-[A-Za-z]+)?)(?P<end>[:)])))?"
)


class _Parser:
    """Reads one pattern from left to right."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def alternation(self) -> Node:
        branches = [self._sequence()]
        while self._next("|"):
            branches.append(self._sequence())
        return Alternation(tuple(branches)) if branches[1:] else branches[0]

    def _next(self, character: str) -> bool:
        """Whether this character comes next; if so, it is read."""
        is_next = self.text.startswith(character, self.at)
        self.at += is_next
        return is_next

    def _take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        found = pattern.match(self.text, self.at)
        if found:
            self.at = found.end()
        return found

    def _expect(self, pattern: re.Pattern[str]) -> re.Match[str]:
        if found := self._take(pattern):
            return found
        raise ValueError(f"not a pattern that re.compile accepts: {self.text}")

    def _sequence(self) -> Sequence:
        parts: list[Node] = []
        while self.at < len(self.text) and self.text[self.at] not in "|)":
            if (repeat := self._repeat()) is None:
                parts.append(self._part())
                continue
            index = max(index for index, part in enumerate(parts) if not isinstance(part, Comment))
            parts[index] = Repeat(parts[index], *repeat)
        return Sequence(tuple(parts))

    def _repeat(self) -> tuple[int, int | None, str] | None:
        """Least, most and spelling of a quantifier, if one comes next."""
        start = self.at
        if self.text[start] in "*+?":
            self.at += 1
            least, most = {"*": (0, None), "+": (1, None), "?": (0, 1)}[self.text[start]]
        elif (found := _COUNT.match(self.text, start)) and found[0] != "{}":
            self.at = found.end()
            least = int(found["least"] or 0)
            most = (int(found["most"]) if found["most"] else None) if found["range"] else least
        else:
            return None
        self.at += self.text.startswith(("?", "+"), self.at)
        return least, most, self.text[start : self.at]

    def _part(self) -> Node:
        start = self.at
        match self.text[start]:
            case "(":
                return self._parenthesis()
            case "[":
                return self._set()
            case "\\":
                return self._escape()
            case ".":
                self.at += 1
                return AnyChar()
            case "^" | "$" as spelling:
                self.at += 1
                return Anchor(spelling)
            case character:
                self.at += 1
                return Literal(character, character, start)

    def _parenthesis(self) -> Node:
        if reference := self._take(_REFERENCE):
            return BackReference(reference[0])
        found = self._expect(_OPENING)
        if found["comment"] is not None:
            return Comment(found[0])
        if found["end"] == ")":
            return Flags(found["flags"])
        part = self.alternation()
        self._next(")")
        if found["look"]:
            return LookAround(found[0], part)
        if found["condition"]:
            return Condition(part)
        if found["atomic"]:
            return Group(Opening.ATOMIC, part)
        if found["flags"]:
            return Group(Opening.FLAGS, part, found["flags"])
        return Group(Opening.CAPTURE if found["end"] is None else Opening.PLAIN, part)

    def _escape(self) -> Node:
        start, letter = self.at, self.text[self.at + 1]
        if letter in _CLASSES:
            self.at += 2
            return CharSet(*_CLASSES[letter], self.text[start : self.at])
        if letter in "AbBZ":
            self.at += 2
            return Anchor(self.text[start : self.at])
        if letter in "123456789" and not re.match(r"\\[0-3][0-7]{2}", self.text[start:]):
            return BackReference(self._expect(_REFERENCE)[0])
        character = self._escaped_character()
        return Literal(character, self.text[start : self.at], start)

    def _escaped_character(self) -> str:
        found = self._expect(_CHARACTER)
        if code := found["hex"] or found["four"] or found["eight"]:
            return chr(int(code, 16))
        if found["octal"]:
            return chr(int(found["octal"], 8))
        return _ESCAPED_CHARACTERS.get(found[0][1], found[0][1])

    def _set(self) -> CharSet:
        start = self.at
        self.at += 1
        negated = self._next("^")
        characters: set[str] = set()
        first = self.at
        while self.at == first or self.text[self.at] != "]":
            characters |= self._member()
        self.at += 1
        return CharSet(frozenset(characters), negated, self.text[start : self.at])

    def _member(self) -> frozenset[str]:
        """A character, a range or a class inside a set."""
        letter = self.text[self.at + 1] if self.text[self.at] == "\\" else ""
        if letter and letter in _CLASSES:
            self.at += 2
            listed, negated = _CLASSES[letter]
            return ALL - listed if negated else listed
        low = self._set_character()
        if self.text[self.at] == "-" and self.text[self.at + 1] != "]":
            self.at += 1
            last = min(ord(self._set_character()), MOST_CODE)
            return frozenset(map(chr, range(ord(low), last + 1)))
        return frozenset(low)

    def _set_character(self) -> str:
        if self.text[self.at] != "\\":
            self.at += 1
            return self.text[self.at - 1]
        if found := self._take(_SET_OCTAL):
            return chr(int(found[1], 8))
        if self.text[self.at + 1] == "b":
            self.at += 2
            return "\b"
        return self._escaped_character()
