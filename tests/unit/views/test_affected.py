"""Which vApps on the hosts are out of date by their profiles, and what changes: libvirt's test driver."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tests.cards import cards, design
from tests.standing import manifest_of
from vcloud.cli.app import app
from vcloud.design.controls import NO_CONTROLS
from vcloud.errors import HostError, NoVappError
from vcloud.fleet.fleet import Fleet
from vcloud.hosts.connection import Host, open_host
from vcloud.hosts.inventory import HostRef
from vcloud.hosts.manifests import delete_manifest, write_manifest
from vcloud.profile_files import shipped
from vcloud.views.affected import Outdated, Reason, outdated, survey_of

URI = "test:///default"
EARLY, DAY = date(2024, 6, 10), date(2026, 3, 1)
LAST = date(2026, 12, 31)
EXCEPTION = (
    "  exceptions:\n    - {control: 1.3.2, reason: r, approved_by: a, expires: 2026-12-31}\n"
)
UNREACHABLE = {"h3": HostError("h3 does not answer ssh")}


def found(text: str, made: date, day: date) -> list[Outdated]:
    return list(outdated(design(text, made).controls, shipped(), day))


def test_a_new_version_makes_a_vapp_out_of_date_whose_file_names_none() -> None:
    (one,) = found(cards(""), EARLY, date(2024, 6, 11))
    assert (one.reason, one.about) == (Reason.VERSION, "pci-dss@4.0.1")
    assert one.since == date(2024, 6, 11)
    assert one.changes == (), "from 4.0 to 4.0.1 no control differs"
    # The twins: the day before, and a file that names its version.
    assert found(cards(""), EARLY, EARLY) == []
    assert found(cards("4.0"), EARLY, date(2024, 6, 11)) == []


def test_what_a_new_version_changes_is_told_control_by_control() -> None:
    (one,) = found(cards(""), date(2022, 3, 30), date(2022, 3, 31))
    assert one.about == "pci-dss@4.0"
    assert any(line.startswith("+ 1.5.1 (enforced)") for line in one.changes)
    assert any(line.startswith("~ 1.3.2 ") and "to anywhere" in line for line in one.changes)


def test_a_named_version_that_is_no_longer_in_force_is_told_with_the_one_that_is() -> None:
    (one,) = found(cards("3.2.1"), date(2024, 3, 31), date(2024, 4, 1))
    assert (one.reason, one.since) == (Reason.ENDED, date(2024, 4, 1))
    assert "pci-dss@3.2.1 was in force until 2024-03-31" in one.text
    assert "pci-dss@4.0 is in force" in one.text
    assert found(cards("3.2.1"), date(2024, 3, 31), date(2024, 3, 31)) == []


def test_a_control_whose_day_has_come_is_told_with_what_it_demands() -> None:
    (one,) = found(cards("4.0.1"), date(2025, 3, 30), date(2025, 3, 31))
    assert (one.reason, one.about) == (Reason.CONTROL, "pci-dss@4.0.1 6.4.2")
    (change,) = one.changes
    assert change.startswith("+ 6.4.2 (supports) ")
    assert change.endswith("web (mode prevent)")
    # The twin: it is excepted.
    excepted = cards("4.0.1", more=EXCEPTION.replace("1.3.2", "6.4.2"))
    assert found(excepted, date(2025, 3, 30), date(2025, 3, 31)) == []


def test_an_exception_that_has_expired_is_told_with_its_control() -> None:
    text = cards(more=EXCEPTION)
    (one,) = found(text, DAY, LAST + timedelta(1))
    assert (one.reason, one.about) == (Reason.EXCEPTION, "pci-dss@4.0.1 1.3.2")
    assert one.since == LAST + timedelta(1)
    assert "leaks (detect card-number" in one.changes[0]
    assert found(text, DAY, LAST) == []
    # It did not count when the vApp was made either.
    assert found(text, LAST + timedelta(1), LAST + timedelta(2)) == []


def test_a_version_with_another_text_is_told_and_an_own_profile_is_not() -> None:
    controls = design(cards(), DAY).controls
    (applied,) = controls.profiles
    other = replace(controls, profiles=(replace(applied, digest="0" * 64),))
    (one,) = outdated(other, shipped(), DAY)
    assert (one.reason, one.about) == (Reason.DIGEST, "pci-dss@4.0.1")
    own = replace(controls, profiles=(replace(applied, name="corp"),))
    assert list(outdated(own, shipped(), DAY)) == []
    assert list(outdated(NO_CONTROLS, shipped(), DAY)) == []


# On hosts


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[tuple[Host, Host]]:
    node = tmp_path / "node.xml"
    node.write_text("<node/>")
    with ExitStack() as opened:
        first, second = (
            opened.enter_context(open_host(HostRef(name, f"test://{node}")))
            for name in ("h1", "h2")
        )
        yield first, second


def stands(host: Host, name: str, text: str, made: date, **changes: Any) -> None:
    """A vApp of this name on the host."""
    manifest = manifest_of(design(text.replace("name: cards", f"name: {name}"), made))
    write_manifest(host, replace(manifest, **changes))


def test_all_hosts_are_asked_and_what_is_up_to_date_is_counted(hosts: tuple[Host, Host]) -> None:
    first, second = hosts
    stands(first, "shop", cards(""), EARLY)
    stands(second, "bank", cards(""), DAY)
    stands(second, "plain", cards().partition("protection:")[0], DAY)
    survey = survey_of(Fleet(hosts), (), shipped(), DAY)
    assert [(one.vapp, one.host) for one in survey.affected] == [("shop", "h1")]
    data = survey.as_data(DAY)
    assert (data["up_to_date"], data["unknown"]) == (["bank"], [])
    assert [one.vapp for one in survey_of(Fleet(hosts), ["bank"], shipped(), DAY).vapps] == ["bank"]


def test_of_two_copies_only_the_newest_counts(hosts: tuple[Host, Host]) -> None:
    first, second = hosts
    stands(first, "shop", cards(""), EARLY, generation=5)
    stands(second, "shop", cards(""), DAY, generation=9)
    assert survey_of(Fleet(hosts), (), shipped(), DAY).affected == ()


def test_what_cannot_be_asked_is_never_up_to_date(hosts: tuple[Host, Host]) -> None:
    lab = Fleet(hosts, UNREACHABLE)
    survey = survey_of(lab, ["shop"], shipped(), DAY)
    assert survey.unknown == ("h3 cannot be asked: h3 does not answer ssh",)
    with pytest.raises(NoVappError, match="there is no vApp 'shop' on h1, h2"):
        survey_of(Fleet(hosts), ["shop"], shipped(), DAY)


def affected(*words: str) -> Result:
    return CliRunner().invoke(app, ["profile", "affected", "-c", URI, *words])


@pytest.mark.parametrize(("as_of", "code"), [("2024-06-10", 0), ("2024-06-11", 3)])
def test_the_exit_code_says_whether_there_are_any(as_of: str, code: int) -> None:
    with open_host(HostRef("t", URI)) as host:
        stands(host, "cards", cards(""), EARLY)
        try:
            done = affected("--as-of", as_of, "-o", "json")
            told = affected("--as-of", as_of).stdout
        finally:
            delete_manifest(host, "cards")
    assert done.exit_code == code, done.output
    data = json.loads(done.stdout)
    assert data["as_of"] == as_of
    assert [one["vapp"] for one in data["affected"]] == ["cards"] * bool(code)
    assert ("pci-dss@4.0.1 is in force since" in told) == bool(code)
    assert ("up to date on 2024-06-10" in told) != bool(code)
