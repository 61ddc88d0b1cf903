"""`vcloud profile`: regulations by name, and what their versions demand. `vcloud explain`: why a
packet passes or not.
"""

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vcloud.cli import complete
from vcloud.cli.options import (
    AsOf,
    Connect,
    FileOption,
    Format,
    Output,
    ParameterFiles,
    Parameters,
    chosen_file,
    day_of,
    parameter_values,
)
from vcloud.cli.output import emit, say, table, tell
from vcloud.errors import Exit, UsageError
from vcloud.printable import on_one_line

if TYPE_CHECKING:
    from vcloud.files import Folder
    from vcloud.profiles.difference import ControlChange
    from vcloud.views.profiles import Effect

app = typer.Typer(
    help="Regulations that a vApp file can name: what their versions demand, and what a new version changes.",
    no_args_is_help=True,
)

ProfileName = Annotated[
    str,
    typer.Argument(
        metavar="PROFILE",
        help="pci-dss, pci-dss@4.0 for a fixed version, or ./corp-baseline for a folder of your own.",
    ),
]


def register(main: typer.Typer) -> None:
    main.add_typer(app, name="profile")
    main.command()(explain)


@app.command("list")
def list_profiles(as_of: AsOf = "", output: Output = Format.TABLE) -> None:
    """List the profiles and versions that vcloud ships, and which of them are in force."""
    from vcloud.views.profiles import profile_rows

    rows = profile_rows(_day(as_of))
    if output is not Format.TABLE:
        emit(rows, output)
        return
    table(
        "",
        [
            "profile",
            "version",
            "from",
            "until",
            "state",
            "enforced",
            "supports",
            "manual",
            "not covered",
        ],
        [
            [
                row["profile"],
                row["version"],
                row["from"],
                row["until"],
                row["state"],
                *(str(row[key]) for key in ("enforced", "supports", "manual", "not_covered")),
            ]
            for row in rows
        ],
    )


@app.command()
def show(
    profile: ProfileName,
    as_of: AsOf = "",
    every: Annotated[
        bool, typer.Option("--all", help="Also list the controls that are not covered.")
    ] = False,
    output: Output = Format.TABLE,
) -> None:
    """Show the controls of a profile: what each demands, how it is enforced, and what proves it."""
    from vcloud.views.profiles import control_rows, found_profile

    day = _day(as_of)
    found = found_profile(profile, _here(), day)
    rows = control_rows(found, day)
    if output is not Format.TABLE:
        emit(
            {
                "profile": found.name,
                "version": found.version,
                "title": found.title,
                "from": str(found.begins),
                "until": str(found.ends or ""),
                "extends": found.extends,
                "protects": list(found.protects),
                "draft": found.draft,
                "digest": found.digest,
                "as_of": str(day),
                "controls": rows,
            },
            output,
        )
        return
    tell(f"{found.told}: {on_one_line(found.title)}")
    shown = [row for row in rows if every or row["status"] != "not covered"]
    table(
        "",
        ["control", "status", "evidence", "says"],
        [
            (
                row["control"],
                row["status"] if row["counts"] else f"{row['status']} from {row['from']}",
                row["evidence"],
                row["says"],
            )
            for row in shown
        ],
    )
    if len(shown) < len(rows):
        say(f"{len(rows) - len(shown)} controls more are not covered; --all lists them")


