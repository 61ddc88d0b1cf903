"""Turns pydantic's errors into messages that users understand, with the lines of the file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, Final, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from vcloud.documents.document import Document, Node, Position, dotted
from vcloud.documents.field import FieldError, Suggestions, kind_of, shown
from vcloud.errors import Problem

_EMPTY: Final = "Write a value for the key, or remove the key."


def problems_in(
    errors: list[ErrorDetails], document: Document, model: type[BaseModel]
) -> Iterator[Problem]:
    """The problems behind pydantic's errors. Leaves out those that only follow from a value that
    was refused before.
    """
    suggestions = Suggestions()
    for error in errors:
        position = _position_of(error, document)
        if not (_is_echo(error) or _is_refused(position.path, document.refused)):
            yield Problem(
                document.file, position.line, position.path, *_sentence(error, model, suggestions)
            )


def written_part(tree: Node, error: ErrorDetails) -> tuple[str | int, ...]:
    """The keys that lead to the wrong value, as far as the file has them. If the file has a short
    form, the last keys are not in the file.
    """
    value: Any = tree
    for depth, key in enumerate(error["loc"]):
        if not (isinstance(value, dict | list) and _has(value, key)):
            return error["loc"][:depth]
        value = value[key]  # type: ignore[index]
    return error["loc"]


def _has(value: dict[str, Any] | list[Any], key: str | int) -> bool:
    return key in value if isinstance(value, dict) else isinstance(key, int) and key < len(value)


def _is_echo(error: ErrorDetails) -> bool:
    """Whether the error only says that a part is missing because another error removed it."""
    return error["type"] == "default_factory_not_called" or (
        error["type"] == "too_short" and bool(error["input"])
    )


def _is_refused(path: str, refused: set[str]) -> bool:
    """Whether this value, or something in it, was refused before."""
    return any(f"{other}.".startswith((f"{path}.", f"{path}[")) for other in refused)


def _position_of(error: ErrorDetails, document: Document) -> Position:
    path = ""
    line = document.tree.position.line
    for key in written_part(document.tree, error):
        path = dotted(path, key)
        line = document.lines.get(path, line)
    if error["type"] == "missing":
        path = dotted(path, error["loc"][-1])
    return Position(path, line)


def _sentence(
    error: ErrorDetails, model: type[BaseModel], suggestions: Suggestions
) -> tuple[str, str]:
    """What is wrong, and the way out."""
    given, context = error.get("input"), error.get("ctx", {})
    match error["type"]:
        case "value_error" if isinstance(context["error"], FieldError):
            return context["error"].what, context["error"].hint
        case "value_error":
            return str(context["error"]), ""
        case "missing":
            return f"required key '{error['loc'][-1]}' is missing", _example(error, model)
        case "extra_forbidden":
            key = str(error["loc"][-1])
            known = getattr(_type_at(model, error["loc"][:-1]), "others_words", {})
            hint = known.get(key) or suggestions.nearest(key, _keys_beside(error, model), "key")
            return "unknown key", hint
        case "int_type" | "int_parsing":
            is_quoted = isinstance(given, str) and given.isdecimal()
            return (
                f"expected a whole number, but this is {_given(given)}",
                "Remove the quotes." if is_quoted else "",
            )
        case "float_type":
            return f"expected a number, but this is {_given(given)}", ""
        case "bool_type":
            is_quoted = given in ("true", "false")
            return (
                f"expected true or false, but this is {_given(given)}",
                "Remove the quotes." if is_quoted else "",
            )
        case "dict_type" | "model_type":
            return f"expected a mapping, but this is {_given(given)}", _as_mapping(error, model)
        case "tuple_type" | "list_type":
            return f"expected a list, but this is {_given(given)}", _as_list(given)
        case "greater_than_equal":
            return f"{shown(given)} is too small; the minimum is {context['ge']}", ""
        case "less_than_equal":
            return f"{shown(given)} is too large; the maximum is {context['le']}", ""
        case "too_short":
            return "this is empty; at least one entry is required", ""
        case "too_long":
            return (
                f"this has {len(error['input'])} entries; the maximum is {context['max_length']}",
                "",
            )
        case "enum":
            return f"'{shown(given)}' is not possible here", f"Choose {context['expected']}."
        case _:
            return str(error["msg"]), ""


def _given(value: object) -> str:
    if isinstance(value, str):
        return f"'{shown(value)}'"
    return str(value) if type(value) in (int, float) else kind_of(value)


def _example(error: ErrorDetails, model: type[BaseModel]) -> str:
    """A hint with the example that the model's field gives, as YAML on one line."""
    name = str(error["loc"][-1])
    examples = _fields_beside(error, model)[name].examples
    if not examples:
        return ""
    text = yaml.safe_dump({name: examples[0]}, default_flow_style=True, sort_keys=False, width=1000)
    return f"For example: {text.strip()[1:-1]}"


def _as_mapping(error: ErrorDetails, model: type[BaseModel]) -> str:
    """How to write as a mapping what is written as a list, or not at all."""
    given = error["input"]
    if given is None:
        return _EMPTY
    if isinstance(given, list) and given and isinstance(given[0], dict):
        return "Remove the dash before each key."
    if not (isinstance(given, list) and given and isinstance(given[0], str)):
        return ""
    kind = _type_at(model, error["loc"])
    is_of_mappings = get_origin(kind) is dict and _is_model(_unwrapped(get_args(kind)[1]))
    return f"Write `{shown(given[0])}: {'{}' if is_of_mappings else '...'}` instead of `- {shown(given[0])}`."


def _as_list(given: object) -> str:
    if given is None:
        return _EMPTY
    return (
        f"Write [{shown(given)}]."
        if isinstance(given, str | int)
        else "Begin each entry with '- '."
    )


def _keys_beside(error: ErrorDetails, model: type[BaseModel]) -> list[str]:
    """The known keys of the mapping that has the wrong key."""
    return list(_fields_beside(error, model))


def _fields_beside(error: ErrorDetails, model: type[BaseModel]) -> Mapping[str, FieldInfo]:
    kind: Any = _type_at(model, error["loc"][:-1])
    return {field.alias or name: field for name, field in kind.model_fields.items()}


def _type_at(model: type[BaseModel], keys: tuple[str | int, ...]) -> Any:
    """The type of the value that the keys lead to in a document of this model."""
    kind: Any = model
    for key in keys:
        if get_origin(kind) in (dict, tuple, list):
            kind = get_args(kind)[get_origin(kind) is dict]
        else:
            fields = kind.model_fields.items()
            kind = next(field.annotation for name, field in fields if key == (field.alias or name))
        kind = _unwrapped(kind)
    return kind


def _unwrapped(kind: Any) -> Any:
    """A type without its annotations and without None."""
    while get_origin(kind) in (Annotated, UnionType, Union):
        kind = get_args(kind)[0]
    return kind


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
