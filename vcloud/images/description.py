"""image.json: the facts about an image that the other files in its folder do not show."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from vcloud.untrusted import UnreadableError, as_text, items, mapping, number, parse_json, text

FORMAT = 2
"""The format of the cache. An image of a newer format counts as missing and is built again. Nothing
is lost, because a cache never holds the only copy of anything. Format 1 had no content digest; it
is added when such an image is first read.
"""
BEFORE_CONTENT = "+"
"""The character between the digests of the recipe and of the content in the name of a folder."""
DIGEST_DIGITS = 12
"""The name of a folder has so many digits of a digest. The full digests are in image.json and are
compared.
"""
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Description:
    """The content of image.json."""

    name: str
    digest: str
    cmdline: str = ""
    memory: int = 0
    disks: dict[str, str] = field(default_factory=dict)
    content: str = ""
    """Empty until the cache has computed it."""
    built: str = ""
    """The cache sets this field, and `checked`."""
    checked: str = ""
    source: str = ""
    added: tuple[str, ...] = ()
    format: int = FORMAT


def entry_of(name: str, digest: str) -> str:
    """The first part of the name of an image's folder: NAME-DIGEST."""
    return f"{name}-{digest[:DIGEST_DIGITS]}"


def packages_in(folder: Path) -> tuple[str, ...]:
    """The packages of the image in a folder. Raises ValueError, OSError."""
    manifest = folder / "manifest.txt"
    return tuple(manifest.read_text().splitlines()) if manifest.exists() else ()


def read_description(folder: Path) -> Description:
    """The content of image.json. Raises UnreadableError if it is none that a release of vcloud
    wrote.
    """
    path = folder / "image.json"
    found = parse_json(path.read_bytes())
    if number(found, "format") not in (1, FORMAT):
        raise UnreadableError("it has another format")
    is_former = number(found, "format") == 1
    digest = _sha256(found, "digest")
    read = Description(
        name=text(found, "name"),
        digest=digest,
        cmdline=text(found, "cmdline"),
        memory=number(found, "memory"),
        disks={name: as_text(path, "a disk") for name, path in mapping(found, "disks").items()},
        content="" if is_former else _sha256(found, "content"),
        built=text(found, "built", "" if is_former else None),
        checked=text(found, "checked", "" if is_former else None),
        source=text(found, "source", "" if is_former else None),
        added=tuple(as_text(line, "a package") for line in items(found, "added"))
        if not is_former
        else (),
    )
    return _with_content(folder, read) if is_former else read


def _sha256(found: object, key: str) -> str:
    digest = text(found, key)
    if not _DIGEST.fullmatch(digest):
        raise UnreadableError(f"'{key}' is not a SHA-256")
    return digest


def _with_content(folder: Path, former: Description) -> Description:
    """The description of an image of format 1, completed with its content digest and its time. It
    is written to image.json for the next time.
    """
    entry = folder.name.partition(BEFORE_CONTENT)[0]
    if entry != entry_of(former.name, former.digest) or not (folder / "disk.qcow2").is_file():
        raise UnreadableError("it belongs to another folder")
    is_recipe = (folder / "vmlinux").exists()
    found = replace(
        former,
        content=content_of(folder, former.cmdline) if is_recipe else former.digest,
        built=_time((folder / "image.json").stat().st_mtime),
    )
    # In a read-only cache, the digest is computed each time.
    with suppress(OSError):
        write_description(folder, found)
    return found


def write_description(folder: Path, description: Description) -> None:
    """Writes image.json atomically."""
    text = json.dumps(asdict(description), indent=2, sort_keys=True) + "\n"
    new = folder / f".image.json.{os.getpid()}"
    new.write_text(text)
    new.rename(folder / "image.json")


def content_of(folder: Path, cmdline: str) -> str:
    """SHA-256, in hex, of the files that a VM boots from and of the kernel's command line."""
    files = {}
    for name in ("disk.qcow2", "vmlinux", "initrd.cpio"):
        if (folder / name).exists():
            with (folder / name).open("rb") as file:
                files[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashlib.sha256(
        json.dumps({"cmdline": cmdline, "files": files}, sort_keys=True).encode()
    ).hexdigest()


def time_ago(seconds: float) -> str:
    """The time so many seconds ago, as `Image.built` has it."""
    return _time(time.time() - seconds)


def now() -> str:
    """The time, as `Image.built` has it."""
    return time_ago(0)


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
