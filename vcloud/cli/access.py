"""Commands that reach into VMs. All of them go through libvirt: no network path is opened for them."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from vcloud.cli.options import Connect, ParameterFiles, Parameters, VmArgument, vapp_and_vm
from vcloud.cli.output import pass_on, tell
from vcloud.errors import UsageError

# Options after the VM belong to the command that runs there.
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}
Argv = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[-- COMMAND...]", help="The command and its arguments.", show_default=False
    ),
]


def register(app: typer.Typer) -> None:
    app.command("exec", context_settings=PASS_ON)(execute)
    app.command(context_settings=PASS_ON)(ssh)
    app.command()(console)
    app.command()(logs)
    app.command("_channel", hidden=True)(channel)


def execute(
    vm: VmArgument,
    argv: Argv = None,
    parameters: Parameters = None,
    param_files: ParameterFiles = None,
    connect: Connect = None,
    timeout: Annotated[
        int, typer.Option("--timeout", help="Seconds after which the command is killed.", min=1)
    ] = 300,
) -> None:
    """Run a command in a VM, through its guest agent. Passes on its output and its exit code. What
    would act on a terminal is shown there as `?`; a pipe or a file gets the output as it is.
    """
    from vcloud.guests.access import execute_in

    if not argv:
        raise UsageError(
            "no command is given", "For example: vcloud exec shop/web-1 -- ip address."
        )
    stdin = b"" if sys.stdin.isatty() else sys.stdin.buffer.read()
    done = execute_in(*vapp_and_vm(vm, parameters, param_files), argv, connect, stdin, timeout)
    pass_on(done.stdout, done.stderr)
    raise typer.Exit(done.code)


def ssh(
    vm: VmArgument,
    argv: Argv = None,
    parameters: Parameters = None,
    param_files: ParameterFiles = None,
    connect: Connect = None,
    user: Annotated[str, typer.Option("-l", "--user", help="Login name.")] = "root",
) -> None:
    """Open a shell in a VM, or run a command there, with ssh. It uses a channel of the hypervisor,
    and checks the VM's pinned host key.
    """
    from vcloud.guests.access import ssh_into

    raise typer.Exit(ssh_into(*vapp_and_vm(vm, parameters, param_files), user, argv or [], connect))


def console(
    vm: VmArgument,
    parameters: Parameters = None,
    param_files: ParameterFiles = None,
    connect: Connect = None,
) -> None:
    """Attach this terminal to a VM's serial console. Ctrl-] leaves it. The VM then controls the
    terminal, as any remote shell does.
    """
    from vcloud.guests.access import attach_console

    attach_console(*vapp_and_vm(vm, parameters, param_files), connect)


def logs(
    vm: VmArgument,
    parameters: Parameters = None,
    param_files: ParameterFiles = None,
    connect: Connect = None,
    lines: Annotated[int, typer.Option("-n", "--lines", help="Number of lines.", min=1)] = 100,
) -> None:
    """Show the last lines of a VM's console. For the firewall and the IPS, also show what they
    stopped.
    """
    from vcloud.guests.logs import log_of

    tell(log_of(*vapp_and_vm(vm, parameters, param_files), connect, lines), end="")


def channel(vapp: str, vm: str, key: Path, connect: Connect = None) -> None:
    """The ProxyCommand that `vcloud ssh` gives to ssh. While it runs, the key in the file `key` may
    log in.
    """
    from vcloud.guests.access import pump

    pump(vapp, vm, key, connect)
