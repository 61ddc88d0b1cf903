"""Where programs of this machine are found."""

from __future__ import annotations

import os
import shutil
from typing import Final

SYSTEM_FOLDERS: Final = ("/usr/local/sbin", "/usr/sbin", "/sbin")
"""Folders of programs that the PATH of an ordinary user often lacks, such as ip."""


def search_path() -> str:
    """PATH, and after it the folders of the system."""
    return os.pathsep.join([os.environ.get("PATH", ""), *SYSTEM_FOLDERS])


def find_program(name: str) -> str | None:
    """The path of a program of this machine, also if it is where only root looks for it."""
    return shutil.which(name, path=search_path())
