"""Checks of the images that VMs start from, and of the sizes of their root disks."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from vcloud.documents.field import shown
from vcloud.errors import Problem
from vcloud.spec.surroundings import Beside
from vcloud.spec.types import format_size
from vcloud.spec.vm import Vm
from vcloud.values import RECIPE_ROOT


def image_problems(
    path: str, vm: Vm, beside: Beside, at: Callable[[str, str, str], Problem]
) -> Iterator[Problem]:
    """What is wrong with the image of the VM at `path`, and with its root disk. The model has already
    looked up the names of shipped images. `at` makes the problem of a path.
    """
    image, image_path = vm.image, f"{path}.image"
    if image.location and not beside.allows_image(image.location):
        yield at(image_path, *outside_image(image.recipe or image.file))
    elif "/" in image.recipe and not beside.is_file(f"{image.location}/image.yaml"):
        what = f"'{image.recipe}' is not an image's folder: it has no image.yaml"
        hint = "Write the path of a folder relative to this file, like ./images/api."
        yield at(image_path, what, hint)
    elif image.file and not beside.is_file(image.location):
        what = f"there is no image file '{image.file}'"
        yield at(image_path, what, "Paths are relative to this file.")
    elif vm.root:
        least = RECIPE_ROOT if image.recipe else 0
        least = beside.disk_size(image.location) if image.file else least
        if vm.root < least:
            yield at(f"{path}.root", *smaller_root(least))


def smaller_root(least: int) -> tuple[str, str]:
    """The message and the hint for a root disk that is smaller than its image, which has so many
    bytes.
    """
    # Rounded up: the size of a qcow2 may be no multiple of a MiB.
    size = format_size(-(-least >> 20) << 20)
    return (
        f"the image has a disk of {size}, and a disk cannot become smaller",
        f"Write root: {size} or more, or remove root.",
    )


def outside_image(written: str) -> tuple[str, str]:
    """The message and the hint for an image that a vApp file may not use."""
    return (
        f"'{shown(written)}' leads out of the folder of the vApp file",
        "Copy the image into this folder, or allow its folder: export VCLOUD_IMAGE_FOLDERS=/srv/images.",
    )
