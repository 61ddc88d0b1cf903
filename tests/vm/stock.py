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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vcloud.data import images_dir
from vcloud.images.cache import default_cache
from vcloud.images.recipe import digest, load_recipe

IMAGES = ("base", "firewall", "ips", "nginx", "postgres", "shop-api")
POOL = Path("h1/var/lib/libvirt/images/vcloud")
"""vcloud's storage pool, in the folder of a lab."""
WRITTEN = (".save", ".json")
"""Endings of the files that hosts write to. Each host has a copy of its own; all other files are
the same file on every host.
"""


def kept() -> Path:
    """Where the pool is kept. The name changes with the recipes, so that images of old recipes are
    not kept for ever.
    """
    recipes = hashlib.sha256(
        "".join(digest(load_recipe(images_dir() / name)) for name in IMAGES).encode()
    ).hexdigest()[:12]
    return default_cache().folder.parent / "test-images" / f"stock-{recipes}"


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
