"""Commands that stop and start VMs, and remove nothing: stop, start, restart."""

from typing import TYPE_CHECKING, Annotated

import typer

from vcloud.cli.options import (
    Connect,
    Format,
    Output,
    ParameterFiles,
    Parameters,
    VmArguments,
    vapp_and_vms,
)
from vcloud.cli.output import Progress, emit, say_unseen, tell
from vcloud.printable import on_one_line

if TYPE_CHECKING:
    from vcloud.plan.steps import Plan

Timeout = Annotated[
    int,
    typer.Option(
        "-t",
        "--timeout",
        help="Seconds after which a VM that does not shut down is powered off.",
        min=1,
    ),
]
SHUTDOWN = 90
"""Seconds. systemd gives a service as long by default."""


def register(app: typer.Typer) -> None:
    for command in (stop, start, restart):
        app.command()(command)


def stop(
    vms: VmArguments = None,
    parameters: Parameters = None,
    param_files: ParameterFiles = None,
    connect: Connect = None,
    timeout: Timeout = SHUTDOWN,
    output: Output = Format.TABLE,
) -> None:
    """Shut down VMs, or a whole vApp. Nothing is removed; `start` or `up` starts them again. Workloads
    stop first, each after those that need it, and the firewall and the IPS last.
    """
    from vcloud.apply.stop import stop_vms

    vapp, names = vapp_and_vms(vms, parameters, param_files)
    with Progress(quiet=output is not Format.TABLE) as progress:
        done = stop_vms(vapp, names, connect, timeout, progress)
    if output is not Format.TABLE:
        emit({"vapp": vapp, "stopped": [*done.vms], "powered_off": [*done.ended]}, output)
    elif done.vms:
        told = ", ".join(done.vms)
        tell(f"stopped: {told} ({progress.seconds:.1f} s); next: vcloud start {vapp}")
    else:
        tell(f"{vapp}: nothing of it ran that should stop")


def start(
    vms: VmArguments = None,
    parameters: Parameters = None,
    param_files: ParameterFiles = None,
    connect: Connect = None,
    output: Output = Format.TABLE,
) -> None:
    """Start VMs that are off, or a whole vApp, as the last `up` has made them. Needs no vApp file. The
    firewall and the IPS are started first, loaded and checked.
    """
    from vcloud.apply.start import start_vms

    vapp, names = vapp_and_vms(vms, parameters, param_files)
    with Progress(quiet=output is not Format.TABLE) as progress:
        done = start_vms(vapp, names, connect, progress)
    _show(done, progress, output)


def restart(
    vms: VmArguments = None,
    parameters: Parameters = None,
    param_files: ParameterFiles = None,
    connect: Connect = None,
    timeout: Timeout = SHUTDOWN,
    output: Output = Format.TABLE,
) -> None:
    """Stop VMs, or a whole vApp, and start them again, as `stop` and `start` do. While the firewall
    restarts, no traffic passes it.
    """
    from vcloud.apply.start import restart_vms

    vapp, names = vapp_and_vms(vms, parameters, param_files)
    with Progress(quiet=output is not Format.TABLE) as progress:
        done = restart_vms(vapp, names, connect, timeout, progress)
    _show(done, progress, output)


def _show(done: "Plan", progress: Progress, output: Format) -> None:
    if output is not Format.TABLE:
        steps = [{"verb": step.verb.value, "subject": step.subject} for step in done.shown]
        emit({"vapp": done.vapp, "host": done.host, "steps": steps}, output)
        return
    for step in done.shown:
        tell(f"{step.verb} {step.subject}: {on_one_line(step.why)}")
    word = "done, and protected" if done.steps else "nothing to do"
    caveat = f" {done.caveat}" if done.caveat else ""
    tell(f"{done.vapp} on {done.host}: {word}{caveat} ({progress.seconds:.1f} s)")
    say_unseen(done.host_side)
