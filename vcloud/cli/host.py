"""`vcloud host`: the hosts of the inventory."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vcloud.cli import complete
from vcloud.cli.options import Connect, Format, Output, Yes
from vcloud.cli.output import confirmed, emit, say, table, tell
from vcloud.errors import Exit, UsageError

if TYPE_CHECKING:
    from vcloud.apply.hosts import NewHost
    from vcloud.views.hosts import HostRow, TrustRow

app = typer.Typer(
    help="Prepare, show and check hosts, and say whose signatures they trust.", no_args_is_help=True
)
HostName = Annotated[
    str,
    typer.Argument(metavar="NAME", help="A host of the inventory.", autocompletion=complete.hosts),
]


@app.command("add")
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The host's name in the inventory.")],
    uri: Annotated[
        str,
        typer.Argument(
            metavar="URI",
            help="Where its libvirt is, or will be: qemu+ssh://root@HOST/system, or an alias of libvirt's configuration.",
        ),
    ],
    labels: Annotated[
        list[str] | None,
        typer.Option(
            "--label",
            metavar="KEY=VALUE",
            help="What `placement` of a vApp file may ask for. Can be given several times.",
        ),
    ] = None,
    operator_key: Annotated[
        Path | None,
        typer.Option(
            "--operator-key",
            metavar="FILE",
            help="The Ed25519 key that signs terms of tenancy there. The host is told to trust it, and then asks for signatures.",
        ),
    ] = None,
    ssh_config: Annotated[
        Path | None,
        typer.Option(
            "--ssh-config",
            metavar="FILE",
            help="The configuration of ssh for this host (default: your own).",
        ),
    ] = None,
    yes: Yes = False,
    output: Output = Format.TABLE,
) -> None:
    """Prepare a host with Debian 12 or 13 over SSH, and write it into the inventory. Shows first what
    it will do; does only what is missing. Needs root on the host.
    """
    from vcloud.apply.hosts import look_at_new_host, make_host

    new = look_at_new_host(name, uri, labels or [], operator_key, ssh_config)
    if output is Format.TABLE:
        _show_steps(new)
    if new.left or not new.stands:
        _agree(new, yes=yes)
        make_host(new, say)
    if output is not Format.TABLE:
        emit(_steps_as_data(new), output)
    elif new.left or not new.stands:
        tell(f"{new.ref.name} is prepared, and stands in {new.inventory.path}")
        say(f"next: vcloud host check {new.ref.name}")
    else:
        tell(f"nothing to do: {new.ref.name} is prepared, and stands in {new.inventory.path}")


def _show_steps(new: "NewHost") -> None:
    for number, step in enumerate(new.left, 1):
        tell(f"{number}. {step.name}: {step.missing}. {step.why}")
        for command in step.commands:
            tell(f"     {command}")
    if not new.stands:
        tell(f"{len(new.left) + 1}. inventory: write {new.ref.name} into {new.inventory.path}")


def _agree(new: "NewHost", *, yes: bool) -> None:
    """Raises typer.Exit where the user does not agree, UsageError where nobody can be asked."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(
            f"this would change {new.ref.name} or the inventory, and there is no terminal to ask at",
            "Nothing was done. If you agree, add --yes.",
        )
    if not confirmed(f"Do this on {new.ref.name}, as root there?"):
        raise typer.Exit(Exit.FAILED)


def _steps_as_data(new: "NewHost") -> dict[str, object]:
    return {
        "host": new.ref.name,
        "uri": new.ref.uri,
        "inventory": str(new.inventory.path),
        "added": not new.stands,
        "done": [
            {"name": step.name, "why": step.why, "commands": [str(one) for one in step.commands]}
            for step in new.left
        ],
    }


@app.command("show")
def show_host(name: HostName, output: Output = Format.TABLE) -> None:
    """Show one host: what the inventory says of it, and what the host itself tells."""
    from vcloud.views.host_facts import facts_of

    found = facts_of(name)
    if output is Format.TABLE:
        table("", (found.name, ""), found.rows())
    else:
        emit(found.as_data(), output)


@app.command("check")
def check(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...",
            help="Hosts of the inventory (default: all).",
            autocompletion=complete.hosts,
        ),
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Check whether hosts can run vApps and are prepared, and print the command that mends each
    finding. Exits with 1 where a check fails.
    """
    from vcloud.views.doctor import check_hosts

    found = check_hosts(names or [])
    if output is Format.TABLE:
        table(
            "",
            ("host", "check", "result", "detail"),
            [
                (host, one.check, one.result, one.detail)
                for host, findings in found.items()
                for one in findings
            ],
        )
        for host, findings in found.items():
            for one in findings:
                if one.hint:
                    say(f"{host}: {one.check}: {one.hint}")
    else:
        emit(
            {host: [one.as_data() for one in findings] for host, findings in found.items()}, output
        )
    if any(one.result == "fail" for findings in found.values() for one in findings):
        raise typer.Exit(Exit.FAILED)


@app.command("remove")
def remove(
    name: HostName,
    forget: Annotated[
        bool,
        typer.Option(
            "--forget",
            help="Do not ask the host what stands there, because it is gone for good. What stands there is then found by no command.",
        ),
    ] = False,
) -> None:
    """Take a host out of the inventory. Refuses while vApps stand there. Changes nothing on the host."""
    from vcloud.apply.hosts import removed_host

    ref, path, aside = removed_host(name, forget=forget)
    tell(f"{ref.name} stands no more in {path}")
    if aside is not None:
        say(f"it was the last host, so {path} is now called {aside}")
    say(
        f"on {ref.name} ({ref.uri}) stay: its packages, libvirt's hook, the reporter, the list of operators, and the storage pool with images"
    )
    if forget:
        say("it was not asked which vApps stand there")


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
        "; ".join(("all vApps (drained)", *row.closed_to) if row.drained else row.closed_to)
        or "nobody",
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


@app.command()
def admit(
    name: Annotated[
        str, typer.Argument(metavar="[HOST]", help="The host that has booted (default: all).")
    ] = "",
    connect: Connect = None,
    output: Output = Format.TABLE,
) -> None:
    """Let the VMs of vApps start again on a host that has booted, unless another host has a newer copy
    of the vApp. Only hosts that trust operators ask for it. `vcloud up` does it by itself.
    """
    from vcloud.views.admission import admit_hosts

    rows, unreachable = admit_hosts(connect, name)
    for other in unreachable:
        say(f"{other} cannot be reached, so nothing there was compared")
    if output is not Format.TABLE:
        emit([asdict(row) for row in rows], output)
    for row in rows if output is Format.TABLE else ():
        word = "may start" if row.admitted else "may NOT start"
        tell(f"{row.vapp} {word} on {row.host}{f': {row.why}' if row.why else ''}")
    if not rows and output is Format.TABLE:
        tell("there is no vApp")
    if not all(row.admitted for row in rows):
        raise typer.Exit(Exit.REFUSED)


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