@app.command()
def diff(
    before: ProfileName,
    after: ProfileName,
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE]",
            help="A vApp file: also show what would change for it.",
            show_default=False,
        ),
    ] = None,
    parameters: Parameters = None,
    param_files: ParameterFiles = None,
    as_of: AsOf = "",
    output: Output = Format.TABLE,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with 3 if anything differs.")
    ] = False,
) -> None:
    """Show what differs between two versions of a profile, and what that changes for a vApp."""
    from vcloud.pipeline import load_file
    from vcloud.views.profiles import changes, effect_on, found_profile

    day = _day(as_of)
    one, other = (found_profile(name, _here(), day) for name in (before, after))
    controls = changes(one, other)
    if file is not None and one.name != other.name:
        raise UsageError(
            f"{one.name} and {other.name} are two profiles, and not two versions of one",
            "Leave the file away.",
        )
    effect = None
    if file is not None:
        vapp = load_file(file, parameter_values(parameters, param_files), secrets=False)
        names = (_pinned(before, one.version), _pinned(after, other.version))
        effect = effect_on(vapp, names, day)
    if output is Format.TABLE:
        tell(f"{one.told} -> {other.told}, as of {day}")
        _tell_changes(controls)
        if effect is not None:
            _tell_effect(str(file), effect.lines, effect.new_problems, effect.loaded)
    else:
        found = {"before": one.label, "after": other.label, "as_of": str(day)}
        emit({**found, **_as_data(controls, effect)}, output)
    differs = controls if effect is None else (*effect.lines, *effect.new_problems)
    if exit_code and differs:
        raise typer.Exit(Exit.DIFFERENT)


def _tell_changes(controls: "Sequence[ControlChange]") -> None:
    for found in controls:
        tell(on_one_line(found.text))
    if not controls:
        tell("no control differs")


def _as_data(controls: "Sequence[ControlChange]", effect: "Effect | None") -> dict[str, Any]:
    return {
        "controls": [
            {"change": found.sign, "control": found.id, "text": found.text} for found in controls
        ],
        "vapp": None
        if effect is None
        else {
            "changes": list(effect.lines),
            "problems": list(effect.new_problems),
            "loads": list(effect.loaded),
        },
    }


def _tell_effect(
    file: str, lines: tuple[str, ...], problems: tuple[str, ...], loaded: tuple[str, ...]
) -> None:
    tell(f"{file}:")
    for line in (*lines, *(f"! {problem}" for problem in problems)):
        tell(f"  {on_one_line(line)}")
    if not (lines or problems):
        tell("  nothing changes in its protection")
    for line in loaded:
        tell(f"  {line}")
    if not loaded and not problems:
        tell("  nothing is loaded anew")


@app.command()
def check(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A folder with a file for each version.")
    ],
    output: Output = Format.TABLE,
) -> None:
    """Check a profile of your own: its files, and the profile that it extends."""
    from vcloud.documents.field import FieldError
    from vcloud.files import Folder
    from vcloud.profile_files import own_profile
    from vcloud.profiles.model import CAPABILITIES
    from vcloud.spec.types import PROFILE
    from vcloud.views.profiles import found_profile

    around = Folder(folder.absolute().parent)
    name = f"./{folder.absolute().name}"
    try:
        PROFILE.parse(name)
    except FieldError as error:
        raise UsageError(
            error.what, "Use letters, digits, dashes and dots in the folder's name."
        ) from None
    versions = own_profile(around, name)
    for one in versions:
        found_profile(f"{name}@{one.version}", around, one.begins)
    unknown = [
        f"{one.label} {control.id} needs '{need}', which this release cannot do"
        for one in versions
        for control in one.controls
        if control.demands
        for need in control.needs
        if need not in CAPABILITIES
    ]
    if output is not Format.TABLE:
        emit(
            {
                "valid": not unknown,
                "versions": [{"label": one.label, "digest": one.digest} for one in versions],
                "refused": unknown,
            },
            output,
        )
    else:
        for one in versions:
            tell(f"{one.told} is valid: {one.digest}")
        for line in unknown:
            say(f"refused: {line}")
    if unknown:
        raise typer.Exit(Exit.REFUSED)


