"""Reads the files of a user: a vApp file, and the sources and images beside it.

The packages that judge documents read no files themselves. This module does it for them.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from vcloud.data import images_dir, shipped_recipes
from vcloud.documents.field import CONTENT_LENGTH, FieldError
from vcloud.documents.given import FromFile, read_values
from vcloud.documents.reader import LARGEST
from vcloud.errors import UsageError
from vcloud.images.qcow2 import HEADER_BYTES, disk_size

STDIN: Final = "-"
IMAGE_FOLDERS: Final = "VCLOUD_IMAGE_FOLDERS"
"""The environment variable that names more folders from which a vApp file may take images, with `:`
between them.
"""
SECRET_FOLDERS: Final = "VCLOUD_SECRET_FOLDERS"  # noqa: S105 - the name of a variable
"""The same for folders whose files a vApp file may name as secrets."""
SECRET_VARIABLES: Final = "VCLOUD_SECRET_VARIABLES"  # noqa: S105 - the name of a variable
"""The environment variable that names those that a vApp file may read, with `:` between them."""


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
    """What lies beside a vApp file. Relative and empty entries of the variables for folders count for
    nothing: they would mean another folder for each folder in which vcloud is called.
    """
    allowed = environment.get(SECRET_VARIABLES, "").split(":")
    return Folder(
        file.parent,
        _folders(environment, IMAGE_FOLDERS),
        _folders(environment, SECRET_FOLDERS),
        {name: environment.get(name) for name in allowed if name},
    )


def _folders(environment: Mapping[str, str], variable: str) -> tuple[Path, ...]:
    named = map(Path, environment.get(variable, "").split(":"))
    return tuple(folder for folder in named if folder.is_absolute())


def read_parameter_file(path: Path) -> dict[str, FromFile]:
    """The values of a parameter file. Raises UsageError where it cannot be read, SpecError where it
    has problems.
    """
    try:
        with path.open("rb") as opened:
            others_read = bool(os.fstat(opened.fileno()).st_mode & (stat.S_IRGRP | stat.S_IROTH))
            data = opened.read(LARGEST + 1)
    except OSError as error:
        raise UsageError(
            f"the parameter file '{path}' cannot be read: {error.strerror}",
            "Name a YAML file with a line 'name: value' for each parameter.",
        ) from None
    return read_values(data, str(path), others_read=others_read)


class Folder:
    """The folder of a vApp file, as `vcloud.spec.surroundings.Beside` describes it. `image_folders`
    and `secret_folders` are further folders from which the operator allows it to take images and
    secrets; `variables` are those of the environment that it may read, None for one that is not set.
    """

    def __init__(
        self,
        folder: Path,
        image_folders: tuple[Path, ...] = (),
        secret_folders: tuple[Path, ...] = (),
        variables: Mapping[str, str | None] = MappingProxyType({}),
    ) -> None:
        self.folder = folder.absolute()
        self._image_folders = image_folders
        self._secret_folders = secret_folders
        self._variables = variables

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

    def disk_size(self, path: str) -> int:
        """The size in bytes of the disk in the qcow2 at an absolute path; 0 if it is not known."""
        if not self.is_file(path):
            return 0
        try:
            with Path(path).open("rb") as opened:
                return disk_size(opened.read(HEADER_BYTES))
        except OSError:
            return 0

    def contains(self, path: str) -> bool:
        """Whether an absolute path lies in the folder, after all symbolic links were followed."""
        return Path(os.path.realpath(path)).is_relative_to(self.folder.resolve())

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
            return _content_below(self.folder, self.folder / source)
        except OSError as error:
            raise FieldError(
                f"'{source}' cannot be read: {error.strerror}", "Paths are relative to this file."
            ) from None
        except _UnfitError as error:
            raise FieldError(
                f"'{source}' {error}", "Write the path of a file in the folder of the vApp file."
            ) from None

    def secret(self, path: str) -> bytes:
        """The content of a regular file of at most 1 MiB: in the folder or below it, or in one of the
        folders that the operator allows. Raises FieldError.
        """
        wanted = self.folder / path
        folders = (self.folder, *self._secret_folders)
        inside = [
            one for one in folders if Path(os.path.realpath(wanted)).is_relative_to(one.resolve())
        ]
        if not inside:
            raise FieldError(
                f"'{path}' leads out of the folder of the vApp file",
                f"Copy the secret into this folder, or allow its folder: export {SECRET_FOLDERS}=/run/secrets.",
            )
        try:
            return _content_below(inside[0], wanted)
        except OSError as error:
            raise FieldError(
                f"'{path}' cannot be read: {error.strerror}", "Paths are relative to this file."
            ) from None
        except _UnfitError as error:
            raise FieldError(f"'{path}' {error}", "Write the path of a file.") from None

    def variable(self, name: str) -> str:
        """The value of an environment variable that the operator lets vApp files read. Raises
        FieldError.
        """
        if name not in self._variables:
            raise FieldError(
                f"this file wants the environment variable {name}, and you have not allowed it",
                f"If you trust the file with it: export {SECRET_VARIABLES}={name} (several with ':' between them).",
            )
        value = self._variables[name]
        if value is None:
            raise FieldError(f"the environment variable {name} is not set", f"export {name}=...")
        return value


class _UnfitError(Exception):
    """A source that vcloud must not read. The message completes "'source' ..."."""


def _content_below(folder: Path, wanted: Path) -> bytes:
    """The opened file itself is checked, so that nobody can exchange it between check and use.

    A pipe is opened without waiting for a writer, and the last part of the path is never followed
    as a link.
    """
    path = Path(os.path.realpath(wanted, strict=True))
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
