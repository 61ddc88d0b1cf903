"""From the text of a vApp file to a plain tree that knows its lines.

Values are resolved as YAML 1.2 does, but wherever a YAML 1.1 reader would see something else (`no`, `22:22`, `0644`) the file must be
unambiguous: it may be read by other tools, and by people. Tags are refused. The tree is built from the parser's events, not by PyYAML's
composer, because that one recurses in C and ends the process on a deeply nested file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import yaml

from vcloud.documents.field import shown
from vcloud.errors import Problem, SpecError

LARGEST: Final = 8 << 20
"""Bytes of a file."""
DEEPEST: Final = 24
"""Levels, with what aliases repeat."""
MOST_BORROWED: Final = 20_000
"""Values that aliases may add to those that are written."""
REFUSED: Final = object()
"""Stands where a value was refused, so that nobody complains about it a second time."""

_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_UNREADABLE: Final = re.compile(r"[^\t\n\r\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_PLAIN_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_WORDS: Final = {"": None, "~": None, "null": None, "Null": None, "NULL": None} | {
    form: word == "true" for word in ("true", "false") for form in (word, word.capitalize(), word.upper())
}
_SWITCHES: Final = {form: word in ("yes", "on") for word in ("yes", "no", "on", "off") for form in (word, word.capitalize(), word.upper())}
_OPENED: Final = re.compile(r"[{,\[]")
_PARAMETER: Final = re.compile(r"[:\[,]\s*\$\{")
"""Two expressions, and not one with `.*` between them, which would take minutes on a hostile line."""
_WHOLE: Final = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})")
_FRACTION: Final = re.compile(r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]{1,3})?")
_CLOCK: Final = re.compile(r"[-+]?[1-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?")
_OCTAL: Final = re.compile(r"[-+]?0[0-9_]+")
_ODD_NUMBER: Final = re.compile(r"[-+]?(?:0[xob][0-9A-Fa-f_]+|[1-9][0-9]*_[0-9_]*|\.(?:inf|Inf|INF)|[1-9][0-9]{18,})|\.(?:nan|NaN|NAN)")


class Place(NamedTuple):
    """Where something stands in a file."""

    path: str = ""
    line: int = 0


class Node(dict[str, Any]):
    """A mapping that knows its place."""

    __slots__ = ("place",)

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place


@dataclass(slots=True)
class Document:
    """A file as a tree, with the line of each dotted path and what is wrong so far."""

    file: str
    tree: Any = None
    lines: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)
    """Dotted paths at which REFUSED stands."""

    def refuse(self, place: Place, what: str, hint: str = "") -> object:
        self.problems.append(Problem(self.file, place.line, place.path, what, hint))
        self.refused.add(place.path)
        return REFUSED


def dotted(path: str, key: str | int) -> str:
    """The dotted path of an entry: `flows[3]`, `vms.web`, `files["/etc/motd"]`."""
    if isinstance(key, int):
        return f"{path}[{key}]"
    if not _PLAIN_KEY.fullmatch(key):
        return f'{path}["{shown(key)}"]'
    return f"{path}.{key}" if path else key


def read_document(data: bytes, file: str, *, begins: str = "vcloud: 1", may_be_empty: bool = False) -> Document:
    """The tree of a file's bytes, which must be a mapping; `begins` says how one may begin.

    Raises SpecError where there is none; what is wrong in it is kept in `problems`.
    """
    document = Document(file)
    text = _text(data, file)
    try:
        _Reader(document, yaml.parse(text, Loader=_LOADER)).read(begins, may_be_empty)
    except yaml.MarkedYAMLError as error:
        line, what, hint = _explained(error, text)
        raise SpecError((*document.problems, Problem(file, line, "", what, hint))) from None
    except _HopelessError as error:
        raise SpecError((*document.problems, error.problem)) from None
    return document


def _text(data: bytes, file: str) -> str:
    """The file's characters, all of them printable or white space. Raises SpecError."""
    if len(data) > LARGEST:
        raise SpecError((Problem(file, 0, "", f"the file has more than {LARGEST >> 20} MiB"),))
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SpecError((Problem(file, line, "", "the file is not UTF-8 text", "Save it as UTF-8."),)) from None
    if found := _UNREADABLE.search(text):
        line = text.count("\n", 0, found.start()) + 1
        raise SpecError((Problem(file, line, "", f"the file has the unprintable character {found[0]!a}", "Remove it."),))
    return text


