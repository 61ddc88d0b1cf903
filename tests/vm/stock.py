"""What the host of a test lab has from the start: uploaded images, memory images of their VMs, and
whether KVM works on this machine.

All of that lies in vcloud's storage pool. One lab fills its pool with the real commands, the pool
is kept beside the image cache, and the hosts of the other labs begin with a copy. So the tests of a
worker need not upload each image and boot each kind of VM once more. A test that is about uploads
or first boots has a lab without a stock. Without a kept pool every lab does the same work itself.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from vcloud.data import images_dir
from vcloud.images.cache import default_cache
from vcloud.images.recipe import digest, load_recipe
from vcloud.lab.account import qemu_account

IMAGES = ("base", "firewall", "ips", "nginx", "postgres", "shop-api")
POOL = Path("h1/var/lib/libvirt/images/vcloud")
"""vcloud's storage pool, in the folder of a lab."""
DRIVE_BYTES = 8 << 30
"""The size of a file system that `drive` makes. Its file has holes."""
WRITTEN = (".save", ".json")
"""Endings of the files that hosts write to. Each host has a copy of its own; all other files are
the same file on every host.
"""


def kept() -> Path:
    """Where the pool is kept. The name changes with the bytes of the images in the cache, because a
    host holds images by them. So what no test could use any more is not kept for ever. It changes with
    QEMU's user, too: libvirt notes at each file who uses it, and refuses it to another user.
    """
    cache = default_cache()
    recipes = ((name, digest(load_recipe(images_dir() / name))) for name in IMAGES)
    cached = (cache.get(name, key) for name, key in recipes)
    parts = (str(qemu_account()), *(image.content if image else "none" for image in cached))
    key = hashlib.sha256("".join(parts).encode()).hexdigest()[:12]
    return cache.folder.parent / "test-images" / f"stock-{key}"


def give(lab: Path) -> None:
    """Puts the kept pool, if there is one, into the folder of a lab whose host has no pool yet."""
    with _locked(kept()):
        if kept().is_dir():
            _copy(kept(), lab / POOL)


def keep(lab: Path) -> None:
    """Keeps the pool of a lab whose VMs are all gone, in the place of the one that was kept."""
    place = kept()
    with _locked(place):
        for old in place.parent.glob("stock-*"):
            if old.is_dir():
                shutil.rmtree(old)
        _copy(lab / POOL, place)


def drive(path: Path, images: Sequence[str]) -> None:
    """Makes a file system with the kept uploads of some images, for a host that is a VM. It is
    empty if no pool is kept: that host then gets its images as any other host does.
    """
    folder = path.with_suffix(".d")
    folder.mkdir()
    stems = tuple(f"{kind}-{image}-" for kind in ("image", "kernel", "initrd") for image in images)
    with _locked(kept()):
        for file in kept().iterdir() if kept().is_dir() else ():
            if file.name.startswith(stems):
                _link(file, folder / file.name)
    with path.open("wb") as content:
        content.truncate(DRIVE_BYTES)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", str(folder), str(path)], check=True)
    shutil.rmtree(folder)


def _copy(source: Path, target: Path) -> None:
    target.mkdir(mode=0o711, parents=True)
    for path in source.iterdir():
        if path.suffix in WRITTEN:
            shutil.copy2(path, target / path.name)
        else:
            _link(path, target / path.name)


def _link(source: Path, target: Path) -> None:
    """A copy where the two are on different file systems."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


@contextmanager
def _locked(place: Path) -> Iterator[None]:
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.with_name("stock.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
