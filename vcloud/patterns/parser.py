r"""The one parser of patterns: from text to the tree that Python's `re` means.

It expects text that `re.compile` accepts without a warning, in printable ASCII and without the flag
`x`. What it makes of other text has no meaning.
"""

from __future__ import annotations

import re
from typing import Final

from vcloud.patterns.tree import (
    ALL,
    DIGITS,
    MOST_CODE,
    SPACES,
    WORDS,
    Alternation,
    Anchor,
    AnyChar,
    BackReference,
    CharSet,
    Comment,
    Condition,
    Flags,
    Group,
    Literal,
    LookAround,
    Node,
    Opening,
    Repeat,
    Sequence,
)

_ESCAPED_CHARACTERS: Final = {"a": "\a", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_CLASSES: Final = {
    "d": (DIGITS, False),
    "D": (DIGITS, True),
    "s": (SPACES, False),
    "S": (SPACES, True),
    "w": (WORDS, False),
    "W": (WORDS, True),
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


def parsed(text: str) -> Node:
    """The tree of a pattern that `re.compile` accepts."""
    return _Parser(text).alternation()


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
            # A quantifier after a comment belongs to what stands before the comment.
            index = max(index for index, part in enumerate(parts) if not isinstance(part, Comment))
            parts[index] = Repeat(parts[index], *repeat)
        return Sequence(tuple(parts))

    def _repeat(self) -> tuple[int, int | None, str] | None:
        """Least, most and spelling of a quantifier, if one comes next."""
        start = self.at
        if self.text[start] in "*+?":
            self.at += 1
            least, most = {"*": (0, None), "+": (1, None), "?": (0, 1)}[self.text[start]]
        # Python reads `{}` as two characters.
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
        # Three octal digits are a character; other digits refer back to a group.
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
        # A `]` right at the beginning is a member of the set.
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
        # A dash before the closing bracket is a member of the set.
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
        # Inside a set, `\b` is a backspace and not the border of a word.
        if self.text[self.at + 1] == "b":
            self.at += 2
            return "\b"
        return self._escaped_character()
