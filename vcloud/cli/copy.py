"""The command cp."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vcloud.cli.options import Connect, ParameterFiles, Parameters, vapp_and_vm
from vcloud.cli.output import Progress, say, tell
from vcloud.errors import UsageError
from vcloud.printable import on_one_line

if TYPE_CHECKING:
    from vcloud.guests.copying import Place


def register(app: typer.Typer) -> None:
    app.command("cp")(copy)


def copy(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A file or a folder here, or VAPP/VM:PATH.")
    ],
    target: Annotated[
        str,
        typer.Argument(metavar="TARGET", help="Where the copy goes; into it, if it is a folder."),
    ],
    parameters: Parameters = None,
    param_files: ParameterFiles = None,
    connect: Connect = None,
) -> None:
    """Copy a file or a folder into a VM (vcloud cp site.conf shop/web-1:/etc/nginx/) or out of it. It
    appears whole or not at all. A file is replaced, a folder is not. In the VM, all belongs to root.
    """
    from vcloud.guests.copying import copy_in, copy_out

    there, here = (place_of(text, parameters, param_files) for text in (source, target))
    if (there is None) == (here is None):
        raise UsageError(
            "one of the two must be in a VM", "For example: vcloud cp shop/db:/root/backup.sql ."
        )
    with Progress() as progress:
        if there is not None:
            found = copy_out(there, Path(target), connect, progress)
            size, files = found.bytes, f"{found.files} files, "
            left = found.left
        else:
            assert here is not None  # noqa: S101 - one of the two is
            size, files, left = copy_in(Path(source), here, connect, progress), "", ()
    for line in left:
        say(f"left out: {on_one_line(line)}")
    tell(f"copied {files}{size} bytes in {progress.seconds:.1f} s")


def place_of(
    text: str, parameters: list[str] | None = None, param_files: list[Path] | None = None
) -> "Place | None":
    """The place in a VM that a text means: VAPP/VM:PATH; None for a path of this machine, which may
    also be written ./NAME. Raises UsageError, SpecError.
    """
    from vcloud.guests.copying import Place

    name, colon, path = text.partition(":")
    if not colon or text.startswith(("/", ".")):
        return None
    if not path:
        raise UsageError(f"'{text}' has no path", f"For example: {name}:/root.")
    return Place(*vapp_and_vm(name, parameters, param_files), path)