class _HopelessError(Exception):
    """Reading on makes no sense."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.what)
        self.problem = problem


class _Reader:
    """Builds the tree from the events of one file (they are of several classes, so they are not typed)."""

    def __init__(self, document: Document, events: Iterator[Any]) -> None:
        self.document = document
        self.events = events
        self.anchors: dict[str, tuple[Any, int, int]] = {}
        """Value, number of values in it, and how deep they are nested."""
        self.count = 0
        self.borrowed = 0
        self.reached = 0
        """The deepest level of the value that is being read."""

    def read(self, begins: str, may_be_empty: bool) -> None:
        next(self.events)
        if isinstance(next(self.events), yaml.StreamEndEvent):
            if may_be_empty:
                self.document.tree = Node(Place())
                return
            raise self._hopeless(0, "the file is empty", "vcloud init writes one to start from.")
        top = next(self.events)
        self.document.tree = self._value(top, Place("", _line(top)), 0)
        next(self.events)
        if not isinstance(more := next(self.events), yaml.StreamEndEvent):
            raise self._hopeless(_line(more), "a second YAML document begins here", "Put it into a file of its own.")
        if not isinstance(self.document.tree, Node):
            raise self._hopeless(_line(top), "the file is not a mapping", f"It begins with: {begins}.")

    def _hopeless(self, line: int, what: str, hint: str = "") -> _HopelessError:
        return _HopelessError(Problem(self.document.file, line, "", what, hint))

    def _value(self, event: Any, place: Place, depth: int) -> Any:
        """The value that begins with this event; reads on to its end."""
        self._reach(depth, _line(event))
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, place, depth)
        before, reached = self.count, self.reached
        self.count += 1
        self.reached = depth
        if isinstance(event, yaml.ScalarEvent):
            value = self._scalar(event, place)
        elif isinstance(event, yaml.SequenceStartEvent):
            value = self._sequence(place, depth)
        else:
            value = self._mapping(place, depth)
        if event.tag is not None:
            value = self.document.refuse(place, f"the tag {shown(event.tag)} is not allowed", "Remove it; text is forced by quotes.")
        if event.anchor:
            self.anchors[event.anchor] = value, self.count - before, self.reached - depth
        self.reached = max(self.reached, reached)
        return value

    def _reach(self, depth: int, line: int) -> None:
        if depth > DEEPEST:
            raise self._hopeless(line, f"values are nested more than {DEEPEST} deep")
        self.reached = max(self.reached, depth)

    def _alias(self, event: yaml.AliasEvent, place: Place, depth: int) -> Any:
        if event.anchor not in self.anchors:
            return self.document.refuse(
                place, f"the alias *{shown(event.anchor)} has no anchor before it", f"Write &{shown(event.anchor)} at the value it repeats."
            )
        value, count, height = self.anchors[event.anchor]
        self._reach(depth + height, _line(event))
        self.count += count
        self.borrowed += count
        if self.borrowed > MOST_BORROWED:
            raise self._hopeless(place.line, f"aliases repeat more than {MOST_BORROWED} values")
        if value is REFUSED:
            self.document.refused.add(place.path)
        if not isinstance(value, Node):
            return value
        copy = Node(place)
        copy.update(value)
        return copy

    def _sequence(self, place: Place, depth: int) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            item = Place(dotted(place.path, len(items)), _line(event))
            self.document.lines[item.path] = item.line
            items.append(self._value(event, item, depth + 1))
        return items

    def _mapping(self, place: Place, depth: int) -> Node:
        node = Node(place)
        merged: list[Any] = []
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key = self._key(event, place, depth)
            at = Place(dotted(place.path, key or "?"), _line(event))
            if key is None:
                self._value(next(self.events), at, depth + 1)
            elif key == "<<" and not event.style:
                merged.append((at, self._value(next(self.events), at, depth + 1)))
            elif key in node:
                self._value(next(self.events), at, depth + 1)
                self.document.refuse(
                    at, f"this key stands here a second time; the first is in line {self.document.lines[at.path]}", "Keep one of them."
                )
            else:
                self.document.lines[at.path] = at.line
                node[key] = self._value(next(self.events), at, depth + 1)
        for at, value in merged:
            self._merge(node, at, value)
        return node

    def _merge(self, node: Node, at: Place, value: Any) -> None:
        """What is written goes before what is merged."""
        sources = value if isinstance(value, list) else [value]
        if not all(isinstance(source, Node) for source in sources):
            self.document.refuse(at, "'<<' merges a mapping or a list of mappings", "Write it like <<: *name.")
            return
        for source in sources:
            for key, item in source.items():
                node.setdefault(key, item)

    def _key(self, event: Any, place: Place, depth: int) -> str | None:
        """The text of a key, or None where it has none."""
        if isinstance(event, yaml.ScalarEvent) and event.tag is None:
            if event.style or isinstance(_plain(event.value), str):
                return str(event.value)
            what = f"the key {shown(event.value) or 'of this entry'} is not text to all who read YAML"
            self.document.refuse(
                Place(dotted(place.path, str(event.value)), _line(event)), what, f"Put it in quotes: '{shown(event.value)}'."
            )
            return None
        self._value(event, Place(dotted(place.path, "?"), _line(event)), depth + 1)
        self.document.refuse(Place(place.path, _line(event)), "a key must be plain text")
        return None

    def _scalar(self, event: yaml.ScalarEvent, place: Place) -> Any:
        if event.style or event.tag is not None:
            return event.value
        value = _plain(event.value)
        return self.document.refuse(place, *value) if isinstance(value, _Trap) else value


class _Trap(NamedTuple):
    """Text that YAML readers disagree about, and how to say it without doubt."""

    what: str
    hint: str


def _plain(text: str) -> str | int | float | bool | _Trap | None:
    """What text without quotes means."""
    if text in _WORDS:
        return _WORDS[text]
    if text in _SWITCHES:
        word = "true" if _SWITCHES[text] else "false"
        return _Trap(
            f"{text} without quotes is {word} to some who read YAML, and text to others",
            f"Write {word}, or '{text}' in quotes for the text.",
        )
    if text[0] not in "+-.0123456789":
        return text
    if _WHOLE.fullmatch(text):
        return int(text)
    quoted = f"Put it in quotes: '{shown(text)}'."
    if _CLOCK.fullmatch(text):
        return _Trap(f"{shown(text)} without quotes is a number in base 60 to some who read YAML", quoted)
    if _OCTAL.fullmatch(text):
        return _Trap(f"{shown(text)} without quotes is an octal number to some who read YAML", quoted)
    if _ODD_NUMBER.fullmatch(text):
        return _Trap(
            f"{shown(text)} is not a number to all who read YAML",
            f"Write a plain decimal number, or '{shown(text)}' in quotes for the text.",
        )
    return float(text) if _FRACTION.fullmatch(text) else text


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


_SENTENCES: Final = (
    ("cannot start any token", "this cannot begin a value", "Put text that begins with a special character in quotes."),
    (
        "mapping values are not allowed",
        "a ':' stands where none can be",
        "Check the indentation, and put text that has ': ' in it in quotes.",
    ),
    (
        "could not find expected ':'",
        "a ':' is missing after a key",
        "Check this line and the one before; text of several lines is indented.",
    ),
    (
        "did not find expected ',' or",
        "the bracket of line {} is not closed before this, or a comma is missing",
        "Put text with { } [ ] , in it in quotes.",
    ),
    (
        "found unexpected ':'",
        "a ':' stands at the end of a word inside brackets",
        "Inside { } a key without a value is written with one, like app: {}, and text with a ':' at its end in quotes.",
    ),
    ("did not find expected key", "a key was expected here", "Check the indentation, quotes and brackets around this line."),
    ("did not find expected '-' indicator", "a '-' was expected here", "Indent all items of the list alike."),
    ("unexpected end of stream", "the file ends inside quotes", "Close the quotes that are opened here."),
    ("unexpected document indicator", "a line of dashes stands inside quotes", "Close the quotes that are opened here."),
    (
        "unknown escape character",
        "this escape is not known",
        "In double quotes a backslash is written twice; single quotes take it as it is.",
    ),
)
"""What libyaml says, and what people understand."""


def _explained(error: yaml.MarkedYAMLError, text: str) -> tuple[int, str, str]:
    """Line, sentence and hint for a syntax error."""
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line + 1, mark.column) if mark else (0, 0)
    said = error.problem or error.context or ""
    lines = text.splitlines()
    written = lines[line - 1] if 0 < line <= len(lines) else ""
    if written[column : column + 1] == "\t":
        return line, "a tab cannot indent YAML", "Use spaces."
    sentence, hint = next(((what, hint) for part, what, hint in _SENTENCES if part in said), (f"this is not YAML: {said}", ""))
    inside = _OPENED.search(written)
    if inside and _PARAMETER.search(written, inside.start()):
        hint = 'Inside { } and [ ] a parameter needs quotes: "${name}".'
    opened = error.context_mark.line + 1 if error.context_mark else line
    if "inside quotes" in sentence:
        line = opened
    return line, sentence.replace("{}", str(opened)), hint
