"""Files that a build takes out of an image.

A program of the image packs them, and commands of a recipe may have replaced that program. What it
prints is read outside of the jail. Python's `tarfile` would trust it too much: it keeps every member in
memory, reads headers of any size, and believes negative sizes. So this module reads the archive
itself. It knows only the plain form of an archive (ustar, see tar(5)), whose headers have 512 bytes.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Final

from vcloud.errors import ImageError

ARCHIVE_FORMAT: Final = "--format=ustar"
"""The option by which tar writes such an archive."""
LARGEST_TAKEN: Final = 1 << 30
"""Bytes of files that the build may take out of an image at a time."""
MOST_TAKEN: Final = 4096
"""Members of one archive."""
LARGEST_TEXT: Final = 8 << 20
"""Bytes of a list or of a small program that the build reads into memory. The longest list of a real
image, that of the kernel's modules, has 2 MiB.
"""
_BLOCK: Final = 512
_CHUNK: Final = 1 << 20
_MAGIC: Final = b"ustar\x0000"
_NUMBER: Final = re.compile(rb"[0-7]{1,12}")
_REGULAR: Final = b"0"
_EMPTY: Final = frozenset({b"1", b"2", b"3", b"4", b"5", b"6"})
"""Links, devices, folders and pipes, which have no content in an archive."""


@dataclass(frozen=True, slots=True)
class _Member:
    name: PurePosixPath
    kind: bytes
    size: int
    at: int
    """Where its content begins."""


def unpack_files(archive: IO[bytes], target: Path) -> None:
    """Unpacks the regular files of an archive, which may be hostile. Raises ImageError for a name
    that leads out of `target`, and for an archive that cannot be read.
    """
    try:
        for member in _members(archive):
            if member.name.is_absolute() or ".." in member.name.parts:
                raise ImageError(
                    f"the archive of files from the image has the name {str(member.name)!r}, which leads out of the image",
                    "Correct the commands of the recipe.",
                )
            if member.kind == _REGULAR:
                _copy(archive, member, target / member.name)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        raise ImageError(
            f"the archive of files from the image cannot be read: {error}",
            "Correct the commands of the recipe: they may have replaced tar or files of the kernel.",
        ) from error


def content_of(path: Path, largest: int = LARGEST_TEXT) -> bytes:
    """The content of a file that was taken out of an image. Raises OSError; ImageError if it has more
    than `largest` bytes.
    """
    with path.open("rb") as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise too_large(path.name, largest)
    return content


def too_large(name: str, largest: int) -> ImageError:
    return ImageError(
        f"the file {name} of the image has more than {largest >> 20} MiB",
        "Correct the commands of the recipe.",
    )


def _members(archive: IO[bytes]) -> Iterator[_Member]:
    """The members up to the empty block that ends the archive. Raises ValueError."""
    left, at = LARGEST_TAKEN, 0
    for _ in range(MOST_TAKEN):
        archive.seek(at)
        header = archive.read(_BLOCK)
        if len(header) < _BLOCK:
            raise ValueError("it ends too early")
        if not any(header):
            return
        member = _member(header, at + _BLOCK)
        left -= member.size
        if left < 0:
            raise ValueError(f"it has more than {LARGEST_TAKEN >> 30} GiB")
        yield member
        at = member.at + -(-member.size // _BLOCK) * _BLOCK
    raise ValueError(f"it has more than {MOST_TAKEN} members")


def _member(header: bytes, at: int) -> _Member:
    # Offsets of the fields: name 0, size 124, checksum 148, type 156, magic 257, prefix of the name 345.
    kind, size = header[156:157], _number(header[124:136])
    # The checksum counts its own field as spaces.
    stated = header[148:156]
    if header[257:265] != _MAGIC or _number(stated) != sum(header) - sum(stated) + 8 * ord(" "):
        raise ValueError("it is no archive of tar")
    if kind != _REGULAR and (kind not in _EMPTY or size):
        raise ValueError("it has a member that is neither a file nor empty")
    parts = [part for part in (_text(header[345:500]), _text(header[:100])) if part]
    return _Member(PurePosixPath("/".join(parts)), kind, size, at)


def _number(field: bytes) -> int:
    digits = field.strip(b"\0 ")
    if not _NUMBER.fullmatch(digits):
        raise ValueError("it has a wrong number")
    return int(digits, 8)


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode(errors="surrogateescape")


def _copy(archive: IO[bytes], member: _Member, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    archive.seek(member.at)
    left = member.size
    with path.open("wb") as copy:
        while left:
            block = archive.read(min(left, _CHUNK))
            if not block:
                raise ValueError("it ends too early")
            copy.write(block)
            left -= len(block)
