"""Finds the folders that belong to the code but hold no Python: `templates/` and `images/`.

In a checkout they lie beside the package `vcloud`. In an installed wheel they lie inside it, in
`vcloud/_data/`.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_INSTALLED = _PACKAGE / "_data"


def templates_dir() -> Path:
    """The folder of jinja2 templates and starter files."""
    return _root() / "templates"


def images_dir() -> Path:
    """The folder of image recipes. Each recipe is a folder in it."""
    return _root() / "images"


def shipped_recipes() -> list[Path]:
    """The folders of the shipped image recipes, by name."""
    return sorted(path.parent for path in images_dir().glob("*/image.yaml"))


def shipped_profiles() -> list[Path]:
    """The files of the shipped profiles, one for each version."""
    return sorted((_PACKAGE / "profiles" / "shipped").glob("*.yaml"))


def _root() -> Path:
    return _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent
