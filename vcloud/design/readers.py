"""Which units of a guest are reloaded or restarted when one of its files changes. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence

from vcloud.design.model import Change, GuestFile, Reader, Vm

_UNIT_FILE = re.compile(
    r"/etc/systemd/system/(?P<unit>[A-Za-z0-9_.@:-]+\.(?:service|socket|timer|path))"
    r"(?:\.d/[^/]+\.conf)?"
)
"""The file of a systemd unit, or a drop-in for a unit."""


def readers_of(readers: Iterator[Reader] | Sequence[Reader], path: str) -> tuple[Reader, ...]:
    """The units that are assumed to read a file: those that the image's recipe names for the
    innermost folder around the file, or the unit that the file itself describes.
    """
    if unit := _UNIT_FILE.fullmatch(path):
        return (Reader(path, Change.RESTART, unit["unit"]),)
    around = [
        reader
        for reader in readers
        if path == reader.path or path.startswith(f"{reader.path.rstrip('/')}/")
    ]
    innermost = max((len(reader.path) for reader in around), default=0)
    return tuple(reader for reader in around if len(reader.path) == innermost)


def changes_of(vm: Vm, before: Vm | None, path: str) -> tuple[tuple[Change, str], ...]:
    """Which units are reloaded or restarted after a file has changed. For a deleted file this is
    decided by `before`, the VM as it was when it still had the file.
    """
    files: Mapping[str, GuestFile] = {
        file.path: file for one in (before, vm) if one is not None for file in one.files
    }
    if file := files.get(path):
        return (
            *((Change.RELOAD, unit) for unit in file.reload),
            *((Change.RESTART, unit) for unit in file.restart),
        )
    return tuple((reader.change, reader.unit) for reader in readers_of(vm.readers, path))


def all_changes(
    vm: Vm, before: Vm | None, paths: Collection[str]
) -> tuple[tuple[Change, str], ...]:
    """The same for several files. Each unit comes once; it is restarted if one of the files asks
    for a restart.
    """
    asked = dict.fromkeys(
        change for path in sorted(paths) for change in changes_of(vm, before, path)
    )
    restarted = {unit for change, unit in asked if change is Change.RESTART}
    return tuple(
        (change, unit)
        for change, unit in asked
        if change is Change.RESTART or unit not in restarted
    )


def naming_lines(path: str, lines: Sequence[str]) -> tuple[int, ...]:
    """The numbers of the shell commands that name a file, or a folder that it is in."""
    parts = path.split("/")
    # A command that names only /etc or /srv hardly means the files of the vApp in that folder.
    folders = ["/".join(parts[:count]) for count in range(3, len(parts))]
    names = [re.escape(path), *(rf"{re.escape(folder)}/?(?:\*|(?![\w./-]))" for folder in folders)]
    pattern = re.compile("|".join(names))
    return tuple(number for number, line in enumerate(lines) if pattern.search(line))
