"""The script that ends a boot of a user's own image, run for real with its folder and its serial
port replaced by files.
"""

from __future__ import annotations

import os
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from vcloud.compile.environment import render


@dataclass(frozen=True)
class Guest:
    """What the script finds, and what it says."""

    folder: Path

    def boot(self) -> int:
        text = render("cloudinit/finish.sh")
        for real, replaced in (
            ("/var/lib/vcloud", self.folder),
            ("/dev/ttyS0", self.folder / "serial"),
        ):
            assert real in text
            text = text.replace(real, str(replaced))
        text = text.replace(f">{self.folder}/serial", f">>{self.folder}/serial")
        return subprocess.run(["sh", "-c", text], stdout=subprocess.DEVNULL, timeout=60).returncode

    @property
    def said(self) -> list[str]:
        return [
            line.removeprefix("vcloud: ")
            for line in (self.folder / "serial").read_text().splitlines()
            if line
        ]

    def run(self, *lines: str) -> None:
        for number, line in enumerate(lines):
            (self.folder / "run" / str(number)).write_text(f"{line}\n")

    def wait(self, port: int, timeout: int, command: str = "") -> None:
        (self.folder / "waits").write_text(f"{port:04X} {timeout}\n")
        (self.folder / "ready").write_text(f"{command}\n")


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    (tmp_path / "run").mkdir()
    guest = Guest(tmp_path)
    guest.wait(0, 1)
    return guest


def test_run_lines_run_in_order_and_only_at_the_first_boot(guest: Guest) -> None:
    guest.run(*(f"echo {number} >>{guest.folder}/order" for number in range(12)))
    assert guest.boot() == 0
    assert guest.boot() == 0
    assert (guest.folder / "order").read_text().split() == [str(number) for number in range(12)]
    assert guest.said == ["started", "ready"] * 2


def test_a_run_line_that_fails_is_named_with_what_it_said_and_ends_the_boot(guest: Guest) -> None:
    guest.run("true", "echo no such thing; exit 3", f"touch {guest.folder}/third")
    assert guest.boot() == 1
    assert guest.said[0] == "started"
    assert guest.said[1].strip() == "failed: run[1] ended with 3: no such thing"
    assert not (guest.folder / "third").exists()


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_it_is_ready_when_its_port_listens(guest: Guest, family: socket.AddressFamily) -> None:
    with socket.socket(family) as server:
        server.bind(("127.0.0.1" if family is socket.AF_INET else "::1", 0))
        guest.wait(server.getsockname()[1], 1)
        assert guest.boot() == 1
        assert guest.said[-1] == "failed: not ready after 1 s"
        server.listen()
        assert guest.boot() == 0
        assert guest.said[-1] == "ready"


def test_it_is_ready_when_its_command_succeeds(guest: Guest) -> None:
    guest.wait(0, 5, f"test -e {guest.folder}/second || ! touch {guest.folder}/second")
    assert guest.boot() == 0
    guest.wait(0, 0, "exit 1")
    assert guest.boot() == 1


def test_the_command_of_a_file_runs_when_the_file_is_new_and_when_it_has_changed(
    guest: Guest,
) -> None:
    conf, log = guest.folder / "a.conf", guest.folder / "log"
    (guest.folder / "follow").mkdir()
    (guest.folder / "follow/k1").write_text(f"cat {conf} >>{log}\n")
    (guest.folder / "follows").write_text(f"k1 {conf}\n")
    for content in ("one\n", "one\n", "two\n"):
        conf.write_text(content)
        assert guest.boot() == 0
    assert log.read_text() == "one\ntwo\n"


def test_a_command_of_a_file_that_fails_is_named_and_runs_again_at_the_next_boot(
    guest: Guest,
) -> None:
    conf = guest.folder / "a.conf"
    conf.write_text("one\n")
    (guest.folder / "follow").mkdir()
    (guest.folder / "follow/k1").write_text("echo no; exit 4\n")
    (guest.folder / "follows").write_text(f"k1 {conf}\n")
    for _ in range(2):
        assert guest.boot() == 1
        assert guest.said[-1].strip() == f"failed: the command of {conf} ended with 4: no"


@pytest.mark.parametrize("state", ["failed", "active"])
def test_a_unit_that_the_file_names_and_that_has_failed_ends_the_wait(
    guest: Guest, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """systemd is not here: two programs of its names answer as it would."""
    programs = guest.folder / "programs"
    programs.mkdir()
    for name, answer in (("systemctl", state), ("journalctl", "unknown directive")):
        (programs / name).write_text(f"#!/bin/sh\necho {answer}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    (guest.folder / "units").write_text("nginx.service\n")
    guest.wait(0, 4, "exit 1")
    assert guest.boot() == 1
    assert guest.said[-1].strip() == (
        "failed: not ready: nginx.service has failed; its last lines: unknown directive"
        if state == "failed"
        else "failed: not ready after 4 s"
    )
