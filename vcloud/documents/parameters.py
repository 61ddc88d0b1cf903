"""Fills `${name}` into the values of a file.

A value that is only `${name}` takes the parameter's type; inside text the parameter is inserted; `$${` stands for `${`. Values are put
into the tree, never into YAML text, so a parameter can change neither keys nor structure. What is inserted is not read again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from vcloud.documents.document import REFUSED, Document, Node, Place, dotted
from vcloud.documents.field import PARAMETER_LENGTH, FieldError, Suggestions, kind_of, nearest, parse_content, shown
from vcloud.errors import Problem

GIVEN: Final = "-P "
"""Before the name of a parameter, where a problem is about what was given for it."""
MOST_INSERTED: Final = 8 << 20
"""Characters that all parameters together may add to a file."""

_REFERENCE: Final = re.compile(r"\$\$\{|\$\{([^{}]*)(\}?)")
_TRUTH: Final = {"true": True, "false": False}


def fill_in(document: Document, given: Mapping[str, str]) -> None:
    """Replaces all references in the document's tree; `given` overrides defaults. What is wrong joins the document's problems."""
    declared = document.tree.get("parameters", Node(Place()))
    values = _values(document, declared if isinstance(declared, Node) else Node(Place()), given)
    tree = _Filler(document, values).filled(document.tree, Place())
    if "parameters" in document.tree:
        tree["parameters"] = declared
    document.tree = tree


def _values(document: Document, declared: Node, given: Mapping[str, str]) -> dict[str, Any]:
    """Name -> value, the given ones with the type of their default."""
    values = dict(declared)
    for name, default in declared.items():
        if not isinstance(default, str | int):
            values[name] = REFUSED
        elif isinstance(default, str) and "${" in default:
            values[name] = document.refuse(
                Place(path := dotted("parameters", name), document.lines.get(path, 0)),
                "a default cannot refer to other parameters",
                "Write its value.",
            )
    for name, text in given.items():
        if name not in declared:
            hint = nearest(name, list(declared), "Its parameters are") or "It declares none."
            document.problems.append(
                Problem(document.file, document.lines.get("parameters", 0), f"{GIVEN}{shown(name)}", "the file has no such parameter", hint)
            )
        elif values[name] is not REFUSED:
            values[name] = _given(document, name, text, declared[name])
    return values


def _given(document: Document, name: str, text: str, default: object) -> object:
    """A value from the command line, read as its default's type demands."""
    if isinstance(default, bool) and text in _TRUTH:
        return _TRUTH[text]
    if type(default) is int and re.fullmatch("-?[0-9]{1,18}", text):
        return int(text)
    if isinstance(default, str):
        try:
            return parse_content(text, PARAMETER_LENGTH)
        except FieldError as error:
            document.problems.append(Problem(document.file, 0, f"{GIVEN}{name}", error.what, error.hint))
            return REFUSED
    what = f"'{shown(text)}' is not {kind_of(default)}"
    document.problems.append(Problem(document.file, 0, f"{GIVEN}{name}", what, f"Its default is {shown(default)}."))
    return REFUSED


class _Filler:
    """Rebuilds a tree with its references replaced."""

    def __init__(self, document: Document, values: Mapping[str, Any]) -> None:
        self.document = document
        self.values = values
        self.inserted = 0
        self.suggestions = Suggestions()

    def filled(self, value: Any, place: Place) -> Any:
        if isinstance(value, str):
            return self._text(value, place) if "${" in value else value
        if isinstance(value, list):
            return [self.filled(item, self._place(place, index)) for index, item in enumerate(value)]
        if not isinstance(value, Node):
            return value
        made = Node(value.place)
        for key, item in value.items():
            at = self._place(place, key)
            if "${" in key:
                self.document.refuse(at, "parameters are not replaced in keys", "Write the key itself.")
            else:
                made[key] = self.filled(item, at) if at.path != "parameters" else item
        return made

    def _place(self, place: Place, key: str | int) -> Place:
        path = dotted(place.path, key)
        return Place(path, self.document.lines.get(path, place.line))

    def _text(self, text: str, place: Place) -> Any:
        """The text with its references replaced, or the one value that it stands for."""
        try:
            only = _REFERENCE.fullmatch(text)
            if only and only[1] is not None:
                return self._value(only, place)
            return _REFERENCE.sub(lambda found: self._inserted(found, place), text)
        except FieldError as error:
            return self.document.refuse(place, error.what, error.hint)
        except _UnknownError:
            self.document.refused.add(place.path)
            return REFUSED

    def _inserted(self, found: re.Match[str], place: Place) -> str:
        if found[1] is None:
            return "${"
        value = self._value(found, place)
        if value is REFUSED:
            raise _UnknownError
        text = str(value).lower() if isinstance(value, bool) else str(value)
        self.inserted += len(text)
        if self.inserted > MOST_INSERTED:
            raise FieldError(f"parameters add more than {MOST_INSERTED} characters to the file")
        return text

    def _value(self, found: re.Match[str], place: Place) -> Any:
        name, closed = found[1], found[2]
        if not closed:
            raise FieldError("a '${' is not closed", "Write ${name}, or $${ for the characters ${ themselves.")
        if name not in self.values:
            hint = self.suggestions.nearest(name, list(self.values), "Parameters here are") or "Declare it under parameters."
            raise FieldError(f"no parameter is called '{shown(name)}'", f"{hint} For the characters ${{ themselves write $${{.")
        value = self.values[name]
        if value is REFUSED:
            self.document.refused.add(place.path)
        return value


class _UnknownError(Exception):
    """The text needs a value that was refused already."""
