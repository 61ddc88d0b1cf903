"""Commands about a vApp file that contact no host: init, validate."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vcloud.cli.options import (
    AsOf,
    FileArgument,
    FileOption,
    Format,
    Output,
    ParameterFiles,
    Parameters,
    chosen_file,
    day_of,
    parameter_values,
)
from vcloud.cli.output import emit, say, tell
from vcloud.errors import Exit, SpecError, UsageError, VcloudError
from vcloud.printable import on_one_line

if TYPE_CHECKING:
    from vcloud.documents.given import Given
    from vcloud.spec.model import Vapp


def register(app: typer.Typer) -> None:
    for command in (init, validate):
        app.command()(command)


def init(
    name: Annotated[
        str,
        typer.Argument(
            help="Name of the vApp (default: the name of the starter file).", show_default=False
        ),
    ] = "",
    template: Annotated[
        str, typer.Option("-t", "--template", help="The starter file to copy; --list shows them.")
    ] = "shop",
    file: Annotated[
        Path | None,
        typer.Option(
            "-f", "--file", help="File to write (default: NAME.yaml).", show_default=False
        ),
    ] = None,
    show: Annotated[bool, typer.Option("--list", help="List the starter files and exit.")] = False,
) -> None:
    """Write a vApp file to start from."""
    from vcloud.views.starters import starter_names, starter_text

    if show:
        tell("\n".join(starter_names()))
        return
    text = starter_text(template, name)
    path = file or Path(f"{name or template}.yaml")
    try:
        with path.open("x") as out:
            out.write(text)
    except FileExistsError:
        raise UsageError(
            f"'{path}' exists already", "Remove it, or name another: vcloud init --file OTHER.yaml."
        ) from None
    except OSError as error:
        raise UsageError(f"'{path}' cannot be written: {error.strerror}") from None
    say(f"wrote {path}; next: vcloud plan {path}")


def validate(
    argument: FileArgument = None,
    file: FileOption = None,
    parameters: Parameters = None,
    param_files: ParameterFiles = None,
    as_of: AsOf = "",
    output: Output = Format.TABLE,
) -> None:
    """Check a vApp file, and whether it fits the profiles that it names. Contacts no host."""
    from vcloud.pipeline import checked_file, controls_in
    from vcloud.spec.notes import notes as remarks
    from vcloud.spec.refuse import refusals

    path, values = chosen_file(argument, file), parameter_values(parameters, param_files)
    try:
        vapp, found = checked_file(path, values, day_of(as_of))
    except SpecError as error:
        if output is Format.TABLE:
            raise
        emit(
            {
                "file": str(path),
                "vapp": _name_in(path, values),
                "valid": False,
                "problems": list(map(asdict, error.problems)),
            },
            output,
        )
        raise typer.Exit(Exit.INVALID) from None
    inspected = tuple(zone for zone, _ in found.hardening.inspected) if found else ()
    refused = (*refusals(vapp), *(found.refusals if found else ()))
    notes = (*refused, *remarks(vapp, inspected))
    controls = controls_in(found)
    if output is not Format.TABLE:
        emit(
            {
                "file": str(path),
                "vapp": vapp.name,
                "valid": True,
                "problems": [],
                "notes": [str(note) for note in notes],
                "profiles": controls.as_data(),
                "apps": _apps(vapp),
            },
            output,
        )
        return
    tell(f"{path}: the vApp '{vapp.name}' is valid")
    for flow in vapp.flows:
        for service, app in flow.apps_by_port:
            say(f"flow '{flow.id}': {service} carries {app}, by its port")
    for line in controls.told():
        say(f"note: {on_one_line(line)}")
    for note in notes:
        say(f"note: {note}")


def _apps(vapp: "Vapp") -> list[dict[str, str | None]]:
    """What each service of each flow carries, as data."""
    return [
        {
            "flow": flow.id,
            "service": str(service),
            "app": app,
            "by": "file" if flow.app else "port",
        }
        for flow in vapp.flows
        for service, app in zip(flow.services, flow.apps, strict=True)
    ]


def _name_in(path: Path, values: "Given") -> str | None:
    """The name of the vApp in an invalid file; None if it cannot be read."""
    from vcloud.pipeline import read_name

    try:
        return read_name(path, values)
    except VcloudError:
        return None
