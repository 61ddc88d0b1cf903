"""All commands, and the one place where errors become text and exit codes."""

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from vcloud import __version__
from vcloud.cli import (
    access,
    aliases,
    copy,
    host,
    image,
    imports,
    lab,
    lifecycle,
    moving,
    plain_ssh,
    power,
    profile,
    show,
    vapp_file,
    verify,
)
from vcloud.errors import Exit, VcloudError

EPILOG = (
    "Exit codes: 0 done or nothing to do; 1 failed; 2 bad usage or invalid file; 3 differences found (--exit-code; profile affected); 4 a check failed; "
    "5 could not check, or nothing was checked; 6 refused: a policy forbids it, or the host cannot enforce it or has no room for it; 130 interrupted."
)

ABOUT = (
    "Runs an application of several VMs, with its own firewall and IPS, from one YAML file, on libvirt hosts.\n\n"
    f"{aliases.ABOUT}"
)
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

app = typer.Typer(
    name="vcloud",
    help=ABOUT,
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
vapp_file.register(app)
lifecycle.register(app)
imports.register(app)
power.register(app)
moving.register(app, host.app)
show.register(app)
access.register(app)
copy.register(app)
plain_ssh.register(app)
verify.register(app)
profile.register(app)
aliases.register(app)
app.add_typer(image.app, name="image")
app.add_typer(host.app, name="host")
app.add_typer(lab.app, name="lab")


@app.callback()
def _frame(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version and exit.",
            is_eager=True,
            # A lambda, because `_print_version` is defined below.
            callback=lambda value: _print_version(value),
        ),
    ] = False,
) -> None:
    """Options that stand before the command. The help of `app` is shown instead of this text."""


def _print_version(value: bool) -> None:
    if value:
        from vcloud.cli.output import tell

        tell(f"vcloud {__version__}")
        raise typer.Exit


def main() -> None:
    """Runs the command line and exits with a code of `vcloud.errors.Exit`."""
    try:
        app()
    except VcloudError as error:
        _tell(str(error))
        sys.exit(error.exit)
    except (KeyboardInterrupt, SystemExit) as end:
        # typer ends every command by SystemExit, also one that has succeeded.
        if not _was_interrupted(end):
            _flush_or_end()
            raise
        _tell(after_interrupt(sys.argv[1:]))
        _leave(Exit.INTERRUPTED)
    except OSError as error:
        _end_by(error)
    except Exception as error:
        _tell_bug(error)


def after_interrupt(arguments: Sequence[str]) -> str:
    """What to say after Ctrl-C. Only commands that change a vApp or a host leave something to finish."""
    words = [word for word in arguments if not word.startswith("-")]
    command = " ".join(words[:2]) if words[:1] == ["host"] else "".join(words[:1])
    ways = {
        "up": "; run the same command again to finish it, or `vcloud down` to remove what has been made",
        "down": "; run the same command again to finish it",
        "host add": "; run the same command again to finish it",
        "stop": "; `vcloud start` starts what has stopped",
        "start": "; run the same command again to finish it",
        "restart": "; `vcloud start` starts what has stopped",
        "save": "; run the same command again to finish it, or `vcloud up` to go on",
    }
    return f"interrupted{ways.get(aliases.SAME.get(command, command), '')}"


def _tell_bug(error: Exception) -> NoReturn:
    _tell(
        f"this is a bug in vcloud: {type(error).__name__}: {error}\n  The details are in {_debug_file()}; please report them."
    )
    sys.exit(Exit.FAILED)


def _flush_or_end() -> None:
    """Makes sure that all output has been written before the command reports success."""
    try:
        if sys.stdout is not None:  # it is None if the caller closed it
            sys.stdout.flush()
    except OSError as error:
        _end_by(error)


def _end_by(error: OSError) -> NoReturn:
    """Ends with an error. A full disk is not a bug, and a closed pipe has no reader for a message."""
    if error.errno not in (errno.EPIPE, *FULL):
        _tell_bug(error)
    if sys.stdout is not None:
        # Python flushes stdout once more at its end. That must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if error.errno in FULL:
        _tell(
            f"there is no room for what vcloud writes: {error.strerror}\n  Free some space, or send the output elsewhere."
        )
    sys.exit(Exit.FAILED)


def _was_interrupted(end: BaseException | None) -> bool:
    """Whether Ctrl-C caused this end. typer turns it into an exit without a message."""
    while end is not None and not isinstance(end, KeyboardInterrupt):
        end = end.__cause__ or end.__context__
    return end is not None


def _tell(text: str) -> None:
    from vcloud.cli.output import say_error

    say_error(text)


def _leave(code: Exit) -> None:
    """Ends at once, because libvirt calls that other threads wait for cannot be interrupted."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _debug_file() -> Path:
    folder = Path(os.environ.get("XDG_STATE_HOME", Path.home() / ".local/state")) / "vcloud"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "debug.log"
    path.unlink(missing_ok=True)
    with open(path, "x", opener=lambda name, flags: os.open(name, flags, 0o600)) as log:
        log.write(traceback.format_exc())
    return path
