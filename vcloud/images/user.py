"""A user's own qcow2: copied or downloaded into the cache, and used only if its checksum is right.

Such an image boots with its own boot loader, and cloud-init configures it.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import re
import struct
import urllib.error
import urllib.request
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path
from typing import IO

from vcloud.errors import ImageError
from vcloud.images.cache import Cache, Description, Image, default_cache

BLOCK_BYTES = 1 << 20
TIMEOUT = 60
"""Seconds without a received byte, after which a download fails."""
SIZE_LIMIT = 64 << 30
"""Bytes. A download that never ends must not fill the disk."""
QCOW2_MAGIC = b"QFI\xfb"
HEADER = ">4sIQ"
"""Magic, version, offset of the backing file's name. See docs/interop/qcow2.txt in QEMU's source.
"""
FEATURES_OFFSET = 72
"""Where version 3 has the bits of the incompatible features."""
EXTERNAL_DATA = 1 << 2
"""A bit of the incompatible features: the data of the guest are in another file."""


def source_digest(source: str, sha256: str) -> str:
    """The digest of the image: the stated SHA-256 or, if none is stated for a file, that of the
    file's content.

    Raises ImageError for a file that cannot be read.
    """
    if sha256:
        return sha256
    with _open_file(source) as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def image_name(source: str) -> str:
    """The name of a user's image in the cache and on hosts, made from its path or address."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", Path(source).name.removesuffix(".qcow2"))


def fetch(
    source: str,
    sha256: str,
    progress: Callable[[str], None] = lambda _: None,
    *,
    cache: Cache | None = None,
    largest: int = SIZE_LIMIT,
) -> Image:
    """The image of a file or an https address: from the cache, or copied to the cache now.
    `largest` is in bytes.

    Raises ImageError if the image cannot be read, has another checksum, or is not a qcow2 in one
    file. Nothing is then kept.
    """
    cache = cache or default_cache()
    key = source_digest(source, sha256)
    name = image_name(source)

    def make(folder: Path) -> Description:
        disk = folder / "disk.qcow2"
        found = _copy(source, disk, progress, largest)
        if found != key:
            hint = f"The expected checksum is {key}, but the image has {found}. Ask the publisher, or correct sha256."
            raise ImageError(f"the image {source} has the wrong checksum and was deleted", hint)
        _check_qcow2(disk, source)
        return Description(name, key)

    return cache.fill(name, key, make, progress)


def _copy(source: str, target: Path, progress: Callable[[str], None], largest: int) -> str:
    """Copies the image and returns the SHA-256 of the copied bytes."""
    checksum, done, reported = hashlib.sha256(), 0, -1
    try:
        with _open(source) as content, target.open("wb") as copy:
            while block := content.read(BLOCK_BYTES):
                done += len(block)
                if done > largest:
                    raise ImageError(
                        f"the image {source} has more than {largest >> 30} GiB",
                        "Use a smaller image.",
                    )
                checksum.update(block)
                copy.write(block)
                if done >> 25 != reported:  # once per 32 MiB
                    reported = done >> 25
                    progress(
                        f"{target.parent.name.partition('.partial')[0]}: {done >> 20} MiB read"
                    )
    except (OSError, http.client.HTTPException) as error:
        hint = (
            "Free some space, or set VCLOUD_CACHE_DIR to a folder on a larger disk."
            if isinstance(error, OSError) and error.errno == errno.ENOSPC
            else "Check the address and try again."
        )
        raise ImageError(f"the image {source} cannot be read: {error}", hint) from error
    return checksum.hexdigest()


class _HttpsRedirects(urllib.request.HTTPRedirectHandler):
    """Follows only redirects to https addresses."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if not newurl.startswith("https://"):
            raise urllib.error.URLError(f"it redirects to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open(source: str) -> IO[bytes]:
    if not source.startswith("https://"):
        return _open_file(source)
    response: IO[bytes] = urllib.request.build_opener(_HttpsRedirects).open(source, timeout=TIMEOUT)
    return response


def _open_file(path: str) -> BufferedReader:
    try:
        return Path(path).open("rb")
    except OSError as error:
        raise ImageError(
            f"the image {path} cannot be read: {error.strerror}", "Correct the path of the image."
        ) from error


def _check_qcow2(disk: Path, source: str) -> None:
    """Accepts only a qcow2 in one file.

    A qcow2 may name other files as its backing file or data file. A hostile one could name a file
    of the host, and the guest would read it.
    """
    with disk.open("rb") as content:
        header = content.read(FEATURES_OFFSET + 8)
    if len(header) < FEATURES_OFFSET or header[:4] != QCOW2_MAGIC:
        raise ImageError(
            f"the image {source} is not a qcow2",
            f"Convert it: qemu-img convert -O qcow2 {Path(source).name} image.qcow2",
        )
    _, version, backing = struct.unpack_from(HEADER, header)
    features = struct.unpack_from(">Q", header, FEATURES_OFFSET)[0] if version >= 3 else 0
    if backing or features & EXTERNAL_DATA:
        raise ImageError(
            f"the image {source} needs another file",
            "Make one file of both: qemu-img convert -O qcow2 OLD NEW. Use NEW as the image.",
        )
