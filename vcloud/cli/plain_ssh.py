"""Commands that let other programs reach VMs: ssh-config, inventory."""

import json
from enum import StrEnum
from typing import Annotated

import typer

from vcloud.cli.options import Connect, VappArguments
from vcloud.cli.output import say, tell
from vcloud.errors import UsageError


class InventoryFormat(StrEnum):
    """Formats that Ansible reads."""

    JSON = "json"
    INI = "ini"


def register(app: typer.Typer) -> None:
    app.command("ssh-config")(ssh_config)
    app.command()(inventory)


def ssh_config(
    vapps: VappArguments = None,
    connect: Connect = None,
    install: Annotated[
        bool,
        typer.Option(
            "--install",
            help="Also add one Include line to the beginning of ~/.ssh/config, so that plain ssh, scp and rsync know the names.",
        ),
    ] = False,
) -> None:
    """Print an ssh configuration in which each VM is a host, such as web-1.shop, and write it to
    ~/.ssh/vcloud, with the pinned host keys and a key. Replaces what was there of other vApps. Run it
    again when VMs were made anew.
    """
    from vcloud.guests.ssh_files import hosts_of, include, own_folder, write_files

    folder = own_folder()
    hosts = hosts_of(vapps or [], connect)
    tell(write_files(hosts, folder, connect), end="")
    say(f"wrote {folder.config} with {len(hosts)} hosts")
    if install:
        done = "reads it now" if include(folder) else "reads it already"
        say(f"ssh {done}: ssh {hosts[0].name if hosts else 'VM.VAPP'}")
    else:
        say(
            f"use it: ssh -F {folder.config} VM.VAPP, or let ssh read it: vcloud ssh-config --install"
        )


def inventory(
    vapps: VappArguments = None,
    connect: Connect = None,
    whole: Annotated[
        bool, typer.Option("--list", help="Print the whole inventory, as Ansible asks for it.")
    ] = False,
    host: Annotated[
        str, typer.Option("--host", metavar="NAME", help="Print the variables of one host.")
    ] = "",
    form: Annotated[
        InventoryFormat, typer.Option("--format", help="json is that of dynamic inventories.")
    ] = InventoryFormat.JSON,
) -> None:
    """Print Ansible's inventory of all VMs, or of those of the named vApps: a group for each vApp, and
    one for each tier (shop, shop__web). Writes ~/.ssh/vcloud, as `ssh-config` does, which the
    connections need.
    """
    from vcloud.guests.ssh_files import hosts_of, own_folder, write_files
    from vcloud.guests.ssh_names import ansible_inventory, host_variables, ini_inventory

    if whole and host:
        raise UsageError("--list and --host are both given", "Give one of the two.")
    folder = own_folder()
    found = hosts_of(vapps or [], connect)
    if host:
        chosen = [one for one in found if one.name == host]
        tell(json.dumps(host_variables(chosen[0], folder) if chosen else {}, indent=2))
        return
    write_files(found, folder, connect)
    if form is InventoryFormat.INI:
        tell(ini_inventory(found, folder))
    else:
        tell(json.dumps(ansible_inventory(found, folder), indent=2))
