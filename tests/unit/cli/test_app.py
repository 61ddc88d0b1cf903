"""The frame of the command line: how it ends, and what it says then."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vcloud.cli.app import after_interrupt

PROGRAM = """
import sys
from vcloud.cli import app
from vcloud.errors import UsageError

@app.app.command()
def probe() -> None:
    raise {error}

sys.argv = ["vcloud", "probe"]
app.main()
"""


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        ("KeyboardInterrupt", 130, "error: interrupted\n"),
        ("UsageError('wrong', 'Do it right.')", 2, "error: wrong\n  Do it right."),
        ("ZeroDivisionError('oops')", 1, "error: this is a bug in vcloud: ZeroDivisionError: oops"),
        ("SystemExit(4)", 4, ""),
    ],
)
def test_every_end_has_its_code_and_its_sentence(
    error: str, code: int, said: str, tmp_path: object
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(error=error)],
        capture_output=True,
        text=True,
        env={"XDG_STATE_HOME": str(tmp_path), "NO_COLOR": "1"},
    )
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "names_a_way_on"),
    [
        (["up", "shop.yaml"], True),
        (["down", "shop", "--yes"], True),
        (["rm", "shop", "--yes"], True),
        (["save", "shop"], True),
        (["start", "shop"], True),
        (["host", "add", "h1", "qemu+ssh://root@h1/system"], True),
        (["host", "list"], False),
        (["status", "shop"], False),
        (["verify", "up"], False),
        ([], False),
    ],
)
def test_only_after_a_change_something_is_left_to_finish(
    arguments: list[str], names_a_way_on: bool
) -> None:
    """Nobody who looks at a vApp should be led to remove it."""
    said = after_interrupt(arguments)
    assert said.startswith("interrupted")
    assert ("run the same command again to finish it" in said) == names_a_way_on
    assert ("vcloud down" in said) == (arguments[:1] == ["up"])


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_an_output_that_has_no_room_is_said_and_is_no_bug(unbuffered: str, tmp_path: Path) -> None:
    program = PROGRAM.replace("raise {error}", "print('something')")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", program],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env={"XDG_STATE_HOME": str(tmp_path), "NO_COLOR": "1", "PYTHONUNBUFFERED": unbuffered},
        )
    assert done.returncode == 1
    assert done.stderr == (
        "error: there is no room for what vcloud writes: No space left on device\n  Free some space, or send the output elsewhere.\n"
    )


def test_a_reader_who_has_gone_is_told_nothing(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    program = PROGRAM.replace("raise {error}", "print('something')")
    done = subprocess.run(
        [sys.executable, "-c", program],
        stdout=writing,
        stderr=subprocess.PIPE,
        env={"XDG_STATE_HOME": str(tmp_path)},
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")
