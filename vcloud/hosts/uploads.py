"""Brings files to a host's storage pool, so that an upload that was cut short is never taken for a whole one.

libvirt cannot rename a volume, and a connection that breaks in the middle of an upload leaves a volume that looks like any other. So
every upload makes a volume of its own, `STEM.ID.SUFFIX` with a random ID. Once the host has confirmed the last byte, an empty volume of the
same name with `.complete` behind it is made. A volume without such a marker is never used. Two operators who upload the same file at once
upload it twice, and both uploads are good.
"""

from __future__ import annotations

import re
import secrets
from pathlib import Path

from vcloud.hosts.pool import Progress, StoragePool
from vcloud.hosts.volume_reading import modified

COMPLETE = ".complete"
ABANDONED = 3600
"""Seconds without a written byte after which an unfinished upload counts as abandoned."""


def uploaded(pool: StoragePool, stem: str, suffix: str) -> str | None:
    """The path of a whole upload of `stem`; None where there is none. Raises HostError."""
    names = pool.known()
    whole = sorted(name for name in names if _is_upload(name, stem, suffix) and name + COMPLETE in names)
    return pool.path(whole[0]) if whole else None


def any_upload(pool: StoragePool, prefix: str, suffix: str) -> str | None:
    """The path of some whole upload whose stem begins with `prefix`; None where there is none. Raises HostError."""
    names = pool.known()
    whole = [name for name in sorted(names) if name.startswith(prefix) and name.endswith(suffix) and name + COMPLETE in names]
    return pool.path(whole[0]) if whole else None


def upload(pool: StoragePool, source: Path, stem: str, suffix: str, progress: Progress = lambda _done, _all: None) -> str:
    """Brings a file to the host, unless a whole upload of `stem` is there. Returns its path there.

    `stem` names the content (it holds a digest), so that equal stems mean equal bytes.
    Raises HostError where there is no room, or where the connection breaks. Nothing of the attempt will ever be used.
    """
    if found := uploaded(pool, stem, suffix):
        return found
    size = source.stat().st_size
    pool.require_space(size, f"the upload of {source.name}")
    name = f"{stem}.{secrets.token_hex(4)}{suffix}"
    with source.open("rb") as file:
        pool.fill(name, file, size, progress)
    pool.make_empty(name + COMPLETE)
    _delete_abandoned(pool, stem, suffix, modified(pool, name))
    return pool.path(name)


def _delete_abandoned(pool: StoragePool, stem: str, suffix: str, now: float) -> None:
    """Deletes the rests of uploads of the same file that nobody goes on with. `now` is the host's time: clocks differ."""
    names = pool.known()
    rests = [name for name in names if _is_upload(name, stem, suffix) and name + COMPLETE not in names]
    pool.delete([name for name in rests if now - modified(pool, name) > ABANDONED])


def _is_upload(name: str, stem: str, suffix: str) -> bool:
    return re.fullmatch(rf"{re.escape(stem)}\.[0-9a-f]{{8}}{re.escape(suffix)}", name) is not None
