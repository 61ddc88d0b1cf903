"""Names that commands have in other tools. They do the same as our own, and `--help` only names them."""

from collections.abc import Callable

import typer

from vcloud.cli import lifecycle, show, vapp_file
from vcloud.cli.options import Connect, Format, Output, ParameterFiles, Parameters, VappArgument

ABOUT = "Also known: apply and deploy (up), destroy and rm (down), lint (validate), ls (list), ps (status, or list if no vApp is named)."

SAME = {"apply": "up", "deploy": "up", "destroy": "down", "rm": "down"}
"""Those that change a vApp, and our names for them."""


def register(app: typer.Typer) -> None:
    named: dict[str, Callable[..., None]] = {
        "apply": lifecycle.up,
        "deploy": lifecycle.up,
        "destroy": lifecycle.down,
        "lint": vapp_file.validate,
        "ls": show.list_vapps,
        "ps": ps,
        "rm": lifecycle.down,
    }
    for name, command in named.items():
        app.command(name, hidden=True)(command)


def ps(
    vapp: VappArgument = None,
    parameters: Parameters = None,
    param_files: ParameterFiles = None,
    connect: Connect = None,
    output: Output = Format.TABLE,
) -> None:
    """Show the state of a vApp, as `status` does; if none is named, list the vApps."""
    if vapp is None:
        show.list_vapps(connect, output)
    else:
        show.status(vapp, parameters, param_files, connect, output)
