"""The packages of an image that are not Debian packages.

A command of a recipe may install packages from another source. It can list them in a file in
/usr/lib/vcloud/packages, with a line NAME=VERSION for each, for example:
`pip freeze | sed s/==/=/ >/usr/lib/vcloud/packages/pip`. Then `vcloud image refresh` notices when one
of them has another version.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from vcloud.errors import ImageError

FOLDER = "usr/lib/vcloud/packages"
LINE = re.compile(r"[A-Za-z0-9@][A-Za-z0-9+._:@/-]{0,199}=[A-Za-z0-9+._:~-]{1,199}")
LARGEST = 1 << 20
"""Bytes of one file."""


def other_packages(root: Path) -> Iterator[str]:
    """The lines of all files in `FOLDER` of an image's root. The folder need not exist.

    A symbolic link is not followed: its target would be a file of this machine.

    Raises ImageError for anything but a regular file, and for a line of another form.
    """
    folder = root / FOLDER
    if folder.parent.resolve() != root.resolve() / Path(FOLDER).parent:
        raise _refused(folder, "has a symbolic link in its path")
    try:
        top = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _refused(folder, f"is not a folder ({error.strerror})") from error
    try:
        for name in sorted(entry.name for entry in os.scandir(top)):
            yield from _lines(folder / name, _content(top, folder / name))
    finally:
        os.close(top)


def _content(top: int, path: Path) -> bytes:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        with os.fdopen(os.open(path.name, flags, dir_fd=top), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise _refused(path, "is not a regular file")
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise _refused(path, f"cannot be read ({error.strerror})") from error
    if len(content) > LARGEST:
        raise _refused(path, f"has more than {LARGEST >> 20} MiB")
    return content


def _lines(path: Path, content: bytes) -> Iterator[str]:
    for number, line in enumerate(content.decode(errors="replace").splitlines(), 1):
        if not LINE.fullmatch(line):
            raise _refused(path, f"has a line {number} that is not NAME=VERSION")
        yield line


def _refused(path: Path, what: str) -> ImageError:
    return ImageError(
        f"{path} {what}",
        "Correct the command of the recipe that writes it: a file with lines NAME=VERSION.",
    )
