"""Which file and which vApp a command means."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from tests.vapps import SMALL
from vcloud.cli import options
from vcloud.cli.app import app
from vcloud.errors import SpecError, UsageError

NAMED = SMALL.replace("name: small", 'name: "${env}-shop"\nparameters: {env: dev}')


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the command runs, with three vApps and none of the variables."""
    monkeypatch.chdir(tmp_path)
    for name in ("VCLOUD_FILE", "VCLOUD_PARAM", "VCLOUD_OUTPUT"):
        monkeypatch.delenv(name, raising=False)
    Path("p.yaml").write_text(NAMED)
    Path("a.yaml").write_text(SMALL.replace("small", "a"))
    Path("b.yaml").write_text(SMALL.replace("small", "b"))
    return tmp_path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The vApps that commands would have acted on."""
    names: list[str] = []

    def note(name: str, *_: object, **__: object) -> None:
        names.append(name)
        raise UsageError("as far as this test goes")

    for place in (
        "apply.down.take_down",
        "views.status.status_of",
        "verify.run.verify_vapp",
        "guests.access.log_of",
        "guests.access.attach_console",
    ):
        monkeypatch.setattr(f"vcloud.{place}", note)
    for place in ("guests.access.ssh_into", "guests.access.execute_in"):
        monkeypatch.setattr(f"vcloud.{place}", note)
    return names


COMMANDS: list[tuple[list[str], str, list[str]]] = [
    (["down"], "", []),
    (["status"], "", []),
    (["verify"], "", []),
    (["logs"], "/web", []),
    (["console"], "/web", []),
    (["ssh"], "/web", []),
    (["exec"], "/web", ["--", "true"]),
]


@pytest.mark.parametrize(("command", "vm", "rest"), COMMANDS, ids=lambda value: " ".join(value) if isinstance(value, list) else value)
def test_every_command_means_the_vapp_that_up_made(asked: list[str], command: list[str], vm: str, rest: list[str]) -> None:
    runner = CliRunner()
    runner.invoke(app, [*command, f"p.yaml{vm}", *rest])
    runner.invoke(app, [*command, f"p.yaml{vm}", *rest], env={"VCLOUD_PARAM": "env=prod"})
    runner.invoke(app, [*command, f"p.yaml{vm}", "-P", "env=test", *rest], env={"VCLOUD_PARAM": "env=prod"})
    runner.invoke(app, [*command, f"named{vm}", *rest], env={"VCLOUD_PARAM": "env=prod", "VCLOUD_FILE": "p.yaml"})
    Path("vapp.yaml").write_text(SMALL)
    runner.invoke(app, [*command, *filter(None, [vm.strip("/")]), *rest], env={"VCLOUD_FILE": "p.yaml", "VCLOUD_PARAM": "env=prod"})
    runner.invoke(app, [*command, *filter(None, [vm.strip("/")]), *rest])
    assert asked == ["dev-shop", "prod-shop", "test-shop", "named", "prod-shop", "small"]


@pytest.mark.parametrize("pairs", [["evn=prod"], ["env=PROD"], ["env"]])
def test_a_wrong_parameter_leads_to_no_other_vapp(pairs: list[str]) -> None:
    with pytest.raises((SpecError, UsageError)):
        options.vapp_name("p.yaml", pairs)


def valid(argv: list[str], **env: str) -> str:
    done = CliRunner().invoke(app, ["validate", "-o", "json", *argv], env=env)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return str(json.loads(done.stdout)["vapp"])


def test_what_is_named_goes_before_the_environment() -> None:
    assert valid(["b.yaml"], VCLOUD_FILE="a.yaml") == "b"
    assert valid(["-f", "b.yaml"], VCLOUD_FILE="a.yaml") == "b"
    assert valid([], VCLOUD_FILE="a.yaml") == "a"
    assert valid(["a.yaml", "-f", "a.yaml"]) == "a"
    for env in ({}, {"VCLOUD_FILE": "a.yaml"}):
        with pytest.raises(UsageError, match="two vApp files are named"):
            valid(["b.yaml", "-f", "a.yaml"], **env)


@pytest.mark.parametrize(("output", "read"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_an_invalid_file_is_data_for_programs(output: str, read: Any) -> None:
    Path("b.yaml").write_text(SMALL.replace("zone: dmz", "zone: dzm, cpus: 0"))
    done = CliRunner().invoke(app, ["validate", "b.yaml", "-o", output])
    assert (done.exit_code, done.stderr) == (2, "")
    found = read(done.stdout)
    assert (found["file"], found["vapp"], found["valid"]) == ("b.yaml", "small", False)
    zone, cpus = sorted(found["problems"], key=lambda problem: str(problem["field"]), reverse=True)
    assert zone["field"].startswith("vms.web.zone")
    assert cpus == {"file": "b.yaml", "line": 5, "field": "vms.web.cpus", "what": "0 is too small, at least 1 is wanted", "hint": ""}
    assert zone["hint"] == "Did you mean 'dmz'?"


def test_an_invalid_file_without_a_name_is_data_too() -> None:
    Path("b.yaml").write_text("zones: {dmz:}\n")
    found = json.loads(CliRunner().invoke(app, ["validate", "b.yaml", "-o", "json"]).stdout)
    assert found["vapp"] is None
    assert [problem["line"] for problem in found["problems"]] == [1]


def test_an_invalid_file_is_told_to_people_on_stderr() -> None:
    Path("b.yaml").write_text("{}")
    done = CliRunner().invoke(app, ["validate", "b.yaml"])
    assert isinstance(done.exception, SpecError)
    assert done.stdout == ""
