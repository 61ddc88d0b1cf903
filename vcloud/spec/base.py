"""The base class of all mappings of a vApp file: each mapping knows its line in the file and its
short form.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    PrivateAttr,
    model_validator,
)
from pydantic_core import CoreSchema

from vcloud.documents.document import Position


class Spec(BaseModel):
    """A mapping of the file. It knows its position in the file, so that messages can name it."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)
    short: ClassVar[str] = ""
    """The field that gets the value if the file has a single value in place of the mapping."""
    others_words: ClassVar[Mapping[str, str]] = {}
    """Keys that users of other tools may write here -> what to write instead."""
    may_be_null: ClassVar[bool] = False
    """Whether a key without a value means the empty mapping."""
    _position: Position = PrivateAttr(default=Position())

    @property
    def line(self) -> int:
        """Line in the file; 0 for a mapping that is not written there."""
        return self._position.line

    @property
    def path(self) -> str:
        """Dotted path in the file: `flows[3]`."""
        return self._position.path

    @classmethod
    def full(cls, value: object) -> object:
        """The mapping that a short form is short for."""
        if value is None and cls.may_be_null:
            return {}
        return (
            {cls.short: value}
            # For Python, True is an int. It is never a short form.
            if cls.short and isinstance(value, str | int) and not isinstance(value, bool)
            else value
        )

    @model_validator(mode="wrap")
    @classmethod
    def _read(cls, value: object, handler: ModelWrapValidatorHandler[Self]) -> Self:
        made = handler(cls.full(value))
        made._position = getattr(value, "position", Position())
        return made

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """The schema of the mapping and its short forms."""
        made = handler(schema)
        whole = handler.resolve_ref_schema(made)
        mapping = dict(whole)
        forms: list[dict[str, Any]] = []
        if cls.short:
            short = whole["properties"][cls.model_fields[cls.short].alias or cls.short]
            forms.append(
                {
                    key: value
                    for key, value in short.items()
                    if key not in ("default", "description")
                }
            )
        if cls.may_be_null:
            forms.append({"type": "null"})
        if forms:
            whole.clear()
            whole |= {"anyOf": [*forms, mapping]}
        return made
