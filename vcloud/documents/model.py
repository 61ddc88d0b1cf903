"""Reads the bytes of a document into a pydantic model. vApp files, image recipes and inventories
are all read this way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from vcloud.documents.document import Document, Node
from vcloud.documents.problems import problems_in, written_part
from vcloud.documents.reader import read_document
from vcloud.errors import Problem, SpecError

MOST_ROUNDS: Final = 10
"""How often `salvaged` may find new problems after it removed the old ones."""

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Kind(Generic[M]):
    """One kind of document that users write."""

    model: type[M]
    example: str
    """The first line of such a document, which messages show."""
    origin: str = ""
    """Where a user gets such a file, for messages."""
    may_be_empty: bool = False


@dataclass(frozen=True, slots=True)
class Reading(Generic[M]):
    """A document after it was read: the model, unless something is wrong, and all problems found."""

    kind: Kind[M]
    document: Document
    context: object
    model: M | None
    problems: tuple[Problem, ...]

    def sound(self) -> M:
        """The model. Raises SpecError with all problems if there are any."""
        if self.model is None or self.problems:
            raise SpecError(self.problems)
        return self.model


def read_model(
    data: bytes, file: str, kind: Kind[M], prepare: Callable[[Document], object] | None = None
) -> Reading[M]:
    """Reads a document and validates it. `file` is its name in messages.

    `prepare` may change the tree before it is validated. Its result becomes pydantic's context, for
    fields that are judged by other parts of the document.

    Raises:
        SpecError: the file is not readable at all, so that no other problem can be found.
    """
    document = read_document(
        data, file, example=kind.example, origin=kind.origin, may_be_empty=kind.may_be_empty
    )
    context = prepare(document) if prepare else None
    model, errors = _validated(kind.model, document.tree, context)
    problems = (*document.problems, *problems_in(errors, document, kind.model))
    return Reading(kind, document, context, model, problems)


def salvaged(reading: Reading[M], stand_in: Callable[[Node], None]) -> M | None:
    """The model of what remains when all wrong values are removed; None if too little remains.

    With it, the checks across a document can judge the sound parts. `stand_in` puts harmless values
    in place of required ones that were removed. Changes the reading's tree.
    """
    if reading.model is not None:
        return reading.model
    tree = reading.document.tree
    for _ in range(MOST_ROUNDS):
        stand_in(tree)
        model, errors = _validated(reading.kind.model, tree, reading.context)
        if model is not None:
            return model
        wrong = {written_part(tree, error) for error in errors}
        if () in wrong:
            return None
        # From the end, because removing an item of a list moves the items after it.
        for keys in sorted(wrong, reverse=True, key=lambda keys: tuple(map(_sortable, keys))):
            _remove(tree, keys)
    return None


def _validated(model: type[M], tree: Node, context: object) -> tuple[M | None, list[ErrorDetails]]:
    try:
        return model.model_validate(tree, context=context), []
    except ValidationError as error:
        return None, error.errors(include_url=False)


def _sortable(key: str | int) -> tuple[int, str]:
    """Sorts the indices of a list as numbers: in reverse order, removing one item does not move the
    next.
    """
    return (key, "") if isinstance(key, int) else (0, key)


def _remove(tree: Node, keys: tuple[str | int, ...]) -> None:
    value: Any = tree
    for key in keys[:-1]:
        value = value[key]
    del value[keys[-1]]
