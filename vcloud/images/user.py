"""A user's own qcow2: copied or fetched into the cache, and trusted only when its checksum is right.

It boots by its own loader and is configured by cloud-init.
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

BLOCK = 1 << 20
TIMEOUT = 60
"""Seconds without a byte."""
LARGEST = 64 << 30
"""Bytes; an address that never ends must not fill the disk."""
QCOW2_MAGIC = b"QFI\xfb"
HEADER = ">4sIQ"
"""Magic, version, offset of the backing file's name."""
FEATURES_OFFSET = 72
EXTERNAL_DATA = 1 << 2
"""An incompatible feature: the guest's data lie in another file."""


def source_digest(source: str, sha256: str) -> str:
    """What identifies the image: its SHA-256 as stated or, for a file without one, as found.

    Raises ImageError for a file that cannot be read.
    """
    if sha256:
        return sha256
    with _open_file(source) as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def image_name(source: str) -> str:
    """What the cache and the hosts call the image of a file or an address."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", Path(source).name.removesuffix(".qcow2"))


def fetch(
    source: str, sha256: str, progress: Callable[[str], None] = lambda _: None, *, cache: Cache | None = None, largest: int = LARGEST
) -> Image:
    """The image of a file or an https address, from the cache or brought there now. `largest` is in bytes.

    Raises ImageError, and keeps nothing, for what cannot be read, has another checksum, or is not a qcow2 of one file.
    """
    cache = cache or default_cache()
    key = source_digest(source, sha256)
    name = image_name(source)

    def make(folder: Path) -> Description:
        disk = folder / "disk.qcow2"
        found = _copy(source, disk, progress, largest)
        if found != key:
            hint = f"Expected is {key}, found {found}. Ask the publisher, or correct sha256."
            raise ImageError(f"the image {source} has the wrong checksum and was thrown away", hint)
        _check_qcow2(disk, source)
        return Description(name, key)

    return cache.fill(name, key, make, progress)


def _copy(source: str, target: Path, progress: Callable[[str], None], largest: int) -> str:
    """Copies and returns the SHA-256 of what was copied."""
    checksum, done, said = hashlib.sha256(), 0, -1
    try:
        with _open(source) as content, target.open("wb") as copy:
            while block := content.read(BLOCK):
                done += len(block)
                if done > largest:
                    raise ImageError(f"the image {source} has more than {largest >> 30} GiB", "Use a smaller one.")
                checksum.update(block)
                copy.write(block)
                if done >> 25 != said:
                    said = done >> 25
                    progress(f"{target.parent.name.partition('.partial')[0]}: {done >> 20} MiB read")
    except (OSError, http.client.HTTPException) as error:
        hint = (
            "Free some space, or set VCLOUD_CACHE_DIR to a larger disk."
            if isinstance(error, OSError) and error.errno == errno.ENOSPC
            else "Check the address and try again."
        )
        raise ImageError(f"the image {source} cannot be read: {error}", hint) from error
    return checksum.hexdigest()


class _StaysSecure(urllib.request.HTTPRedirectHandler):
    """Follows a redirection only to another https address."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: http.client.HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        if not newurl.startswith("https://"):
            raise urllib.error.URLError(f"it redirects to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open(source: str) -> IO[bytes]:
    if not source.startswith("https://"):
        return _open_file(source)
    response: IO[bytes] = urllib.request.build_opener(_StaysSecure).open(source, timeout=TIMEOUT)
    return response


def _open_file(path: str) -> BufferedReader:
    try:
        return Path(path).open("rb")
    except OSError as error:
        raise ImageError(f"the image {path} cannot be read: {error.strerror}", "Correct the path of the image.") from error


def _check_qcow2(disk: Path, source: str) -> None:
    """A qcow2 may name other files as its parts; one from outside would so show files of the host to its guest."""
    with disk.open("rb") as content:
        header = content.read(FEATURES_OFFSET + 8)
    if len(header) < FEATURES_OFFSET or header[:4] != QCOW2_MAGIC:
        raise ImageError(f"the image {source} is not a qcow2", f"Convert it: qemu-img convert -O qcow2 {Path(source).name} image.qcow2")
    _, version, backing = struct.unpack_from(HEADER, header)
    features = struct.unpack_from(">Q", header, FEATURES_OFFSET)[0] if version >= 3 else 0
    if backing or features & EXTERNAL_DATA:
        raise ImageError(f"the image {source} needs another file beside it", "Make it whole: qemu-img convert -O qcow2 OLD NEW")
