"""Fills `${name}` into the values of a file.

A value that is only `${name}` takes the parameter's type. Inside text, the parameter is inserted.
`$${` stands for `${`. Values are put into the tree, never into YAML text, so a parameter can change
neither keys nor structure. Inserted text is not searched for references again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from vcloud.documents.document import REFUSED, Document, Node, Position, dotted
from vcloud.documents.field import (
    PARAMETER_LENGTH,
    FieldError,
    Suggestions,
    kind_of,
    nearest,
    parse_content,
    shown,
)

GIVEN: Final = "-P "
"""If a value from the command line is wrong, the field of the problem is this text and the name of
the parameter.
"""
MOST_INSERTED: Final = 8 << 20
"""Characters that all parameters together may add to a file."""

# Matches `$${`, or `${name}`. In the second form, the second group is empty if the bracket is not
# closed.
_REFERENCE: Final = re.compile(r"\$\$\{|\$\{([^{}]*)(\}?)")
_TRUTH: Final = {"true": True, "false": False}


def fill_in(document: Document, given: Mapping[str, str]) -> None:
    """Replaces all references in the document's tree. `given` overrides defaults. Adds to the
    document's problems.
    """
    written = document.tree.get("parameters")
    declared = written if isinstance(written, Node) else Node(Position())
    tree = _Filler(document, _values(document, declared, given)).filled(document.tree, Position())
    if "parameters" in document.tree:
        tree["parameters"] = written
    document.tree = tree


def _values(document: Document, declared: Node, given: Mapping[str, str]) -> dict[str, Any]:
    """The value of each parameter by its name. A given value has the type of its default."""
    values = dict(declared)
    for name, default in declared.items():
        if not isinstance(default, str | int):
            values[name] = REFUSED
        elif isinstance(default, str) and "${" in default:
            path = dotted("parameters", name)
            position = Position(path, document.lines.get(path, 0))
            values[name] = document.refuse(
                position, "a default cannot refer to other parameters", "Write its value."
            )
    for name, text in given.items():
        if name not in declared:
            hint = nearest(name, list(declared), "parameter")
            line = document.lines.get("parameters", 0)
            document.refuse(
                Position(f"{GIVEN}{shown(name)}", line), "the file has no such parameter", hint
            )
        elif values[name] is not REFUSED:
            values[name] = _given(document, name, text, declared[name])
    return values


def _given(document: Document, name: str, text: str, default: object) -> object:
    """A value from the command line, read as a value of the default's type."""
    at = Position(f"{GIVEN}{name}")
    if isinstance(default, bool) and text in _TRUTH:
        return _TRUTH[text]
    # `type` and not `isinstance`: for Python, True is an int.
    if type(default) is int and re.fullmatch("-?[0-9]{1,18}", text):
        return int(text)
    if isinstance(default, str):
        try:
            return parse_content(text, PARAMETER_LENGTH)
        except FieldError as error:
            return document.refuse(at, error.what, error.hint)
    what = f"'{shown(text)}' is not {kind_of(default)}"
    return document.refuse(at, what, f"The default is {shown(default)}.")


class _Filler:
    """Rebuilds a tree with its references replaced."""

    def __init__(self, document: Document, values: Mapping[str, Any]) -> None:
        self.document = document
        self.values = values
        self.inserted = 0
        self.suggestions = Suggestions()

    def filled(self, value: Any, position: Position) -> Any:
        if isinstance(value, str):
            return self._text(value, position) if "${" in value else value
        if isinstance(value, list):
            return [
                self.filled(item, self._position(position, index))
                for index, item in enumerate(value)
            ]
        if not isinstance(value, Node):
            return value
        made = Node(value.position)
        for key, item in value.items():
            at = self._position(position, key)
            if "${" in key:
                self.document.refuse(
                    at, "a key cannot contain a parameter", "Write the key itself."
                )
            else:
                made[key] = self.filled(item, at) if at.path != "parameters" else item
        return made

    def _position(self, position: Position, key: str | int) -> Position:
        path = dotted(position.path, key)
        return Position(path, self.document.lines.get(path, position.line))

    def _text(self, text: str, position: Position) -> Any:
        """The text with its references replaced. A text that is only one reference becomes the
        parameter's value.
        """
        try:
            only = _REFERENCE.fullmatch(text)
            if only and only[1] is not None:
                return self._value(only, position)
            return _REFERENCE.sub(lambda found: self._inserted(found, position), text)
        except FieldError as error:
            return self.document.refuse(position, error.what, error.hint)
        except _UnknownError:
            self.document.refused.add(position.path)
            return REFUSED

    def _inserted(self, found: re.Match[str], position: Position) -> str:
        if found[1] is None:
            return "${"
        value = self._value(found, position)
        if value is REFUSED:
            raise _UnknownError
        text = str(value).lower() if isinstance(value, bool) else str(value)
        self.inserted += len(text)
        if self.inserted > MOST_INSERTED:
            raise FieldError(f"parameters add more than {MOST_INSERTED} characters to the file")
        return text

    def _value(self, found: re.Match[str], position: Position) -> Any:
        name, closed = found[1], found[2]
        if not closed:
            raise FieldError(
                "a '${' is not closed", "Write ${name}, or $${ for the characters ${ themselves."
            )
        if name not in self.values:
            hint = (
                self.suggestions.nearest(name, list(self.values), "parameter")
                or "Declare it under parameters."
            )
            raise FieldError(
                f"no parameter is called '{shown(name)}'",
                f"{hint} For the characters ${{ themselves, write $${{.",
            )
        value = self.values[name]
        if value is REFUSED:
            self.document.refused.add(position.path)
        return value


class _UnknownError(Exception):
    """The text needs a value that was already refused."""
