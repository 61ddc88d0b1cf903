"""Unpacks a tar archive that a guest sends. An attacker may control the guest.

Nothing is ever written outside of the folder: names with `..`, absolute names, names below a symbolic
link, and two entries of one name end it with an error. Symbolic links are made last, and only those
that stay inside. Python's `tarfile` would read an entry's long name into memory whatever its length,
so only its reader of a single header is used.
"""

from __future__ import annotations

import contextlib
import os
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import IO

from vcloud.errors import GuestError

BLOCK = 512
CHUNK = 1 << 20
LONGEST = 16 << 10
"""Bytes of a long name."""
DEEPEST = 100
"""Folders in folders."""
MOST_LINKS = 1_000_000
MOST_LEFT = 1000
"""How much of what is left out is named."""
FILE_MODE, FOLDER_MODE = 0o755, 0o777
_LONG = {b"L": "name", b"K": "link"}
_WANTED = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE)


class CutShortError(GuestError):
    """The archive ended before its end."""


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What an archive had."""

    is_folder: bool
    files: int
    bytes: int
    left: tuple[str, ...]
    """What was left out, each with the reason."""


@dataclass(frozen=True, slots=True)
class _Entry:
    parts: tuple[str, ...]
    kind: bytes
    size: int
    mode: int
    seconds: int
    link: str

    @property
    def name(self) -> str:
        return "/".join(self.parts)


@dataclass(slots=True)
class _Unpacking:
    root: int
    """The file number of the folder."""
    told: Callable[[int], None]
    files: int = 0
    bytes: int = 0
    left: list[str] = field(default_factory=list)
    links: list[_Entry] = field(default_factory=list)

    def leave(self, what: str) -> None:
        """Notes what is left out. The VM must not fill the memory with it."""
        if len(self.left) < MOST_LEFT:
            self.left.append(what)
        elif len(self.left) == MOST_LEFT:
            self.left.append("more than is named here")


def unpack(source: IO[bytes], folder: int, name: str, told: Callable[[int], None]) -> Unpacked:
    """Unpacks an archive of one file, or of one folder `.`, as `name` into an empty folder.

    Args:
        source: the archive.
        folder: the number of an open folder that nobody else writes to.
        name: what the file or the folder is called here.
        told: is called with the number of bytes so far.

    Raises:
        GuestError: the archive ended early, is none, or names something outside of the folder.
        OSError: it cannot be written.
    """
    work, entries = _Unpacking(folder, told), _entries(source)
    first = next(entries, None)
    if first is None:
        raise GuestError("the VM sent nothing")
    is_folder = first.kind == tarfile.DIRTYPE and not first.parts
    if is_folder:
        _make(work, source, _below(name, first))
        for entry in entries:
            _make(work, source, _below(name, entry))
    elif first.kind in (tarfile.REGTYPE, tarfile.AREGTYPE):
        _make(work, source, replace(first, parts=(name,)))
        if next(entries, None) is not None:
            raise GuestError("the VM sent more than the one file that was asked for")
    else:
        raise GuestError("it is neither a file nor a folder")
    for link in work.links:
        _make_link(work, link)
    return Unpacked(is_folder, work.files, work.bytes, tuple(work.left))


def _below(name: str, entry: _Entry) -> _Entry:
    return replace(entry, parts=(name, *entry.parts))


def stays_inside(parts: tuple[str, ...], target: str) -> bool:
    """Whether a symbolic link of that path leads to a place below the first folder of the path. `..`
    counts only at the beginning, where it climbs real folders and no links.
    """
    if target.startswith("/") or not target or "\0" in target:
        return False
    words = [word for word in target.split("/") if word not in ("", ".")]
    ups = next((index for index, word in enumerate(words) if word != ".."), len(words))
    return ".." not in words[ups:] and ups <= len(parts) - 2


def _entries(source: IO[bytes]) -> Iterator[_Entry]:
    """The entries. Whoever takes one has to read its content before the next."""
    long: dict[str, str] = {}
    while True:
        block = _read(source, BLOCK)
        if not block.strip(b"\0"):
            return
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError:
            raise GuestError("what the VM sent is no tar archive") from None
        if info.size < 0:
            raise GuestError("what the VM sent is no tar archive")
        if info.type in _LONG:
            if info.size > LONGEST:
                raise GuestError("the VM sent a name that is too long")
            content = _read(source, -(-info.size // BLOCK) * BLOCK)[: info.size]
            long[_LONG[info.type]] = content.rstrip(b"\0").decode("utf-8", "surrogateescape")
            continue
        name, link = long.pop("name", info.name), long.pop("link", info.linkname)
        size = info.size if info.type in (tarfile.REGTYPE, tarfile.AREGTYPE) else 0
        yield _Entry(_parts(name), info.type, size, info.mode, int(info.mtime), link)


def _parts(name: str) -> tuple[str, ...]:
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if name.startswith("/") or ".." in parts or "\0" in name:
        raise GuestError(f"the VM sent a name that leads out of the folder: {name!a}")
    if len(parts) > DEEPEST:
        raise GuestError("the VM sent folders that are too deep")
    return parts


def _make(work: _Unpacking, source: IO[bytes], entry: _Entry) -> None:
    if entry.kind not in _WANTED:
        work.leave(f"{entry.name!a} is no file, folder or link")
    elif entry.kind == tarfile.SYMTYPE:
        if len(work.links) >= MOST_LINKS:
            raise GuestError(f"the VM sent more than {MOST_LINKS} symbolic links")
        work.links.append(entry)
    elif entry.kind == tarfile.DIRTYPE:
        with _folder(work.root, entry.parts) as folder:
            # What only its owner may enter in the VM, only the operator may enter here.
            allowed = os.fstat(folder).st_mode & entry.mode & FILE_MODE
            os.fchmod(folder, allowed | 0o700)
    else:
        _make_file(work, source, entry)


def _make_file(work: _Unpacking, source: IO[bytes], entry: _Entry) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with _folder(work.root, entry.parts[:-1]) as folder:
        try:
            handle = os.open(entry.parts[-1], flags, 0o600, dir_fd=folder)
        except FileExistsError:
            raise GuestError(f"the VM sent {entry.name!a} twice") from None
        with os.fdopen(handle, "wb") as file:
            left = entry.size
            while left:
                chunk = _read(source, min(left, CHUNK))
                file.write(chunk)
                left -= len(chunk)
                work.bytes += len(chunk)
                work.told(work.bytes)
            file.flush()
            os.fchmod(handle, entry.mode & FILE_MODE | 0o600)
            with contextlib.suppress(OverflowError, OSError):  # a time that no file can have
                os.utime(handle, (entry.seconds, entry.seconds))
    _read(source, -entry.size % BLOCK)
    work.files += 1


def _make_link(work: _Unpacking, entry: _Entry) -> None:
    if not stays_inside(entry.parts, entry.link):
        work.leave(f"{entry.name!a} is a link out of the folder: {entry.link!a}")
        return
    with _folder(work.root, entry.parts[:-1]) as folder:
        try:
            os.symlink(entry.link, entry.parts[-1], dir_fd=folder)
        except FileExistsError:
            raise GuestError(f"the VM sent {entry.name!a} twice") from None
    work.files += 1


@contextmanager
def _folder(root: int, parts: tuple[str, ...]) -> Iterator[int]:
    """Opens a folder below `root` and makes what is missing. No part of it may be a link."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    here = os.dup(root)
    try:
        for part in parts:
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, FOLDER_MODE, dir_fd=here)
            try:
                there = os.open(part, flags, dir_fd=here)
            except OSError as error:
                raise GuestError(
                    f"the VM sent something below {'/'.join(parts)!a}, which is no folder"
                ) from error
            os.close(here)
            here = there
        yield here
    finally:
        os.close(here)


def _read(source: IO[bytes], size: int) -> bytes:
    content = b""
    while len(content) < size:
        chunk = source.read(size - len(content))
        if not chunk:
            raise CutShortError("the connection to the VM ended before all was copied")
        content += chunk
    return content
