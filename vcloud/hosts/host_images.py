"""The copies of images on a host: which there are, who uses them, and deleting those that nobody
needs.

A copy is deleted under a lock that no run of `vcloud up` works beside (`vcloud.hosts.lock`). Runs of
earlier releases do not know this lock, and a person can do anything at any time. So the markers of
complete uploads go first: from then on nobody takes these copies. Then vcloud looks once more at who
uses them and who is at work, and puts the markers back where somebody does.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from vcloud.hosts.connection import Host
from vcloud.hosts.image_users import users_on
from vcloud.hosts.lock import prune_lock, refuse_runs
from vcloud.hosts.memory_images import MemoryImages
from vcloud.hosts.pool import StoragePool
from vcloud.hosts.volume_reading import usage
from vcloud.hosts.volumes import about_image
from vcloud.plan.host_images import (
    ABOUT,
    COMPLETE,
    FORMER_DIGITS,
    PREFIXES,
    HostImage,
    User,
    Volume,
    outdated_memory_images,
    prunable,
    superseded,
    users_of,
    volume_name,
    without_memory_images,
)
from vcloud.plan.host_images import MEMORY_IMAGE as OF_MEMORY_IMAGE

NEVER = 0.0
"""In place of the host's time where nobody can read it: no upload then counts as abandoned."""


@dataclass(frozen=True, slots=True)
class Copy:
    """One uploaded image on a host."""

    name: str
    content: str
    """As in `VolumeName`."""
    size: int
    """Bytes of all files with this content."""
    about: HostImage | None
    """None where nobody knows: an earlier release uploaded it, or somebody changed it."""
    users: tuple[User, ...]

    def is_called(self, names: Collection[str]) -> bool:
        """Whether one of these names means it: NAME, or NAME-CONTENT with at least 12 digits."""
        return is_called(self.name, self.content, names)


@dataclass(frozen=True, slots=True)
class Freeable:
    """What can be deleted on a host."""

    files: Mapping[str, int]
    """Volume of an image -> bytes."""
    memory_images: Mapping[str, int]
    """Stem of a memory image -> bytes."""

    @property
    def size(self) -> int:
        return sum(self.files.values()) + sum(self.memory_images.values())

    @property
    def number(self) -> int:
        """Of files. A memory image has two."""
        return len(self.files) + 2 * len(self.memory_images)


@dataclass(frozen=True, slots=True)
class Look:
    """What a look at a host has found."""

    volumes: Mapping[str, Volume]
    """The volumes of images."""
    texts: Mapping[User, str]
    """As `users_on` returns them."""


