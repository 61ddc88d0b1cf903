"""Adds a host to the text of an inventory, or takes one out of it. All other hosts, comments and the
way in which the file is written stay as they are.

Who writes such a text reads it first as vcloud reads every inventory (`vcloud.hosts.inventory_file`):
YAML has more ways to write a mapping than this module knows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Final

import yaml
from yaml.nodes import MappingNode, Node

_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""That of the reader: the two differ in what they take for YAML."""
_BYTE_ORDER_MARK: Final = "\N{BYTE ORDER MARK}"
_PLAIN: Final = re.compile(r"[A-Za-z][A-Za-z0-9+:/@._-]*[A-Za-z0-9]")
_WORDS: Final = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})
"""What some YAML readers take for something else than a text."""

Entry = Mapping[str, str | Mapping[str, str]]
"""The keys of a host, with their values."""


class UnknownFormError(ValueError):
    """The file writes its hosts in a way that this module does not change."""


def with_host(text: str, name: str, entry: Entry) -> str:
    """The text with one host more, at the end of the others. Raises UnknownFormError."""
    line_end = "\r\n" if "\r\n" in text else "\n"
    hosts = _hosts(text)
    if hosts is None:
        begin = text if not text or text.endswith("\n") else text + line_end
        return begin + _lines({"hosts": {name: entry}}, "", line_end)
    if not hosts.value:
        raise UnknownFormError
    end = _end_of(*hosts.value[-1])
    if hosts.flow_style:
        return f"{text[:end]}, {_word(name)}: {_flow(entry)}{text[end:]}"
    indent = " " * hosts.value[0][0].start_mark.column
    place = _line_after(text, end)
    before = text[:place] if text[:place].endswith("\n") else text[:place] + line_end
    return before + _lines({name: entry}, indent, line_end) + text[place:]


def line_of(name: str, entry: Entry) -> str:
    """A host as a person may write it below `hosts`, on one line."""
    return f"{_word(name)}: {_flow(entry)}"


def without_host(text: str, name: str) -> str:
    """The text without a host. Raises UnknownFormError where it has no such host, or no other one."""
    hosts = _hosts(text)
    pairs = hosts.value if hosts else []
    number = next((at for at, (key, _) in enumerate(pairs) if key.value == name), None)
    if hosts is None or number is None or len(pairs) == 1:
        raise UnknownFormError
    begin, end = pairs[number][0].start_mark.index, _end_of(*pairs[number])
    if not hosts.flow_style:
        return text[: text.rfind("\n", 0, begin) + 1] + text[_line_after(text, end) :]
    if number + 1 < len(pairs):
        return text[:begin] + text[pairs[number + 1][0].start_mark.index :]
    return text[: _end_of(*pairs[number - 1])] + text[end:]


def _hosts(text: str) -> MappingNode | None:
    """The mapping of the hosts; None where the text has nothing but comments."""
    # The reader has judged the text before, so it is not nested deeply. libyaml leaves the byte order
    # mark out of the places that it tells.
    try:
        top = yaml.compose(text.replace(_BYTE_ORDER_MARK, " ", 1), Loader=_LOADER)
    # UnicodeError: the text has bytes that are no UTF-8.
    except (yaml.YAMLError, UnicodeError):
        raise UnknownFormError from None
    if top is None:
        return None
    if isinstance(top, MappingNode):
        for key, value in top.value:
            if key.value == "hosts" and isinstance(value, MappingNode):
                return value
    raise UnknownFormError


def _end_of(key: Node, value: Node) -> int:
    """Where the text of an entry ends, without comments and blank lines behind it."""
    # An alias is the node that it repeats, which stands before.
    if value.start_mark.index < key.end_mark.index:
        return int(key.end_mark.index)
    if isinstance(value, MappingNode) and not value.flow_style and value.value:
        return _end_of(*value.value[-1])
    return int(value.end_mark.index)


def _line_after(text: str, place: int) -> int:
    """Where the line after the one of a place begins."""
    if place and text[place - 1] == "\n":
        return place
    found = text.find("\n", place)
    return found + 1 if found >= 0 else len(text)


def _lines(values: Mapping[str, object], indent: str, line_end: str) -> str:
    """Keys with their values, in lines. The innermost mapping of a host stands in braces."""
    parts = []
    for key, value in values.items():
        if isinstance(value, Mapping) and key != "labels":
            inner = _lines(value, indent + "  ", line_end)
            parts.append(f"{indent}{_word(key)}:{line_end}{inner}")
        else:
            parts.append(f"{indent}{_word(key)}: {_flow(value)}{line_end}")
    return "".join(parts)


def _flow(value: object) -> str:
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_word(str(key))}: {_flow(one)}" for key, one in value.items())
        return f"{{{inner}}}"
    return _word(str(value))


def _word(text: str) -> str:
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    return json.dumps(text, ensure_ascii=False)
