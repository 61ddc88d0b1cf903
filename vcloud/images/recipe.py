"""An image recipe: the folder `images/NAME` with `image.yaml` and a tree `files/` that is copied to the image's root.

base: base                       # a shipped recipe's name, or a folder (./other); what the recipe starts from
packages: [nginx]                # Debian packages
commands: [nginx -t]             # run by a shell in the image, after packages and files
modules: [nf_tables]             # kernel modules that are loaded before anything runs
disks: {data: /var/lib/app}      # where a data disk of that name is mounted
memory: 512M                     # what a VM gets that does not say it
check: nginx -t                  # must succeed in the finished image, or the build fails
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError

from vcloud.data import images_dir
from vcloud.errors import ImageError, Problem, SpecError

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
        """Every file and link of the tree, as (path without leading slash, where it lies), in a stable order."""
        tree = self.folder / "files"
        for path in sorted(tree.rglob("*")):
            if path.is_symlink() or not path.is_dir():
                yield path.relative_to(tree).as_posix(), path


def load_recipe(folder: Path) -> Recipe:
    """The recipe in a folder, with its base.

    Raises SpecError with all problems of image.yaml, ImageError where there is no recipe.
    """
    return _load(folder.resolve(), ())


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


def _memory(value: object) -> object:
    match = re.fullmatch(r"([1-9]\d*)([MG])", value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("a size like 384M or 1G is wanted")
    return int(match[1]) << {"M": 20, "G": 30}[match[2]]


PACKAGE_PATTERN = r"^[a-z0-9][a-z0-9+.-]*[a-z0-9+](:[a-z0-9]+)?(=[0-9A-Za-z.+:~-]+)?$"
Package = Annotated[str, StringConstraints(pattern=PACKAGE_PATTERN)]
Line = Annotated[str, StringConstraints(min_length=1)]
Module = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_-]+$")]
DiskName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,19}$")]
MountPoint = Annotated[str, StringConstraints(pattern=r"^(/[A-Za-z0-9_][A-Za-z0-9._-]*)+$")]


class _File(BaseModel):
    """image.yaml as it is written."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    base: Line = ROOT_RECIPE
    packages: list[Package] = Field(default_factory=list)
    commands: list[Line] = Field(default_factory=list)
    modules: list[Module] = Field(default_factory=list)
    disks: dict[DiskName, MountPoint] = Field(default_factory=dict)
    memory: Annotated[int, BeforeValidator(_memory)] | None = None
    check: Line = "true"


def _load(folder: Path, seen: tuple[Path, ...]) -> Recipe:
    path = folder / "image.yaml"
    if not path.is_file():
        raise ImageError(
            f"there is no image recipe in {folder}", f"A recipe is a folder with an image.yaml; shipped ones: {', '.join(_shipped())}."
        )
    if folder in seen:
        raise ImageError(f"the image recipe {folder} is its own base", "Let `base` name another recipe.")
    written = _parse(path)
    base = None if folder == images_dir() / ROOT_RECIPE else _load(_base_folder(folder, written.base), (*seen, folder))
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


def _shipped() -> list[str]:
    return sorted(path.parent.name for path in images_dir().glob("*/image.yaml"))


def _base_folder(folder: Path, base: str) -> Path:
    return (folder / base).resolve() if "/" in base else images_dir() / base


def _parse(path: Path) -> _File:
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    except UnicodeDecodeError as error:
        raise SpecError((Problem(str(path), 0, "", "is not UTF-8 text"),)) from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise SpecError((Problem(str(path), line, "", f"is not YAML: {error.problem}"),)) from error
    try:
        return _File.model_validate({} if content is None else content)
    except ValidationError as error:
        lines = _lines(node)
        raise SpecError(tuple(_problem(path, lines, dict(detail)) for detail in error.errors())) from error


def _lines(node: Any) -> dict[str, int]:
    if not isinstance(node, yaml.MappingNode):
        return {}
    return {str(key.value): key.start_mark.line + 1 for key, _ in node.value}


def _problem(path: Path, lines: Mapping[str, int], detail: Mapping[str, Any]) -> Problem:
    location = [str(part) for part in detail["loc"]]
    key = location[0] if location else ""
    what, hint = str(detail["msg"]).removeprefix("Value error, "), ""
    if detail["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, _File.model_fields, n=1)
        what, hint = "unknown key", f"Did you mean `{near[0]}`?" if near else f"Known keys: {', '.join(_File.model_fields)}."
    return Problem(str(path), lines.get(key, 0), ".".join(location), what, hint)
