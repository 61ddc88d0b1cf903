"""The copies of images on a host: their names, what the host knows about them, who uses them, and
which of them may be deleted. Pure.

image-NAME-CONTENT.ID.qcow2         the disk of an image
kernel-NAME-CONTENT.ID              its kernel
initrd-NAME-CONTENT.ID.cpio         its initramfs
image-NAME-CONTENT.ID.qcow2.json    the description of the image (`HostImage`)
....complete                        empty; the volume of that name is completely uploaded

CONTENT is the SHA-256 of the image's bytes, in hex. Earlier releases used the first 12 digits of
the digest of its recipe. ID is random: each upload gets a volume of its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass

from vcloud.packages import packages_digest
from vcloud.plan.manifest import VmImage
from vcloud.untrusted import UnreadableError, as_text, items, mapping, parse_json, text

COMPLETE = ".complete"
"""Ending of the marker volume of a complete upload."""
ABOUT = ".json"
"""Ending of the volume that describes an image (`HostImage`)."""
ABANDONED_AFTER = 3600
"""Seconds. An incomplete upload to which nothing was written for so long counts as abandoned and
may be deleted.
"""
FORMER_DIGITS = 12
"""How many digits of a recipe's digest the names of earlier releases have."""
# Earlier releases called a memory image a template. Hosts have volumes with these names.
MEMORY_IMAGE_PREFIX, SAVED_DISK, SAVED_MEMORY = "template-", ".qcow2", ".save"
"""What the names of the volumes of a memory image begin and end with (vcloud.hosts.memory_images)."""
PREFIXES = ("image-", "kernel-", "initrd-")
KINDS = ("disk", "kernel", "initrd")
"""The kinds of files of an image. A user's qcow2 is a disk only."""
_NAME = re.compile(
    r"(?P<kind>image|kernel|initrd)-(?P<image>.+)-(?P<content>[0-9a-f]{64}|[0-9a-f]{12})"
    r"\.(?P<id>[0-9a-f]{8})(?P<suffix>\.qcow2|\.cpio|)(?P<ending>\.json|\.complete|)"
)
_KINDS = {"image": "disk", "kernel": "kernel", "initrd": "initrd"}
_SUFFIXES = {"disk": ".qcow2", "kernel": "", "initrd": ".cpio"}


@dataclass(frozen=True, slots=True)
class VolumeName:
    """The name of a volume of an image, taken apart."""

    kind: str
    """`disk`, `kernel` or `initrd`."""
    image: str
    content: str
    id: str
    ending: str
    """Empty for the file itself, or `COMPLETE`, or `ABOUT`."""
    volume: str
    """The name of the file itself, or of the file that this volume marks or describes."""

    @property
    def is_former(self) -> bool:
        """Whether an earlier release uploaded it."""
        return len(self.content) == FORMER_DIGITS


def volume_name(name: str) -> VolumeName | None:
    """The parts of the name of an image's volume. None for any other name."""
    found = _NAME.fullmatch(name)
    if found is None or _SUFFIXES[_KINDS[found["kind"]]] != found["suffix"]:
        return None
    ending = found["ending"]
    return VolumeName(
        _KINDS[found["kind"]],
        found["image"],
        found["content"],
        found["id"],
        ending,
        name.removesuffix(ending),
    )


def stem(kind: str, image: str, content: str) -> str:
    """The name of an image's volume up to its random ID. `kind` is as in `VolumeName`."""
    return f"{'image' if kind == 'disk' else kind}-{image}-{content}"


def with_new_id(disk: str, number: str) -> str:
    """The name of the disk of a memory image with another random ID (8 hex digits), for a copy on
    another host.
    """
    return re.sub(r"\.[0-9a-f]{8}(?=\.qcow2$)", f".{number}", disk)


def suffix(kind: str) -> str:
    """The end of the name of an image's volume."""
    return _SUFFIXES[kind]


def contents(names: Collection[str]) -> frozenset[str]:
    """The contents of the images whose disks are completely uploaded. `names` are all volumes."""
    there = frozenset(names)
    found = filter(None, map(volume_name, there))
    return frozenset(
        part.content
        for part in found
        if part.kind == "disk" and not part.ending and part.volume + COMPLETE in there
    )


def is_there(image: VmImage, there: Collection[str]) -> bool:
    """Whether a host has this image. `there` are the contents of the host's images. An image that
    an earlier release uploaded is known by its recipe only.
    """
    return image.content in there if image.content else image.recipe[:FORMER_DIGITS] in there


@dataclass(frozen=True, slots=True)
class HostImage:
    """What a host knows about an image that was uploaded to it."""

    name: str
    image: VmImage
    cmdline: str
    """The kernel's command line. Empty for a user's qcow2."""
    kinds: tuple[str, ...]
    """The kinds of its files, as in `VolumeName`."""
    packages: tuple[str, ...]
    """Lines NAME=VERSION. Empty for a user's qcow2."""

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self), sort_keys=True).encode()


