"""The initramfs: one static program and the kernel modules that it loads, in load order, as an
uncompressed cpio archive.

It is not compressed, because it has only about a megabyte and decompression would take time in the
guest.
"""

from __future__ import annotations

import lzma
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vcloud.errors import ImageError
from vcloud.images.taken import content_of, too_large

NEWC = "070701"
"""The magic of the `newc` format of cpio."""
LARGEST_MODULES = 64 << 20
"""Bytes that the modules of one image may have together when they are unpacked. The build keeps them
in memory.
"""
UNPACKING_MEMORY = 128 << 20
"""Bytes that the unpacking of a module may need."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of the archive. `device` is (major, minor) for a device node."""

    name: str
    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)


def make_initramfs(
    init: bytes, modules: Path, wanted: Iterable[str], largest: int = LARGEST_MODULES
) -> bytes:
    """The archive: `init` as /init, and the `wanted` modules with all modules that they need.

    `modules` is a folder .../lib/modules/RELEASE. Modules that are built into the kernel are left
    out. Raises ImageError for a module that does not exist, and for modules that are too large.
    """
    order = load_order(modules, wanted)
    names = [f"{index:02}-{path.name.removesuffix('.xz')}" for index, path in enumerate(order)]
    contents, left = [], largest
    for path in order:
        contents.append(_module(path, left))
        left -= len(contents[-1])
    entries = [
        Entry("dev", stat.S_IFDIR | 0o755),
        # The kernel opens this file for init before init runs.
        Entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)),
        Entry("init", stat.S_IFREG | 0o755, init),
        Entry("modules", stat.S_IFREG | 0o644, "".join(f"/{name}\n" for name in names).encode()),
        # The names of modules begin with a number, and the file `modules` lists them in this order
        # for init.
        *(
            Entry(name, stat.S_IFREG | 0o644, content)
            for name, content in zip(names, contents, strict=True)
        ),
    ]
    return cpio(entries)


def load_order(modules: Path, wanted: Iterable[str]) -> list[Path]:
    """The files of the wanted modules. Each file comes after the files that it needs."""
    needs = dict(_dependencies(modules))
    by_name = {_name(path): path for path in needs}
    built_in = {
        _name(line) for line in content_of(modules / "modules.builtin").decode().splitlines()
    }
    order: dict[str, None] = {}
    for module in (name.replace("-", "_") for name in wanted):
        if module in built_in:
            continue
        if module not in by_name:
            raise ImageError(
                f"the kernel {modules.name} has no module {module}",
                "Correct `modules` in the image's recipe.",
            )
        # For each module, modules.dep lists direct dependencies first and the dependencies of these
        # after them.
        for path in (*reversed(needs[by_name[module]]), by_name[module]):
            order.setdefault(path)
    return [modules / path for path in order]


def cpio(entries: Iterable[Entry]) -> bytes:
    """A cpio archive in the `newc` format, which the kernel can unpack. All files belong to root
    and have no time.
    """
    return b"".join(
        _record(number, entry)
        for number, entry in enumerate((*entries, Entry("TRAILER!!!", 0)), start=1)
    )


def _record(number: int, entry: Entry) -> bytes:
    name = entry.name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    # Number of the file, mode, uid, gid, links, time, size, device of the file (2), device of a
    # node (2), length of the name, checksum.
    fields = (
        number,
        entry.mode,
        0,
        0,
        links,
        0,
        len(entry.content),
        0,
        0,
        *entry.device,
        len(name),
        0,
    )
    header = (NEWC + "".join(f"{field:08X}" for field in fields)).encode() + name
    return _padded(header) + _padded(entry.content)


def _padded(data: bytes) -> bytes:
    # newc fills names and contents up to a multiple of 4 bytes.
    return data + b"\0" * (-len(data) % 4)


def _dependencies(modules: Path) -> Iterator[tuple[str, list[str]]]:
    """Module -> the modules that it needs. Raises ImageError for a path that leads out of the
    folder: commands of a recipe may have written the list, and this machine would read the file.
    """
    for line in content_of(modules / "modules.dep").decode().splitlines():
        path, _, needs = line.partition(":")
        for name in map(PurePosixPath, (path, *needs.split())):
            if name.is_absolute() or ".." in name.parts:
                raise ImageError(
                    f"modules.dep of the kernel {modules.name} names {str(name)!r}, which is not a module of this kernel",
                    "Correct the commands of the recipe.",
                )
        yield path, needs.split()


def _name(path: str) -> str:
    return path.rpartition("/")[2].partition(".ko")[0].replace("-", "_")


def _module(path: Path, left: int) -> bytes:
    """A module, unpacked. Raises ImageError if it has more bytes than are left."""
    if path.is_symlink() or not path.is_file():
        raise ImageError(
            f"the module {path.name} is not a regular file", "Correct the commands of the recipe."
        )
    packed = content_of(path, left)
    if path.suffix != ".xz":
        return packed
    reader = lzma.LZMADecompressor(memlimit=UNPACKING_MEMORY)
    content = reader.decompress(packed, left + 1)
    if len(content) > left:
        raise too_large(path.name, left)
    if not reader.eof:
        raise lzma.LZMAError(f"{path.name} ends too early")
    return content
