"""`vcloud image refresh`, `rm` and `prune`: images of today, and the room that earlier ones take."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vcloud.cli.image_names import found_image, images_called, recipe_folder, refuse_several
from vcloud.cli.options import (
    Connect,
    FileOption,
    Format,
    Output,
    ParameterFiles,
    Parameters,
    Yes,
    parameter_values,
)
from vcloud.cli.output import Progress, confirmed, emit, say, table, tell
from vcloud.errors import Exit, UsageError

if TYPE_CHECKING:
    from vcloud.apply.prune import Chosen, OnHost
    from vcloud.documents.given import Given
    from vcloud.images.cache import Image
    from vcloud.images.refresh import Buildable, Refreshed

CacheOnly = Annotated[
    bool, typer.Option("--cache-only", help="Only this machine's cache. Contact no host.")
]
GIGABYTE, MEGABYTE = 10**9, 10**6


def register(images: typer.Typer) -> None:
    for command in (refresh, rm, prune):
        images.command()(command)


def refresh(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Images of the cache, names of shipped recipes, or folders of your own (default: all images of the cache).",
            show_default=False,
        ),
    ] = None,
    file: FileOption = None,
    parameters: Parameters = None,
    param_files: ParameterFiles = None,
    output: Output = Format.TABLE,
) -> None:
    """Build images anew with the packages of today. `vcloud plan` then shows which VMs get them.

    With --file: the images of a vApp file. The images that they start from are built anew first. An
    image stays as it is if its build fails, or if its packages did not change.
    """
    from vcloud.images.cache import default_cache
    from vcloud.images.refresh import refresh as refresh_images

    wanted = (
        _of_file(file, parameter_values(parameters, param_files))
        if file
        else _buildables(names or [])
    )
    with Progress(quiet=output is not Format.TABLE) as progress:
        results = refresh_images(wanted, default_cache(), progress.report)
    if output is Format.TABLE:
        _tell(results)
    else:
        emit([_refreshed_data(result) for result in results], output)
    if any(result.error for result in results):
        raise typer.Exit(Exit.FAILED)


def _of_file(file: Path, parameters: "Given") -> "tuple[Buildable, ...]":
    from vcloud.apply.refresh import buildables_of
    from vcloud.pipeline import design_of, load_file

    return buildables_of(design_of(load_file(file, parameters, secrets=False)))


def _buildables(names: list[str]) -> "list[Buildable]":
    """What the named images are built from; without names, what all images of the cache are built
    from. Raises UsageError.
    """
    from vcloud.images.cache import default_cache
    from vcloud.images.recipe import load_recipe
    from vcloud.images.refresh import Buildable, source_of

    if not names:
        found = [what for image in default_cache().list() if (what := source_of(image))]
        if not found:
            raise UsageError(
                "the cache has no image of a recipe",
                "Build some: vcloud image build. Or name a recipe.",
            )
        return found
    wanted = []
    for name in names:
        if (recipe_folder(name) / "image.yaml").is_file():
            wanted.append(Buildable(load_recipe(recipe_folder(name))))
        elif what := source_of(image := found_image(name)):
            wanted.append(what)
        else:
            raise UsageError(
                f"nobody knows the recipe of the image {image.entry}",
                "Its recipe is gone or has changed, or it is a qcow2 of your own. Name the folder of a recipe.",
            )
    return wanted


def _tell(results: "tuple[Refreshed, ...]") -> None:
    for result in results:
        tell(f"{result.what.label}: {_outcome(result)}")
        for change in result.changes:
            tell(f"  {change}")
    for result in results:
        if result.error is not None:
            say(f"error: {result.error}")
    if any(result.changes for result in results):
        say("next: vcloud plan shows which VMs get them, vcloud up brings them")


def _outcome(result: "Refreshed") -> str:
    if result.error is not None:
        return "could not be built; the image of before stays"
    if result.before is None:
        return "built"
    number = len(result.changes)
    if not number:
        return f"nothing changed since {result.before.built[:10]}"
    count = "1 package" if number == 1 else f"{number} packages"
    return f"built anew in place of that of {result.before.built[:10]}; {count} changed"


def _refreshed_data(result: "Refreshed") -> dict[str, object]:
    after = result.after
    return {
        "name": result.what.label,
        "digest": result.what.digest,
        "content": after.content if after else None,
        "built": after.built if after else None,
        "error": str(result.error) if result.error else None,
        "changes": [
            {"package": change.name, "before": change.before, "after": change.after}
            for change in result.changes
        ],
    }


def rm(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Images, by name, NAME-DIGEST or NAME-CONTENT.", show_default=False),
    ] = None,
    all_images: Annotated[bool, typer.Option("--all", help="Remove every image.")] = False,
    cache_only: CacheOnly = False,
    connect: Connect = None,
    yes: Yes = False,
) -> None:
    """Remove images from the cache, and their copies from the host. Copies that a VM or a memory image
    uses stay.
    """
    from vcloud.apply.prune import choose_named, free
    from vcloud.images.cache import default_cache

    cache = default_cache()
    if not names and not all_images:
        raise UsageError("no image is named", "Name one, or remove all of them: --all.")
    if all_images:
        chosen = choose_named(cache.list(), None, connect, cache_only=cache_only)
        _agree(chosen, "Remove every image?", yes=yes)
    else:
        images, called = _named(names or [])
        chosen = choose_named(images, called, connect, cache_only=cache_only)
        _refuse_unknown(names or [], images, chosen.there)
    _say_done(free(cache, chosen, connect), Format.TABLE)


def _named(names: list[str]) -> "tuple[list[Image], list[str]]":
    """The images of the cache that these names mean, and what the names mean on a host. Raises
    UsageError for a name that means several images.
    """
    images, called = [], []
    for name in names:
        found = images_called(name)
        refuse_several(name, found)
        images += found
        # Earlier releases put the digest of the recipe into the names on hosts.
        called += [name, *(f"{image.name}-{image.content}" for image in found)]
    return images, called


def _refuse_unknown(names: list[str], images: "list[Image]", there: "OnHost") -> None:
    from vcloud.hosts.host_images import is_called
    from vcloud.plan.host_images import volume_name

    parts = [part for name in there.freeable.files if (part := volume_name(name))]
    for name in names:
        known = any(name in (image.name, image.entry) for image in images)
        known = known or any(is_called(part.image, part.content, [name]) for part in parts)
        if not known and not any(kept.startswith(name) for kept in there.kept):
            found_image(name)  # it says what there is


def prune(
    memory_images: Annotated[
        bool,
        typer.Option(
            "--memory-images",
            help="Also remove all memory images. The next VMs boot, and memory images are made again.",
        ),
    ] = False,
    cache_only: CacheOnly = False,
    connect: Connect = None,
    yes: Yes = False,
    output: Output = Format.TABLE,
) -> None:
    """Remove images that nobody needs: from the cache those of recipes that are gone or have changed,
    from the host all copies that no VM and no memory image uses.
    """
    from vcloud.apply.prune import choose_outdated, free
    from vcloud.images.cache import default_cache

    cache = default_cache()
    chosen = choose_outdated(cache, connect, cache_only=cache_only, memory_images=memory_images)
    if chosen.images or chosen.there.freeable.number:
        _agree(chosen, "Remove them?", yes=yes)
        chosen = free(cache, chosen, connect)
    _say_done(chosen, output)


def _agree(chosen: "Chosen", question: str, *, yes: bool) -> None:
    """Raises typer.Exit where the user does not agree, UsageError where nobody can be asked."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(
            f"this would free {_totals(chosen)}, and there is no terminal to ask at",
            "Nothing was done. If you agree, add --yes.",
        )
    table(
        "",
        ["where", "what"],
        [
            *(("cache", image.entry) for image in chosen.images),
            *((chosen.there.host, name) for name in chosen.there.freeable.files),
            *((chosen.there.host, name) for name in chosen.there.freeable.memory_images),
        ],
    )
    if not confirmed(f"{question} It frees {_totals(chosen)}."):
        raise typer.Exit(Exit.FAILED)