def host_image(content: bytes) -> HostImage:
    """Reads what `HostImage.to_bytes` has written. Anybody who may write to the host may have
    changed it. Raises UnreadableError.
    """
    found = parse_json(content)
    packages = tuple(as_text(line, "a package") for line in items(found, "packages"))
    image = mapping(found, "image")
    kinds = tuple(as_text(kind, "a kind") for kind in items(found, "kinds"))
    if not {*kinds} <= {*_SUFFIXES}:
        raise UnreadableError("'kinds' has a kind of file that no image has")
    return HostImage(
        text(found, "name"),
        VmImage(
            text(image, "recipe"),
            text(image, "content"),
            packages_digest(packages),
            text(image, "built"),
        ),
        text(found, "cmdline"),
        kinds,
        packages,
    )


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume of a storage pool."""

    size: int
    """Bytes that the volume takes on the disk."""
    written: float
    """When it was last written, in seconds since 1970 by the host's clock."""


@dataclass(frozen=True, slots=True, order=True)
class User:
    """Somebody who may need a volume of an image."""

    kind: str
    """`DOMAIN`, `MEMORY_IMAGE`, or `VOLUME` (anybody's disk that is based on the volume)."""
    name: str

    def __str__(self) -> str:
        return f"the {self.kind} '{self.name}'"


DOMAIN, MEMORY_IMAGE, VOLUME = "domain", "memory image", "volume"


def users_of(volume: str, texts: Mapping[User, str]) -> frozenset[User]:
    """Those whose text names a volume. `texts` maps each possible user to all text that is known
    about the files that it uses.

    Only the end of the name, with the random ID, is searched for: a text may escape the first part
    of the name.
    """
    part = volume_name(volume)
    end = f"{part.content}.{part.id}" if part else volume.rpartition("-")[2]
    return frozenset(user for user, text in texts.items() if end in text)


def without_memory_images(texts: Mapping[User, str], removed: Collection[User]) -> dict[User, str]:
    """The texts (as for `users_of`) after these memory images are removed. The disk of a removed
    memory image stays as long as others use it.
    """
    left = {user: text for user, text in texts.items() if user not in removed}
    disks = {user: text for user, text in texts.items() if user in removed}
    return left | {
        User(VOLUME, user.name): text for user, text in disks.items() if users_of(user.name, left)
    }


def outdated_memory_images(
    texts: Mapping[User, str], uploads: Collection[str], old: Collection[str]
) -> frozenset[User]:
    """The memory images that no VM will wake from any more. Their image was uploaded by an earlier
    release or replaced by a later build, and nothing else uses it.

    `uploads` are the names of all uploaded files. `old` are the contents of replaced builds.
    """
    found: set[User] = set()
    for name in uploads:
        part = volume_name(name)
        if part and not part.ending and (part.is_former or part.content in old):
            users = users_of(name, texts)
            if all(user.kind == MEMORY_IMAGE for user in users):
                found |= users
    # A set, because an image has three files and each memory image uses all of them.
    return frozenset(found)


def prunable(
    volumes: Mapping[str, Volume], used: Mapping[str, Collection[User]], now: float
) -> tuple[str, ...]:
    """The volumes that may be deleted, in alphabetical order: complete uploads that nobody uses,
    abandoned incomplete ones, and markers whose volume is gone.

    Args:
        volumes: all volumes of the pool.
        used: volume of an image -> who uses it. A volume that is missing here is not used.
        now: the time by the host's clock, in seconds since 1970.
    """
    parts = {name: part for name in volumes if (part := volume_name(name))}
    # A root disk without a domain is based only on the disk of its image. But a VM that is defined
    # again with it needs the kernel and the initramfs, too.
    needed = {
        (part.image, part.content)
        for part in parts.values()
        if part.kind == "disk" and used.get(part.volume)
    }
    gone = [
        name
        for name, part in parts.items()
        if (part.kind == "disk" or (part.image, part.content) not in needed)
        and _may_go(part, volumes, used.get(part.volume, ()), now)
    ]
    return tuple(sorted(gone))


def _may_go(
    part: VolumeName, volumes: Mapping[str, Volume], users: Collection[User], now: float
) -> bool:
    if users:
        return False
    file = volumes.get(part.volume)
    if file is None or part.volume + COMPLETE in volumes:
        return True
    # An upload writes the description after the file, so the later of both times counts.
    written = max(file.written, volumes.get(part.volume + ABOUT, file).written)
    return now - written > ABANDONED_AFTER


def superseded(images: Iterable[HostImage]) -> frozenset[str]:
    """The contents of images that a later build has replaced: the host has one of the same recipe
    with other packages.
    """
    found = [item.image for item in images]
    return frozenset(
        one.content
        for one in found
        for other in found
        if one.recipe == other.recipe and one.packages != other.packages and one.built < other.built
    )
