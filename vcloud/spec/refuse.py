"""Finds the fields of a vApp file that this release cannot enforce. `plan` and `up` refuse each of
them by name.

The sentence of each message comes from the `Unenforced` mark of the field in the model.
"""

from __future__ import annotations

from collections.abc import Iterator

from vcloud.documents.document import dotted
from vcloud.errors import Problem
from vcloud.spec.base import Spec
from vcloud.spec.fields import Unenforced
from vcloud.spec.model import Vapp

_WAY_OUT = "Remove it to go on without it. A later release will enforce it."


def refusals(vapp: Vapp) -> tuple[Problem, ...]:
    """One problem for each field that is valid but cannot be enforced yet, in file order."""
    found = _unenforced(vapp)
    return tuple(
        sorted(Problem(vapp.file, vapp.line_of(path), path, what, _WAY_OUT) for path, what in found)
    )


def _unenforced(owner: Spec) -> Iterator[tuple[str, str]]:
    """Path and sentence of each marked field that is written in a mapping of the file or below it."""
    for name, field in type(owner).model_fields.items():
        value = getattr(owner, name)
        path = dotted(owner.path, field.alias or name)
        for mark in (mark for mark in field.metadata if isinstance(mark, Unenforced)):
            yield from (
                (at, mark.sentence.format(value=item, owner=owner))
                for at, item in _items(path, value)
            )
        for part in _mappings(value):
            yield from _unenforced(part)


def _items(path: str, value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, tuple):
        yield from ((dotted(path, index), item) for index, item in enumerate(value))
    elif value:
        yield path, value


def _mappings(value: object) -> Iterator[Spec]:
    parts = (
        value.values()
        if isinstance(value, dict)
        else value
        if isinstance(value, tuple)
        else (value,)
    )
    yield from (part for part in parts if isinstance(part, Spec))
