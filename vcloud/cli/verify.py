"""`vcloud verify`: tests with packets whether a running vApp does what its file says."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vcloud.cli.options import (
    Connect,
    Format,
    Output,
    ParameterFiles,
    Parameters,
    VappArgument,
    vapp_name,
)
from vcloud.cli.output import Progress, emit, say, table, tell
from vcloud.errors import Exit, UsageError, VcloudError
from vcloud.printable import on_one_line

if TYPE_CHECKING:
    from vcloud.proof.report import Findings


def register(app: typer.Typer) -> None:
    app.command()(verify)


def verify(
    vapp: VappArgument = None,
    parameters: Parameters = None,
    param_files: ParameterFiles = None,
    connect: Connect = None,
    output: Output = Format.TABLE,
    outside: Annotated[
        list[str] | None,
        typer.Option(
            "--outside",
            metavar="ADDRESS[:PORT]",
            help="A test server of yours outside, for flows to the internet. Without a port, it answers on every port; "
            "udp/53 is written as ADDRESS:udp/53. May be given several times.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", help="Seed for random ports; reuse it to repeat a run.")
    ] = 1,
    all_checks: Annotated[
        bool, typer.Option("--all", help="Show every check, also those that passed.")
    ] = False,
    junit: Annotated[
        Path | None,
        typer.Option(
            "--junit", help="Also write the results to this file, as JUnit XML.", show_default=False
        ),
    ] = None,
) -> None:
    """Test a running vApp with real packets. Declared traffic must pass. Other traffic must be
    blocked, and the firewall or IPS must have dropped it.

    Blocked traffic is tested between all pairs of VMs, on ports that the file names, on ports that
    attackers like, and on random ports. VMs of the same open zone are not tested against each
    other. Of many replicas only two are tested; the summary says what was left out.

    Silence, which a busy machine may have caused, is tried again, at most three times in all, with
    more time. Any other failure counts at once. What nothing can test in this vApp is listed as
    'not tried', and does not change the exit code.
    """
    from vcloud.proof.report import exit_code, junit_xml
    from vcloud.verify.run import verify_vapp

    if junit:
        check_writable(junit)
    with Progress(quiet=output is not Format.TABLE) as progress:
        found = verify_vapp(
            vapp_name(vapp, parameters, param_files), connect, seed, progress, outside or ()
        )
    _show(found, output, all_checks=all_checks)
    if junit:
        _write(junit, junit_xml(found.verdicts))
    if code := exit_code(found.verdicts):
        if code is Exit.NOT_CHECKED:
            say("some checks could not be made; the reasons are above")
        raise typer.Exit(code)


def _show(found: "Findings", output: Format, *, all_checks: bool) -> None:
    from vcloud.proof.report import as_data, control_lines, rows, summary

    if output is not Format.TABLE:
        emit(as_data(found), output)
        return
    table("", ["check", "outcome", "claim", "detail"], rows(found.verdicts, all_checks))
    tell(summary(found.verdicts, found.left_out))
    for line in control_lines(found):
        tell(on_one_line(line))


def check_writable(path: Path) -> None:
    """Raises UsageError if the file cannot be written, before a run that takes minutes. Leaves no
    file behind.
    """
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
