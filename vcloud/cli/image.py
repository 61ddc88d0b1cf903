"""`vcloud image`: the disk images that VMs boot from."""

import functools
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from vcloud.cli import image_space, memory
from vcloud.cli.image_names import found_image, recipe_folder
from vcloud.cli.options import Connect, Format, Output
from vcloud.cli.output import Progress, emit, say, table, tell

if TYPE_CHECKING:
    from vcloud.hosts.host_images import Copy
    from vcloud.images.cache import Image

DIGITS = 12
"""How many digits of a digest are shown."""
app = typer.Typer(help="Build, refresh, list, show and remove images.", no_args_is_help=True)
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
    """Build images from their recipes. An image that is already in the cache is not built again.

    No root is needed. Commands of a recipe see only the image, and reach only public addresses.
    """
    from vcloud.data import shipped_recipes
    from vcloud.images.build import build as build_image
    from vcloud.images.recipe import load_recipe

    folders = [recipe_folder(name) for name in names] if names else shipped_recipes()
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
def list_images(
    on_host: Annotated[
        bool,
        typer.Option("--on-host", help="Also list the copies on the host, and who uses them."),
    ] = False,
    connect: Connect = None,
    output: Output = Format.TABLE,
) -> None:
    """List the images in the cache with their age and, with --on-host, the copies on the host."""
    from vcloud.images.cache import default_cache

    images = default_cache().list()
    cached = [_data(image) for image in images]
    if not on_host:
        _show_cached(images) if output is Format.TABLE else emit(cached, output)
        return
    from vcloud.apply.prune import copies_on

    host, copies = copies_on(connect)
    if output is Format.TABLE:
        _show_cached(images)
        _show_copies(host, copies)
        return
    there = {"name": host, "images": [_copy_data(copy) for copy in copies]}
    emit({"cache": cached, "host": there}, output)


def _show_cached(images: "Sequence[Image]") -> None:
    table(
        "",
        ["image", "digest", "content", "built", "days", "MiB", "packages"],
        [
            (
                image.name,
                image.digest[:DIGITS],
                image.content[:DIGITS],
                image.built[:10],
                _days(image.built),
                str(_size(image) >> 20),
                str(len(image.packages)),
            )
            for image in images
        ],
    )


def _show_copies(host: str, copies: "Sequence[Copy]") -> None:
    table(
        f"copies on {host}",
        ["image", "content", "built", "days", "MiB", "used by"],
        [
            (
                copy.name,
                copy.content[:DIGITS],
                copy.about.image.built[:10] if copy.about else "",
                _days(copy.about.image.built if copy.about else ""),
                str(copy.size >> 20),
                ", ".join(user.name for user in copy.users),
            )
            for copy in copies
        ],
    )
    total, unused = (
        sum(copy.size for copy in some) for some in (copies, [c for c in copies if not c.users])
    )
    say(
        f"{total >> 20} MiB in all; nobody uses {unused >> 20} MiB of them, which `vcloud image prune` frees"
    )


def _data(image: "Image") -> dict[str, object]:
    return {
        "name": image.name,
        "digest": image.digest,
        "content": image.content,
        "built": image.built,
        "checked": image.checked or None,
        "bytes": _size(image),
        "packages": len(image.packages),
    }


def _copy_data(copy: "Copy") -> dict[str, object]:
    return {
        "name": copy.name,
        "content": copy.content,
        "built": copy.about.image.built if copy.about else None,
        "bytes": copy.size,
        "used_by": [{"kind": user.kind, "name": user.name} for user in copy.users],
    }


def _days(built: str) -> str:
    from vcloud.plan.images import age_in_days

    days = age_in_days(built, datetime.now(UTC).isoformat())
    return "" if days is None else str(days)


@app.command()
def show(name: Name, output: Output = Format.TABLE) -> None:
    """Show an image: its folder, how it boots, and its packages."""
    image = found_image(name)
    data = {
        "name": image.name,
        "digest": image.digest,
        "content": image.content,
        "built": image.built,
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
        tell(
            f"{key}: {value}" if not isinstance(value, list) else f"{key}:\n  " + "\n  ".join(value)
        )


def _size(image: "Image") -> int:
    return sum(path.stat().st_size for path in image.folder.iterdir())


image_space.register(app)
