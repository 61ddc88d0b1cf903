"""Commands that make, change and delete a vApp: init, validate, plan, up, save, down."""

import sys
from dataclasses import asdict
from pathlib import Path
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
    Parameters,
    VappArgument,
    Yes,
    chosen_file,
    parameter_values,
    vapp_name,
)
from vcloud.cli.output import Progress, emit, say, table
from vcloud.errors import Exit, SpecError, UsageError, VcloudError

if TYPE_CHECKING:
    from vcloud.plan.steps import Plan


def register(app: typer.Typer) -> None:
    for command in (init, validate, plan, up, save, down):
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
        print("\n".join(starter_names()))
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
    output: Output = Format.TABLE,
) -> None:
    """Check a vApp file. Contacts no host."""
    from vcloud.pipeline import load_file
    from vcloud.spec.notes import notes as remarks
    from vcloud.spec.refuse import refusals

    path, values = chosen_file(argument, file), parameter_values(parameters)
    try:
        vapp = load_file(path, values)
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
    notes = (*refusals(vapp), *remarks(vapp))
    if output is not Format.TABLE:
        emit(
            {
                "file": str(path),
                "vapp": vapp.name,
                "valid": True,
                "problems": [],
                "notes": [str(note) for note in notes],
            },
            output,
        )
        return
    print(f"{path}: the vApp '{vapp.name}' is valid")
    for note in notes:
        say(f"note: {note}")


def _name_in(path: Path, values: dict[str, str]) -> str | None:
    """The name of the vApp in an invalid file; None if it cannot be read."""
    from vcloud.pipeline import read_name

    try:
        return read_name(path, values)
    except VcloudError:
        return None


def plan(
    argument: FileArgument = None,
    file: FileOption = None,
    parameters: Parameters = None,
    connect: Connect = None,
    accel: AccelOption = Accel.AUTO,
    output: Output = Format.TABLE,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with 3 if there is something to do.")
    ] = False,
) -> None:
    """Show what `up` would create or change, why, and what each step costs. Changes nothing."""
    from vcloud.apply.up import preview, request_of

    found = preview(
        request_of(chosen_file(argument, file), parameter_values(parameters), accel.value), connect
    )
    show_plan(found, output)
    if exit_code and found.steps:
        raise typer.Exit(Exit.DIFFERENT)


def show_plan(found: "Plan", output: Format) -> None:
    if output is not Format.TABLE:
        steps = [
            {
                "verb": step.verb.value,
                "subject": step.subject,
                "host": step.host,
                "cost": step.cost.value,
                "why": step.why,
                "undo": step.undo,
            }
            for step in found.shown
        ]
        emit({"vapp": found.vapp, "host": found.host, "steps": steps}, output)
    elif not found.steps:
        print(f"{found.vapp} on {found.host}: nothing to do")
    else:
        table(
            f"{found.vapp} on {found.host}",
            ["what", "name", "cost", "why"],
            [(step.verb, step.subject, step.cost, step.why) for step in found.shown],
        )


def up(
    argument: FileArgument = None,
    file: FileOption = None,
    parameters: Parameters = None,
    connect: Connect = None,
    accel: AccelOption = Accel.AUTO,
    yes: Yes = False,
    cold: Annotated[
        bool,
        typer.Option(
            "--cold",
            help="Boot every stopped VM. Do not use memory images or saved memory.",
            envvar="VCLOUD_COLD",
        ),
    ] = False,
    reload: Annotated[
        bool,
        typer.Option(
            "--reload",
            help="Load the rules of the firewall and the IPS again, even if they did not change.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show the plan, like `vcloud plan`.")
    ] = False,
    output: Output = Format.TABLE,
) -> None:
    """Create or update the vApp described in FILE. Run again, it changes only what differs."""
    from vcloud.apply.up import bring_up, preview, request_of

    request = request_of(
        chosen_file(argument, file),
        parameter_values(parameters),
        accel.value,
        cold=cold,
        reload=reload,
    )
    if dry_run:
        show_plan(preview(request, connect), output)
        return

    def agreed(found: "Plan") -> bool:
        if not found.losses() or yes or not sys.stdin.isatty():
            return True
        show_plan(found, Format.TABLE)
        return typer.confirm(
            "Some VMs are made anew (their data disks stay) or removed with all of their disks. Go on?",
            err=True,
        )

    with Progress(quiet=output is not Format.TABLE) as progress:
        done = bring_up(request, connect, agreed, progress)
    if output is not Format.TABLE:
        parts = {part: round(seconds, 2) for part, seconds in progress.parts.items()}
        emit(
            {
                "vapp": done.vapp,
                "host": done.host,
                "steps": len(done.steps),
                "seconds": round(progress.seconds, 2),
                "parts": parts,
            },
            output,
        )
    elif not done.steps:
        print(f"{done.vapp} on {done.host}: nothing to do ({progress.seconds:.1f} s)")
    else:
        print(
            f"{done.vapp} on {done.host} is up and protected after {progress.seconds:.1f} s: {progress.breakdown}"
        )
        print(f"next: vcloud status {done.vapp}, vcloud verify {done.vapp}")


def save(
    vapp: VappArgument = None,
    parameters: Parameters = None,
    connect: Connect = None,
    output: Output = Format.TABLE,
) -> None:
    """Stop all VMs of a vApp and save their memory on the host; `up` resumes them."""
    from vcloud.apply.save import save_vapp

    name = vapp_name(vapp, parameters)
    with Progress(quiet=output is not Format.TABLE) as progress:
        saved = save_vapp(name, connect, progress)
    if output is not Format.TABLE:
        emit({"vapp": name, "saved": list(saved), "seconds": round(progress.seconds, 2)}, output)
    elif saved:
        print(
            f"{name} is saved ({len(saved)} VMs, {progress.seconds:.1f} s); next: vcloud up, which restores it"
        )
    else:
        print(f"{name} is saved already")


def down(
    vapp: VappArgument = None,
    parameters: Parameters = None,
    connect: Connect = None,
    yes: Yes = False,
    output: Output = Format.TABLE,
) -> None:
    """Delete a vApp with its VMs, networks and disks."""
    from vcloud.apply.down import take_down

    name = vapp_name(vapp, parameters)
    if (
        not yes
        and sys.stdin.isatty()
        and not typer.confirm(f"Remove '{name}' with all of its VMs and disks?", err=True)
    ):
        raise typer.Exit(Exit.FAILED)
    with Progress(quiet=output is not Format.TABLE) as progress:
        removed = take_down(name, connect, progress)
    if output is not Format.TABLE:
        emit({"vapp": name, "removed": list(removed)}, output)
    else:
        print(f"{name} is gone ({len(removed)} things removed, {progress.seconds:.1f} s)")
