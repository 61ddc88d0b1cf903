"""Regular expressions of leak detectors: accepted only where Suricata's PCRE reads them alike, and cannot be made to run for ever."""

from __future__ import annotations

import re
import re._constants as code  # type: ignore[import-not-found]
import re._parser as parser  # type: ignore[import-not-found]
import warnings
from collections.abc import Iterator
from typing import Any, Final

from vcloud.documents.field import FieldError, shown, text_of
from vcloud.patterns.backtracking import REPEATS, tries
from vcloud.patterns.pcre import LARGEST_PROGRAM, compiled_size, differences

LENGTH: Final = 200
MOST_REPEATS: Final = 1000
MOST_ENDLESS: Final = 3
"""Each further unbounded repetition multiplies the worst case by the length of the text."""
MOST_TRIES: Final = 10_000_000
"""At one place of a text, by the estimate of `backtracking`: two repetitions of a thousand and some short ones."""
HARMLESS_ROUNDS: Final = 4
"""So few rounds of an optional part cannot explode: `([0-9]{4}-?){4}` is how numbers are written."""

_BACKWARD: Final = frozenset({code.GROUPREF, code.GROUPREF_EXISTS})


def parse_pattern(value: object) -> str:
    """A pattern that finds something, in bounded time, and means the same to Python and PCRE. Raises FieldError."""
    text = text_of(value)
    if len(text) > LENGTH:
        raise FieldError(f"the pattern has {len(text)} characters, at most {LENGTH} are allowed")
    if not (text.isascii() and text.isprintable()) or '"' in text or ";" in text:
        raise FieldError(
            f"the pattern '{shown(text)}' has a character that a rule cannot hold",
            r'Use printable ASCII; write " as \x22, ; as \x3b and others as \xHH.',
        )
    tree = _parsed(text)
    if found := next(differences(text), None):
        raise FieldError(f"the pattern '{shown(text)}' has '{shown(found.what)}': {found.reason}", found.hint)
    if tree.getwidth()[0] == 0:
        raise FieldError(f"the pattern '{shown(text)}' also matches nothing at all", "Make at least one character of it necessary.")
    if reason := next(_dangers(tree, rounds=1), None) or _too_many(tree):
        raise FieldError(f"the pattern '{shown(text)}' can take very long: {reason}", "Repeat a fixed piece of text, or give fixed counts.")
    if compiled_size(text) > LARGEST_PROGRAM:
        raise FieldError(f"the pattern '{shown(text)}' is too large for the IPS", "Repeat groups less often.")
    return text


def most_countable(pattern: str) -> int:
    """How many occurrences of a pattern the IPS can count."""
    return LARGEST_PROGRAM // compiled_size(pattern)


def _parsed(text: str) -> Any:
    """Python's own parse tree (the module is private, its shape has been the same since 3.0)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            re.compile(text)
            return parser.parse(text)
    except (re.error, OverflowError, RecursionError, Warning) as error:
        raise FieldError(f"the pattern '{shown(text)}' cannot be read: {shown(error)}") from None


def _dangers(tree: Any, rounds: int) -> Iterator[str]:
    """Why the pattern can backtrack without bound; `rounds` is how often what surrounds this part can repeat it."""
    for operation, argument in tree:
        if operation in _BACKWARD:
            yield "it refers back to a group"
        elif operation in REPEATS:
            least, most, inner = argument
            count = least if most is code.MAXREPEAT else most
            if count > MOST_REPEATS:
                yield f"it repeats {count} times"
            if (rounds > HARMLESS_ROUNDS and least != most) or (rounds > 1 and most - least > 1):
                yield "a repetition stands inside a repetition"
            yield from _dangers(inner, rounds * max(1, int(most)))
        elif operation is code.BRANCH:
            if rounds > HARMLESS_ROUNDS:
                yield "alternatives stand inside a repetition"
            for branch in argument[1]:
                yield from _dangers(branch, rounds)
        else:
            for inner in _parts(argument):
                yield from _dangers(inner, rounds)


def _parts(argument: Any) -> Iterator[Any]:
    """Groups and look-arounds carry the pattern that they hold among their arguments."""
    if isinstance(argument, parser.SubPattern):
        yield argument
    elif isinstance(argument, tuple):
        yield from (part for part in argument if isinstance(part, parser.SubPattern))


def _too_many(tree: Any) -> str:
    narrowest, _ = tree.getwidth()
    if narrowest > MOST_REPEATS:
        return f"what it looks for has at least {narrowest} characters"
    endless = _endless(tree)
    if endless > MOST_ENDLESS:
        return f"it has {endless} repetitions without end"
    return "its repetitions can share out a text in too many ways" if tries(tree) > MOST_TRIES else ""


def _endless(tree: Any) -> int:
    """How many repetitions have no end."""
    count = 0
    for operation, argument in tree:
        if operation in REPEATS:
            count += (argument[1] is code.MAXREPEAT) + _endless(argument[2])
        elif operation is code.BRANCH:
            count += sum(_endless(branch) for branch in argument[1])
        else:
            count += sum(_endless(part) for part in _parts(argument))
    return count
