"""What pydantic finds wrong with a file, in the words of the file and with its lines."""

from __future__ import annotations

from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Final, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from vcloud.documents.document import Document, Node, Place, dotted
from vcloud.documents.field import FieldError, Suggestions, kind_of, shown
from vcloud.errors import Problem
from vcloud.spec.types import lacking_protocol

_EMPTY: Final = "Write something below the key, or remove it."


def problems_in(errors: list[ErrorDetails], document: Document, kind: type[BaseModel]) -> Iterator[Problem]:
    """What pydantic found wrong with a document that should be of this kind, but for what was refused before."""
    suggestions = Suggestions()
    for error in errors:
        place = _place_of(error, document)
        if not (_is_echo(error) or _is_refused(place.path, document.refused)):
            yield Problem(document.file, place.line, place.path, *_sentence(error, kind, suggestions))


def _is_echo(error: ErrorDetails) -> bool:
    """Whether pydantic only says that it goes without what another error is about."""
    return error["type"] == "default_factory_not_called" or (error["type"] == "too_short" and bool(error["input"]))


def _is_refused(path: str, refused: set[str]) -> bool:
    """Whether this place, or something in it, was refused before."""
    return any(f"{other}.".startswith((f"{path}.", f"{path}[")) for other in refused)


def _place_of(error: ErrorDetails, document: Document) -> Place:
    """The dotted path as far as it is written in the file, and its line."""
    keys = deepest(document.tree, error)
    path = ""
    line = document.tree.place.line
    for key in keys:
        path = dotted(path, key)
        line = document.lines.get(path, line)
    if error["type"] == "missing":
        path = dotted(path, error["loc"][-1])
    return Place(path, line)


def _sentence(error: ErrorDetails, kind: type[BaseModel], suggestions: Suggestions) -> tuple[str, str]:
    """What is wrong and the way out, in the words of the file."""
    given, context = error.get("input"), error.get("ctx", {})
    match error["type"]:
        case "value_error" if error["loc"] == ("vcloud",) and given == "1":
            return "the version is a number, not text", "Remove the quotes."
        case "value_error" if isinstance(context["error"], FieldError):
            return context["error"].what, context["error"].hint
        case "missing":
            return "this is missing", ""
        case "extra_forbidden":
            return "this key is not known", suggestions.nearest(str(error["loc"][-1]), _keys_beside(error, kind), "Keys here")
        case "int_type" | "int_parsing":
            hint = "Remove the quotes." if isinstance(given, str) and given.isdecimal() else ""
            return f"a whole number is wanted, not {_given(given)}", hint
        case "bool_type":
            return f"true or false is wanted, not {_given(given)}", ""
        case "dict_type" | "model_type":
            return f"a mapping is wanted, not {_given(given)}", "" if given is not None else _EMPTY
        case "tuple_type" if type(given) is int and error["loc"][-1] == "service":
            return (lacking := lacking_protocol(given)).what, lacking.hint
        case "tuple_type" | "list_type":
            return f"a list is wanted, not {_given(given)}", "" if given is not None else _EMPTY
        case "greater_than_equal":
            return f"{shown(given)} is too small, at least {context['ge']} is wanted", ""
        case "less_than_equal":
            return f"{shown(given)} is too large, at most {context['le']} is allowed", ""
        case "too_short":
            return "this is empty, at least one entry is wanted", ""
        case "too_long":
            return f"there are {len(error['input'])} entries, at most {context['max_length']} are allowed", ""
        case "enum":
            return f"'{shown(given)}' is not {context['expected']}", ""
        case _:
            return str(error["msg"]), ""


def _given(value: object) -> str:
    if isinstance(value, str):
        return f"'{shown(value)}'"
    return str(value) if type(value) in (int, float) else kind_of(value)


def _keys_beside(error: ErrorDetails, kind: type[BaseModel]) -> list[str]:
    """The keys that are known where an unknown one stands."""
    there: Any = kind
    for key in error["loc"][:-1]:
        there = _below(there, key)
    model = _unwrapped(there)
    return [field.alias or name for name, field in model.model_fields.items()]


def _below(kind: Any, key: str | int) -> Any:
    """The type that stands under a key of a value of this type."""
    kind = _unwrapped(kind)
    if get_origin(kind) in (dict, tuple):
        return get_args(kind)[get_origin(kind) is dict]
    return next(field.annotation for name, field in kind.model_fields.items() if key == (field.alias or name))


def _unwrapped(kind: Any) -> Any:
    """Without what pydantic is told beside, and without None."""
    while get_origin(kind) in (Annotated, UnionType, Union):
        kind = get_args(kind)[0]
    return kind


def deepest(tree: Node, error: ErrorDetails) -> tuple[str | int, ...]:
    """The keys that lead to what is wrong, as far as they exist: pydantic also counts what short forms leave out."""
    value: Any = tree
    for depth, key in enumerate(error["loc"]):
        if not (isinstance(value, dict | list) and _has(value, key)):
            return error["loc"][:depth]
        value = value[key]  # type: ignore[index]
    return error["loc"]


def _has(value: dict[str, Any] | list[Any], key: str | int) -> bool:
    return key in value if isinstance(value, dict) else isinstance(key, int) and key < len(value)
