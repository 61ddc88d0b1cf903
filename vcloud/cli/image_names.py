"""What the names of images and recipes on the command line mean."""

from pathlib import Path
from typing import TYPE_CHECKING

from vcloud.errors import UsageError

if TYPE_CHECKING:
    from vcloud.images.cache import Image


def recipe_folder(name: str) -> Path:
    """The folder of a recipe: of a shipped one by its name, of another by its path."""
    from vcloud.data import images_dir

    return Path(name) if "/" in name else images_dir() / name


def images_called(name: str) -> "list[Image]":
    """The images of the cache with this name, or with this NAME-DIGEST."""
    from vcloud.images.cache import default_cache

    return [image for image in default_cache().list() if name in (image.name, image.entry)]


def refuse_several(name: str, found: "list[Image]") -> None:
    """Raises UsageError where a name means more than one image."""
    if len(found) > 1:
        raise UsageError(
            f"{len(found)} images are called '{name}'",
            "Name one of them: " + ", ".join(image.entry for image in found) + ".",
        )


def found_image(name: str) -> "Image":
    """The one image with this name. Raises UsageError if there is none, or more than one."""
    from vcloud.images.cache import default_cache

    found = images_called(name)
    refuse_several(name, found)
    if found:
        return found[0]
    known = ", ".join(image.entry for image in default_cache().list())
    raise UsageError(
        f"no image is called '{name}'",
        f"In the cache: {known or 'none; vcloud image build makes them'}.",
    )
