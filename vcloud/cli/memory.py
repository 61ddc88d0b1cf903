"""`vcloud image memory`: the memory images of a host, that is the saved memory of booted VMs, which
other VMs wake from.
"""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from vcloud.cli.options import (
    Accel,
    AccelOption,
    Connect,
    FileArgument,
    FileOption,
    Format,
    Output,
    ParameterFiles,
    Parameters,
    chosen_file,
    parameter_values,
)
from vcloud.cli.output import Progress, emit, say, table, tell
from vcloud.errors import UsageError

if TYPE_CHECKING:
    from vcloud.hosts.memory_images import MemoryImage

app = typer.Typer(
    help="Memory images: the saved memory of booted VMs. A VM that wakes from one need not boot.",
    no_args_is_help=True,
)
former = typer.Typer(help="The former name of `vcloud image memory`.", no_args_is_help=True)
"""Scripts that were written for the release before still work."""


def register(images: typer.Typer) -> None:
    for group, make in ((app, "make"), (former, "warm")):
        group.command("list")(list_images)
        group.command(make)(make_images)
        group.command("rm")(remove_images)
    images.add_typer(app, name="memory")
    images.add_typer(former, name="templates", hidden=True)


def list_images(connect: Connect = None, output: Output = Format.TABLE) -> None:
    """List the memory images of a host. The one that was used last comes first."""
    from vcloud.fleet.fleet import open_fleet
    from vcloud.hosts.memory_images import MemoryImages
    from vcloud.hosts.pool import StoragePool

    with open_fleet(connect) as fleet:
        found, room = (
            MemoryImages(fleet.home, StoragePool(fleet.home)).list(),
            fleet.home.ref.memory_image_space,
        )
    taken = sum(item.size for item in found)
    if output is Format.TABLE:
        table(
            "",
            ["memory image", "of", "MiB", "used"],
            [(_name(item), item.image, str(item.size >> 20), _time(item)) for item in found],
        )
        say(
            f"{taken >> 20} of {room >> 20} MiB are taken; the least recently used is deleted first"
        )
    else:
        emit(
            [
                {"name": _name(item), "image": item.image, "bytes": item.size, "used": _time(item)}
                for item in found
            ],
            output,
        )


def make_images(
    argument: FileArgument = None,
    file: FileOption = None,
    parameters: Parameters = None,
    param_files: ParameterFiles = None,
    connect: Connect = None,
    accel: AccelOption = Accel.AUTO,
) -> None:
    """Make the memory images for all VMs of a vApp file, so that already its first `up` wakes them."""
    from vcloud.apply.memory_images import make_memory_images
    from vcloud.apply.planning import request_of

    request = request_of(
        chosen_file(argument, file), parameter_values(parameters, param_files), accel.value
    )
    with Progress() as progress:
        found = make_memory_images(request, connect, progress)
    tell(f"{len(found)} memory images are ready ({progress.seconds:.1f} s)")


def remove_images(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Memory images, or images of VMs, by name.", show_default=False),
    ] = None,
    everything: Annotated[
        bool,
        typer.Option(
            "--all",
            help="Remove every memory image of the host, and find out anew which images can wake.",
        ),
    ] = False,
    connect: Connect = None,
) -> None:
    """Remove memory images. VMs that woke from them go on; the next ones boot."""
    from vcloud.fleet.fleet import open_fleet
    from vcloud.hosts.memory_images import MemoryImages
    from vcloud.hosts.pool import StoragePool

    if not names and not everything:
        raise UsageError("no memory image is named", "Name one, or remove all of them: --all.")
    with open_fleet(connect) as fleet:
        images = MemoryImages(fleet.home, StoragePool(fleet.home))
        there = images.list()
        for name in names or ():
            if not any(name in (_name(item), item.image) for item in there):
                raise UsageError(
                    f"no memory image is called '{name}'", "See `vcloud image memory list`."
                )
        chosen = [
            item for item in there if everything or {_name(item), item.image} & {*(names or ())}
        ]
        images.remove(chosen)
        if everything:
            images.forget_unwakeable()
    for item in chosen:
        say(f"removed {_name(item)}")


def _name(item: "MemoryImage") -> str:
    return f"{item.image}-{item.key}"


def _time(item: "MemoryImage") -> str:
    return datetime.fromtimestamp(item.used, UTC).isoformat(timespec="seconds")
