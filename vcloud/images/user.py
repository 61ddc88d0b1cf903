"""A user's own qcow2 image. It is copied or downloaded into the cache, and used only if its
checksum is right.

Such an image boots with its own boot loader, and cloud-init configures it.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import http.client
import os
import stat
from collections.abc import Callable, Generator
from contextlib import closing
from io import BufferedReader
from pathlib import Path

from vcloud.errors import ImageError
from vcloud.images.cache import Cache, Image, default_cache, plain_name
from vcloud.images.description import Description
from vcloud.images.download import BLOCK_BYTES, PACE, Pace, TooSlowError, blocks
from vcloud.images.qcow2 import HEADER_BYTES, fault_of

SIZE_LIMIT = 64 << 30
"""Bytes. A download that never ends must not fill the disk."""


def source_digest(source: str, sha256: str) -> str:
    """The digest of the image: the stated SHA-256 or, if none is stated for a file, that of the
    file's content.

    Raises ImageError for a file that cannot be read.
    """
    if sha256:
        return sha256
    with _open_file(source) as content:
        found = os.fstat(content.fileno())
    # ctime is part of the version, because a program can set back mtime but not ctime.
    version = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return _file_digest(source, version)


@functools.lru_cache(maxsize=64)
def _file_digest(source: str, _version: tuple[int, ...]) -> str:
    """The digest of a file. It is cached, because one command asks for it several times, and the
    file may have gigabytes. A changed file has another `_version`, and is read again.
    """
    try:
        with _open_file(source) as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise ImageError(
            f"the image {source} cannot be read: {error.strerror}", "Copy it to another disk."
        ) from error


def image_name(source: str) -> str:
    """The name of a user's image in the cache and on hosts, made from its path or address."""
    return plain_name(Path(source).name.removesuffix(".qcow2"))


def fetch(
    source: str,
    sha256: str,
    progress: Callable[[str], None] = lambda _: None,
    *,
    cache: Cache | None = None,
    largest: int = SIZE_LIMIT,
    pace: Pace = PACE,
) -> Image:
    """The image of a file or an https address: from the cache, or copied to the cache now.
    `largest` is in bytes.

    Raises ImageError if the image cannot be read, has another checksum, or is not a qcow2 in one
    file. Then no part of it is kept.
    """
    cache = cache or default_cache()
    key = source_digest(source, sha256)
    name = image_name(source)

    def make(folder: Path) -> Description:
        disk = folder / "disk.qcow2"
        content = blocks(source, pace) if source.startswith("https://") else _file_blocks(source)
        found = _copy(content, source, disk, progress, largest)
        if found != key:
            hint = f"The expected checksum is {key}, but the image has {found}. Ask the publisher, or correct sha256."
            raise ImageError(f"the image {source} has the wrong checksum and was deleted", hint)
        _check_qcow2(disk, source)
        return Description(name, key, content=key, source=source)

    return cache.fill(name, key, make, progress)


def _copy(
    content: Generator[bytes],
    source: str,
    target: Path,
    progress: Callable[[str], None],
    largest: int,
) -> str:
    """Copies the image and returns the SHA-256 of the copied bytes."""
    checksum, done, reported = hashlib.sha256(), 0, -1
    try:
        with closing(content), target.open("wb") as copy:
            for block in content:
                done += len(block)
                if done > largest:
                    raise ImageError(
                        f"the image {source} has more than {largest >> 30} GiB",
                        "Use a smaller image.",
                    )
                checksum.update(block)
                copy.write(block)
                # Once per 32 MiB.
                if done >> 25 != reported:
                    reported = done >> 25
                    progress(
                        f"{target.parent.name.partition('.partial')[0]}: {done >> 20} MiB read"
                    )
    except (OSError, http.client.HTTPException) as error:
        hint = (
            "Free some space, or set VCLOUD_CACHE_DIR to a folder on a larger disk."
            if isinstance(error, OSError) and error.errno == errno.ENOSPC
            else "Download it with another program, and name the file."
            if isinstance(error, TooSlowError)
            else "Check the address and try again."
        )
        raise ImageError(f"the image {source} cannot be read: {error}", hint) from error
    return checksum.hexdigest()


def _file_blocks(path: str) -> Generator[bytes]:
    with _open_file(path) as content:
        while block := content.read(BLOCK_BYTES):
            yield block


def _open_file(path: str) -> BufferedReader:
    """Opens a regular file. The check is made on the opened file, so that nobody can replace the
    file between check and use.
    """
    hint = "Correct the path of the image."
    try:
        # With O_NONBLOCK, opening a pipe does not wait for a writer.
        opened = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb")
    except OSError as error:
        raise ImageError(f"the image {path} cannot be read: {error.strerror}", hint) from error
    if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
        opened.close()
        raise ImageError(f"the image {path} is not a regular file", hint)
    return opened


def _check_qcow2(disk: Path, source: str) -> None:
    with disk.open("rb") as content:
        header = content.read(HEADER_BYTES)
        size = os.fstat(content.fileno()).st_size
    if fault := fault_of(header, size):
        what, hint = fault
        raise ImageError(f"the image {source} {what}", hint)
