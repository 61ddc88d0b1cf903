"""`vcloud import`: a vApp file from a file of docker compose."""

from pathlib import Path
from typing import Annotated

import typer

from vcloud.cli.output import say, tell
from vcloud.errors import UsageError
from vcloud.printable import on_one_line


def register(app: typer.Typer) -> None:
    app.command("import")(import_file)


def import_file(
    compose: Annotated[Path, typer.Argument(metavar="COMPOSE", help="A file of docker compose.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="File to write (default: stdout).", show_default=False),
    ] = None,
) -> None:
    """Write a vApp file from a file of docker compose, as far as it can be taken over, and name what
    was left out. Contacts no host.
    """
    from vcloud.files import Folder, read_vapp_file
    from vcloud.imports import import_compose, told

    folder = Folder(compose.parent)

    def is_file(relative: str) -> bool:
        path = folder.path(relative)
        return folder.is_file(path) and folder.contains(path)

    name = compose.absolute().parent.name
    made = import_compose(read_vapp_file(compose), str(compose), name, is_file)
    if out is None:
        tell(made.text, end="")
    else:
        _write(out, made.text)
    for line in told(made.left):
        say(on_one_line(line))
    if out is not None:
        say(f"wrote {out}; next: vcloud validate {out}")


def _write(out: Path, text: str) -> None:
    try:
        with out.open("x") as opened:
            opened.write(text)
    except FileExistsError:
        raise UsageError(
            f"'{out}' exists already", "Remove it, or name another file: --out OTHER.yaml."
        ) from None
    except OSError as error:
        raise UsageError(f"'{out}' cannot be written: {error.strerror}") from None
