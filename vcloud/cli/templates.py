"""`vcloud image templates`: the saved memory that VMs wake from, on a host."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from vcloud.cli.options import (
    Accel,
    AccelOption,
    Connect,
    FileArgument,
    FileOption,
    Format,
    Output,
    Parameters,
    chosen_file,
    parameter_values,
)
from vcloud.cli.output import Progress, emit, say, table
from vcloud.errors import UsageError

if TYPE_CHECKING:
    from vcloud.hosts.templates import Template

app = typer.Typer(help="Templates: the saved memory of booted VMs, which others wake from in a second.", no_args_is_help=True)


@app.command("list")
def list_templates(connect: Connect = None, output: Output = Format.TABLE) -> None:
    """List the templates of a host, the one that was used last first."""
    from vcloud.hosts.connection import open_host
    from vcloud.hosts.inventory import choose_host
    from vcloud.hosts.pool import Pool
    from vcloud.hosts.templates import Templates

    with open_host(choose_host(connect)) as host:
        found = Templates(host, Pool(host)).list()
    taken = sum(item.size for item in found)
    if output is Format.TABLE:
        table("", ["template", "image", "MiB", "used"], [(_name(item), item.image, str(item.size >> 20), _time(item)) for item in found])
        say(f"{taken >> 20} of {host.ref.templates >> 20} MiB are taken; what was not used for longest goes first")
    else:
        emit([{"name": _name(item), "image": item.image, "bytes": item.size, "used": _time(item)} for item in found], output)


@app.command()
def warm(
    argument: FileArgument = None,
    file: FileOption = None,
    parameters: Parameters = None,
    connect: Connect = None,
    accel: AccelOption = Accel.AUTO,
) -> None:
    """Make the templates for all VMs of a vApp file, so that its first `up` wakes them."""
    from vcloud.apply.up import request_of
    from vcloud.apply.warm import warm as warm_up

    with Progress() as progress:
        found = warm_up(request_of(chosen_file(argument, file), parameter_values(parameters), accel.value), connect, progress)
    print(f"{len(found)} templates are ready ({progress.seconds:.1f} s)")


@app.command()
def rm(
    names: Annotated[list[str] | None, typer.Argument(help="Templates or images by name.", show_default=False)] = None,
    all_templates: Annotated[
        bool, typer.Option("--all", help="Remove every template of the host, and find out anew which images can wake.")
    ] = False,
    connect: Connect = None,
) -> None:
    """Remove templates. VMs that woke from them go on; the next ones boot cold."""
    from vcloud.hosts.connection import open_host
    from vcloud.hosts.inventory import choose_host
    from vcloud.hosts.pool import Pool
    from vcloud.hosts.templates import Templates

    if not names and not all_templates:
        raise UsageError("no template is named", "Name one, or all of them: --all.")
    with open_host(choose_host(connect)) as host:
        templates = Templates(host, Pool(host))
        there = templates.list()
        for name in names or ():
            if not any(name in (_name(item), item.image) for item in there):
                raise UsageError(f"no template is called '{name}'", "vcloud image templates list shows them.")
        chosen = [item for item in there if all_templates or {_name(item), item.image} & {*(names or ())}]
        templates.remove(chosen)
        if all_templates:
            templates.reconsider()
    for item in chosen:
        say(f"removed {_name(item)}")


def _name(template: "Template") -> str:
    return f"{template.image}-{template.key}"


def _time(template: "Template") -> str:
    return datetime.fromtimestamp(template.used, UTC).isoformat(timespec="seconds")
