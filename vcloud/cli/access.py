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

User = Annotated[str, typer.Option("-l", "--user", help="Login name.")]


def register(app: typer.Typer) -> None:
    app.command("exec", context_settings=PASS_ON)(execute)
    app.command(context_settings=PASS_ON)(ssh)
    app.command("port-forward")(port_forward)
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
    user: User = "root",
    local: Annotated[
        list[str] | None,
        typer.Option(
            "-L",
            metavar="PORT:HOST:PORT",
            help="Forward a port of this machine's loopback to a port of the VM itself (HOST: localhost, or an address of the VM).",
        ),
    ] = None,
    dynamic: Annotated[
        list[str] | None,
        typer.Option("-D", metavar="PORT", help="The same as a SOCKS proxy."),
    ] = None,
    remote: Annotated[
        list[str] | None, typer.Option("-R", help="Refused.", hidden=True, metavar="PORT")
    ] = None,
    nothing: Annotated[
        bool, typer.Option("-N", help="Run nothing in the VM, only forward ports.")
    ] = False,
) -> None:
    """Open a shell in a VM, or run a command there, with ssh. It uses a channel of the hypervisor,
    and checks the VM's pinned host key. Forwarded ports lead to the VM itself; other VMs are reached
    from within it only, through its NIC and the firewall.
    """
    from vcloud.guests.access import forwarding_options, ssh_into
    from vcloud.guests.forwarding import (
        NOT_BACK,
        OF_A_COMMAND,
        dynamic_forward,
        local_forward,
    )

    if remote:
        raise UsageError(NOT_BACK, f"-L leads from here into the VM. {OF_A_COMMAND}")
    forwards = [*map(local_forward, local or []), *map(dynamic_forward, dynamic or [])]
    options = forwarding_options(forwards, only=nothing)
    name = vapp_and_vm(vm, parameters, param_files)
    raise typer.Exit(ssh_into(*name, user, argv or [], connect, options))


def port_forward(
    vm: VmArgument,
    ports: Annotated[
        list[str],
        typer.Argument(
            metavar="PORT[:PORT]...",
            help="A port of this machine and one of the VM: 8080:80, or 80 for the same.",
            show_default=False,
        ),
    ],
    parameters: Parameters = None,
    param_files: ParameterFiles = None,
    connect: Connect = None,
) -> None:
    """Forward ports of this machine's loopback to ports of a VM, until Ctrl-C. It uses a channel of the
    hypervisor: no network path is opened, and other machines cannot use it.
    """
    from vcloud.guests.access import forwarding_options, ssh_into
    from vcloud.guests.forwarding import port_pair

    forwards = [port_pair(text) for text in ports]
    name = vapp_and_vm(vm, parameters, param_files)
    shown = "/".join(name)
    lines = [f"{one.listen}:{one.port} -> {shown} port {one.host_port}" for one in forwards]
    options = forwarding_options(forwards, only=True, told="; ".join(lines))
    raise typer.Exit(ssh_into(*name, "root", [], connect, options))


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
