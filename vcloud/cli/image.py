"""`vcloud image`: the disk images that VMs boot from."""

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vcloud.cli import memory
from vcloud.cli.options import Format, Output, Yes
from vcloud.cli.output import Progress, emit, say, table
from vcloud.errors import UsageError

if TYPE_CHECKING:
    from vcloud.images.cache import Image

app = typer.Typer(help="Build, list, show and remove images.", no_args_is_help=True)
memory.register(app)
Name = Annotated[
    str, typer.Argument(help="Name of an image, or NAME-DIGEST as `vcloud image list` shows it.")
]


@app.command()
def build(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Names of shipped recipes, or folders of your own (default: all shipped recipes).",
            show_default=False,
        ),
    ] = None,
    packages: Annotated[
        list[str] | None,
        typer.Option("-p", "--package", help="Add a Debian package. Can be given several times."),
    ] = None,
) -> None:
    """Build images from their recipes. An image that is already in the cache is not built again."""
    from vcloud.data import shipped_recipes
    from vcloud.images.build import build as build_image
    from vcloud.images.recipe import load_recipe

    folders = [_folder(name) for name in names] if names else shipped_recipes()
    with Progress() as progress:
        for folder in folders:
            recipe = load_recipe(folder)
            image = build_image(
                recipe,
                tuple(packages or ()),
                progress=functools.partial(progress.report, f"image {recipe.name}"),
            )
            progress.report(f"image {recipe.name}", f"ready: {image.entry}")


@app.command("list")
def list_images(output: Output = Format.TABLE) -> None:
    """List the images in the cache."""
    from vcloud.images.cache import DIGEST_DIGITS, default_cache

    images = default_cache().list()
    if output is Format.TABLE:
        table(
            "",
            ["image", "digest", "MiB", "packages"],
            [
                (
                    image.name,
                    image.digest[:DIGEST_DIGITS],
                    str(_size(image) >> 20),
                    str(len(image.packages)),
                )
                for image in images
            ],
        )
    else:
        emit(
            [
                {
                    "name": image.name,
                    "digest": image.digest,
                    "bytes": _size(image),
                    "packages": len(image.packages),
                }
                for image in images
            ],
            output,
        )


@app.command()
def show(name: Name, output: Output = Format.TABLE) -> None:
    """Show an image: its folder, how it boots, and its packages."""
    image = _found(name)
    data = {
        "name": image.name,
        "digest": image.digest,
        "folder": str(image.folder),
        "bytes": _size(image),
        "boots": f"directly: {image.cmdline}"
        if image.kernel
        else "by its own loader, configured by cloud-init",
        "disks": dict(image.disks),
        "packages": list(image.packages),
    }
    if output is not Format.TABLE:
        emit(data, output)
        return
    for key, value in data.items():
        print(
            f"{key}: {value}" if not isinstance(value, list) else f"{key}:\n  " + "\n  ".join(value)
        )


@app.command()
def rm(
    names: Annotated[
        list[str] | None, typer.Argument(help="Images, by name or NAME-DIGEST.", show_default=False)
    ] = None,
    all_images: Annotated[
        bool, typer.Option("--all", help="Remove every image in the cache.")
    ] = False,
    yes: Yes = False,
) -> None:
    """Remove images from the cache. Running VMs are not affected, because hosts have their own
    copies.
    """
    from vcloud.images.cache import default_cache

    cache = default_cache()
    if not names and not all_images:
        raise UsageError("no image is named", "Name one, or remove all of them: --all.")
    images = cache.list() if all_images else tuple(_found(name) for name in names or ())
    if all_images and not yes and not typer.confirm(f"Remove {len(images)} images?", err=True):
        raise typer.Exit(1)
    for image in images:
        cache.remove(image)
        say(f"removed {image.entry}")


def _folder(name: str) -> Path:
    from vcloud.data import images_dir

    return Path(name) if "/" in name else images_dir() / name


def _found(name: str) -> "Image":
    """The one image with this name. Raises UsageError if there is none, or more than one."""
    from vcloud.images.cache import default_cache

    images = default_cache().list()
    found = [image for image in images if name in (image.name, image.entry)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(
            f"{len(found)} images are called '{name}'",
            "Name one of them: " + ", ".join(image.entry for image in found) + ".",
        )
    raise UsageError(
        f"no image is called '{name}'",
        "In the cache: "
        + (", ".join(image.entry for image in images) or "none; vcloud image build makes them")
        + ".",
    )


def _size(image: "Image") -> int:
    return sum(path.stat().st_size for path in image.folder.iterdir())
