"""Why a part of a design exists: a line of the vApp file asked for it, a control of a profile did,
or every vApp has it.

Only the design and the manifest hold origins. Text that is loaded into an appliance or a guest
carries the stable id of a flow, a detector or a control instead. So a new comment line, another
name of the file, or a new version of a profile that asks for the same thing changes no loaded text
and reloads nothing. Code that prints an event or an error of nft or Suricata finds the origin by
the id.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal


@dataclass(frozen=True, slots=True)
class FromFile:
    """A line of the vApp file."""

    file: str
    """The file's name without its folder, as printable text."""
    line: int
    kind: Literal["file"] = "file"
    """Tells the origins apart where they are stored."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class FromControl:
    """A control of a profile, in one version of the profile."""

    profile: str
    version: str
    control: str
    kind: Literal["control"] = "control"

    def __str__(self) -> str:
        return f"{self.profile}@{self.version} {self.control}"


@dataclass(frozen=True, slots=True)
class Product:
    """vcloud itself: every vApp has it, or it follows from something else in the vApp."""

    kind: Literal["product"] = "product"

    def __str__(self) -> str:
        return "vcloud"


Origin = FromFile | FromControl | Product


def printable_name(path: str) -> str:
    """The name of a file without its folder, as messages and the manifest can hold it: on one line,
    and encodable as UTF-8.
    """
    name = PurePath(path).name
    return "".join(character if character.isprintable() else "_" for character in name)


def file_line(path: str, line: int) -> FromFile:
    """A line of the vApp file at a path."""
    return FromFile(printable_name(path), line)
