"""An image recipe: a folder with image.yaml and a tree `files/`, which is copied to the root of the
image.

base: base                       # the recipe to start from: the name of a shipped recipe, or a folder (./other)
packages: [nginx]                # Debian packages to install
commands: [nginx -t]             # shell commands that run in the image, after packages and files were installed
modules: [nf_tables]             # kernel modules that are loaded before the services start
disks: {data: /var/lib/app}      # data disks and their mount points; a blank disk gets a copy of the image's folder
reload: {nginx: [/etc/nginx]}    # systemd units that are reloaded when a file of the vApp changes there
restart: {api: [/etc/api.conf]}  # units that are restarted then; of several folders the innermost counts
memory: 512M                     # the memory of a VM if the vApp file does not say it
check: nginx -t                  # a shell command in the finished image; if it fails, the build fails

Commands run as root in the image, but have no rights on this machine, see `vcloud.images`. They reach
public addresses by HTTP and HTTPS, through the proxy that their environment names. A command that
installs other packages than Debian's lists them in /usr/lib/vcloud/packages
(`vcloud.images.other_packages`).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, PlainValidator

from vcloud.data import images_dir, shipped_recipes
from vcloud.documents.field import Shape
from vcloud.documents.model import Kind, read_model
from vcloud.documents.reader import LARGEST
from vcloud.errors import ImageError, Problem, SpecError
from vcloud.images.cache import plain_name
from vcloud.images.tree import Entry, entries
from vcloud.spec.types import DISK_NAME, parse_local_path, parse_memory, parse_script, parse_unit

FORMAT = 3
"""Part of every digest. Increase it when the builder changes, so that all images are built again.
"""
ROOT_RECIPE = "base"
SOURCES = ("guest", "initramfs", "power")
"""Folders of C sources in the folder of the root recipe. The programs are part of every image."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """A recipe. `disks`, `memory`, `modules`, `reload` and `restart` include those of its base."""

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
    reload: Mapping[str, tuple[str, ...]]
    """systemd unit -> files and folders. The unit is reloaded when a file of the vApp changes
    there. The digest of the image does not cover this.
    """
    restart: Mapping[str, tuple[str, ...]]
    """The same for units that are restarted."""

    def files(self) -> Iterator[Entry]:
        """All files and symbolic links of the tree `files/`. Raises ImageError, see
        `vcloud.images.tree.entries`.
        """
        return entries(self.folder)


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
        "files": [(entry.name, entry.mode, entry.fingerprint()) for entry in recipe.files()],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _sources(recipe: Recipe) -> Iterator[tuple[str, Path]]:
    for folder in SOURCES:
        for path in sorted((recipe.folder / folder).glob("*.[ch]")):
            yield f"{folder}/{path.name}", path


def _content(path: Path) -> str:
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
SIZE: Final = Shape(
    r"[1-9][0-9]{0,7}[MG](?:i?B)?", "is not a size", "Write a size such as 384M or 1G."
)
Line = Annotated[str, PlainValidator(parse_script)]
Unit = Annotated[str, PlainValidator(parse_unit)]


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
    reload: dict[Unit, list[Annotated[str, MOUNT]]] = Field(default_factory=dict)
    restart: dict[Unit, list[Annotated[str, MOUNT]]] = Field(default_factory=dict)


_KIND: Final = Kind(_File, "base: base", may_be_empty=True)


def _load(folder: Path, seen: tuple[Path, ...]) -> Recipe:
    """Loads a recipe. `seen` are the recipes that have this one as their base, directly or through
    others.
    """
    path = folder / "image.yaml"
    if not path.is_file():
        raise ImageError(f"there is no image recipe in {folder}", _recipe_hint())
    if not Path(os.path.realpath(path)).is_relative_to(folder):
        raise ImageError(
            f"{path} is a symbolic link that leads out of the recipe's folder",
            "Copy the file into the folder.",
        )
    written, line = _read(path)
    # Only the root recipe has no base.
    base = None if folder == images_dir() / ROOT_RECIPE else _base(folder, written.base, line, seen)
    return Recipe(
        name=plain_name(folder.name),
        folder=folder,
        base=base,
        packages=tuple(written.packages),
        commands=tuple(written.commands),
        modules=tuple(dict.fromkeys([*(base.modules if base else ()), *written.modules])),
        disks=(dict(base.disks) if base else {}) | written.disks,
        memory=written.memory or (base.memory if base else 384 << 20),
        check=written.check,
        reload=_readers(base.reload if base else {}, written.reload),
        restart=_readers(base.restart if base else {}, written.restart),
    )


def _readers(
    before: Mapping[str, tuple[str, ...]], more: Mapping[str, list[str]]
) -> dict[str, tuple[str, ...]]:
    """Units with the files that they read: those of the base, and those that a recipe adds."""
    return {
        unit: (*before.get(unit, ()), *more.get(unit, ()))
        for unit in dict.fromkeys([*before, *more])
    }


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
        with path.open("rb") as file:
            # A longer file is refused.
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise ImageError(
            f"the image recipe {path} cannot be read: {error.strerror}", "Correct its permissions."
        ) from error
    reading = read_model(data, str(path), _KIND)
    return reading.sound(), reading.document.lines.get("base", 0)
