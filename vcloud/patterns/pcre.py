r"""How the PCRE of the IPS reads a pattern: where it differs from Python, and how large its program becomes.

Both questions are about the text, not about Python's parse tree, which has forgotten what was a group and what was escaped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

LARGEST_PROGRAM: Final = 65_000
"""Bytes; PCRE's own limit is 65,536 with all that it adds."""
COUNTING: Final = 20
"""Bytes that `vcloud.compile.leaks.rules.counted` adds to each of the repetitions it makes."""

_CHARACTER: Final = 2
_SET: Final = 33
_QUANTIFIER: Final = 8
_PLAIN_GROUP: Final = 6
_OTHER_GROUP: Final = 12
_OPTIONAL_COPY: Final = 7
_BRANCH: Final = 3

_TOKEN: Final = re.compile(
    r"""
    (?P<escape>  \\. )
  | (?P<set>     \[ \^? \]? (?: \\. | [^\]\\] )* \] )
  | (?P<comment> \(\?\# [^)]* \) )
  | (?P<open>    \( (?: \? (?: P?<[A-Za-z_]\w*> | <?[=!] | > | (?P<flags> [A-Za-z]* (?:-[A-Za-z]*)? ) [:)] ) )? )
  | (?P<close>   \) )
  | (?P<branch>  \| )
  | (?P<repeat>  (?: [*+?] | \{ (?P<least>\d+) (?P<range>,(?P<most>\d*))? \} ) [?+]? )
  | (?P<char>    . )
    """,
    re.VERBOSE | re.DOTALL,
)
_POSIX: Final = re.compile(r"\[([:.=])(?:\\.|[^\]\\])*\1\]")
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
    """Something in a pattern that PCRE would read in another way, why, and what to write."""

    what: str
    reason: str
    hint: str


def differences(text: str) -> Iterator[Difference]:
    """All that Python and PCRE do not read alike in a pattern that Python can read."""
    for found in _TOKEN.finditer(text):
        piece = found[0]
        match found.lastgroup:
            case "escape" if piece in _OTHER_ESCAPES:
                yield Difference(piece, "the IPS does not know it, or reads it in another way", _OTHER_ESCAPES[piece])
            case "set":
                yield from _set_differences(piece)
            case "comment" if "\\" in piece:
                yield Difference(piece, "the IPS sees another end of the comment", "Remove it.")
            case "open":
                yield from (
                    Difference(f"(?{flag}", reason, "Write the pattern without this flag.")
                    for flag, reason in _OTHER_FLAGS.items()
                    if flag in (found["flags"] or "")
                )
            case "char" if piece == "{" and (loose := _LOOSE_COUNT.match(text, found.start())):
                yield Difference(loose[0], "not every IPS reads this as a count", r"Write {0,5} for a count, or \{ for the character.")


def compiled_size(text: str) -> int:
    """At most so many bytes has PCRE's program for one occurrence of a pattern; one for several has so many times as much."""
    groups = [_Group(_PLAIN_GROUP)]
    for found in _TOKEN.finditer(text):
        match found.lastgroup:
            case "open" if found[0].endswith(")"):
                continue
            case "open":
                groups.append(_Group(_PLAIN_GROUP if found[0] == "(?:" else _OTHER_GROUP))
            case "close" if len(groups) > 1:
                inner = groups.pop()
                groups[-1].add(inner.size, is_group=True)
            case "branch":
                groups[-1].add(_BRANCH)
            case "set":
                groups[-1].add(_SET)
            case "repeat":
                groups[-1].repeat(*_range(found))
            case "escape" | "char":
                groups[-1].add(_CHARACTER)
    return COUNTING + sum(group.size for group in groups)


class _Group:
    """The size of a group so far, and of the piece that a quantifier would repeat."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.last = 0
        self.is_group = False

    def add(self, size: int, *, is_group: bool = False) -> None:
        self.size += size
        self.last, self.is_group = size, is_group

    def repeat(self, least: int, most: int) -> None:
        """Single characters and sets are counted; groups are copied."""
        copies = (least * self.last + (most - least) * (self.last + _OPTIONAL_COPY) - self.last) if self.is_group else 0
        self.add(max(0, copies) + _QUANTIFIER, is_group=True)


def _range(found: re.Match[str]) -> tuple[int, int]:
    """How often a quantifier repeats; what has no end is a loop around the last copy."""
    if found["least"] is None:
        return (0, 1)
    least = int(found["least"])
    return least, int(found["most"] or max(least, 1)) if found["range"] else least


def _set_differences(piece: str) -> Iterator[Difference]:
    if posix := _POSIX.search(piece):
        yield Difference(posix[0], "the IPS reads it as a class of characters, which Python does not know", "Write the characters: [0-9].")
    for found in re.finditer(r"\\.", piece):
        if found[0] in _OTHER_ESCAPES:
            yield Difference(found[0], "the IPS does not know it, or reads it in another way", r"Write \xHH.")
