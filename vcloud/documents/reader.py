"""Reads the bytes of a YAML file into a tree of plain values that knows its lines.

Tags are refused, because they let a file choose Python classes. The tree is built from the parser's
events and not by PyYAML's composer: the composer recurses in C, so a deeply nested file would crash
the process.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, Final

import yaml

from vcloud.documents.document import REFUSED, Document, Node, Position, dotted
from vcloud.documents.field import shown
from vcloud.documents.scalars import Trap, plain_value
from vcloud.documents.syntax import explained
from vcloud.errors import Problem, SpecError

LARGEST: Final = 8 << 20
"""Bytes of a file."""
DEEPEST: Final = 24
"""Levels of nesting, including the levels inside the values that aliases repeat."""
MOST_ALIASED: Final = 20_000
"""How many values aliases may repeat in all."""

_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# The printable characters of YAML 1.2 (5.1), without U+0085, U+2028 and U+2029, which YAML 1.1
# takes for ends of lines, and without U+FEFF, the byte order mark.
_UNREADABLE: Final = re.compile(
    r"[^\t\n\r\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
)


def read_document(
    data: bytes,
    file: str,
    *,
    example: str,
    origin: str = "",
    may_be_empty: bool = False,
    quoted: Callable[[object], str] = shown,
) -> Document:
    """The tree of a file's bytes, which must be a mapping. The problems of the file are in the
    document's `problems`.

    `example` is a first line of such a file; `origin` says where to get one. Both are only for
    messages. So is `quoted`, which writes a value: where a value may be a secret, it must not show it.

    Raises:
        SpecError: the file has no tree, for example after a syntax error.
    """
    document = Document(file)
    text = _text(data, file)
    try:
        _Reader(document, yaml.parse(text, Loader=_LOADER), quoted).read(
            example, origin, may_be_empty
        )
    except yaml.MarkedYAMLError as error:
        line, what, hint = explained(error, text)
        raise SpecError((*document.problems, Problem(file, line, "", what, hint))) from None
    except _HopelessError as error:
        raise SpecError((*document.problems, error.problem)) from None
    return document


def _text(data: bytes, file: str) -> str:
    """The file's characters; all of them are printable or white space. Raises SpecError."""
    if len(data) > LARGEST:
        raise SpecError((Problem(file, 0, "", f"the file is larger than {LARGEST >> 20} MiB"),))
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SpecError(
            (Problem(file, line, "", "the file is not UTF-8 text", "Save it as UTF-8."),)
        ) from None
    if found := _UNREADABLE.search(text):
        line = text.count("\n", 0, found.start()) + 1
        raise SpecError(
            (
                Problem(
                    file,
                    line,
                    "",
                    f"the file contains the control character {found[0]!a}",
                    "Remove it.",
                ),
            )
        )
    return text


