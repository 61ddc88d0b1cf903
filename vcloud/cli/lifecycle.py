"""Commands that make, change and delete a vApp: plan, up, save, down."""

import shlex
import sys
from collections.abc import Collection
from typing import TYPE_CHECKING, Annotated

import typer

from vcloud.cli.options import (
    Accel,
    AccelOption,
    AsOf,
    ChangeUplink,
    Connect,
    DeadHosts,
    FileArgument,
    FileOption,
    Format,
    KeepParams,
    NewName,
    Output,
    ParameterFiles,
    Parameters,
    VappArgument,
    WantedHost,
    Yes,
    chosen_file,
    day_of,
    parameter_values,
    vapp_name,
)
from vcloud.cli.output import Progress, confirmed, emit, say, say_unseen, table, tell
from vcloud.errors import Exit, UnreachableError, UsageError
from vcloud.printable import on_one_line

if TYPE_CHECKING:
    from vcloud.plan.steps import Loss, Plan


AcceptDataLoss = Annotated[
    bool,
    typer.Option(
        "--accept-data-loss",
        help="Agree to the loss of the data that `vcloud plan` names.",
    ),
]
Cold = Annotated[
    bool,
    typer.Option(
        "--cold",
        help="Boot every stopped VM. Do not use memory images or saved memory.",
        envvar="VCLOUD_COLD",
    ),
]
Reload = Annotated[
    bool,
    typer.Option(
        "--reload",
        help="Load the rules of the firewall and the IPS again, even if they did not change.",
    ),
]
Refresh = Annotated[
    bool,
    typer.Option(
        "--refresh",
        help="First build the images with the packages of today. VMs whose packages differ are made anew.",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show the plan, like `vcloud plan`.")]


def register(app: typer.Typer) -> None:
    for command in (plan, up, save, down):
        app.command()(command)


def plan(
    argument: FileArgument = None,
    file: FileOption = None,
    parameters: Parameters = None,
    param_files: ParameterFiles = None,
    keep_params: KeepParams = False,
    name: NewName = "",
    connect: Connect = None,
    change_uplink: ChangeUplink = False,
    host: WantedHost = "",
    host_is_dead: DeadHosts = None,
    accel: AccelOption = Accel.AUTO,
    as_of: AsOf = "",
    output: Output = Format.TABLE,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with 3 if there is something to do.")
    ] = False,
) -> None:
    """Show what `up` would create or change, why, and what each step costs. Changes nothing."""
    from vcloud.apply.planning import request_of, with_kept
    from vcloud.apply.up import preview

    path, values = chosen_file(argument, file), parameter_values(parameters, param_files)
    dead = host_is_dead or ()
    request = request_of(
        path,
        with_kept(path, values, connect, dead, name) if keep_params else values,
        accel.value,
        host=host,
        dead=dead,
        day=day_of(as_of),
        called=name,
        change_uplink=change_uplink,
    )
    found = preview(request, connect)
    show_plan(found, output)
    if exit_code and (found.steps or found.unmended or found.older):
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
                "loses": [str(loss) for loss in step.loses],
                "commands": [[*command] for command in step.commands],
            }
            for step in found.shown
        ]
        emit(
            {
                "vapp": found.vapp,
                "host": found.host,
                "steps": steps,
                "notes": [*found.notes],
                "parameters": [change.as_data() for change in found.parameters],
                "unmended": [*found.unmended],
                "older_copies": [
                    {"host": copy.host, "loses": [str(loss) for loss in copy.loses]}
                    for copy in found.older
                ],
                "uncompared_hosts": [
                    {"host": one.host, "why": on_one_line(one.why)} for one in found.uncompared
                ],
                "host_side": _looked_at(found),
            },
            output,
        )
        return
    if found.steps:
        table(
            f"{found.vapp} on {found.host}",
            ["what", "name", "cost", "why"],
            [(step.verb, step.subject, step.cost, step.why) for step in found.shown],
        )
    elif not found.unmended and not found.older:
        tell(f"{found.vapp} on {found.host}: nothing to do{_with_space(found.caveat)}")
    for step in found.shown:
        for command in step.commands:
            tell(f"runs on {step.host} as root: {on_one_line(shlex.join(command))}")
    for change in found.parameters:
        tell(f"parameter {on_one_line(str(change))}")
    for copy in found.older:
        tell(f"removed first: {on_one_line(copy.told(found.vapp, found.host))}")
    for host in found.uncompared:
        tell(f"not compared: {on_one_line(host.told(found.vapp, found.host))}")
    for loss in found.lost_data():
        tell(f"data that would be lost: {on_one_line(str(loss))}")
    for problem in found.unmended:
        tell(f"not protected, and not for `vcloud up` to end: {on_one_line(problem)}")
    for note in found.notes:
        say(f"note: {note}")
    say_unseen(found.host_side)


def _looked_at(found: "Plan") -> dict[str, object] | None:
    """What data tells of a look at the host's side; None: nothing stands whose side it could be."""
    side = found.host_side
    return {"looked_at": not side.unseen, "reason": on_one_line(side.reason)} if side else None


def _with_space(caveat: str) -> str:
    return f" {caveat}" if caveat else ""


def up(
    argument: FileArgument = None,
    file: FileOption = None,
    parameters: Parameters = None,
    param_files: ParameterFiles = None,
    keep_params: KeepParams = False,
    name: NewName = "",
    connect: Connect = None,
    change_uplink: ChangeUplink = False,
    host: WantedHost = "",
    host_is_dead: DeadHosts = None,
    accel: AccelOption = Accel.AUTO,
    yes: Yes = False,
    accept_data_loss: AcceptDataLoss = False,
    cold: Cold = False,
    reload: Reload = False,
    refresh: Refresh = False,
    dry_run: DryRun = False,
    output: Output = Format.TABLE,
) -> None:
    """Create or update the vApp described in FILE. Run again, it changes only what differs."""
    from vcloud.apply.planning import request_of, with_kept
    from vcloud.apply.up import bring_up, preview

    path, values = chosen_file(argument, file), parameter_values(parameters, param_files)
    dead = host_is_dead or ()
    request = request_of(
        path,
        with_kept(path, values, connect, dead, name) if keep_params else values,
        accel.value,
        cold=cold,
        reload=reload,
        refresh=refresh,
        host=host,
        dead=dead,
        called=name,
        change_uplink=change_uplink,
    )
    if dry_run:
        show_plan(preview(request, connect), output)
        return

    def agreed(found: "Plan") -> bool:
        return _agreed(found, yes=yes, data_too=accept_data_loss)

    with Progress(quiet=output is not Format.TABLE) as progress:
        done = bring_up(request, connect, agreed, progress)
    _show_run(done, progress, output)


def _show_run(done: "Plan", progress: Progress, output: Format) -> None:
    if output is not Format.TABLE:
        parts = {part: round(seconds, 2) for part, seconds in progress.parts.items()}
        emit(
            {
                "vapp": done.vapp,
                "host": done.host,
                "steps": len(done.steps),
                "seconds": round(progress.seconds, 2),
                "parts": parts,
                "host_side": _looked_at(done),
            },
            output,
        )
        return
    caveat, took = _with_space(done.caveat), f"{progress.seconds:.1f} s"
    if not done.steps and done.older:
        tell(f"{done.vapp} on {done.host}: its older copies are removed ({took})")
    elif not done.steps:
        tell(f"{done.vapp} on {done.host}: nothing to do{caveat} ({took})")
    else:
        word = "up" if caveat else "up and protected"
        tell(f"{done.vapp} on {done.host} is {word} after {took}: {progress.breakdown}")
        if caveat:
            tell(f"protected{caveat}")
        tell(f"next: vcloud status {done.vapp}, vcloud verify {done.vapp}")
    say_unseen(done.host_side)


def _agreed(found: "Plan", *, yes: bool, data_too: bool) -> bool:
    """Whether the user agrees to what a plan takes away, and to start a copy that may not be the
    newest one: by the flags, or by an answer.

    Raises UsageError or UnreachableError where the flags do not say so and there is no terminal to ask
    at. `--yes` alone is no answer for the data of disks, nor for hosts that could not be asked, because
    it is also given where nothing is to be lost.
    """
    lost = found.lost_data()
    said = (yes or not found.losses()) and (data_too or not lost)
    if said and not found.uncompared:
        return True
    if not sys.stdin.isatty():
        raise _not_compared(found) if found.uncompared else _not_agreed(found)
    show_plan(found, Format.TABLE)
    if found.uncompared and not confirmed(
        f"This starts the copy of '{found.vapp}' on {found.host}, which may not be the newest one. Go on?"
    ):
        return False
    if said:
        return True
    names = ", ".join(loss.what for loss in lost)
    question = (
        f"This data is lost for good: {names}. Go on?"
        if lost
        else "Some VMs are made anew with new root disks, or removed. Data disks stay. Go on?"
    )
    return confirmed(question)


def _not_compared(found: "Plan") -> UnreachableError:
    told = "; ".join(one.told(found.vapp, found.host) for one in found.uncompared)
    dead = " ".join(f"--host-is-dead {one.host}" for one in found.uncompared)
    return UnreachableError(
        f"{told}, and there is no terminal to ask at",
        f"Nothing was done. If the copy on {found.host} is the newest one, name its host: --connect {found.host}. If the others are dead: {dead}.",
    )


def _not_agreed(found: "Plan") -> UsageError:
    from vcloud.plan.given import forgotten

    given = forgotten(found.parameters)
    since = f" ({given})" if given else ""
    if lost := found.lost_data():
        told = "; ".join(map(str, lost))
        return UsageError(
            f"data would be lost: {told}{since}",
            "Nothing was done. A renamed VM keeps its data disks with `was: OLDNAME` in the file. If the data may go, add --accept-data-loss.",
        )
    return UsageError(
        f"this makes anew or removes {', '.join(sorted(found.losses()))}{since}, and there is no terminal to ask at",
        "Nothing was done. `vcloud plan` shows why. If you agree, add --yes.",
    )


def save(
    vapp: VappArgument = None,
    parameters: Parameters = None,
    param_files: ParameterFiles = None,
    connect: Connect = None,
    output: Output = Format.TABLE,
) -> None:
    """Stop all VMs of a vApp and save their memory on the host; `up` resumes them."""
    from vcloud.apply.save import save_vapp

    name = vapp_name(vapp, parameters, param_files)
    with Progress(quiet=output is not Format.TABLE) as progress:
        saved = save_vapp(name, connect, progress)
    if output is not Format.TABLE:
        emit({"vapp": name, "saved": list(saved), "seconds": round(progress.seconds, 2)}, output)
    elif saved:
        tell(
            f"{name} is saved ({len(saved)} VMs, {progress.seconds:.1f} s); next: vcloud up, which restores it"
        )
    else:
        tell(f"{name} is saved already")


def down(
    vapp: VappArgument = None,
    parameters: Parameters = None,
    param_files: ParameterFiles = None,
    connect: Connect = None,
    yes: Yes = False,
    output: Output = Format.TABLE,
) -> None:
    """Delete a vApp with its VMs, networks and disks."""
    from vcloud.apply.down import data_of, take_down

    name = vapp_name(vapp, parameters, param_files)
    losses: tuple[Loss, ...] | None = None
    hosts: dict[str, str] = {}
    if not yes:
        # From here on the hosts are those whose data is shown.
        hosts, losses = data_of(name, connect)
        connect = next(iter(hosts.values())) if len(hosts) == 1 else connect
        for loss in losses:
            say(f"data that would be lost: {on_one_line(str(loss))}")
        if not sys.stdin.isatty():
            raise UsageError(
                f"this deletes '{name}'{_on_all(hosts)} with the data of all of its disks, and there is no terminal to ask at",
                "Nothing was done. If you agree, add --yes.",
            )
        if not confirmed(f"Remove '{name}'{_on_all(hosts)} with all of its VMs and disks?"):
            raise typer.Exit(Exit.FAILED)
    with Progress(quiet=output is not Format.TABLE) as progress:
        among = () if len(hosts) == 1 else hosts
        gone = take_down(name, connect, progress, among, losses)
    if output is not Format.TABLE:
        emit({"vapp": name, "removed": [*gone.removed], "left": [*gone.left]}, output)
    else:
        tell(f"{name} is gone ({len(gone.removed)} things removed, {progress.seconds:.1f} s)")
        for item in gone.left:
            say(f"left: {item}")


def _on_all(hosts: Collection[str]) -> str:
    """Where a vApp has copies on several hosts."""
    return f" on {' and on '.join(hosts)}" if len(hosts) > 1 else ""
