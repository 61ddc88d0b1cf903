"""An image recipe: a folder with image.yaml and a tree `files/`, which is copied to the root of the
image.

base: base                       # the recipe to start from: the name of a shipped recipe, or a folder (./other)
packages: [nginx]                # Debian packages to install
commands: [nginx -t]             # shell commands that run in the image, after packages and files were installed
modules: [nf_tables]             # kernel modules that are loaded before the services start
disks: {data: /var/lib/app}      # data disks and their mount points; a blank disk gets a copy of the image's folder
memory: 512M                     # the memory of a VM if the vApp file does not say it
check: nginx -t                  # a shell command in the finished image; if it fails, the build fails
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, PlainValidator

from vcloud.data import images_dir, shipped_recipes
from vcloud.documents.field import Shape
from vcloud.documents.model import Kind, read_model
from vcloud.errors import ImageError, Problem, SpecError
from vcloud.spec.types import DISK_NAME, parse_local_path, parse_memory, parse_script

FORMAT = 2
"""Part of every digest. Increase it when the builder changes, so that all images are built again.
"""
ROOT_RECIPE = "base"
SAFE_MODE = 0o755
"""The permission bits that files in an image may have. The umask of a checkout decides whether
group and others may write a file, and the digest must not depend on it.
"""
SOURCES = ("guest", "initramfs", "power")
"""Folders of C sources in the folder of the root recipe. The programs are part of every image."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """A recipe. `disks`, `memory` and `modules` include those of its base."""

    name: str
    folder: Path
    base: Recipe | None
    packages: tuple[str, ...]
    commands: tuple[str, ...]
    modules: tuple[str, ...]
    disks: Mapping[str, str]
    memory: int
    """Bytes."""
    check: str

    def files(self) -> Iterator[tuple[str, Path]]:
        """All files and symbolic links of the tree `files/` in a fixed order: the path in the image
        without the leading slash, and the path here.

        Raises:
            ImageError: the tree contains something else. For example, a reader of a named pipe
                could wait for ever.
        """
        tree = self.folder / "files"
        for path in sorted(tree.rglob("*")):
            kind = path.lstat().st_mode
            if stat.S_ISLNK(kind) or stat.S_ISREG(kind):
                yield path.relative_to(tree).as_posix(), path
            elif not stat.S_ISDIR(kind):
                raise ImageError(
                    f"{path} is neither a file, nor a folder, nor a symbolic link",
                    "Remove it. If the image needs it, create it by a line in `commands`.",
                )


def load_recipe(folder: Path) -> Recipe:
    """The recipe in a folder, with its base.

    Raises:
        SpecError: image.yaml has problems. The error holds all of them.
        ImageError: the folder has no recipe, or the recipe cannot be read.
    """
    return _load(Path(os.path.realpath(folder)), ())


def digest(recipe: Recipe, packages: tuple[str, ...] = ()) -> str:
    """SHA-256, in hex, of everything that the image depends on. `packages` are the packages that a
    VM adds.
    """
    parts = {
        "format": FORMAT,
        "base": digest(recipe.base)
        if recipe.base
        else {name: _content(path) for name, path in _sources(recipe)},
        "name": recipe.name,
        "packages": recipe.packages,
        "added": sorted(packages),
        "commands": recipe.commands,
        "modules": recipe.modules,
        "disks": dict(recipe.disks),
        "memory": recipe.memory,
        "check": recipe.check,
        "files": [(name, mode_of(path), _content(path)) for name, path in recipe.files()],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def mode_of(path: Path) -> int:
    """The permission bits that a file gets in the image."""
    return path.lstat().st_mode & SAFE_MODE


def _sources(recipe: Recipe) -> Iterator[tuple[str, Path]]:
    for folder in SOURCES:
        for path in sorted((recipe.folder / folder).glob("*.[ch]")):
            yield f"{folder}/{path.name}", path


def _content(path: Path) -> str:
    if path.is_symlink():
        return f"-> {path.readlink()}"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _memory(value: object) -> int:
    return parse_memory(SIZE.parse(value))


PACKAGE: Final = Shape(
    r"[a-z0-9][a-z0-9+.-]*[a-z0-9+](?::[a-z0-9]+)?(?:=[0-9A-Za-z.+:~-]+)?",
    "is not a valid Debian package",
    "Write it in lower-case letters, for example nginx, libc6:amd64 or nginx=1.26.3-3.",
)
MODULE: Final = Shape(
    r"[a-zA-Z0-9_-]+",
    "is not a valid kernel module name",
    "Use letters, digits, '-' and '_', for example nf_tables.",
)
MOUNT: Final = Shape(
    r"(?:/[A-Za-z0-9_][A-Za-z0-9._-]*)+",
    "is not a valid path in a guest",
    "Write an absolute path of letters, digits and _ . - without '.' or '..' between slashes.",
)
SIZE: Final = Shape(r"[1-9][0-9]{0,7}[MG]", "is not a size", "Write a size such as 384M or 1G.")
Line = Annotated[str, PlainValidator(parse_script)]


class _File(BaseModel):
    """The content of image.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    base: Annotated[str, PlainValidator(parse_local_path)] = ROOT_RECIPE
    packages: list[Annotated[str, PACKAGE]] = Field(default_factory=list)
    commands: list[Line] = Field(default_factory=list)
    modules: list[Annotated[str, MODULE]] = Field(default_factory=list)
    disks: dict[Annotated[str, DISK_NAME], Annotated[str, MOUNT]] = Field(default_factory=dict)
    memory: Annotated[int, PlainValidator(_memory)] = 0
    """Bytes. 0: the memory of the base."""
    check: Line = "true"


