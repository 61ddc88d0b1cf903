"""Where the secrets of a document come from, and where they may stand.

A secret is a value that the document does not hold itself: `${env:NAME}`, `${file:PATH}`, or a
parameter that is declared as `{secret: true}`. The kind of document decides where a secret may
stand. Everywhere else it is refused, so that it cannot get into a message, a name or a record.
"""

from __future__ import annotations

import re
from typing import Final, Protocol

from vcloud.documents.field import FieldError, shown

SECRET: Final = {"secret": True}
"""How a document declares a parameter whose value is a secret."""
STAND_IN: Final = "(secret)"
"""Stands in a document for a secret that the command does not need."""
PLACE_HINT: Final = "Write it into the content of a file, and let commands read that file."
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")


class Secrets(Protocol):
    """The secrets of one kind of document."""

    @property
    def needed(self) -> bool:
        """Whether the command needs their values. Otherwise STAND_IN stands for each."""

    def may_stand(self, path: str) -> bool:
        """Whether a secret may stand at this dotted path."""

    def is_recorded(self, path: str) -> bool:
        """Whether records hold the text at this dotted path as it is."""

    def variable(self, name: str) -> str:
        """The value of an environment variable. Raises FieldError."""

    def file(self, path: str) -> str:
        """The text of a file. Raises FieldError."""


def is_secret(declared: object) -> bool:
    """Whether a parameter is declared as a secret. The model refuses every other mapping."""
    return isinstance(declared, dict)


def names_secret(reference: str) -> bool:
    """Whether a reference is `env:NAME` or `file:PATH`, and not the name of a parameter."""
    kind, colon, _ = reference.partition(":")
    return bool(colon) and kind in ("env", "file")


def read_secret(reference: str, secrets: Secrets) -> str:
    """The secret that `env:NAME` or `file:PATH` names, or STAND_IN. Raises FieldError."""
    kind, _, name = reference.partition(":")
    if kind == "env" and not _VARIABLE.fullmatch(name):
        raise FieldError(
            f"'{shown(name)}' is not the name of an environment variable",
            "Write it like ${env:DB_PASSWORD}.",
        )
    if not secrets.needed:
        return STAND_IN
    return secrets.variable(name) if kind == "env" else secrets.file(name)
