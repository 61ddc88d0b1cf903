"""`vcloud profile` and `vcloud explain`, as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tests.cards import cards
from vcloud.cli.app import app
from vcloud.errors import UsageError, VcloudError

CORP = """\
profile: corp
version: "1"
title: Our office
in_force: {from: 2026-01-01}
extends: pci-dss@4.0.1
controls:
  - {id: "7", says: x, status: enforced, evidence: file, needs: [file], demands: {not_open: every}}
"""


def run(*words: str) -> Result:
    return CliRunner().invoke(app, words)


def data(*words: str) -> Any:
    done = run(*words, "-o", "json")
    assert done.exception is None, done.output
    return json.loads(done.stdout)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "cards.yaml"
    path.write_text(cards("3.2.1"))
    return path


def test_the_list_says_which_version_is_in_force() -> None:
    rows = {row["version"]: row for row in data("profile", "list", "--as-of", "2024-07-01")}
    assert {
        version: row["state"] for version, row in rows.items() if row["profile"] == "pci-dss"
    } == {
        "3.2.1": "not in force",
        "4.0": "in force",
        "4.0.1": "newest in force",
    }


def test_a_profile_shows_its_controls_and_those_that_it_does_not_cover() -> None:
    found = data("profile", "show", "pci-dss@4.0.1")
    by_id = {row["control"]: row for row in found["controls"]}
    assert by_id["1.4.4"]["demands"] == ["not_published (zones holding)"]
    assert by_id["12.6.1"]["status"] == "not covered"
    assert "12.6.1" not in run("profile", "show", "pci-dss").stdout
    assert "12.6.1" in run("profile", "show", "pci-dss", "--all").stdout


def test_a_diff_shows_controls_and_what_changes_for_a_file(file: Path) -> None:
    found = data("profile", "diff", "pci-dss@3.2.1", "pci-dss@4.0", str(file))
    assert {row["control"] for row in found["controls"]} >= {"1.3.4", "1.3.2", "6.4.2"}
    assert found["vapp"]["changes"] == [
        "+ the IPS inspects zone front (pci-dss@4.0 6.4.2)",
        "- detector pci-dss-1-3-4: block card-number leaving app, vault, except acquirer, orders (pci-dss@3.2.1 1.3.4)",
        "+ detector pci-dss-1-3-2: block card-number leaving app, vault, except acquirer (pci-dss@4.0 1.3.2)",
    ]
    assert found["vapp"]["problems"] == []
    same = run("profile", "diff", "pci-dss@4.0", "pci-dss@4.0.1", str(file), "--exit-code")
    assert same.exit_code == 0
    assert "nothing is loaded anew" in same.stdout
    assert run("profile", "diff", "pci-dss@3.2.1", "pci-dss@4.0", "--exit-code").exit_code == 3


def test_a_diff_tells_what_would_break_the_new_version(file: Path) -> None:
    file.write_text(cards("3.2.1", ("app: http, publish: 8080", "publish: 8080")))
    found = data("profile", "diff", "pci-dss@3.2.1", "pci-dss@4.0.1", str(file))
    (problem,) = found["vapp"]["problems"]
    assert "pci-dss@4.0.1 6.4.2: flow 'visits' does not say" in problem


def test_validate_says_which_profile_counts_on_a_day(file: Path) -> None:
    file.write_text(cards(""))
    found = data("validate", str(file), "--as-of", "2024-01-31")["profiles"]
    assert found["as_of"] == "2024-01-31"
    assert found["profiles"][0]["version"] == "4.0"
    assert (
        "profile pci-dss@4.0.1 (in force on 2026-01-31)"
        in run("validate", str(file), "--as-of", "2026-01-31").output
    )


def test_validate_refuses_a_file_that_breaks_a_control(file: Path) -> None:
    file.write_text(cards("4.0", (", why: the order API", "")))
    done = run("validate", str(file), "-o", "json")
    assert done.exit_code == 2
    (problem,) = json.loads(done.stdout)["problems"]
    assert problem["what"].startswith("pci-dss@4.0 1.2.5: flow 'orders' says no why")


def test_explain_takes_the_file_as_a_word_or_as_an_option(file: Path) -> None:
    (answer,) = data("explain", str(file), "web", "tcp/8000", "api")
    assert (answer["passes"], answer["decides"]) == (True, "flow:orders")
    assert data("explain", "-f", str(file), "web", "tcp/8000", "api") == [answer]
    done = run("explain", "web", "tcp/8000")
    assert isinstance(done.exception, UsageError)


def test_a_folder_of_ones_own_is_checked(tmp_path: Path) -> None:
    folder = tmp_path / "corp"
    folder.mkdir()
    (folder / "1.yaml").write_text(CORP)
    assert data("profile", "check", str(folder))["valid"]
    (folder / "1.yaml").write_text(CORP.replace("[file]", "[file, quantum]"))
    done = run("profile", "check", str(folder))
    assert done.exit_code == 6
    assert "corp@1 7 needs 'quantum'" in done.output
    (folder / "1.yaml").write_text(CORP.replace("pci-dss@4.0.1", "pci-dss@4.0.9"))
    assert "extends it" in str(run("profile", "check", str(folder)).exception)
    (folder / "1.yaml").write_text(CORP.replace("not_open", "not_opne"))
    assert "not_open" in str(run("profile", "check", str(folder)).exception)


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (("profile", "show", "pci"), "no profile is called 'pci'"),
        (("profile", "list", "--as-of", "soon"), "--as-of: 'soon' is not a date"),
        (("profile", "check", "/no/such/folder"), "is no folder with a profile"),
        (("profile", "show", "../corp"), "no profile is called"),
    ],
)
def test_a_mistake_is_told_with_the_way_out(words: tuple[str, ...], wrong: str) -> None:
    error = run(*words).exception
    assert isinstance(error, VcloudError)
    assert wrong in error.what
    assert error.hint


def test_an_event_is_explained_from_the_file_alone(file: Path) -> None:
    found = data("explain", str(file), "--event", "flow:orders")
    assert (found["origin"], found["why"]) == ("cards.yaml:13", "the order API")
    assert (
        "flow:orders: the flow" in run("explain", "--event", "flow:orders", "-f", str(file)).stdout
    )
    wrong = run("explain", str(file), "--event", "flow:none")
    assert isinstance(wrong.exception, UsageError)
    several = run("explain", str(file), "web", "--event", "flow:orders")
    assert isinstance(several.exception, UsageError)
    assert isinstance(run("explain").exception, UsageError)
