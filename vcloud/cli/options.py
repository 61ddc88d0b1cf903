"""Options that several commands share. Each can also be set by a `VCLOUD_` variable."""

import os
from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vcloud.cli import complete
from vcloud.errors import UsageError

if TYPE_CHECKING:
    from vcloud.documents.given import FromFile


class Format(StrEnum):
    """How data is printed on stdout."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


class Accel(StrEnum):
    AUTO = "auto"
    KVM = "kvm"
    TCG = "tcg"


FILE_VARIABLE = "VCLOUD_FILE"


def _said(ctx: typer.Context, param: typer.CallbackParam, value: Path | None) -> Path | None:
    """The value only if it was given on the command line. A value from the environment is a
    default, which `default_file` reads.
    """
    source = ctx.get_parameter_source(str(param.name))
    return value if source and source.name == "COMMANDLINE" else None


FileArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="[FILE]",
        help="The vApp file (default: VCLOUD_FILE, vcloud.yaml, vapp.yaml, or the only *.vapp.yaml in this folder).",
        show_default=False,
    ),
]
FileOption = Annotated[
    Path | None,
    typer.Option(
        "-f",
        "--file",
        help="The vApp file, as an option instead of an argument.",
        envvar=FILE_VARIABLE,
        show_default=False,
        callback=_said,
    ),
]
VappArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[VAPP]",
        help="Name of a vApp, or its file (default: VCLOUD_FILE, or the vApp file in this folder).",
        show_default=False,
        autocompletion=complete.vapps,
    ),
]
VappArguments = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="VAPP",
        help="Names of vApps (default: all).",
        show_default=False,
        autocompletion=complete.vapps,
    ),
]
VmArgument = Annotated[
    str,
    typer.Argument(
        metavar="VAPP/VM",
        help="A vApp and one of its VMs, such as shop/web-1.",
        autocompletion=complete.vms,
    ),
]
VmArguments = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="VAPP[/VM]",
        help="A vApp, or VMs of one vApp: shop, shop/web-1, or shop/web for all VMs of a tier (default: the vApp of VCLOUD_FILE, or of the file in this folder).",
        show_default=False,
        autocompletion=complete.vms,
    ),
]
Parameters = Annotated[
    list[str] | None,
    typer.Option(
        "-P",
        "--param",
        metavar="KEY=VALUE",
        help="Set a parameter of the file. Can be given several times.",
        envvar="VCLOUD_PARAM",
    ),
]
ParameterFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--param-file",
        metavar="FILE",
        help="A YAML file that sets parameters, for secrets too: then only you may read it. -P overrides it. Can be given several times.",
        envvar="VCLOUD_PARAM_FILE",
        show_default=False,
    ),
]
KeepParams = Annotated[
    bool,
    typer.Option(
        "--keep-params",
        help="Use the values of parameters that the last `up` was given, where none is given now. Secrets are not kept.",
    ),
]
NewName = Annotated[
    str,
    typer.Option(
        "--name",
        metavar="NAME",
        help="Use this name in place of the one in the file: a second copy of the vApp beside the first.",
        show_default=False,
    ),
]
ChangeUplink = Annotated[
    bool,
    typer.Option(
        "--change-uplink",
        help="Let the firewall of a vApp that stands move to another uplink, which restarts it.",
    ),
]
Connect = Annotated[
    str | None,
    typer.Option(
        "-c",
        "--connect",
        metavar="URI",
        help="The libvirt host: a URI, or a name in the inventory (default: LIBVIRT_DEFAULT_URI, the hosts of the running lab or of the inventory, qemu:///system).",
        envvar="VCLOUD_CONNECT",
        show_default=False,
    ),
]
DeadHosts = Annotated[
    list[str] | None,
    typer.Option(
        "--host-is-dead",
        metavar="NAME",
        help="A host that does not answer, and of which you know that it is dead: its vApps may get a place elsewhere. If it was only cut off, its copy runs on there.",
        show_default=False,
        autocompletion=complete.hosts,
    ),
]
WantedHost = Annotated[
    str,
    typer.Option(
        "--host",
        metavar="NAME",
        help="The host for a new vApp, of those that --connect means. All rules are checked.",
        envvar="VCLOUD_HOST",
        show_default=False,
        autocompletion=complete.hosts,
    ),
]
AsOf = Annotated[
    str,
    typer.Option(
        "--as-of",
        metavar="DATE",
        help="Read profiles and exceptions as on this day, like 2027-01-31 (default: today).",
        show_default=False,
    ),
]
Output = Annotated[
    Format, typer.Option("-o", "--output", help="Output format.", envvar="VCLOUD_OUTPUT")
]
AccelOption = Annotated[
    Accel,
    typer.Option(
        "--accel",
        help="auto uses KVM if a test kernel boots under it, and TCG otherwise.",
        envvar="VCLOUD_ACCEL",
    ),
]
Yes = Annotated[
    bool, typer.Option("-y", "--yes", help="Do not ask for confirmation.", envvar="VCLOUD_YES")
]

DEFAULT_FILES = ("vcloud.yaml", "vapp.yaml")


def chosen_file(argument: Path | None, option: Path | None) -> Path:
    """The vApp file that a command works on. Raises UsageError if there is none, or if two are
    named.
    """
    if argument and option and argument != option:
        raise UsageError(f"two vApp files are named: '{argument}' and '{option}'", "Name one.")
    if named := argument or option:
        return named
    if found := default_file():
        return found
    raise UsageError(
        "no vApp file is named and none is here",
        "Name one (vcloud up shop.yaml), or write one: vcloud init shop.",
    )


def default_file() -> Path | None:
    """The vApp file that is used if none is named; None if there is none, or more than one."""
    if given := os.environ.get(FILE_VARIABLE):
        return Path(given)
    for name in DEFAULT_FILES:
        if Path(name).is_file():
            return Path(name)
    found = sorted(Path().glob("*.vapp.yaml"))
    return found[0] if len(found) == 1 else None


def parameter_values(
    pairs: list[str] | None, files: list[Path] | None = None
) -> "dict[str, str | FromFile]":
    """The values of `--param-file FILE` and `-P KEY=VALUE` options. Of several values for a parameter
    the last one counts, and `-P` before all files.

    Raises UsageError for a value without `=` and for a file that cannot be read, SpecError for a
    wrong file.
    """
    values: dict[str, str | FromFile] = {}
    if files:
        from vcloud.files import read_parameter_file

        for file in files:
            values.update(read_parameter_file(file))
    for pair in pairs or []:
        key, sign, value = pair.partition("=")
        if not sign or not key:
            raise UsageError(f"-P '{pair}' is not KEY=VALUE", "For example: -P web_count=3.")
        values[key] = value
    return values


def day_of(text: str) -> date | None:
    """The day of `--as-of`; None where it is not given. Raises UsageError."""
    if not text:
        return None
    from vcloud.documents.field import FieldError
    from vcloud.spec.types import parse_date

    try:
        return parse_date(text)
    except FieldError as error:
        raise UsageError(f"--as-of: {error.what}", error.hint) from None


def vapp_name(
    text: str | None, pairs: list[str] | None = None, files: list[Path] | None = None
) -> str:
    """The name of a vApp: the text itself or, if it is a file, the name that `up` would give it.
    Raises UsageError, SpecError.
    """
    values = parameter_values(pairs, files)
    path = Path(text) if text else default_file()
    if path is None:
        raise UsageError(
            "no vApp is named and no vApp file is here", "Name one: vcloud list shows them."
        )
    if not text or _is_vapp_file(path):
        from vcloud.pipeline import read_name

        return read_name(path, values)
    from vcloud.spec.types import parse_name

    return parse_name(text)


def _is_vapp_file(path: Path) -> bool:
    try:
        return path.suffix in (".yaml", ".yml") or path.is_file()
    except OSError:  # no file can have this name
        return False


def vapp_and_vm(
    text: str, pairs: list[str] | None = None, files: list[Path] | None = None
) -> tuple[str, str]:
    """The vApp and the VM of `shop/web-1`, or of `web-1` if this folder has a vApp file. Raises
    UsageError, SpecError.
    """
    vapp, slash, vm = text.partition("/")
    if slash:
        return vapp_name(vapp, pairs, files), vm
    return vapp_name(None, pairs, files), text


def vapp_and_vms(
    texts: list[str] | None, pairs: list[str] | None = None, files: list[Path] | None = None
) -> tuple[str, list[str]]:
    """The vApp and the VMs that are named; no VM means the whole vApp. Raises UsageError where they
    are of several vApps, or a vApp is named beside VMs of it; SpecError.
    """
    found = [_vapp_or_vm(text, pairs, files) for text in texts or []]
    if not found:
        return vapp_name(None, pairs, files), []
    vapps = sorted({vapp for vapp, _ in found})
    if len(vapps) > 1:
        raise UsageError(
            f"these are several vApps: {', '.join(vapps)}", "Name one, or VMs of one vApp."
        )
    names = [vm for _, vm in found if vm]
    if names and len(names) < len(found):
        raise UsageError(
            f"'{vapps[0]}' is named as a whole and beside it VMs of it", "Name one or the other."
        )
    return vapps[0], names


def _vapp_or_vm(text: str, pairs: list[str] | None, files: list[Path] | None) -> tuple[str, str]:
    path = Path(text)
    if _is_vapp_file(path):
        return vapp_name(text, pairs, files), ""
    vapp, slash, vm = text.partition("/")
    if slash and not vm:
        raise UsageError(f"'{text}' names no VM", f"For example: {vapp}/web-1.")
    return vapp_name(vapp, pairs, files), vm
