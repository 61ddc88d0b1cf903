"""Typed getters for data that somebody else wrote: a guest, or anybody who can write to a host.

Such data can have any shape: a number where a text should be, a list that is nested 100,000 levels
deep, bytes that are not UTF-8. Each getter returns a value of the type that it promises, or raises
`UnreadableError`. A parser that reads only through these getters needs no `except` for anything
else, so that a mistake in the parser itself is not taken for a strange answer.

The text of an `UnreadableError` names the key that vcloud looked for. It never quotes the data.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import NoReturn

from vcloud.errors import VcloudError

Json = Mapping[str, object]
LARGEST_NUMBER = (1 << 63) - 1
LARGEST_PORT = 0xFFFF


class UnreadableError(VcloudError):
    """The data does not have the form that was agreed."""


def parse_json(content: bytes | str) -> object:
    """The value of a JSON document. Raises UnreadableError, also for NaN and Infinity, which JSON
    does not know.
    """
    try:
        return json.loads(content, parse_constant=_refuse_constant)
    # ValueError: not JSON, not UTF-8, or a number of 5,000 digits. RecursionError: nested too deep.
    except (ValueError, RecursionError):
        raise UnreadableError("it is not valid JSON") from None


def as_mapping(value: object, name: str = "it") -> Json:
    """The value, which must be an object of JSON."""
    return value if isinstance(value, dict) else _refuse(name, "an object")


def as_list(value: object, name: str = "it") -> list[object]:
    """The value, which must be a list."""
    return value if isinstance(value, list) else _refuse(name, "a list")


def as_text(value: object, name: str = "it") -> str:
    """The value, which must be a text that can be written in UTF-8 (JSON can express half of a
    surrogate pair).
    """
    if not isinstance(value, str):
        _refuse(name, "a text")
    try:
        value.encode()
    except UnicodeEncodeError:
        _refuse(name, "a text in Unicode")
    return value


def as_number(value: object, name: str = "it", largest: int = LARGEST_NUMBER) -> int:
    """The value, which must be a whole number from 0 to `largest`."""
    # For Python, True is an int.
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= largest:
        _refuse(name, f"a whole number from 0 to {largest}")
    return value


def as_flag(value: object, name: str = "it") -> bool:
    """The value, which must be true or false."""
    return value if isinstance(value, bool) else _refuse(name, "true or false")


def member(value: object, key: str, default: object = None) -> object:
    """What an object has at a key, or the default. Raises UnreadableError if the key is absent and
    there is no default.
    """
    holder = as_mapping(value, f"what should hold '{key}'")
    if key not in holder and default is None:
        raise UnreadableError(f"'{key}' is missing")
    return holder.get(key, default)


def mapping(value: object, key: str) -> Json:
    """The object at a key of an object."""
    return as_mapping(member(value, key), key)


def items(value: object, key: str) -> list[object]:
    """The list at a key of an object."""
    return as_list(member(value, key), key)


def text(value: object, key: str, default: str | None = None) -> str:
    """The text at a key of an object; `default` if the key is absent."""
    return as_text(member(value, key, default), key)


def number(value: object, key: str, default: int | None = None) -> int:
    """The whole number at a key of an object; `default` if the key is absent."""
    return as_number(member(value, key, default), key)


def port(value: object, key: str, default: int | None = None) -> int:
    """The port number (0 to 65535) at a key of an object; `default` if the key is absent."""
    return as_number(member(value, key, default), key, LARGEST_PORT)


def flag(value: object, key: str, default: bool | None = None) -> bool:
    """The truth value at a key of an object; `default` if the key is absent."""
    return as_flag(member(value, key, default), key)


def encoded(value: object, key: str, default: str | None = None) -> bytes:
    """The bytes that the text at a key of an object holds in base64; those of `default` if the key
    is absent.
    """
    try:
        return base64.b64decode(text(value, key, default), validate=True)
    except ValueError:
        return _refuse(key, "base64")


def _refuse(name: str, expected: str) -> NoReturn:
    shown = name if " " in name or name == "it" else f"'{name}'"
    raise UnreadableError(f"{shown} is not {expected}")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