def _say_done(done: "Chosen", output: Format) -> None:
    there = done.there
    if output is not Format.TABLE:
        emit(
            {
                "cache": {
                    "images": [image.entry for image in done.images],
                    "bytes": done.bytes_of_images,
                },
                "host": {
                    "name": there.host or None,
                    "files": sorted(there.freeable.files),
                    "memory_images": sorted(there.freeable.memory_images),
                    "bytes": there.freeable.size,
                    "kept": [*there.kept],
                },
            },
            output,
        )
    else:
        tell(f"freed {_totals(done)}")
        for kept in there.kept:
            say(f"stays on {there.host}: {kept}")
    if there.unasked:
        say(f"note: no host was asked ({there.unasked}); name one with --connect")


def _totals(chosen: "Chosen") -> str:
    there, number = chosen.there, len(chosen.images)
    cache = f"{_size(chosen.bytes_of_images)} in {number} image{'s' * (number != 1)} of the cache"
    if not there.host:
        return cache
    files = there.freeable.number
    return (
        f"{_size(there.freeable.size)} in {files} file{'s' * (files != 1)} on {there.host}, {cache}"
    )


def _size(number: int) -> str:
    if number >= GIGABYTE:
        return f"{number / GIGABYTE:.1f} GB"
    return f"{number / MEGABYTE:.0f} MB"
