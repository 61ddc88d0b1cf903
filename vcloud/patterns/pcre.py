r"""Finds where PCRE, in the IPS, reads a pattern in another way than Python, and estimates the size
of the compiled pattern.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from vcloud.patterns.tree import (
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
    descendants,
)

LARGEST_PROGRAM: Final = 65_000
"""Bytes of a compiled pattern. PCRE's own limit is 65,536, with all that it adds."""

_CHARACTER: Final = 2
_SET: Final = 33
_QUANTIFIER: Final = 8
_PLAIN_GROUP: Final = 6
_OTHER_GROUP: Final = 12
_OPTIONAL_COPY: Final = 7
_BRANCH: Final = 3

# `[[:digit:]]`, `[.x.]` and `[=x=]` inside a set.
_POSIX: Final = re.compile(r"\[([:.=])(?:\\.|[^\]\\])*\1\]")
# PCRE2 10.43 and later read `{,5}` and `{ 1, 2 }` as counts; earlier versions read them as text.
# Python reads only the first one as a count.
_LOOSE_COUNT: Final = re.compile(r"\{(?=[^}]*[\d,])[ \t]*\d*[ \t]*(?:,[ \t]*\d*[ \t]*)?\}")
_OTHER_ESCAPES: Final = {
    r"\u": r"Write \xHH.",
    r"\U": r"Write \xHH.",
    r"\N": r"Write \xHH.",
    r"\v": r"Write \x0b for the vertical tab, or [\n\x0b\f\r] for all of its kind.",
    r"\Z": r"Write $.",
}
_OTHER_FLAGS: Final = {
    "a": "the IPS does not know it",
    "L": "the IPS does not know it",
    "u": "the IPS does not know it",
    "x": "a comment could swallow what follows the pattern in a rule",
}


class Difference(NamedTuple):
    """Something in a pattern that PCRE may read in another way: its spelling, the reason, and what
    to write instead.
    """

    what: str
    reason: str
    hint: str


def differences(tree: Node, text: str) -> Iterator[Difference]:
    """The parts of a pattern that Python accepts but PCRE may read in another way. `text` is the
    pattern, `tree` its tree.
    """
    for node in descendants(tree):
        match node:
            case Literal(spelling="{") if found := _LOOSE_COUNT.match(text, node.start):
                yield _loose_count(found[0])
            case Literal() | Anchor() if (escape := node.spelling[:2]) in _OTHER_ESCAPES:
                yield Difference(
                    escape,
                    "the IPS does not know it, or reads it in another way",
                    _OTHER_ESCAPES[escape],
                )
            case Repeat() if node.spelling.startswith("{,"):
                yield _loose_count(node.spelling)
            case CharSet() if node.is_bracketed:
                yield from _set_differences(node.spelling)
            case Comment() if "\\" in node.spelling:
                yield Difference(
                    node.spelling, "the IPS sees another end of the comment", "Remove it."
                )
            case Flags(letters=flags) | Group(flags=flags):
                yield from _flag_differences(flags)


def _loose_count(spelling: str) -> Difference:
    hint = r"Write {0,5} for a count, or \{ for the character."
    return Difference(spelling, "not every IPS reads this as a count", hint)


def _flag_differences(flags: str) -> Iterator[Difference]:
    for flag, reason in _OTHER_FLAGS.items():
        if flag in flags:
            yield Difference(f"(?{flag}", reason, "Write the pattern without this flag.")


def _set_differences(spelling: str) -> Iterator[Difference]:
    if posix := _POSIX.search(spelling):
        reason = "the IPS reads it as a class of characters, which Python does not know"
        yield Difference(posix[0], reason, "Write the characters: [0-9].")
    for found in re.finditer(r"\\.", spelling):
        if found[0] in _OTHER_ESCAPES:
            yield Difference(
                found[0], "the IPS does not know it, or reads it in another way", r"Write \xHH."
            )


def compiled_size(tree: Node) -> int:
    """Bytes of the compiled pattern, at most."""
    return _PLAIN_GROUP + _size(tree)


def _size(node: Node) -> int:
    match node:
        case CharSet(is_bracketed=True):
            return _SET
        case Literal() | AnyChar() | CharSet() | Anchor() | BackReference():
            return _CHARACTER
        case Sequence():
            return sum(map(_size, node.parts))
        case Alternation():
            return sum(map(_size, node.branches)) + _BRANCH * (len(node.branches) - 1)
        case Repeat():
            return _size_of_repeat(node)
        case Group(opening=Opening.PLAIN):
            return _PLAIN_GROUP + _size(node.part)
        case Group() | LookAround() | Condition():
            return _OTHER_GROUP + _size(node.part)
        case Comment() | Flags():
            return 0


def _size_of_repeat(node: Repeat) -> int:
    """PCRE counts the repetitions of a character or a set, but copies a group. A loop without end
    is one optional copy.
    """
    once = _size(node.part)
    if not isinstance(node.part, Group | LookAround):
        return once + _QUANTIFIER
    optional = 1 if node.most is None else node.most - node.least
    needed = max(node.least - 1, 0) if node.most is None else node.least
    return max(once, needed * once + optional * (once + _OPTIONAL_COPY)) + _QUANTIFIER
