"""The frame of the command line: how it ends, and what it says then."""

from __future__ import annotations

import subprocess
import sys

import pytest

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
        ("KeyboardInterrupt", 130, "error: interrupted; run the same command again"),
        ("UsageError('wrong', 'Do it right.')", 2, "error: wrong\n  Do it right."),
        ("ZeroDivisionError('oops')", 1, "error: this is a bug in vcloud: ZeroDivisionError: oops"),
        ("SystemExit(4)", 4, ""),
    ],
)
def test_every_end_has_its_code_and_its_sentence(error: str, code: int, said: str, tmp_path: object) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(error=error)],
        capture_output=True,
        text=True,
        env={"XDG_STATE_HOME": str(tmp_path), "NO_COLOR": "1"},
    )
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr
