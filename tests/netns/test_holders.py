"""Whether a process has ended, asked by a user from whom /proc hides the processes of others."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from vcloud.hosts.holder import Holder, this_process

pytestmark = pytest.mark.netns

ASK = """
import json, os, sys
from vcloud.hosts.holder import Holder
holder = Holder(**json.loads(sys.argv[1]))
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
print(os.access(f"/proc/{holder.pid}/stat", os.R_OK), holder.is_gone())
"""
"""Run as a user without rights: whether the process can be seen, and whether it counts as ended."""
HIDING = 'mount -t proc -o "$0" proc /proc && exec "$@"'


def asked(holder: Holder, options: str) -> list[str]:
    program = (sys.executable, "-c", ASK, json.dumps(asdict(holder)))
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", HIDING, options, *program],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "600"]) as started:
        yield started
        started.kill()


def holder_of(process: subprocess.Popen[bytes]) -> Holder:
    started = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19]
    return replace(this_process("up"), pid=str(process.pid), started=started)


@pytest.mark.parametrize("option", ["hidepid=1", "hidepid=2"])
def test_a_process_that_cannot_be_seen_lives_until_the_kernel_says_that_it_ended(
    process: subprocess.Popen[bytes], option: str
) -> None:
    holder = holder_of(process)
    assert asked(holder, option) == ["False", "False"]
    process.kill()
    process.wait()
    assert asked(holder, option) == ["False", "True"]


def test_a_process_that_can_be_seen_is_judged_by_its_start(
    process: subprocess.Popen[bytes],
) -> None:
    holder = holder_of(process)
    assert asked(holder, "hidepid=0") == ["True", "False"]
    assert asked(replace(holder, started="1"), "hidepid=0") == ["True", "True"]
