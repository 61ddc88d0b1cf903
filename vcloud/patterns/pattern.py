"""Which patterns of leak detectors are accepted: those that PCRE and Python read alike, and that
end in bounded time.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from typing import Final

from vcloud.documents.field import FieldError, shown, text_of
from vcloud.patterns.backtracking import ENDLESS, tries
from vcloud.patterns.parser import parsed
from vcloud.patterns.pcre import LARGEST_PROGRAM, compiled_size, differences
from vcloud.patterns.tree import (
    Alternation,
    BackReference,
    Condition,
    Node,
    Repeat,
    children,
    descendants,
    merged,
    width,
)

LENGTH: Final = 200
"""Characters of a pattern."""
MATCH_LIMIT: Final = 100_000_000
"""PCRE gives up a search that backtracks more often than this."""
MOST_REPEATS: Final = 1000
MOST_ENDLESS: Final = 3
"""Each further repetition without end multiplies the worst case by the length of the text."""
MOST_TRIES: Final = 20_000
"""Tries at one position of a text, as `backtracking` estimates them. This allows two repetitions of
up to a hundred characters and some short ones. A search of 64 KiB of the worst text then stays far
below MATCH_LIMIT.
"""
HARMLESS_ROUNDS: Final = 4
"""A group that contains an optional part may repeat so often. People write numbers as
`([0-9]{4}-?){4}`, and so few repetitions cannot take long.
"""

_TOO_MANY_WAYS_HINT: Final = (
    "Give each repetition a small end, [a-z]{1,64} or .{0,100}, repeat sets and not groups,"
    " and let neighbours match different characters."
)
_TOO_LONG_HINT: Final = "Repeat only a fixed piece of text, or write fixed counts."


def parse_pattern(value: object) -> str:
    """A pattern that always matches some text, in bounded time, and means the same to Python and
    PCRE. Raises FieldError.
    """
    text = text_of(value)
    _check_characters(text)
    tree = _tree(text)
    if found := next(differences(tree, text), None):
        raise FieldError(
            f"the pattern '{shown(text)}' contains '{shown(found.what)}': {found.reason}",
            found.hint,
        )
    if width(tree)[0] == 0:
        what = f"the pattern '{shown(text)}' also matches an empty text"
        raise FieldError(what, "Make at least one character of it required.")
    if reason := next(_dangers(tree, rounds=1), None) or _too_many(tree):
        raise FieldError(
            f"the pattern '{shown(text)}' could take very long: {reason}", _TOO_LONG_HINT
        )
    if tries(tree) > MOST_TRIES:
        what = f"the pattern '{shown(text)}' could take very long: its repetitions can share out a text in too many ways"
        raise FieldError(what, _TOO_MANY_WAYS_HINT)
    if compiled_size(tree) > LARGEST_PROGRAM:
        raise FieldError(
            f"the pattern '{shown(text)}' is too large for the IPS", "Repeat groups less often."
        )
    return text


def _check_characters(text: str) -> None:
    if len(text) > LENGTH:
        raise FieldError(f"the pattern has {len(text)} characters; the maximum is {LENGTH}")
    if not (text.isascii() and text.isprintable()) or '"' in text or ";" in text:
        raise FieldError(
            f"the pattern '{shown(text)}' contains a character that rules of the IPS cannot contain",
            r'Use printable ASCII. Write " as \x22, ; as \x3b and others as \xHH.',
        )


def _tree(text: str) -> Node:
    """The tree of a text, if Python accepts it as a pattern. A warning is an error: the text may
    mean something else later.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            re.compile(text)
    except (re.error, OverflowError, RecursionError, Warning) as error:
        raise FieldError(
            f"the pattern '{shown(text)}' is not a regular expression: {shown(error)}"
        ) from None
    return parsed(text)


def _dangers(node: Node, rounds: int) -> Iterator[str]:
    """Why the search can take unbounded time. `rounds` is how often the parts around this node can
    repeat it.
    """
    match node:
        case BackReference() | Condition():
            yield "it refers back to a group"
        case Repeat():
            yield from _dangers_of_repeat(node, rounds)
        case Alternation():
            choice = merged(node).parts[-1]
            if isinstance(choice, Alternation):
                if rounds > HARMLESS_ROUNDS:
                    yield "a repetition contains alternatives"
                for branch in choice.branches:
                    yield from _dangers(branch, rounds)
        case _:
            for child in children(node):
                yield from _dangers(child, rounds)


def _dangers_of_repeat(node: Repeat, rounds: int) -> Iterator[str]:
    count = node.least if node.most is None else node.most
    if count > MOST_REPEATS:
        yield f"it repeats {count} times"
    varies = node.least != node.most
    varies_much = node.most is None or node.most - node.least > 1
    if (rounds > HARMLESS_ROUNDS and varies) or (rounds > 1 and varies_much):
        yield "a repetition contains a repetition"
    yield from _dangers(node.part, rounds * (ENDLESS if node.most is None else max(1, node.most)))


def _too_many(tree: Node) -> str:
    """Why the search can take very long although it ends; empty if it cannot."""
    shortest, _ = width(tree)
    if shortest > MOST_REPEATS:
        return f"it only matches texts of at least {shortest} characters"
    endless = sum(isinstance(node, Repeat) and node.most is None for node in descendants(tree))
    return f"it has {endless} repetitions without end" if endless > MOST_ENDLESS else ""
