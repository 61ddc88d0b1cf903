"""Explains syntax errors of YAML in words that users understand. libyaml's own messages name its
internal states.
"""

from __future__ import annotations

import re
from typing import Final

import yaml

_SENTENCES: Final = (
    (
        "cannot start any token",
        "a value cannot begin with this character",
        "Put the text in quotes.",
    ),
    (
        "mapping values are not allowed",
        "a ':' is not possible here",
        "Check the indentation, and put text that contains ': ' in quotes.",
    ),
    (
        "could not find expected ':'",
        "a ':' is missing after a key",
        "Check this line and the one before. Text of several lines must be indented.",
    ),
    (
        "did not find expected ',' or",
        "before this, a comma is missing, or the bracket of line {} is not closed",
        "Put text that contains { } [ ] , in quotes.",
    ),
    (
        "found unexpected ':'",
        "inside brackets, a word ends with a ':'",
        "Inside { }, write a key without a value like app: {}. Put text that ends with a ':' in quotes.",
    ),
    (
        "did not find expected key",
        "expected a key here",
        "Check the indentation, quotes and brackets around this line.",
    ),
    (
        "did not find expected '-' indicator",
        "expected a '-' here",
        "Indent all items of the list alike.",
    ),
    ("unexpected end of stream", "the quotes that begin here are never closed", "Close them."),
    (
        "unexpected document indicator",
        "the quotes that begin here contain a line of dashes",
        "Close the quotes.",
    ),
    (
        "unknown escape character",
        "unknown escape sequence",
        "In double quotes, write a backslash twice. In single quotes, write it once.",
    ),
)
"""Part of libyaml's message, our sentence, hint."""
_BRACKET: Final = re.compile(r"[{,\[]")
_PARAMETER: Final = re.compile(r"[:\[,]\s*\$\{")
"""These are two expressions, because a single one with `.*` between them would take minutes on a
hostile line.
"""


def explained(error: yaml.MarkedYAMLError, text: str) -> tuple[int, str, str]:
    """Line, sentence and hint for a syntax error in a text."""
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line + 1, mark.column) if mark else (0, 0)
    lines = text.splitlines()
    written = lines[line - 1] if 0 < line <= len(lines) else ""
    if written[column : column + 1] == "\t":
        return line, "YAML cannot be indented with tabs", "Use spaces."
    sentence, hint = _sentence(error.problem or error.context or "")
    bracket = _BRACKET.search(written)
    if bracket and _PARAMETER.search(written, bracket.start()):
        hint = 'Inside { } and [ ], a parameter needs quotes: "${name}".'
    begins = error.context_mark.line + 1 if error.context_mark else line
    return (
        begins if "quotes that begin" in sentence else line,
        sentence.replace("{}", str(begins)),
        hint,
    )


def _sentence(said: str) -> tuple[str, str]:
    return next(
        ((what, hint) for part, what, hint in _SENTENCES if part in said),
        (f"the file is not valid YAML: {said}", ""),
    )