class _HopelessError(Exception):
    """The rest of the file cannot be read."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.what)
        self.problem = problem


class _Reader:
    """Builds the tree from the events of one file. PyYAML's events have no types."""

    def __init__(
        self, document: Document, events: Iterator[Any], quoted: Callable[[object], str]
    ) -> None:
        self.document = document
        self.events = events
        self.quoted = quoted
        self.anchors: dict[str, tuple[Any, int, int]] = {}
        """For each anchor its value, the number of values in it, and how deep they are nested."""
        self.count = 0
        self.aliased = 0
        self.reached = 0
        """The deepest level inside the value that is being read."""

    def read(self, example: str, origin: str, may_be_empty: bool) -> None:
        # The stream begins. Then a document begins, or the stream ends.
        next(self.events)
        if isinstance(next(self.events), yaml.StreamEndEvent):
            if may_be_empty:
                self.document.tree = Node(Position())
                return
            raise self._hopeless(0, "the file is empty", origin or f"For example: {example}")
        top = next(self.events)
        self.document.tree = self._value(top, Position("", _line(top)), 0)
        next(self.events)
        if not isinstance(more := next(self.events), yaml.StreamEndEvent):
            raise self._hopeless(
                _line(more), "a second YAML document begins here", "Put it into a file of its own."
            )
        if not isinstance(self.document.tree, Node):
            raise self._hopeless(
                _line(top),
                "the file must be a mapping of keys to values",
                f"For example: {example}",
            )

    def _hopeless(self, line: int, what: str, hint: str = "") -> _HopelessError:
        return _HopelessError(Problem(self.document.file, line, "", what, hint))

    def _value(self, event: Any, position: Position, depth: int) -> Any:
        """The value that begins with this event. Reads the events up to its end."""
        self._reach(depth, _line(event))
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, position, depth)
        before, reached = self.count, self.reached
        self.count += 1
        self.reached = depth
        if isinstance(event, yaml.ScalarEvent):
            value = self._scalar(event, position)
        elif isinstance(event, yaml.SequenceStartEvent):
            value = self._sequence(position, depth)
        else:
            value = self._mapping(position, depth)
        if event.tag is not None:
            hint = "Remove it. To make a value text, put it in quotes."
            value = self.document.refuse(
                position, f"the YAML tag {self.quoted(event.tag)} is not allowed", hint
            )
        # The anchor is stored after its value was read, so that no value can contain itself.
        if event.anchor:
            self.anchors[event.anchor] = value, self.count - before, self.reached - depth
        self.reached = max(self.reached, reached)
        return value

    def _reach(self, depth: int, line: int) -> None:
        if depth > DEEPEST:
            raise self._hopeless(line, f"values are nested more than {DEEPEST} levels deep")
        self.reached = max(self.reached, depth)

    def _alias(self, event: yaml.AliasEvent, position: Position, depth: int) -> Any:
        if event.anchor not in self.anchors:
            name = self.quoted(event.anchor)
            hint = f"Write &{name} before the value that it repeats."
            return self.document.refuse(
                position, f"the alias *{name} has no anchor &{name} before it", hint
            )
        value, count, height = self.anchors[event.anchor]
        self._reach(depth + height, _line(event))
        self.count += count
        self.aliased += count
        if self.aliased > MOST_ALIASED:
            raise self._hopeless(position.line, f"aliases repeat more than {MOST_ALIASED} values")
        if value is REFUSED:
            self.document.refused.add(position.path)
        if not isinstance(value, Node):
            return value
        # A copy, so that messages name the line of the alias.
        copy = Node(position)
        copy.update(value)
        return copy

    def _sequence(self, position: Position, depth: int) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            item = Position(dotted(position.path, len(items)), _line(event))
            self.document.lines[item.path] = item.line
            items.append(self._value(event, item, depth + 1))
        return items

    def _mapping(self, position: Position, depth: int) -> Node:
        node = Node(position)
        merged: list[tuple[Position, Any]] = []
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key = self._key(event, position, depth)
            at = Position(dotted(position.path, key or "?"), _line(event))
            if key is not None and key not in node and not _is_merge(event):
                self.document.lines[at.path] = at.line
                node[key] = self._value(next(self.events), at, depth + 1)
                continue
            value = self._value(next(self.events), at, depth + 1)
            if key is not None and _is_merge(event):
                merged.append((at, value))
            elif key is not None:
                first = self.document.lines[at.path]
                self.document.refuse(
                    at, f"this key was already used in line {first}", "Keep one of them."
                )
        # Merging comes last, so that the keys of the mapping itself win wherever `<<` stands.
        for at, value in merged:
            self._merge(node, at, value)
        return node

    def _merge(self, node: Node, at: Position, value: Any) -> None:
        """Adds the keys of `<<: *name`. Keys that the mapping has itself win."""
        sources = value if isinstance(value, list) else [value]
        if not all(isinstance(source, Node) for source in sources):
            self.document.refuse(
                at,
                "'<<' can only merge a mapping or a list of mappings",
                "Write it like <<: *name.",
            )
            return
        for source in sources:
            for key, item in source.items():
                node.setdefault(key, item)

    def _key(self, event: Any, position: Position, depth: int) -> str | None:
        """The text of a key; None for a key that was refused."""
        if not isinstance(event, yaml.ScalarEvent) or event.tag is not None:
            self._refuse_key(event, position, depth)
            return None
        if event.style or isinstance(plain_value(event.value), str):
            return str(event.value)
        at = Position(dotted(position.path, str(event.value)), _line(event))
        what = f"not all YAML readers take the key {shown(event.value) or 'of this entry'} as text"
        self.document.refuse(at, what, f"Put it in quotes: '{shown(event.value)}'.")
        return None

    def _refuse_key(self, event: Any, position: Position, depth: int) -> None:
        """`{{ name }}`, as jinja and Ansible write variables, is a mapping as the key of a mapping."""
        key = self._value(event, Position(dotted(position.path, "?"), _line(event)), depth + 1)
        at = Position(position.path, _line(event))
        if isinstance(event, yaml.MappingStartEvent) and event.flow_style and isinstance(key, Node):
            name = next(iter(key), "name")
            self.document.refuse(
                at, "`{{ }}` is not supported", f"Write a parameter like ${{{self.quoted(name)}}}."
            )
        else:
            self.document.refuse(at, "a key must be plain text")

    def _scalar(self, event: yaml.ScalarEvent, position: Position) -> Any:
        if event.style or event.tag is not None:
            return event.value
        value = plain_value(event.value, self.quoted)
        return self.document.refuse(position, *value) if isinstance(value, Trap) else value


def _is_merge(event: Any) -> bool:
    """Whether a key is YAML's merge key; in quotes it is an ordinary one."""
    return isinstance(event, yaml.ScalarEvent) and event.value == "<<" and not event.style


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1
