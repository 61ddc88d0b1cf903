"""An image recipe: the folder `images/NAME` with `image.yaml` and a tree `files/` that is copied to the image's root.

base: base                       # a shipped recipe's name, or a folder (./other); what the recipe starts from
packages: [nginx]                # Debian packages
commands: [nginx -t]             # run by a shell in the image, after packages and files
modules: [nf_tables]             # kernel modules that are loaded before anything runs
disks: {data: /var/lib/app}      # where a data disk of that name is mounted; a blank one begins with what the image has there
memory: 512M                     # what a VM gets that does not say it
check: nginx -t                  # must succeed in the finished image, or the build fails
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError

from vcloud.data import images_dir
from vcloud.documents.document import read_document
from vcloud.documents.field import matching
from vcloud.documents.problems import problems_in
from vcloud.errors import ImageError, Problem, SpecError
from vcloud.spec.types import parse_disk_name, parse_local_path, parse_memory, parse_script

FORMAT = 2
"""Raised when the same recipe must be built anew because the builder changed."""
ROOT_RECIPE = "base"
SAFE_MODE = 0o755
"""Group and others never get write permission: the digest must not depend on the umask of a checkout."""
SOURCES = ("guest", "initramfs", "power")
"""Folders of C sources beside the root recipe's image.yaml."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """A recipe with its base; `disks`, `memory` and `modules` hold what the base gives, too."""

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
        """Every file and link of the tree, as (path without leading slash, where it lies), in a stable order.

        Raises ImageError for what is neither: to read a pipe or a device may take for ever.
        """
        tree = self.folder / "files"
        for path in sorted(tree.rglob("*")):
            kind = path.lstat().st_mode
            if stat.S_ISLNK(kind) or stat.S_ISREG(kind):
                yield path.relative_to(tree).as_posix(), path
            elif not stat.S_ISDIR(kind):
                raise ImageError(f"{path} is neither a file nor a folder nor a link", "Remove it, or make it by a line in `commands`.")


def load_recipe(folder: Path) -> Recipe:
    """The recipe in a folder, with its base.

    Raises SpecError with all problems of image.yaml, ImageError where there is no recipe.
    """
    return _load(Path(os.path.realpath(folder)), ())


def digest(recipe: Recipe, packages: tuple[str, ...] = ()) -> str:
    """SHA-256 of all that goes into the image, in hex; `packages` are those that a VM adds."""
    parts = {
        "format": FORMAT,
        "base": digest(recipe.base) if recipe.base else {name: _content(path) for name, path in _sources(recipe)},
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


PACKAGE_PATTERN = r"[a-z0-9][a-z0-9+.-]*[a-z0-9+](?::[a-z0-9]+)?(?:=[0-9A-Za-z.+:~-]+)?"
MODULE_PATTERN = r"[a-zA-Z0-9_-]+"
MOUNT_PATTERN = r"(?:/[A-Za-z0-9_][A-Za-z0-9._-]*)+"
SIZE_PATTERN = r"[1-9][0-9]{0,7}[MG]"


def _memory(value: object) -> int:
    return parse_memory(matching(value, SIZE_PATTERN, "a size", "Write it like 384M or 1G."))


def _restricted(pattern: str, called: str, wanted: str) -> PlainValidator:
    return PlainValidator(lambda value: matching(value, pattern, called, wanted))


Folder = Annotated[str, PlainValidator(parse_local_path)]
Package = Annotated[
    str, _restricted(PACKAGE_PATTERN, "a Debian package", "Write it like nginx, libc6:amd64 or nginx=1.26.3-3, in small letters.")
]
Line = Annotated[str, PlainValidator(parse_script)]
Module = Annotated[str, _restricted(MODULE_PATTERN, "the name of a kernel module", "Letters, digits, '-' and '_', for example nf_tables.")]
DiskName = Annotated[str, PlainValidator(parse_disk_name)]
MountPoint = Annotated[
    str,
    _restricted(MOUNT_PATTERN, "a path for a guest", "Write an absolute path of letters, digits and _ . - without '.' or '..' as a part."),
]


class _File(BaseModel):
    """image.yaml as it is written."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    base: Folder = ROOT_RECIPE
    packages: list[Package] = Field(default_factory=list)
    commands: list[Line] = Field(default_factory=list)
    modules: list[Module] = Field(default_factory=list)
    disks: dict[DiskName, MountPoint] = Field(default_factory=dict)
    memory: Annotated[int, PlainValidator(_memory)] = 0
    """Bytes; 0: what the base says."""
    check: Line = "true"


def _load(folder: Path, seen: tuple[Path, ...]) -> Recipe:
    path = folder / "image.yaml"
    if not path.is_file():
        raise ImageError(f"there is no image recipe in {folder}", _recipe_hint())
    written, line = _parse(path)
    base = None
    if folder != images_dir() / ROOT_RECIPE:
        there = _base_folder(folder, written.base)
        if there in (*seen, folder):
            what = f"the image recipe {there} is its own base"
            raise SpecError((Problem(str(path), line, "base", what, "Let it name another recipe."),))
        if not (there / "image.yaml").is_file():
            raise SpecError((Problem(str(path), line, "base", f"there is no image recipe in {there}", _recipe_hint()),))
        base = _load(there, (*seen, folder))
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


def _recipe_hint() -> str:
    shipped = sorted(path.parent.name for path in images_dir().glob("*/image.yaml"))
    return f"A recipe is a folder with an image.yaml; shipped ones: {', '.join(shipped)}."


def _base_folder(folder: Path, base: str) -> Path:
    return Path(os.path.realpath(folder / base)) if "/" in base else images_dir() / base


def _parse(path: Path) -> tuple[_File, int]:
    """What is written, and the line of its base. Raises SpecError, ImageError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"the image recipe {path} cannot be read: {error.strerror}", "Correct its permissions.") from error
    document = read_document(data, str(path), begins="base: base", may_be_empty=True)
    try:
        written = _File.model_validate(document.tree)
    except ValidationError as error:
        raise SpecError((*document.problems, *problems_in(error.errors(include_url=False), document, _File))) from error
    if document.problems:
        raise SpecError(tuple(document.problems))
    return written, document.lines.get("base", 0)
