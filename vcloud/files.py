"""Reads the files of a user: a vApp file, and the sources and images beside it.

The packages that judge documents read no files themselves. This module does it for them.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from vcloud.data import images_dir, shipped_recipes
from vcloud.documents.field import CONTENT_LENGTH, FieldError
from vcloud.documents.reader import LARGEST
from vcloud.errors import UsageError

STDIN: Final = "-"
IMAGE_FOLDERS: Final = "VCLOUD_IMAGE_FOLDERS"
"""The environment variable that names more folders from which a vApp file may take images, with `:`
between them.
"""


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


def beside(file: Path, environment: Mapping[str, str] = os.environ) -> Folder:
    """What lies beside a vApp file. Relative and empty entries of VCLOUD_IMAGE_FOLDERS count for
    nothing: they would mean another folder for each folder in which vcloud is called.
    """
    named = map(Path, environment.get(IMAGE_FOLDERS, "").split(":"))
    return Folder(file.parent, tuple(folder for folder in named if folder.is_absolute()))


class Folder:
    """The folder of a vApp file, as `vcloud.spec.surroundings.Beside` describes it. `image_folders`
    are further folders from which the operator allows it to take images.
    """

    def __init__(self, folder: Path, image_folders: tuple[Path, ...] = ()) -> None:
        self.folder = folder.absolute()
        self._image_folders = image_folders

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

    def allows_image(self, path: str) -> bool:
        """Whether a file or folder lies in the vApp file's folder, in one that the operator allows,
        or among the shipped recipes, after all symbolic links were followed.
        """
        real = Path(os.path.realpath(path))
        allowed = (self.folder, *self._image_folders, images_dir())
        return any(real.is_relative_to(folder.resolve()) for folder in allowed)

    def yaml_files(self, folder: str) -> list[str]:
        """The paths of the YAML files in a folder below this one, relative to this one."""
        found = sorted((self.folder / folder).glob("*.yaml"))
        return [str(path.relative_to(self.folder)) for path in found]

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
    # O_NONBLOCK: the open of a pipe does not wait for a writer. O_NOFOLLOW: the path was resolved
    # above, so a link here is new.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb") as opened:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _UnfitError("is not a regular file")
        # One byte more than allowed shows that the file is too large.
        content = opened.read(CONTENT_LENGTH + 1)
    if len(content) > CONTENT_LENGTH:
        raise _UnfitError(f"is larger than {CONTENT_LENGTH >> 20} MiB")
    return content
