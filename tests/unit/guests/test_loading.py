"""What is said of an appliance that has not loaded its rules, and how commands of a file take turns in
a guest.
"""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from vcloud.errors import GuestError
from vcloud.guests.setup import (
    BUSY,
    REFUSED,
    UNENDED,
    UNKEPT,
    UNWRITTEN,
    in_turn,
    require_loaded,
)
from vcloud.hosts.executed import Executed


@pytest.mark.parametrize(
    ("code", "what", "is_refusal"),
    [
        (REFUSED, "the firewall refused its rules; the old ones stay loaded: why", True),
        (UNWRITTEN, "could not write its new rules; the old ones stay loaded: why", False),
        (UNKEPT, "has its new rules in force, and could not write them", False),
        (BUSY, "is still busy with an earlier command: why", False),
        (1, "has not loaded its rules as it should (exit code 1): why", False),
        (137, "has not loaded its rules as it should (exit code 137): why", False),
    ],
)
def test_only_refused_rules_are_called_refused(code: int, what: str, is_refusal: bool) -> None:
    with pytest.raises(GuestError) as told:
        require_loaded(Executed(code, b"", b"why\n"), "the firewall", "shop.firewall", "a bug")
    assert what in told.value.what
    assert (told.value.hint == "a bug") == is_refusal
    assert told.value.hint


def test_loaded_rules_are_no_error() -> None:
    require_loaded(Executed(0, b"", b""), "the firewall", "shop.firewall", "a bug")


def run(line: str, lock: Path, wait: int = 60) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        in_turn(line, str(lock), wait),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def ended(process: subprocess.Popen[bytes], stdin: bytes = b"") -> tuple[int, bytes, bytes]:
    out, err = process.communicate(stdin, timeout=120)
    return process.returncode, out, err


def begun(lock: Path) -> subprocess.Popen[bytes]:
    """A command that has said that it runs, and ends when its stdin does."""
    first = run("echo begun; cat", lock)
    assert first.stdout is not None
    assert first.stdout.readline() == b"begun\n"
    return first


@pytest.mark.parametrize("killed", [False, True])
def test_a_command_does_not_run_beside_one_that_was_begun_before(
    tmp_path: Path, killed: bool
) -> None:
    """Also where only the shell around it is killed."""
    lock = tmp_path / "lock"
    first = begun(lock)
    if killed:
        first.send_signal(signal.SIGKILL)
        first.wait()
    code, out, err = ended(run("echo second", lock, 0))
    assert (code, out, err.decode().strip()) == (BUSY, b"", UNENDED)
    waiting = run("echo second", lock)
    assert ended(first)[0] == (-signal.SIGKILL if killed else 0)
    assert ended(waiting) == (0, b"second\n", b"")


def test_a_program_in_the_background_does_not_keep_others_from_their_turn(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    code, out, _ = ended(run("sleep 300 > /dev/null 2>&1 & echo $!", lock))
    try:
        assert code == 0
        assert ended(run("echo second", lock, 0)) == (0, b"second\n", b"")
    finally:
        subprocess.run(["kill", out.decode().strip()], check=True)


@pytest.mark.parametrize("code", [0, 3, BUSY])
def test_a_command_ends_with_its_own_code_and_as_root_runs_it(tmp_path: Path, code: int) -> None:
    found = ended(run(f"echo $HOME; umask; exit {code}", tmp_path / "lock"))
    assert found == (code, b"/root\n0022\n", b"")