@app.command()
def affected(
    vapps: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[VAPP]...",
            help="Names of vApps (default: all on the hosts).",
            show_default=False,
            autocompletion=complete.vapps,
        ),
    ] = None,
    as_of: AsOf = "",
    connect: Connect = None,
    output: Output = Format.TABLE,
) -> None:
    """List the vApps on all hosts that a new version, a passed day or an expired exception has made out
    of date, and what changes. Exits with 3 if there are any, and with 5 if a host could not be asked.
    """
    from vcloud.profile_files import shipped
    from vcloud.views.affected import survey

    day = _day(as_of)
    found = survey(connect, vapps or (), shipped(), day)
    if output is not Format.TABLE:
        emit(found.as_data(day), output)
    else:
        for one in found.affected:
            tell(f"{one.vapp} on {one.host}, made for {one.as_of} by {', '.join(one.profiles)}:")
            for late in one.found:
                tell(f"  {on_one_line(late.text)}")
                for line in late.changes:
                    tell(f"    {on_one_line(line)}")
        if not found.affected:
            tell(f"{len(found.vapps)} vApps with profiles are up to date on {day}")
    for line in found.unknown:
        say(on_one_line(line))
    if found.affected:
        raise typer.Exit(Exit.DIFFERENT)
    if found.unknown:
        raise typer.Exit(Exit.NOT_CHECKED)


def explain(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FILE] FROM SERVICE TO",
            help="For example: web tcp/443 internet. FROM and TO are VMs, zones, internet or addresses outside; from outside, SERVICE is the published port.",
            show_default=False,
        ),
    ] = None,
    event: Annotated[
        str,
        typer.Option(
            "--event",
            metavar="ID",
            help="Instead of FROM SERVICE TO: an id that an event shows, such as 1500001 (a rule of the IPS), flow:checkout or ctl:antispoof.",
            show_default=False,
        ),
    ] = "",
    file: FileOption = None,
    parameters: Parameters = None,
    param_files: ParameterFiles = None,
    as_of: AsOf = "",
    output: Output = Format.TABLE,
) -> None:
    """Say whether a packet passes, which rule decides that, and which line of the file or which
    control it comes from; or what the id in an event means. Contacts no host.
    """
    if event:
        _explain_event(words or [], event, file, parameters, as_of, output)
        return
    from vcloud.design.explain import explain as explained
    from vcloud.documents.field import FieldError
    from vcloud.pipeline import design_of, load_file
    from vcloud.spec.types import parse_service

    if words is None or len(words) not in (3, 4):
        raise UsageError(
            "three words are needed: from, service and to",
            "For example: vcloud explain web tcp/443 internet.",
        )
    *named, source, service, target = words
    path = chosen_file(Path(named[0]) if named else None, file)
    try:
        wanted = parse_service(service)
    except FieldError as error:
        raise UsageError(error.what, "Write it like tcp/80, udp/53 or icmp.") from None
    design = design_of(
        load_file(path, parameter_values(parameters, param_files), secrets=False), day=day_of(as_of)
    )
    answers = explained(design, source, wanted, target)
    if output is not Format.TABLE:
        emit([answer.as_data() for answer in answers], output)
        return
    for answer in answers:
        tell(on_one_line(answer.text))
        for line in answer.inspected:
            tell(f"  {on_one_line(line)}")
        if answer.controls:
            tell(f"  supports {', '.join(answer.controls)}")


def _explain_event(
    words: list[str],
    event: str,
    file: Path | None,
    parameters: list[str] | None,
    as_of: str,
    output: Format,
) -> None:
    from vcloud.pipeline import design_of, load_file
    from vcloud.views.event_origin import origin_of_event

    if len(words) > 1:
        raise UsageError(
            "with --event only the vApp file is named beside it",
            "For example: vcloud explain shop.yaml --event 1500001.",
        )
    path = chosen_file(Path(words[0]) if words else None, file)
    design = design_of(load_file(path, parameter_values(parameters)), day=day_of(as_of))
    found = origin_of_event(design, event)
    if output is not Format.TABLE:
        emit(found.as_data(), output)
        return
    tell(on_one_line(found.text))
    if found.controls:
        tell(f"  supports {', '.join(found.controls)}")


def _here() -> "Folder":
    from vcloud.files import Folder

    return Folder(Path())


def _day(as_of: str) -> date:
    from vcloud.pipeline import today

    return day_of(as_of) or today()


def _pinned(name: str, version: str) -> str:
    return f"{name.partition('@')[0]}@{version}"
