"""What a user gives for the parameters of a file: on the command line, or in a parameter file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from vcloud.documents.document import REFUSED, dotted
from vcloud.documents.field import kind_of
from vcloud.documents.parameter import Source
from vcloud.documents.reader import read_document
from vcloud.errors import Problem, SpecError

GIVEN: Final = "-P "
"""If a value from the command line is wrong, the field of the problem is this text and the name of
the parameter.
"""


@dataclass(frozen=True, slots=True)
class FromFile:
    """A value that a parameter file gives."""

    value: str | int | bool
    file: str
    """The path of the file as the user wrote it."""
    line: int
    others_read: bool
    """Others than the owner of the file may read it."""


Given = Mapping[str, str | FromFile]
"""Parameter -> its value. A plain text comes from the command line."""


def read_values(data: bytes, file: str, *, others_read: bool) -> dict[str, FromFile]:
    """The values of a parameter file, a YAML mapping of names to values. Raises SpecError.

    Messages never show a value, because it may be a secret.
    """
    document = read_document(
        data, file, example="web_count: 3", may_be_empty=True, quoted=lambda _: "..."
    )
    values: dict[str, FromFile] = {}
    problems = [*document.problems]
    for name, value in document.tree.items():
        line = document.lines.get(dotted("", name), 0)
        if isinstance(value, str | int):
            values[name] = FromFile(value, file, line, others_read)
        elif value is not REFUSED:
            what = f"a parameter is text, a whole number, true or false; this is {kind_of(value)}"
            problems.append(Problem(file, line, name, what, "Write name: value."))
    if problems:
        raise SpecError(tuple(problems))
    return values


def source_of(name: str, given: Given) -> Source:
    if name not in given:
        return Source.DEFAULT
    return Source.FILE if isinstance(given[name], FromFile) else Source.OPTION
