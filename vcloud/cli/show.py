"""Commands that only look: status, list, render, graph, schema, doctor."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vcloud.cli.options import (
    Accel,
    AccelOption,
    AsOf,
    Connect,
    FileArgument,
    FileOption,
    Format,
    Output,
    ParameterFiles,
    Parameters,
    VappArgument,
    chosen_file,
    day_of,
    parameter_values,
    vapp_name,
)
from vcloud.cli.output import emit, say, say_unseen, table, tell, write
from vcloud.errors import Exit, UsageError
from vcloud.printable import on_one_line

if TYPE_CHECKING:
    from vcloud.design.model import Design
    from vcloud.documents.given import Given
    from vcloud.views.status import Status


class Picture(StrEnum):
    """Languages and formats of `vcloud graph`."""

    MERMAID = "mermaid"
    DOT = "dot"
    SVG = "svg"
    PNG = "png"


def register(app: typer.Typer) -> None:
    for command in (status, render, graph, schema, doctor):
        app.command()(command)
    app.command("list")(list_vapps)


def status(
    vapp: VappArgument = None,
    parameters: Parameters = None,
    param_files: ParameterFiles = None,
    connect: Connect = None,
    output: Output = Format.TABLE,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with 3 if the vApp is not healthy.")
    ] = False,
) -> None:
    """Show the state of a vApp: its VMs, addresses, protection and accelerator. Also asks its
    firewall, its IPS and the host's root.
    """
    from vcloud.views.status import status_of

    found = status_of(vapp_name(vapp, parameters, param_files), connect)
    if output is Format.TABLE:
        _show_status(found)
    else:
        emit(found.as_data(), output)
    if exit_code and not found.healthy:
        raise typer.Exit(Exit.DIFFERENT)


def _show_status(found: "Status") -> None:
    tell(f"{found.vapp} on {found.host}: {found.summary}")
    tell(f"accelerator: {found.accelerator}   public address: {', '.join(found.uplink)}")
    table("", ["VM", "role", "state", "zone", "IPv4", "IPv6"], found.rows())
    for line in found.published:
        tell(f"published: {on_one_line(line)}")
    for refused in found.refused:
        tell(f"too many connections, refused in the last ten minutes: {on_one_line(str(refused))}")
    for line in found.profiles:
        tell(on_one_line(line))
    for problem in found.problems:
        say(f"problem: {on_one_line(problem)}")
    say_unseen(found.host_side)


def list_vapps(connect: Connect = None, output: Output = Format.TABLE) -> None:
    """List the vApps on the hosts (fast; does not check protection)."""
    from vcloud.views.listing import all_vapps

    rows, unreachable = all_vapps(connect)
    for host, error in unreachable.items():
        say(f"{host}: {error}")
    if output is Format.TABLE:
        table(
            "",
            ["vApp", "host", "state", "VMs", "running", "owner"],
            [[str(value) for value in row.values()] for row in rows],
        )
    else:
        emit(rows, output)


def render(
    argument: FileArgument = None,
    file: FileOption = None,
    parameters: Parameters = None,
    param_files: ParameterFiles = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for the files.")] = Path("rendered"),
    accel: AccelOption = Accel.TCG,
    as_of: AsOf = "",
) -> None:
    """Write all generated files (libvirt XML, nft and Suricata rules, identities) to a folder.
    Contacts no host.
    """
    from vcloud.apply.vm_images import VmImages
    from vcloud.images.build import CMDLINE
    from vcloud.views.render import ImageNames, render_to

    def images_of(design: "Design") -> ImageNames:
        return ImageNames(VmImages.of(design).digests, CMDLINE)

    path, day = chosen_file(argument, file), day_of(as_of)
    written = render_to(
        path, parameter_values(parameters, param_files), out, accel.value, images_of, day
    )
    say(f"wrote {written} files to {out}")


def graph(
    argument: FileArgument = None,
    file: FileOption = None,
    parameters: Parameters = None,
    param_files: ParameterFiles = None,
    picture: Annotated[
        Picture | None,
        typer.Option(
            "-F",
            "--format",
            help="Default: chosen by the ending of --out, or mermaid.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="File to write (default: stdout).", show_default=False),
    ] = None,
    lab: Annotated[
        bool, typer.Option("--lab", help="Draw the hosts instead, with who runs there.")
    ] = False,
    connect: Connect = None,
) -> None:
    """Draw a vApp: its zones, VMs and flows, and which zones the IPS inspects. With --lab: the hosts,
    the vApps on them, and which vApps keep each other away from their hosts.
    """
    kind = picture or _by_ending(out)
    # The file and the host may come from the environment, where they are for all commands.
    if lab and argument:
        raise UsageError(
            f"--lab draws hosts, and '{argument}' is a vApp file", "Leave out one of the two."
        )
    values = parameter_values(parameters, param_files)
    content = _lab(connect, kind) if lab else _vapp(chosen_file(argument, file), values, kind)
    if kind in (Picture.SVG, Picture.PNG):
        content = _drawn(content, kind)
    if out is None:
        write(content)
        return
    try:
        out.write_bytes(content)
    except OSError as error:
        raise UsageError(f"'{out}' cannot be written: {error.strerror}") from None
    say(f"wrote {out}")


def _vapp(file: Path, parameters: "Given", kind: Picture) -> bytes:
    from vcloud.compile.graph import render_dot, render_mermaid
    from vcloud.pipeline import design_of, load_file

    design = design_of(load_file(file, parameters, secrets=False))
    drawn = render_mermaid(design) if kind is Picture.MERMAID else render_dot(design)
    return drawn.encode()


def _lab(connect: str | None, kind: Picture) -> bytes:
    from vcloud.compile.lab_graph import render_lab_dot, render_lab_mermaid
    from vcloud.views.hosts import lab_picture

    hosts = lab_picture(connect)
    for host in hosts:
        if host.error:
            say(f"{host.name} cannot be asked: {host.error}")
    drawn = render_lab_mermaid(hosts) if kind is Picture.MERMAID else render_lab_dot(hosts)
    return drawn.encode()


def _by_ending(out: Path | None) -> Picture:
    endings = {".dot": Picture.DOT, ".gv": Picture.DOT, ".svg": Picture.SVG, ".png": Picture.PNG}
    return endings.get(out.suffix if out else "", Picture.MERMAID)


def _drawn(dot: bytes, kind: Picture) -> bytes:
    import subprocess

    try:
        return subprocess.run(
            ["dot", f"-T{kind}"], input=dot, stdout=subprocess.PIPE, check=True
        ).stdout
    except FileNotFoundError:
        raise UsageError(
            "drawing needs Graphviz, which is not installed",
            "Install it (apt-get install graphviz), or use --format mermaid.",
        ) from None


def schema() -> None:
    """Print the JSON schema of the vApp file (for editors: yaml-language-server)."""
    from vcloud.spec.schema import json_schema

    emit(json_schema(), Format.JSON)


def doctor(
    connect: Connect = None,
    output: Output = Format.TABLE,
    fix: Annotated[
        bool,
        typer.Option(
            "--fix",
            help="As root, on the host itself: let users of group libvirt look at the host's side, with a program that only reads, and let libvirt ask a hook whether VMs may share the host.",
        ),
    ] = False,
) -> None:
    """Check whether a host can run vApps and this user can build images, and say how to fix what is
    wrong.
    """
    from vcloud.images.cache import default_cache
    from vcloud.images.tools import building, missing_tools
    from vcloud.views.doctor import CachedImage, examine

    if fix:
        _install(connect)
    cached = [
        CachedImage(image.name, image.build.packages, image.current)
        for image in default_cache().list()
        if image.packages
    ]
    findings = examine(connect, missing_tools(), building(), cached)
    if output is Format.TABLE:
        table(
            "",
            ["check", "result", "detail"],
            [(item.check, item.result, item.detail) for item in findings],
        )
        for item in findings:
            if item.hint:
                say(f"{item.check}: {item.hint}")
    else:
        emit([item.as_data() for item in findings], output)
    if any(item.result == "fail" for item in findings):
        raise typer.Exit(Exit.FAILED)


def _install(connect: str | None) -> None:
    from vcloud.hosts.inventory import choose_host
    from vcloud.hosts.preparing import install_here

    host = choose_host(connect)
    if not host.is_this_machine:
        raise UsageError(
            f"{host.name} is not this machine, and --fix changes only the machine where it runs",
            f"Run it on {host.name}, or name this machine: --connect qemu:///system.",
        )
    for path in install_here():
        say(f"wrote {path}")
