"""`vcloud verify`: does what runs keep what the file promises?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from vcloud.cli.options import Connect, Format, Output, VappArgument, vapp_name
from vcloud.cli.output import Progress, emit, say, table
from vcloud.errors import Exit


def register(app: typer.Typer) -> None:
    app.command()(verify)


def verify(
    vapp: VappArgument = None,
    connect: Connect = None,
    output: Output = Format.TABLE,
    seed: Annotated[int, typer.Option("--seed", help="Draws the random ports; the same seed tries the same ports.")] = 1,
    all_checks: Annotated[bool, typer.Option("--all", help="Show every check, not only what did not pass.")] = False,
    junit: Annotated[Optional[Path], typer.Option("--junit", help="Also write the results as JUnit XML.", show_default=False)] = None,  # noqa: UP045
) -> None:
    """Send real packets: what is declared must pass, everything else must be dropped, and the drop must be the protection's doing."""
    from vcloud.verify.report import as_data, exit_code, junit_xml, rows, summary
    from vcloud.verify.run import verify_vapp

    with Progress(quiet=output is not Format.TABLE) as progress:
        verdicts = verify_vapp(vapp_name(vapp), connect, seed, progress)
    if junit:
        junit.write_bytes(junit_xml(verdicts))
    if output is Format.TABLE:
        table("", ["check", "outcome", "claim", "detail"], rows(verdicts, all_checks))
        print(summary(verdicts))
    else:
        emit(as_data(verdicts), output)
    if code := exit_code(verdicts):
        if code is Exit.NOT_CHECKED:
            say("not everything could be checked")
        raise typer.Exit(code)
