"""Builds images anew with the packages of today. An image is built after the image that it starts
from.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from vcloud.data import shipped_recipes
from vcloud.errors import ImageError, SpecError
from vcloud.images.build import build_anew
from vcloud.images.cache import Cache, Image
from vcloud.images.description import time_ago
from vcloud.images.recipe import Recipe, digest, load_recipe
from vcloud.packages import PackageChange, package_changes

SIDE_BY_SIDE = 2
"""Builds that run at the same time. A build uses one processor, and waits for packages in between."""
RECENT = 3600
"""Seconds. An image that was built or checked more recently is not built again just because another
image starts from it.
"""


@dataclass(frozen=True, slots=True)
class Buildable:
    """What an image is built from: a recipe, and packages that a VM adds to it."""

    recipe: Recipe
    added: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        return digest(self.recipe, self.added)

    @property
    def base(self) -> Buildable | None:
        """The image that must be built first; None for a root image."""
        if self.added:
            return Buildable(self.recipe)
        return Buildable(self.recipe.base) if self.recipe.base else None

    @property
    def label(self) -> str:
        """The name in messages: `nginx`, or `nginx with htop`."""
        return (
            f"{self.recipe.name} with {', '.join(self.added)}" if self.added else self.recipe.name
        )


@dataclass(frozen=True, slots=True)
class Refreshed:
    """The result of building one image anew."""

    what: Buildable
    before: Image | None = None
    after: Image | None = None
    """None if it could not be built; then the earlier image is kept."""
    error: ImageError | None = None

    @property
    def changes(self) -> tuple[PackageChange, ...]:
        """The packages that differ. Empty for an image that the cache did not have."""
        if self.before is None or self.after is None:
            return ()
        return package_changes(self.before.packages, self.after.packages)


def refresh(
    wanted: Iterable[Buildable],
    cache: Cache,
    report: Callable[[str, str], None],
) -> tuple[Refreshed, ...]:
    """Builds images anew. The images that they start from are built first, unless they are recent
    (`RECENT`). If an image cannot be built, the images that start from it are not tried. The result
    has an entry for each image, in the order in which they were built.

    `report` is called with the name of an image and the progress of its build.
    """
    asked_for = list(wanted)
    named = {what.digest for what in asked_for}
    done: dict[str, Refreshed] = {}
    for level in _levels(asked_for):
        recent = {what.digest: image for what in level if (image := _recent(what, named, cache))}
        done |= {what.digest: _kept(what, recent) for what in level if what.digest in recent}
        missing = [what for what in level if what.digest not in recent]
        below = dict(done)
        with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
            results = pool.map(partial(_refresh, done=below, cache=cache, report=report), missing)
            done |= {result.what.digest: result for result in [*results]}
    return tuple(done.values())


def _recent(what: Buildable, named: Collection[str], cache: Cache) -> Image | None:
    """The image in the cache, if it is recent and the user did not name it; it is not built again."""
    image = cache.get(what.recipe.name, what.digest) if what.digest not in named else None
    # A build with a time in the future does not count, because the clock of its machine was wrong.
    return image if image and time_ago(RECENT) <= image.current <= time_ago(0) else None


def _kept(what: Buildable, recent: Mapping[str, Image]) -> Refreshed:
    return Refreshed(what, recent[what.digest], recent[what.digest])


def _levels(wanted: Iterable[Buildable]) -> list[list[Buildable]]:
    """The images and all images that they start from, in levels: each level comes after the one
    that it starts from.
    """
    depths: dict[str, tuple[int, Buildable]] = {}

    def depth_of(what: Buildable) -> int:
        if what.digest not in depths:
            below = depth_of(what.base) + 1 if what.base else 0
            depths[what.digest] = (below, what)
        return depths[what.digest][0]

    for what in wanted:
        depth_of(what)
    deepest = max((depth for depth, _ in depths.values()), default=-1)
    return [
        [what for depth, what in depths.values() if depth == level] for level in range(deepest + 1)
    ]


def _refresh(
    what: Buildable,
    done: Mapping[str, Refreshed],
    cache: Cache,
    report: Callable[[str, str], None],
) -> Refreshed:
    base = done[what.base.digest] if what.base else None
    if base and base.after is None:
        return Refreshed(
            what,
            error=ImageError(
                f"the image {what.label} starts from {base.what.label}, which could not be built"
            ),
        )
    try:
        before, after = build_anew(
            what.recipe,
            what.added,
            base.after if base else None,
            cache,
            lambda text: report(f"image {what.label}", text),
        )
    except ImageError as error:
        report(f"image {what.label}", "failed; the earlier image is kept")
        return Refreshed(what, error=error)
    return Refreshed(what, before, after)


def source_of(image: Image) -> Buildable | None:
    """The recipe and packages that an image of the cache was built from. None if the recipe is gone
    or has changed, or if the image is a user's qcow2. Raises SpecError, ImageError for a recipe
    that cannot be read.
    """
    if image.kernel is None:
        return None
    folders = [Path(image.source)] if image.source else shipped_recipes()
    for folder in folders:
        if folder.name == image.name and (folder / "image.yaml").is_file():
            found = Buildable(load_recipe(folder), image.added)
            if found.digest == image.digest:
                return found
    return None


def outdated(images: Iterable[Image]) -> tuple[Image, ...]:
    """The images of the cache that are no longer needed: their recipe is gone or has changed. A
    user's qcow2 is outdated only if the cache has a newer copy of the same file or URL.
    """
    listed = tuple(images)
    return tuple(
        image
        for image in listed
        if (_has_newer(image, listed) if image.kernel is None else _is_orphan(image))
    )


def _has_newer(image: Image, images: Iterable[Image]) -> bool:
    return any(other.source == image.source != "" and other.built > image.built for other in images)


def _is_orphan(image: Image) -> bool:
    try:
        return source_of(image) is None
    # A recipe with a mistake still exists, and its user will correct it.
    except (ImageError, SpecError, OSError):
        return False
