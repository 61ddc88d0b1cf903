"""`vcloud lab`: a lab of libvirt hosts on this machine. `vcloud.lab` is imported by the commands
that need it, to keep `--help` fast.
"""

import os
from typing import Annotated

import typer

from vcloud.cli.options import Format, Output
from vcloud.cli.output import emit, say, table, tell
from vcloud.errors import Exit

app = typer.Typer(
    help="Run libvirt hosts on this machine, in namespaces, with customers and servers outside.",
    no_args_is_help=True,
)

Name = Annotated[
    str,
    typer.Option(
        "--name",
        envvar="VCLOUD_LAB",
        help="The lab's name. Labs with different names can run at the same time.",
    ),
]


@app.command()
def up(
    hosts: Annotated[
        int, typer.Option(envvar="VCLOUD_LAB_HOSTS", help="Number of hosts: h1, h2, ...")
    ] = 1,
    label: Annotated[
        list[str] | None,
        typer.Option(
            "--label",
            metavar="HOST=NAME:VALUE",
            help="Give a host a label, such as h2=site:backup; h2=site: takes it away. Can be given several times.",
            envvar="VCLOUD_LAB_LABEL",
        ),
    ] = None,
    name: Name = "vclab",
) -> None:
    """Start the lab and print the path of its inventory. Existing hosts are kept; --hosts only
    adds.
    """
    from vcloud.lab import lab as labs
    from vcloud.lab import layout

    lab = layout.lab(name)
    labs.up(lab, hosts, report=say, labels=label or ())
    tell(str(lab.inventory))


@app.command()
def down(name: Name = "vclab") -> None:
    """Stop the lab with all its VMs and delete its folder."""
    from vcloud.lab import lab as labs
    from vcloud.lab import layout

    if not labs.down(layout.lab(name)):
        say(f"There is no lab called '{name}'.")


@app.command()
def status(name: Name = "vclab", output: Output = Format.TABLE) -> None:
    """Show which parts of the lab run. Exits with 3 if one of them does not, or if there is no lab."""
    from vcloud.lab import lab as labs
    from vcloud.lab import layout

    parts = labs.status(layout.lab(name))
    if not parts:
        say(f"There is no lab called '{name}'.")
    if output is not Format.TABLE:
        emit(
            [{"where": part.where, "what": part.what, "runs": part.runs} for part in parts], output
        )
    elif parts:
        table(
            "",
            ("where", "what", "state"),
            [(part.where, part.what, "running" if part.runs else "not running") for part in parts],
        )
    if not parts or not all(part.runs for part in parts):
        raise typer.Exit(Exit.DIFFERENT)


@app.command()
def fail(
    host: Annotated[str, typer.Argument(help="The host, such as h2.")],
    cut: Annotated[
        bool, typer.Option("--cut", help="Only cut its network: what runs there runs on.")
    ] = False,
    name: Name = "vclab",
) -> None:
    """Let a host of the lab fail as in a loss of power: its daemons and VMs end at once."""
    from vcloud.lab import lab as labs
    from vcloud.lab import layout

    labs.fail(layout.lab(name), host, only_cut=cut)
    say(f"{host} is cut off." if cut else f"{host} has lost its power.")
    say(f"next: vcloud lab heal {host}")


@app.command()
def heal(
    host: Annotated[str, typer.Argument(help="The host, such as h2.")], name: Name = "vclab"
) -> None:
    """Bring back a host that `lab fail` has let fail. After a loss of power, no VM runs there."""
    from vcloud.lab import lab as labs
    from vcloud.lab import layout

    labs.heal(layout.lab(name), host)
    say(f"Host '{host}' runs.")


@app.command("exec")
def execute(
    where: Annotated[
        str, typer.Argument(help="A host (h1), or 'outside'; 'customer' is the same as 'outside'.")
    ],
    argv: Annotated[
        list[str], typer.Argument(metavar="-- COMMAND...", help="The command and its arguments.")
    ],
    name: Name = "vclab",
) -> None:
    """Run a command on a host of the lab, or outside. Ends with its exit code."""
    from vcloud.lab import lab as labs
    from vcloud.lab import layout

    command = [*labs.enter(layout.lab(name), where), "--", *argv]
    os.execvp(command[0], command)  # noqa: S606  (no shell is wanted)


@app.command()
def inventory(name: Name = "vclab") -> None:
    """Print the inventory file of the lab's hosts."""
    from vcloud.lab import lab as labs
    from vcloud.lab import layout

    tell(labs.inventory(layout.lab(name)), end="")
