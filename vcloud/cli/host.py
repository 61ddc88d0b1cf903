"""`vcloud host`: the hosts of the inventory."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vcloud.cli.options import Connect, Format, Output
from vcloud.cli.output import emit, say, table, tell

if TYPE_CHECKING:
    from vcloud.views.hosts import HostRow, TrustRow

app = typer.Typer(help="Show hosts, and say whose signatures they trust.", no_args_is_help=True)


@app.command("list")
def list_hosts(connect: Connect = None, output: Output = Format.TABLE) -> None:
    """List the hosts: room, labels, vApps that run there, and whom these keep away."""
    from vcloud.views.hosts import host_rows

    rows = host_rows(connect)
    if output is not Format.TABLE:
        emit([asdict(row) | {"labels": dict(row.labels)} for row in rows], output)
        return
    table(
        "",
        ("host", "CPUs", "free memory", "labels", "runs", "closed to"),
        [_cells(row) for row in rows],
    )
    for row in rows:
        if row.error:
            say(f"{row.name} cannot be asked: {row.error}")


def _cells(row: "HostRow") -> tuple[str, ...]:
    if row.error:
        return (row.name, "", "", "", "unreachable", "")
    return (
        row.name,
        f"{row.cpus} of VMs on {row.processors}",
        f"{row.free_memory >> 20} of {row.memory >> 20} MiB",
        " ".join(f"{key}={value}" for key, value in row.labels),
        ", ".join(row.vapps) or "nothing",
        "; ".join(row.closed_to) or "nobody",
    )


@app.command()
def trust(
    key: Annotated[
        Path | None,
        typer.Argument(
            metavar="[KEY]",
            help="File of an Ed25519 public key (default: your own operator's key).",
        ),
    ] = None,
    show: Annotated[bool, typer.Option("--list", help="Only show whom each host trusts.")] = False,
    connect: Connect = None,
    output: Output = Format.TABLE,
) -> None:
    """Let the hosts trust an operator, whose key then may sign the terms of tenancy of VMs. From the
    first trusted key on, a host starts no VM of a vApp whose terms are not signed. Needs root there.
    """
    from vcloud.views.hosts import trust_operator, trust_rows

    _show(trust_rows(connect) if show else trust_operator(connect, key), output)
    if not show:
        say("next: vcloud up for each vApp that runs there, which signs its terms")


@app.command()
def revoke(
    fingerprint: Annotated[
        str,
        typer.Argument(
            metavar="SHA256:...", help="The fingerprint that `host trust --list` shows."
        ),
    ],
    connect: Connect = None,
    output: Output = Format.TABLE,
) -> None:
    """Let the hosts trust an operator no more. Running VMs run on; none starts with terms that only
    this key has signed. Needs root there.
    """
    from vcloud.views.hosts import revoke_operator

    _show(revoke_operator(connect, fingerprint), output)


@app.command("scrub")
def scrub_class(
    name: Annotated[
        str,
        typer.Argument(metavar="[CLASS]", help="The class of conflict (default: all)."),
    ] = "",
    connect: Connect = None,
    output: Output = Format.TABLE,
) -> None:
    """Say that the hosts are clean of the vApps of a class of conflict that they have carried, so that
    others of the class may run there. Deletes nothing. Needs root there.
    """
    from vcloud.views.hosts import scrub_hosts

    found = scrub_hosts(connect, name)
    if output is not Format.TABLE:
        emit(found, output)
        return
    for host, classes in found.items():
        if not classes:
            tell(f"{host} remembers nothing of this")
        for one, vapps in classes.items():
            tell(f"{host} has forgotten of class '{one}': {', '.join(vapps)}")


def _show(rows: "list[TrustRow]", output: Format) -> None:
    if output is not Format.TABLE:
        emit(
            [
                {
                    "host": row.host,
                    "signatures": row.trusted is not None,
                    "trusted": [
                        {"fingerprint": one.fingerprint, "comment": one.comment}
                        for one in row.trusted or ()
                    ],
                }
                for row in rows
            ],
            output,
        )
        return
    for row in rows:
        if row.trusted is None:
            tell(f"{row.host} asks for no signatures")
        elif not row.trusted:
            tell(f"{row.host} trusts nobody, so no VM of a vApp starts there")
        for one in row.trusted or ():
            tell(f"{row.host} trusts {one.fingerprint} {one.comment}".rstrip())
