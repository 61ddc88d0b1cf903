"""`vcloud verify`: does what runs keep what the file promises?"""

from pathlib import Path
from typing import Annotated

import typer

from vcloud.cli.options import Connect, Format, Output, Parameters, VappArgument, vapp_name
from vcloud.cli.output import Progress, emit, say, table
from vcloud.errors import Exit, UsageError, VcloudError


def register(app: typer.Typer) -> None:
    app.command()(verify)


def verify(
    vapp: VappArgument = None,
    parameters: Parameters = None,
    connect: Connect = None,
    output: Output = Format.TABLE,
    seed: Annotated[int, typer.Option("--seed", help="Draws the random ports; the same seed tries the same ports.")] = 1,
    all_checks: Annotated[bool, typer.Option("--all", help="Show every check, not only what did not pass.")] = False,
    junit: Annotated[Path | None, typer.Option("--junit", help="Also write the results as JUnit XML.", show_default=False)] = None,
) -> None:
    """Send real packets: what is declared must pass, what is tried of the rest must be dropped, and the drop must be the protection's doing.

    What must not pass is tried between all VMs but those that share an open zone, two replicas of a tier standing for the others, on the
    ports that the file names, on some that attackers like and on some at random. A line says how many pairs were left out.
    """
    from vcloud.proof.report import as_data, exit_code, junit_xml, rows, summary
    from vcloud.verify.run import verify_vapp

    if junit:
        check_writable(junit)
    with Progress(quiet=output is not Format.TABLE) as progress:
        found = verify_vapp(vapp_name(vapp, parameters), connect, seed, progress)
    verdicts = found.verdicts
    if output is Format.TABLE:
        table("", ["check", "outcome", "claim", "detail"], rows(verdicts, all_checks))
        print(summary(verdicts, found.left_out))
    else:
        emit(as_data(verdicts, found.left_out), output)
    if junit:
        _write(junit, junit_xml(verdicts))
    if code := exit_code(verdicts):
        if code is Exit.NOT_CHECKED:
            say("not everything could be checked")
        raise typer.Exit(code)


def check_writable(path: Path) -> None:
    """Nothing stays of it. Raises UsageError where the file could not be written, before a run that takes minutes."""
    try:
        new = not path.exists()
        with path.open("ab"):
            pass
        if new:
            path.unlink()
    except OSError as error:
        raise UsageError(f"'{path}' cannot be written: {error.strerror}") from None


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise VcloudError(f"'{path}' could not be written: {error.strerror}") from None
