"""The values of parameters, as records and messages may have them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Source(StrEnum):
    """Where the value of a parameter comes from."""

    DEFAULT = "the file"
    OPTION = "-P"
    FILE = "--param-file"


@dataclass(frozen=True, slots=True)
class Parameter:
    """The value of a parameter that is no secret, as a record may keep it."""

    name: str
    value: str | None
    """As `-P` takes it. None where the value stands in a text that is never recorded: nobody can say
    that it is no secret.
    """
    source: Source
