"""Which file and which vApp a command means."""

from __future__ import annotations

import json
import re
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


HOST = """\
<node>
  <cpu><mhz>1000</mhz><model>x</model><active>1</active><nodes>1</nodes><sockets>1</sockets><cores>1</cores><threads>1</threads></cpu>
  <memory>1000000</memory>
  <pool type='dir'><name>vcloud</name><target><path>/none</path></target></pool>
</node>
"""
"""A host of libvirt's test driver, which lives in the memory of the process. vcloud's storage pool
is there; no vApp is.
"""
ABSENT = re.compile(r"there is no (?:vApp|VM) '([^'/]+)(?:/web)?'")


@pytest.fixture
def host(tmp_path: Path) -> str:
    """The libvirt URI of a host without vApps."""
    path = tmp_path / "host.xml"
    path.write_text(HOST)
    return f"test://{path}"


COMMANDS: list[tuple[list[str], str, list[str]]] = [
    (["down"], "", ["--yes"]),
    (["status"], "", []),
    (["verify"], "", []),
    (["logs"], "/web", []),
    (["console"], "/web", []),
    (["ssh"], "/web", []),
    (["exec"], "/web", ["--", "true"]),
]


@pytest.mark.parametrize(
    ("command", "vm", "rest"),
    COMMANDS,
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_every_command_means_the_vapp_that_up_made(
    host: str, command: list[str], vm: str, rest: list[str]
) -> None:
    """Each command says the name of the vApp that it did not find."""

    def meant(*argv: str, **env: str) -> str:
        done = CliRunner().invoke(
            app, [*command, *argv, *rest], env={"VCLOUD_CONNECT": host, **env}
        )
        found = ABSENT.search(str(done.exception))
        assert found, done
        return found[1]

    assert meant(f"p.yaml{vm}") == "dev-shop"
    assert meant(f"p.yaml{vm}", VCLOUD_PARAM="env=prod") == "prod-shop"
    assert meant(f"p.yaml{vm}", "-P", "env=test", VCLOUD_PARAM="env=prod") == "test-shop"
    assert meant(f"named{vm}", VCLOUD_PARAM="env=prod", VCLOUD_FILE="p.yaml") == "named"
    Path("vapp.yaml").write_text(SMALL)
    alone = [vm.strip("/")] if vm else []
    assert meant(*alone, VCLOUD_FILE="p.yaml", VCLOUD_PARAM="env=prod") == "prod-shop"
    assert meant(*alone) == "small"


@pytest.mark.parametrize("pairs", [["evn=prod"], ["env=PROD"], ["env"]])
def test_a_wrong_parameter_leads_to_no_other_vapp(pairs: list[str]) -> None:
    with pytest.raises((SpecError, UsageError)):
        options.vapp_name("p.yaml", pairs)


def test_a_parameter_file_means_the_same_vapp_for_every_command() -> None:
    for name, value in (("one.yaml", "prod"), ("two.yaml", "test")):
        Path(name).write_text(f"env: {value}\n")
    one, two = Path("one.yaml"), Path("two.yaml")
    assert options.vapp_name("p.yaml", [], [one]) == "prod-shop"
    assert options.vapp_name("p.yaml", [], [one, two]) == "test-shop", "the last one counts"
    assert options.vapp_name("p.yaml", ["env=dev"], [one]) == "dev-shop"
    assert options.vapp_and_vm("p.yaml/web", [], [one]) == ("prod-shop", "web")
    assert valid(["p.yaml", "--param-file", "one.yaml"]) == "prod-shop"
    assert valid(["p.yaml"], VCLOUD_PARAM_FILE="two.yaml") == "test-shop"
    with pytest.raises(UsageError, match=r"the parameter file 'none.yaml' cannot be read"):
        options.vapp_name("p.yaml", [], [Path("none.yaml")])
    one.write_text("env: PROD\n")
    with pytest.raises(SpecError):
        options.vapp_name("p.yaml", [], [one])
    one.write_text("evn: prod\n")
    with pytest.raises(SpecError, match=r"one.yaml:1: evn: the file has no such parameter"):
        options.vapp_name("p.yaml", [], [one])


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
    assert cpus == {
        "file": "b.yaml",
        "line": 5,
        "field": "vms.web.cpus",
        "what": "0 is too small; the minimum is 1",
        "hint": "",
    }
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


def test_vms_of_one_vapp_are_named_together() -> None:
    assert options.vapp_and_vms(["shop/web-1", "shop/api"]) == ("shop", ["web-1", "api"])
    assert options.vapp_and_vms(["shop"]) == ("shop", [])
    assert options.vapp_and_vms(["a.yaml"]) == ("a", [])


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["shop/web-1", "blog/web-1"], "several vApps: blog, shop"),
        (["shop", "shop/web-1"], "named as a whole"),
        (["shop/"], "names no VM"),
    ],
)
def test_vms_of_several_vapps_and_a_vapp_beside_its_vms_are_refused(
    texts: list[str], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        options.vapp_and_vms(texts)


def test_the_names_of_other_tools_are_hidden_and_named_once() -> None:
    help_text = CliRunner().invoke(app, ["--help"]).output
    assert help_text.count("destroy") == 1
    assert CliRunner().invoke(app, ["lint", "a.yaml"]).output.startswith("a.yaml: the vApp 'a'")


@pytest.mark.parametrize("vapp", ["n" * 300, "Shop"])
def test_a_text_that_names_neither_a_file_nor_a_vapp_is_refused(vapp: str) -> None:
    with pytest.raises(UsageError, match="valid vApp name"):
        options.vapp_name(vapp)
    with pytest.raises(UsageError, match="valid vApp name"):
        options.vapp_and_vms([f"{vapp}/web-1"])
