"""`vcloud host` at the command line, with hosts that cannot be reached."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vcloud.cli.app import app
from vcloud.errors import Exit, UsageError

TEXT = """\
# mine
hosts:
  one: {uri: 'qemu+unix:///system?socket=/nowhere/one'}
  two: {uri: 'qemu+unix:///system?socket=/nowhere/two'}
"""


@pytest.fixture
def inventory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "hosts.yaml"
    path.write_text(TEXT)
    monkeypatch.setenv("VCLOUD_INVENTORY", str(path))
    for name in ("VCLOUD_CONNECT", "LIBVIRT_DEFAULT_URI", "VCLOUD_OUTPUT", "VCLOUD_YES"):
        monkeypatch.delenv(name, raising=False)
    return path


@pytest.mark.parametrize(
    ("names", "hosts"),
    [((), ["one", "two"]), (("two",), ["two"]), (("two", "one"), ["one", "two"])],
)
def test_each_host_that_cannot_be_reached_is_a_check_that_fails(
    inventory: Path, names: tuple[str, ...], hosts: list[str]
) -> None:
    done = CliRunner().invoke(app, ["host", "check", *names, "-o", "json"])
    assert done.exit_code == Exit.FAILED
    found = json.loads(done.stdout)
    assert [*found] == hosts
    for findings in found.values():
        ((check, result, hint),) = ((one["check"], one["result"], one["hint"]) for one in findings)
        assert (check, result) == ("host", "fail")
        assert "systemctl enable --now libvirtd" in hint
    assert inventory.read_text() == TEXT


def test_the_table_has_the_way_out_of_each_finding(inventory: Path) -> None:
    done = CliRunner().invoke(app, ["host", "check", "one"])
    assert done.exit_code == Exit.FAILED
    assert done.stdout.splitlines()[1].split()[:3] == ["one", "host", "fail"]
    assert "one: host: On that host: sudo apt-get install" in done.stderr
    assert inventory.read_text() == TEXT


def test_an_unknown_host_is_said(inventory: Path) -> None:
    for command in ("check", "show", "remove"):
        done = CliRunner().invoke(app, ["host", command, "three"])
        assert isinstance(done.exception, UsageError), command
        assert "three" in done.exception.what
    assert inventory.read_text() == TEXT


def test_a_host_that_is_forgotten_is_told_with_what_stays_there(inventory: Path) -> None:
    done = CliRunner().invoke(app, ["host", "remove", "one", "--forget"])
    assert (done.exit_code, done.stdout) == (0, f"one stands no more in {inventory}\n")
    assert "libvirt's hook" in done.stderr
    assert "it was not asked which vApps stand there" in done.stderr
    assert inventory.read_text() == "".join(
        line for line in TEXT.splitlines(keepends=True) if "one" not in line
    )
    last = CliRunner().invoke(app, ["host", "remove", "two", "--forget"])
    assert f"{inventory} is now called {inventory}.removed" in last.stderr
