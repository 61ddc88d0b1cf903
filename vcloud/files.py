"""Reads the files of a user: a vApp file, and the sources and images beside it.

The packages that judge documents read no files themselves. This module does it for them.
"""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from typing import Final

from vcloud.data import images_dir, shipped_recipes
from vcloud.documents.field import CONTENT_LENGTH, FieldError
from vcloud.documents.reader import LARGEST
from vcloud.errors import UsageError

STDIN: Final = "-"


def read_vapp_file(path: Path) -> bytes:
    """The bytes of a vApp file (`-` is stdin), cut off where a longer file is refused anyway.
    Raises UsageError.
    """
    if str(path) == STDIN:
        return sys.stdin.buffer.read(LARGEST + 1)
    try:
        with path.open("rb") as file:
            return file.read(LARGEST + 1)
    except OSError as error:
        raise UsageError(
            f"'{path}' cannot be read: {error.strerror}",
            "Name a vApp file, or make one: vcloud init.",
        ) from None


class Folder:
    """The folder of a vApp file, as `vcloud.spec.surroundings.Beside` describes it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()

    @property
    def recipes(self) -> frozenset[str]:
        return frozenset(folder.name for folder in shipped_recipes())

    def recipe_path(self, name: str) -> str:
        return str(images_dir() / name)

    def path(self, relative: str) -> str:
        return str(self.folder / relative)

    def is_file(self, path: str) -> bool:
        try:
            return stat.S_ISREG(Path(path).stat().st_mode)
        except OSError:
            return False

    def content(self, source: str) -> bytes:
        """The content of a regular file in the folder or below it, of at most 1 MiB. Raises
        FieldError.
        """
        try:
            return _content_below(self.folder, source)
        except OSError as error:
            raise FieldError(
                f"'{source}' cannot be read: {error.strerror}", "Paths are relative to this file."
            ) from None
        except _UnfitError as error:
            raise FieldError(
                f"'{source}' {error}", "Write the path of a file in the folder of the vApp file."
            ) from None


class _UnfitError(Exception):
    """A source that vcloud must not read. The message completes "'source' ..."."""


def _content_below(folder: Path, source: str) -> bytes:
    """The opened file itself is checked, so that nobody can exchange it between check and use.

    A pipe is opened without waiting for a writer, and the last part of the path is never followed
    as a link.
    """
    path = Path(os.path.realpath(folder / source, strict=True))
    if not path.is_relative_to(folder.resolve()):
        raise _UnfitError("leads to a file outside the folder of the vApp file")
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb") as opened:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _UnfitError("is not a regular file")
        content = opened.read(CONTENT_LENGTH + 1)
    if len(content) > CONTENT_LENGTH:
        raise _UnfitError(f"is larger than {CONTENT_LENGTH >> 20} MiB")
    return content
