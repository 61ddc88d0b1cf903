"""Uploads files to a host's storage pool. An upload that was interrupted is never mistaken for a
complete one.

libvirt cannot rename a volume. A connection that breaks during an upload leaves a volume that looks
like any other. So every upload creates a volume of its own, `STEM.ID.SUFFIX` with a random ID.
After the host has confirmed the last byte, vcloud creates an empty marker volume with `.complete`
added to the name. A volume without this marker is never used. If two operators upload the same file
at the same time, the host gets two volumes, and both are good.
"""

from __future__ import annotations

import re
import secrets
from contextlib import suppress
from pathlib import Path

from vcloud.errors import HostError
from vcloud.hosts.image_users import users_on
from vcloud.hosts.pool import Progress, StoragePool
from vcloud.hosts.volume_reading import last_written
from vcloud.plan.host_images import ABANDONED_AFTER, ABOUT, COMPLETE, VOLUME, User, users_of


def uploaded(pool: StoragePool, stem: str, suffix: str) -> str | None:
    """The path on the host of a complete upload of `stem`. None if there is none. Raises HostError."""
    names = pool.names_without_refresh()
    complete = sorted(
        name for name in names if _is_upload(name, stem, suffix) and name + COMPLETE in names
    )
    # Of several good uploads, every operator takes the same one.
    return pool.path(complete[0]) if complete else None


def any_upload(pool: StoragePool, prefix: str, suffix: str) -> str | None:
    """The path on the host of any complete upload whose stem begins with `prefix`. None if there is
    none. Raises HostError.
    """
    names = pool.names_without_refresh()
    complete = [
        name
        for name in sorted(names)
        if name.startswith(prefix) and name.endswith(suffix) and name + COMPLETE in names
    ]
    return pool.path(complete[0]) if complete else None


def upload(
    pool: StoragePool,
    source: Path,
    stem: str,
    suffix: str,
    progress: Progress = lambda _done, _all: None,
    about: bytes = b"",
) -> str:
    """Uploads a file and returns its path on the host. If a complete upload of `stem` exists, that
    one is used.

    `stem` must hold a digest of the content: uploads of the same stem must have the same bytes.
    `about` says what the file is, and is kept beside it.

    Raises HostError if the pool has too little space or the connection breaks. The incomplete
    volume is never used.
    """
    if found := uploaded(pool, stem, suffix):
        return found
    size = source.stat().st_size
    pool.require_space(size, f"the upload of {source.name}")
    name = f"{stem}.{secrets.token_hex(4)}{suffix}"
    with source.open("rb") as file:
        # `fill` returns when the host has confirmed the last byte. Only then the marker is made.
        pool.fill(name, file, size, progress)
    if about:
        pool.put(name + ABOUT, about)
    pool.make_empty(name + COMPLETE)
    _delete_abandoned(pool, stem, suffix, last_written(pool, name))
    return pool.path(name)


def _delete_abandoned(pool: StoragePool, stem: str, suffix: str, now: float) -> None:
    """Deletes abandoned uploads of the same file.

    `now` is the host's time, because the clocks of this machine and of the host may differ.
    """
    names = pool.names_without_refresh()
    incomplete = [
        name for name in names if _is_upload(name, stem, suffix) and name + COMPLETE not in names
    ]
    abandoned = [name for name in incomplete if now - last_written(pool, name) > ABANDONED_AFTER]
    if not abandoned:
        return
    # Somebody may have based a disk on it. Where nobody can tell, it stays.
    with suppress(HostError):
        texts = users_on(pool.host, pool)
        # What libvirt tells of a volume has its own name.
        unused = [name for name in abandoned if not users_of(name, texts) - {User(VOLUME, name)}]
        pool.delete([left + ending for left in unused for ending in ("", ABOUT)])


def _is_upload(name: str, stem: str, suffix: str) -> bool:
    return re.fullmatch(rf"{re.escape(stem)}\.[0-9a-f]{{8}}{re.escape(suffix)}", name) is not None