class HostImages:
    """The copies of images on one host."""

    def __init__(self, host: Host, pool: StoragePool) -> None:
        self.host = host
        self.pool = pool

    def look(self) -> Look:
        """Asks for all domains and disks of the host, which takes long. Raises HostError where nobody
        can tell who uses what.
        """
        return Look(self._volumes(), users_on(self.host, self.pool))

    def list(self, seen: Look | None = None) -> tuple[Copy, ...]:
        """All complete copies, by name and content, by a look of before or a new one. Raises HostError."""
        seen = seen or self.look()
        volumes, texts = seen.volumes, seen.texts
        found: dict[tuple[str, str], Copy] = {}
        for name, volume in volumes.items():
            part = volume_name(name)
            if part is None or part.volume + COMPLETE not in volumes:
                continue
            key = (part.image, part.content)
            copy = found.get(key) or Copy(*key, 0, None, ())
            about = about_image(self.pool, part.volume) if part.ending == ABOUT else copy.about
            users = copy.users if part.ending else (*copy.users, *users_of(name, texts))
            found[key] = replace(
                copy,
                size=copy.size + volume.size,
                about=about,
                users=tuple(sorted({*users})),
            )
        return tuple(found[key] for key in sorted(found))

    def freeable(
        self,
        names: Collection[str] | None = None,
        *,
        memory_images: bool = False,
        seen: Look | None = None,
    ) -> Freeable:
        """What can be deleted now. Changes nothing. Raises HostError where nobody can tell.

        Args:
            names: only copies of these images, each as NAME, or as NAME-CONTENT with at least 12
                digits. None: all, and memory images that no VM will wake from any more.
            memory_images: also all memory images.
            seen: a look of before. None: a new one.
        """
        seen = seen or self.look()
        volumes, texts = seen.volumes, seen.texts
        removed = self._removed(volumes, texts, names, every=memory_images)
        left = without_memory_images(texts, removed)
        used = {name: users_of(name, left) for name in volumes}
        now = self.host.clock.now()
        gone = prunable(volumes, used, NEVER if now is None else now)
        sizes = {image.stem: image.size for image in self._memory_images().list()}
        return Freeable(
            {name: volumes[name].size for name in gone if names is None or _is_named(name, names)},
            {user.name: sizes[user.name] for user in sorted(removed) if user.name in sizes},
        )

    def free(self, agreed: Freeable) -> tuple[Freeable, tuple[str, ...]]:
        """Deletes what was agreed to and still can be deleted. Returns what is gone, and the volumes
        that somebody has begun to use meanwhile, each with its user.

        Raises LockedError where a run is at work on the host, HostError where nobody can tell who
        uses what. Nothing that is needed is deleted then.
        """
        with prune_lock(self.host):
            images = self._memory_images()
            images.remove([image for image in images.list() if image.stem in agreed.memory_images])
            volumes = self._volumes()
            files = [name for name in agreed.files if name in volumes]
            taken = self._in_use(files)
            gone = [name for name in files if _file_of(name) not in taken]
            markers = [name for name in gone if name.endswith(COMPLETE)]
            self.pool.delete(markers)
            try:
                refuse_runs(self.host)
                late = self._in_use(gone)
            # Also after Ctrl-C: what somebody uses must keep its marker.
            except BaseException:
                for marker in markers:
                    self.pool.make_empty(marker)
                raise
            for marker in markers:
                if _file_of(marker) in late:
                    self.pool.make_empty(marker)
            gone = [name for name in gone if _file_of(name) not in late]
            self.pool.delete(gone)
        told = tuple(
            f"{file}, which {min(users)} uses" for file, users in sorted((taken | late).items())
        )
        return Freeable({name: agreed.files[name] for name in gone}, agreed.memory_images), told

    def _in_use(self, names: Collection[str]) -> dict[str, frozenset[User]]:
        """File of an image -> who uses it, of those that somebody uses."""
        texts = users_on(self.host, self.pool)
        files = {_file_of(name) for name in names}
        return {file: users for file in files if (users := users_of(file, texts))}

    def _removed(
        self,
        volumes: Mapping[str, Volume],
        texts: Mapping[User, str],
        names: Collection[str] | None,
        *,
        every: bool,
    ) -> frozenset[User]:
        """The memory images that go."""
        if every:
            return frozenset(user for user in texts if user.kind == OF_MEMORY_IMAGE)
        if names is not None:
            return frozenset()
        disks = [name.removesuffix(ABOUT) for name in volumes if name.endswith(ABOUT)]
        known = filter(None, (about_image(self.pool, disk) for disk in disks))
        return outdated_memory_images(texts, tuple(volumes), superseded(known))

    def _volumes(self) -> dict[str, Volume]:
        """The volumes of images."""
        found = usage(self.pool, *PREFIXES)
        return {name: Volume(*values) for name, values in found.items() if volume_name(name)}

    def _memory_images(self) -> MemoryImages:
        return MemoryImages(self.host, self.pool)


def _file_of(name: str) -> str:
    part = volume_name(name)
    return part.volume if part else name


def _is_named(volume: str, names: Collection[str]) -> bool:
    part = volume_name(volume)
    return part is not None and is_called(part.image, part.content, names)


def is_called(image: str, content: str, names: Collection[str]) -> bool:
    """Whether one of these names means an image: NAME, or NAME-CONTENT with at least 12 digits."""
    digits = [name.removeprefix(f"{image}-") for name in names if name.startswith(f"{image}-")]
    return image in names or any(
        len(found) >= FORMER_DIGITS and content.startswith(found) for found in digits
    )
