"""Fills `${name}` into the values of a file, and the secrets `${env:NAME}` and `${file:PATH}`.

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
from vcloud.documents.given import GIVEN, FromFile, Given, source_of
from vcloud.documents.parameter import Parameter
from vcloud.documents.secrets import (
    PLACE_HINT,
    SECRET,
    STAND_IN,
    Secrets,
    is_secret,
    names_secret,
    read_secret,
)
from vcloud.errors import Problem

MOST_INSERTED: Final = 8 << 20
"""Characters that all parameters together may add to a file."""

# Matches `$${`, or `${name}`. In the second form, the second group is empty if the bracket is not
# closed.
_REFERENCE: Final = re.compile(r"\$\$\{|\$\{([^{}]*)(\}?)")
_TRUTH: Final = {"true": True, "false": False}


def fill_in(document: Document, given: Given, secrets: Secrets | None = None) -> None:
    """Replaces all references in the document's tree. `given` overrides defaults. Adds to the
    document's problems, and to its `secrets`. Without `secrets`, a secret may stand nowhere.
    """
    written = document.tree.get("parameters")
    declared = written if isinstance(written, Node) else Node(Position())
    values = _values(document, declared, given, secrets)
    filler = _Filler(document, values, secrets, declared)
    tree = filler.filled(document.tree, Position())
    document.parameters = tuple(
        Parameter(
            name,
            None if name in filler.unrecorded else _as_text(values[name]),
            source_of(name, given),
        )
        for name, default in declared.items()
        if not is_secret(default) and values[name] is not REFUSED
    )
    if "parameters" in document.tree:
        tree["parameters"] = written
    document.tree = tree


def _values(
    document: Document, declared: Node, given: Given, secrets: Secrets | None
) -> dict[str, Any]:
    """The value of each parameter by its name. A given value has the type of its default."""
    values = dict(declared)
    for name, default in declared.items():
        path = dotted("parameters", name)
        position = Position(path, document.lines.get(path, 0))
        if is_secret(default):
            values[name] = _secret(document, name, given.get(name), position, secrets)
        elif not isinstance(default, str | int):
            values[name] = REFUSED
        elif isinstance(default, str) and "${" in default:
            values[name] = document.refuse(
                position, "a default cannot refer to other parameters", "Write its value."
            )
    for name, value in given.items():
        if name not in declared:
            hint = nearest(name, list(declared), "parameter")
            line = document.lines.get("parameters", 0)
            _refuse_given(document, name, value, "the file has no such parameter", hint, line)
        elif values[name] is not REFUSED and not is_secret(declared[name]):
            values[name] = _given(document, name, value, declared[name])
    return values


def _refuse_given(
    document: Document, name: str, value: str | FromFile, what: str, hint: str, line: int = 0
) -> object:
    """Records a problem of a value that the user gave, where it is given."""
    if not isinstance(value, FromFile):
        return document.refuse(Position(f"{GIVEN}{shown(name)}", line), what, hint)
    document.problems.append(Problem(value.file, value.line, shown(name), what, hint))
    return REFUSED


def _secret(
    document: Document,
    name: str,
    value: str | FromFile | None,
    position: Position,
    secrets: Secrets | None,
) -> object:
    """The value of a parameter that is a secret. Messages never show it."""
    if isinstance(value, str):
        what = f"'{name}' is a secret, and other users of this machine can read a command line"
        hint = "Write it into a file that only you can read, and give this file: --param-file FILE."
        return _refuse_given(document, name, value, what, hint)
    if secrets is None or not secrets.needed:
        return STAND_IN
    if document.tree["parameters"][name] != SECRET:
        return REFUSED  # The model refuses the declaration itself.
    if value is None:
        what = "this parameter is a secret, and no value is given"
        hint = f"Write '{name}: VALUE' into a file that only you can read, and give this file: --param-file FILE. A secret is never kept from one `up` to the next."
        return document.refuse(position, what, hint)
    if value.others_read:
        what = "this is a secret, and others may read this file"
        return _refuse_given(document, name, value, what, f"Run: chmod go= {value.file}")
    if not isinstance(value.value, str):
        what = f"a secret is text, and this is {kind_of(value.value)}"
        return _refuse_given(document, name, value, what, "Put it in quotes.")
    try:
        return parse_content(value.value)
    except FieldError as error:
        return _refuse_given(document, name, value, error.what, error.hint)


def _given(document: Document, name: str, value: str | FromFile, default: object) -> object:
    """A value that the user gave, read as a value of the default's type."""
    if isinstance(value, FromFile):
        if type(value.value) is type(default) and not isinstance(default, str):
            return value.value
        text, kind = value.value, kind_of(value.value)
        what = f"this is {kind}, and the parameter is {kind_of(default)}"
    else:
        text, what = value, f"'{shown(value)}' is not {kind_of(default)}"
        if isinstance(default, bool) and text in _TRUTH:
            return _TRUTH[text]
        # `type` and not `isinstance`: for Python, True is an int.
        if type(default) is int and re.fullmatch("-?[0-9]{1,18}", text):
            return int(text)
    if isinstance(default, str) and isinstance(text, str):
        try:
            return parse_content(text, PARAMETER_LENGTH)
        except FieldError as error:
            return _refuse_given(document, name, value, error.what, error.hint)
    return _refuse_given(document, name, value, what, f"The default is {shown(default)}.")


def _as_text(value: object) -> str:
    """A value as `-P` takes it, and as it stands inside a text."""
    return str(value).lower() if isinstance(value, bool) else str(value)


class _Filler:
    """Rebuilds a tree with its references replaced."""

    def __init__(
        self,
        document: Document,
        values: Mapping[str, Any],
        secrets: Secrets | None,
        declared: Mapping[str, object],
    ) -> None:
        self.document = document
        self.values = values
        self.secrets = secrets
        self.declared = declared
        self.read: dict[str, str] = {}
        """`env:NAME` or `file:PATH` -> the secret, so that each is read once."""
        self.unrecorded: set[str] = set()
        """Parameters that stand in a text which is never recorded."""
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
        text = _as_text(value)
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
        secret = self._secret(name, position)
        if secret is not None:
            return secret
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
        if self.secrets is None or not self.secrets.is_recorded(position.path):
            self.unrecorded.add(name)
        return value

    def _secret(self, name: str, position: Position) -> str | None:
        """The secret of this reference, noted at its position; None if it is no secret. It is read
        only where a secret may stand.
        """
        is_parameter = is_secret(self.declared.get(name))
        if not (is_parameter or names_secret(name)):
            return None
        if self.secrets is None or not self.secrets.may_stand(position.path):
            raise FieldError(f"the secret '{shown(name)}' cannot stand here", PLACE_HINT)
        self.document.secrets.add(position.path)
        if is_parameter:
            return None
        if name not in self.read:
            self.read[name] = read_secret(name, self.secrets)
        return self.read[name]


class _UnknownError(Exception):
    """The text needs a value that was already refused."""
