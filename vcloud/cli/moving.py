"""Commands that move vApps between hosts: migrate, host drain, host undrain."""

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vcloud.cli import complete
from vcloud.cli.options import Connect, Format, Output, Parameters, Yes, vapp_name
from vcloud.cli.output import Progress, confirmed, emit, say, table, tell
from vcloud.errors import Exit, UsageError
from vcloud.printable import on_one_line

if TYPE_CHECKING:
    from vcloud.apply.draining import DrainPlan
    from vcloud.plan.moving import MovePlan

HostName = Annotated[
    str,
    typer.Argument(metavar="HOST", help="A host of the inventory.", autocompletion=complete.hosts),
]


def register(app: typer.Typer, host_app: typer.Typer) -> None:
    app.command()(migrate)
    for command in (drain, undrain):
        host_app.command()(command)


def migrate(
    vapp: Annotated[
        str,
        typer.Argument(
            metavar="VAPP", help="Name of a vApp, or its file.", autocompletion=complete.vapps
        ),
    ],
    host: HostName,
    parameters: Parameters = None,
    connect: Connect = None,
    yes: Yes = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what the move would do.")
    ] = False,
    output: Output = Format.TABLE,
) -> None:
    """Move a vApp with its disks to another host. It is stopped meanwhile: VMs are not moved while they
    run. Shows first what it will do. A move that was interrupted is ended by the next `migrate`, `up`
    or `down`.
    """
    from vcloud.apply.moving import move_vapp, plan_move

    name = vapp_name(vapp, parameters)
    if dry_run:
        _show_move(plan_move(name, host, connect), output)
        return

    def agreed(plan: "MovePlan") -> bool:
        if output is Format.TABLE:
            _show_move(plan, output)
        return _agreed(f"Move '{name}' to {host}?", yes=yes)

    with Progress(quiet=output is not Format.TABLE) as progress:
        source = move_vapp(name, host, connect, agreed, progress)
    if output is not Format.TABLE:
        seconds = round(progress.seconds, 2)
        emit({"vapp": name, "source": source, "destination": host, "seconds": seconds}, output)
        return
    tell(f"{name} is on {host}, and gone from {source} ({progress.seconds:.1f} s)")
    tell(f"next: vcloud status {name}, vcloud verify {name}")


def _agreed(question: str, *, yes: bool) -> bool:
    """Raises UsageError if nobody can be asked."""
    if yes:
        return True
    if not sys.stdin.isatty():
        raise UsageError(
            "this stops VMs, and deletes disks on the host that they leave, and there is no terminal to ask at",
            "Nothing was done. If you agree, add --yes.",
        )
    return confirmed(question)


def _show_move(plan: "MovePlan", output: Format) -> None:
    if output is not Format.TABLE:
        emit(_as_data(plan), output)
        return
    table(
        f"{plan.vapp} from {plan.source} to {plan.destination}",
        ["what", "name", "host", "why"],
        plan.rows(),
    )
    tell(on_one_line(plan.announced))
    for note in plan.notes:
        say(f"note: {on_one_line(note)}")


def _as_data(plan: "MovePlan") -> dict[str, Any]:
    return {**asdict(plan), "bytes": plan.bytes, "announced": plan.announced}


def drain(
    host: HostName, connect: Connect = None, yes: Yes = False, output: Output = Format.TABLE
) -> None:
    """Empty a host: no vApp is placed there any more, and those that stand there are moved to other
    hosts, as `vcloud migrate` does it. Says which cannot move, and why; exits with 6 then.
    """
    from vcloud.apply.draining import drain_host

    def agreed(plan: "DrainPlan") -> bool:
        if output is Format.TABLE:
            _show_drain(plan)
        return _agreed(f"Drain {host}?", yes=yes) if plan.moves else True

    with Progress(quiet=output is not Format.TABLE) as progress:
        done = drain_host(host, connect, agreed, progress)
    if output is not Format.TABLE:
        emit(asdict(done), output)
    else:
        for vapp, other in done.moved:
            tell(f"{vapp} is on {other} now")
        for one in done.stay:
            tell(f"{one.vapp} stays on {host}: {on_one_line(one.why)}")
        tell(f"{host} is drained: no vApp is placed there until `vcloud host undrain {host}`")
    if done.stay:
        raise typer.Exit(Exit.REFUSED)


def _show_drain(plan: "DrainPlan") -> None:
    for move in plan.moves:
        _show_move(move, Format.TABLE)
    for one in plan.stay:
        tell(f"{one.vapp} cannot move: {on_one_line(one.why)}")
    if not plan.moves and not plan.stay:
        tell(f"no vApp stands on {plan.host}")


def undrain(host: HostName, connect: Connect = None) -> None:
    """Let vApps be placed on a host again. Moves none back."""
    from vcloud.apply.draining import undrain_host

    was = undrain_host(host, connect)
    tell(f"vApps may be placed on {host} again" if was else f"{host} was not drained")
