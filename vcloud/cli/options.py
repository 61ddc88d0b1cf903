"""Options that several commands share, each also a `VCLOUD_` variable."""

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from vcloud.cli import complete
from vcloud.errors import UsageError


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
    """What the command line itself says; what the environment says is a default, which `default_file` knows."""
    source = ctx.get_parameter_source(str(param.name))
    return value if source and source.name == "COMMANDLINE" else None


FileArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="[FILE]",
        help="The vApp file; without it VCLOUD_FILE, vcloud.yaml, vapp.yaml or the only *.vapp.yaml here.",
        show_default=False,
    ),
]
FileOption = Annotated[
    Path | None,
    typer.Option(
        "-f", "--file", help="The vApp file (the same as the argument).", envvar=FILE_VARIABLE, show_default=False, callback=_said
    ),
]
VappArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[VAPP]",
        help="A vApp's name or its file; without it VCLOUD_FILE or the file here.",
        show_default=False,
        autocompletion=complete.vapps,
    ),
]
VmArgument = Annotated[str, typer.Argument(metavar="VAPP/VM", help="For example shop/web-1.", autocompletion=complete.vms)]
Parameters = Annotated[
    list[str] | None,
    typer.Option("-P", "--param", metavar="KEY=VALUE", help="Overrides a parameter of the file.", envvar="VCLOUD_PARAM"),
]
Connect = Annotated[
    str | None,
    typer.Option(
        "-c",
        "--connect",
        metavar="URI",
        help="The libvirt host (default: LIBVIRT_DEFAULT_URI, the running lab, qemu:///system).",
        envvar="VCLOUD_CONNECT",
        show_default=False,
    ),
]
Output = Annotated[Format, typer.Option("-o", "--output", help="Format of the data on stdout.", envvar="VCLOUD_OUTPUT")]
AccelOption = Annotated[
    Accel, typer.Option("--accel", help="auto: KVM where a kernel really boots under it, else TCG.", envvar="VCLOUD_ACCEL")
]
Yes = Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.", envvar="VCLOUD_YES")]

DEFAULT_FILES = ("vcloud.yaml", "vapp.yaml")


def chosen_file(argument: Path | None, option: Path | None) -> Path:
    """The file that is meant. Raises UsageError where none or two are."""
    if argument and option and argument != option:
        raise UsageError(f"two vApp files are named: '{argument}' and '{option}'", "Name one.")
    if named := argument or option:
        return named
    if found := default_file():
        return found
    raise UsageError("no vApp file is named and none is here", "Name one: vcloud up shop.yaml, or make one: vcloud init shop.")


def default_file() -> Path | None:
    """The file that is meant where none is named."""
    if given := os.environ.get(FILE_VARIABLE):
        return Path(given)
    for name in DEFAULT_FILES:
        if Path(name).is_file():
            return Path(name)
    found = sorted(Path().glob("*.vapp.yaml"))
    return found[0] if len(found) == 1 else None


def parameter_values(pairs: list[str] | None) -> dict[str, str]:
    """`-P KEY=VALUE` pairs. Raises UsageError for one without `=`."""
    values = {}
    for pair in pairs or []:
        key, sign, value = pair.partition("=")
        if not sign or not key:
            raise UsageError(f"-P '{pair}' is not KEY=VALUE", "For example: -P web_count=3.")
        values[key] = value
    return values


def vapp_name(text: str | None, pairs: list[str] | None = None) -> str:
    """A vApp's name from a name, or from a file with its parameters as `up` would have them. Raises UsageError, SpecError."""
    values = parameter_values(pairs)
    path = Path(text) if text else default_file()
    if path is None:
        raise UsageError("no vApp is named and no vApp file is here", "Name one: vcloud list shows them.")
    if not text or path.suffix in (".yaml", ".yml") or path.is_file():
        from vcloud.pipeline import read_name

        return read_name(path, values)
    from vcloud.spec.types import parse_name

    return parse_name(text)


def vapp_and_vm(text: str, pairs: list[str] | None = None) -> tuple[str, str]:
    """`shop/web-1`, or `web-1` where a vApp file is here. Raises UsageError, SpecError."""
    vapp, slash, vm = text.partition("/")
    if slash:
        return vapp_name(vapp, pairs), vm
    return vapp_name(None, pairs), text