_KIND: Final = Kind(_File, "base: base", may_be_empty=True)


def _load(folder: Path, seen: tuple[Path, ...]) -> Recipe:
    """Loads a recipe. `seen` are the recipes that have this one as their base, directly or through
    others.
    """
    path = folder / "image.yaml"
    if not path.is_file():
        raise ImageError(f"there is no image recipe in {folder}", _recipe_hint())
    written, line = _read(path)
    base = None if folder == images_dir() / ROOT_RECIPE else _base(folder, written.base, line, seen)
    return Recipe(
        name=folder.name,
        folder=folder,
        base=base,
        packages=tuple(written.packages),
        commands=tuple(written.commands),
        modules=tuple(dict.fromkeys([*(base.modules if base else ()), *written.modules])),
        disks=(dict(base.disks) if base else {}) | written.disks,
        memory=written.memory or (base.memory if base else 384 << 20),
        check=written.check,
    )


def _base(folder: Path, name: str, line: int, seen: tuple[Path, ...]) -> Recipe:
    """The base that a recipe names. `line` is the line of the name in image.yaml."""
    base_folder = Path(os.path.realpath(folder / name)) if "/" in name else images_dir() / name
    if base_folder in (*seen, folder):
        raise _base_problem(
            folder, line, f"the image recipe {base_folder} is its own base", "Choose another base."
        )
    if not (base_folder / "image.yaml").is_file():
        raise _base_problem(
            folder, line, f"there is no image recipe in {base_folder}", _recipe_hint()
        )
    return _load(base_folder, (*seen, folder))


def _base_problem(folder: Path, line: int, what: str, hint: str) -> SpecError:
    return SpecError((Problem(str(folder / "image.yaml"), line, "base", what, hint),))


def _recipe_hint() -> str:
    shipped = [folder.name for folder in shipped_recipes()]
    return f"A recipe is a folder with an image.yaml. Shipped recipes: {', '.join(shipped)}."


def _read(path: Path) -> tuple[_File, int]:
    """The content of an image.yaml, and the line of the base's name. Raises SpecError and
    ImageError.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(
            f"the image recipe {path} cannot be read: {error.strerror}", "Correct its permissions."
        ) from error
    reading = read_model(data, str(path), _KIND)
    return reading.sound(), reading.document.lines.get("base", 0)
