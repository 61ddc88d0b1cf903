"""Reads the tree `files/` of a recipe, and no file outside it.

A recipe may be hostile. Every folder and file is opened relative to the folder above it, and the
kernel refuses to follow a symbolic link there. So no link leads to a file of the user who builds,
not even if it replaces `files`, or appears while the tree is read. Links in the tree are copied as
links, so they lead to something in the image.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from vcloud.errors import ImageError

SAFE_MODE = 0o755
"""The permission bits that files in an image may have. Whether group and others may write a file
depends on the umask of the checkout, and the digest must not depend on it.
"""
DEEPEST = 64
"""Levels of folders. Each level needs an open handle."""
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Without O_NONBLOCK, a named pipe in the place of a file would wait for a writer.
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or a symbolic link of a tree."""

    name: str
    """The path in the image without the leading slash."""
    folder: int
    """A handle of its folder. The handle is open until the next entry is requested."""
    mode: int
    """Its permission bits in the image."""
    modified: int
    """Seconds since 1970."""
    target: str = ""
    """The target of the link. Empty for a file."""

    @contextmanager
    def opened(self) -> Iterator[BufferedReader]:
        """Opens the file. Raises ImageError if it cannot be read, or is no longer a regular file."""
        try:
            handle = os.open(self.name.rpartition("/")[2], FILE, dir_fd=self.folder)
        except OSError as error:
            raise ImageError(
                f"files/{self.name} of the recipe cannot be read: {error.strerror}",
                "Correct its permissions.",
            ) from error
        with os.fdopen(handle, "rb") as content:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise _strange(Path(self.name))
            yield content

    def fingerprint(self) -> str:
        """The part of the entry that the digest of an image covers besides name and mode."""
        if self.target:
            return f"-> {self.target}"
        with self.opened() as content:
            return hashlib.file_digest(content, "sha256").hexdigest()


def entries(recipe: Path) -> Iterator[Entry]:
    """All files and symbolic links of the tree `files/` of a recipe's folder, in a fixed order.

    Raises:
        ImageError: the tree is a symbolic link, cannot be read, or contains anything but folders,
            files and links. For example, a reader of a named pipe could wait for ever.
    """
    top = recipe / "files"
    try:
        handle = os.open(top, FOLDER)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _unreadable(top, error) from error
    try:
        yield from _entries_in(handle, top, ())
    except OSError as error:
        raise _unreadable(Path(error.filename or top), error) from error
    finally:
        os.close(handle)


def _entries_in(folder: int, top: Path, parts: tuple[str, ...]) -> Iterator[Entry]:
    """The entries of an open folder and of the folders in it. `parts` is the path from `top` to the
    folder.
    """
    for name in sorted(os.listdir(folder)):
        path = "/".join((*parts, name))
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        facts = (path, folder, found.st_mode & SAFE_MODE, int(found.st_mtime))
        if stat.S_ISLNK(found.st_mode):
            yield Entry(*facts, os.readlink(name, dir_fd=folder))
        elif stat.S_ISREG(found.st_mode):
            yield Entry(*facts)
        elif stat.S_ISDIR(found.st_mode):
            if len(parts) >= DEEPEST:
                raise ImageError(
                    f"{top / path} is deeper than {DEEPEST} folders",
                    "Pack the files, and unpack them by a line in `commands`.",
                )
            inner = os.open(name, FOLDER, dir_fd=folder)
            try:
                yield from _entries_in(inner, top, (*parts, name))
            finally:
                os.close(inner)
        else:
            raise _strange(top / path)


def add_to(archive: tarfile.TarFile, entry: Entry) -> None:
    """Adds an entry, owned by root, to an archive. Its folder gets no entry of its own.

    tar creates missing folders when it unpacks. An entry for a folder would replace a symbolic link
    of that name in the image.
    """
    member = _member(entry.name, entry.mode)
    member.mtime = entry.modified
    if entry.target:
        member.type, member.linkname = tarfile.SYMTYPE, entry.target
        archive.addfile(member)
        return
    with entry.opened() as content:
        member.size = os.fstat(content.fileno()).st_size
        archive.addfile(member, content)


def add_program(archive: tarfile.TarFile, name: str, path: Path) -> None:
    """Adds a program that the build has made."""
    content = path.read_bytes()
    member = _member(name, 0o755)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def _member(name: str, mode: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.mode = mode
    member.uname = member.gname = "root"
    return member


def _strange(path: Path) -> ImageError:
    return ImageError(
        f"{path} is neither a file, nor a folder, nor a symbolic link",
        "Remove it. If the image needs it, create it by a line in `commands`.",
    )


def _unreadable(path: Path, error: OSError) -> ImageError:
    # With O_DIRECTORY, a link is ENOTDIR.
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return ImageError(
            f"{path} is a symbolic link or a file, but must be a real folder",
            "Copy what the image needs into the recipe's folder.",
        )
    return ImageError(f"{path} cannot be read: {error.strerror}", "Correct its permissions.")
