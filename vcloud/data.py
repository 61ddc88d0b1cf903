"""Finds the folders that ship beside the code: `templates/` and `images/`.

In a checkout they lie next to the package; a wheel carries them inside it, in `_data/`.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_INSTALLED = _PACKAGE / "_data"


def templates_dir() -> Path:
    """The folder of jinja2 templates."""
    return _root() / "templates"


def images_dir() -> Path:
    """The folder of image recipes, one folder each."""
    return _root() / "images"


def _root() -> Path:
    return _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent
