"""The tree of a YAML document: plain values that know their lines, and the problems found so far."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from vcloud.documents.field import shown
from vcloud.errors import Problem

if TYPE_CHECKING:
    from vcloud.documents.parameter import Parameter

REFUSED: Final = object()
"""Replaces a value that was refused, so that no later stage complains about it again."""

_PLAIN_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")


class Position(NamedTuple):
    """Where a value stands in a file."""

    path: str = ""
    """Dotted path: `vms.web.memory`."""
    line: int = 0


class Node(dict[str, Any]):
    """A mapping that knows its position."""

    __slots__ = ("position",)

    def __init__(self, position: Position) -> None:
        super().__init__()
        self.position = position


@dataclass(slots=True)
class Document:
    """A file as a tree, with the line of each dotted path. Each stage of reading adds its problems."""

    file: str
    tree: Any = None
    lines: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)
    """Dotted paths whose value was replaced by REFUSED."""
    secrets: set[str] = field(default_factory=set)
    """Dotted paths at which a secret stands. No message may show what stands there."""
    parameters: tuple[Parameter, ...] = ()
    """Those that are no secrets, with their values, once these are filled in."""

    def refuse(self, position: Position, what: str, hint: str = "") -> object:
        """Records a problem. The caller puts the result, REFUSED, in place of the value."""
        self.problems.append(Problem(self.file, position.line, position.path, what, hint))
        self.refused.add(position.path)
        return REFUSED


def mapping_or_empty(value: object) -> dict[str, Any]:
    """A mapping of a document's tree; an empty one in place of anything else."""
    return value if isinstance(value, Node) else {}


def dotted(path: str, key: str | int) -> str:
    """The dotted path of an entry: `flows[3]`, `vms.web`, `files["/etc/motd"]`."""
    if isinstance(key, int):
        return f"{path}[{key}]"
    if not _PLAIN_KEY.fullmatch(key):
        return f'{path}["{shown(key)}"]'
    return f"{path}.{key}" if path else key
