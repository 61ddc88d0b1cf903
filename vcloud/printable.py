"""Texts that somebody else wrote, made safe for a terminal.

A guest, a host and a file choose parts of what vcloud prints: names in events, the output of
programs, lines of a console. Control characters could move the cursor, rename the window or type
commands. Characters that turn the direction of writing, or that nobody sees, could show a text that
is not there. So everything that vcloud prints goes through this module, in `vcloud.cli.output`.
"""

from __future__ import annotations

import json
from typing import Final

_KEPT: Final = "\n\t"


def printable(text: str) -> str:
    """The text with `?` in place of each character that a terminal would act on, or not show. Line
    ends and tabs stay.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in _KEPT else "?" for char in text)


def on_one_line(text: str) -> str:
    """The same with spaces in place of line ends and tabs: nobody can forge a line of a table."""
    return printable(text.replace("\r\n", " ").translate({ord(char): " " for char in _KEPT}))


def escaped_json(text: str) -> str:
    r"""A JSON document with `\u....` in place of such characters, so that it still means the same.
    JSON has them only within texts.
    """
    if text.replace("\n", "").isprintable():
        return text
    return "".join(
        char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in text
    )
