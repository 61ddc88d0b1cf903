"""Which version counts on a day, and which profiles an own one brings with it."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from tests.cards import CARDS, cards, hardened
from vcloud.errors import RefusedError, SpecError
from vcloud.files import Folder
from vcloud.pipeline import design_of, secured
from vcloud.profiles.harden import Hardened
from vcloud.profiles.model import ControlRef
from vcloud.spec.load import parse_vapp
from vcloud.spec.types import ID

OWN = """\
profile: corp
version: "{version}"
title: Our office
in_force: {{from: {begins}}}
extends: pci-dss
protects: [cardholder-data]
controls:
  - id: "7"
    says: No more than four ports from zones with card data
    status: enforced
    evidence: packets
    needs: [{needs}]
    demands: {{few_ports: {{zones: holding, most: {most}}}}}
    proved_by: [ctl:default-deny]
"""


def own(
    folder: Path, version: str = "1", begins: str = "2020-01-01", most: int = 4, needs: str = "file"
) -> None:
    (folder / "corp").mkdir(exist_ok=True)
    text = OWN.format(version=version, begins=begins, most=most, needs=needs)
    (folder / f"corp/{version}.yaml").write_text(text)


def found(folder: Path, name: str, day: date = date(2026, 3, 1), change: str = "") -> Hardened:
    text = CARDS.replace("pci-dss@4.0.1", name) + change
    vapp = parse_vapp(text.encode(), Folder(folder), str(folder / "vapp.yaml"))
    hardened = secured(vapp, day)
    assert hardened
    return hardened


@pytest.mark.parametrize(
    ("day", "version"),
    [
        (date(2020, 1, 1), "3.2.1"),
        (date(2022, 3, 30), "3.2.1"),
        (date(2022, 3, 31), "4.0"),
        (date(2024, 6, 10), "4.0"),
        (date(2024, 6, 11), "4.0.1"),
        (date(2030, 1, 1), "4.0.1"),
    ],
)
def test_a_name_without_a_version_means_the_newest_that_is_in_force(
    day: date, version: str
) -> None:
    (applied,) = hardened(cards(""), day).hardening.profiles
    assert (applied.version, applied.floats) == (version, True)


def test_a_version_stays_also_when_it_is_no_longer_in_force() -> None:
    (applied,) = hardened(cards("3.2.1"), date(2030, 1, 1)).hardening.profiles
    assert (applied.version, applied.floats) == ("3.2.1", False)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("pci-dsss", "no profile is called 'pci-dsss'\n  Did you mean 'pci-dss'?"),
        ("pci-dss@4.0.2", "'pci-dss' has no version '4.0.2'\n  Did you mean '4.0.1'?"),
        ("./none", "'./none' is no folder with a profile"),
        ("pci-dss@4.0, pci-dss", "pci-dss@4.0 and pci-dss@4.0.1 are both named"),
    ],
)
def test_a_wrong_name_is_told_with_the_way_out(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(SpecError) as raised:
        found(tmp_path, name)
    assert said in str(raised.value)
    assert ":17: protection.profiles" in str(raised.value)


def test_before_its_first_version_a_profile_is_not_in_force() -> None:
    with pytest.raises(SpecError, match="no version of 'pci-dss' is in force on 2018-05-16"):
        hardened(cards(""), date(2018, 5, 16))


# Profiles of a user's own


def test_an_own_profile_counts_with_what_it_extends(tmp_path: Path) -> None:
    own(tmp_path)
    labels = [one.label for one in found(tmp_path, "./corp").hardening.profiles]
    assert labels == ["pci-dss@4.0.1", "corp@1"]


def test_an_own_profile_only_tightens(tmp_path: Path) -> None:
    five = (
        "flows:\n",
        "flows:\n  - {id: five, from: db, to: api, service: tcp/9000-9004, app: http, why: x}\n",
    )
    own(tmp_path)
    text = CARDS.replace("pci-dss@4.0.1", "./corp").replace(*five)
    file = str(tmp_path / "vapp.yaml")
    hard = secured(parse_vapp(text.encode(), Folder(tmp_path), file), date(2026, 3, 1))
    assert hard
    (problem,) = hard.problems
    assert problem.what.startswith("corp@1 7: flow 'five' allows 5 ports")
    # The twin: pci-dss alone allows it, and a looser own profile loosens nothing of pci-dss.
    assert (
        secured(
            parse_vapp(text.replace("./corp", "pci-dss").encode(), Folder(tmp_path), file)
        ).problems
        == ()
    )  # type: ignore[union-attr]
    own(tmp_path, most=1000)
    more = text.replace("9000-9004", "9000-9100")
    hard = secured(parse_vapp(more.encode(), Folder(tmp_path), file), date(2026, 3, 1))
    assert hard
    assert [one.what.partition(":")[0] for one in hard.problems] == ["pci-dss@4.0.1 1.3.2"]


def test_an_own_profile_has_versions_and_dates_too(tmp_path: Path) -> None:
    own(tmp_path)
    own(tmp_path, "2", "2026-06-01")
    labels = {
        day: [one.label for one in found(tmp_path, name, day).hardening.profiles][-1]
        for name, day in (("./corp", date(2026, 5, 31)), ("./corp", date(2026, 6, 1)))
    }
    assert [*labels.values()] == ["corp@1", "corp@2"]
    pinned = found(tmp_path, "./corp@1", date(2027, 1, 1)).hardening.profiles[-1]
    assert (pinned.label, pinned.floats) == ("corp@1", False)


def test_what_this_release_cannot_do_is_refused_by_the_number_of_the_control(
    tmp_path: Path,
) -> None:
    own(tmp_path, needs="file, tls.certificates")
    (problem,) = found(tmp_path, "./corp").refusals
    assert problem.what.startswith(
        "corp@1 7 needs 'tls.certificates', which this release cannot do"
    )
    file = str(tmp_path / "vapp.yaml")
    text = CARDS.replace("pci-dss@4.0.1", "./corp")
    with pytest.raises(RefusedError, match="corp@1 7 needs"):
        design_of(parse_vapp(text.encode(), Folder(tmp_path), file), day=date(2026, 3, 1))
    excepted = '  exceptions: [{control: "7", reason: x, approved_by: y, expires: 2026-12-31}]\n'
    assert found(tmp_path, "./corp", change=excepted).refusals == ()


def test_an_own_profile_is_read_from_the_folder_of_the_file_only(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    own(tmp_path)
    (inside / "corp").symlink_to(tmp_path / "corp")
    with pytest.raises(SpecError, match="leads to a file outside the folder of the vApp file"):
        found(inside, "./corp")
    (inside / "corp").unlink()
    own(inside)
    assert found(inside, "./corp").problems == ()


def test_an_own_profile_cannot_take_the_name_of_a_shipped_one(tmp_path: Path) -> None:
    own(tmp_path)
    path = tmp_path / "corp/1.yaml"
    path.write_text(
        path.read_text()
        .replace("profile: corp", "profile: pci-dss")
        .replace("extends: pci-dss\n", "")
    )
    with pytest.raises(SpecError, match="vcloud ships a profile 'pci-dss'"):
        found(tmp_path, "./corp")


def test_profiles_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    own(tmp_path)
    path = tmp_path / "corp/1.yaml"
    path.write_text(
        path.read_text().replace(
            "{few_ports: {zones: holding, most: 4}}", "{encrypted: {apps: [postgres]}}"
        )
    )
    (problem,) = found(tmp_path, "./corp").problems[:1]
    assert "neither is stricter" in problem.what
    assert "corp@1 7" in problem.what
    assert "pci-dss@4.0.1 4.2.1" in problem.what


def test_ids_of_detectors_are_short_and_no_two_are_the_same(tmp_path: Path) -> None:
    ref = ControlRef("a" * 41, "1", "SC-7(10)" + "9" * 30)
    assert ID.parse(ref.stable_id) == ref.stable_id
    assert ControlRef("nist-800-53", "5", "SC-7(10)").stable_id == "nist-800-53-sc-7-10"
    own(tmp_path)
    path = tmp_path / "corp/1.yaml"
    leak = "status: enforced, evidence: packets, needs: [leaks], demands: {leaks: {detect: %s, regex: 'X{9}', zones: every}}"
    path.write_text(
        path.read_text()
        + f"  - {{id: '8.1', says: x, {leak % 'one'}}}\n  - {{id: 8-1, says: x, {leak % 'other'}}}\n"
    )
    (problem,) = found(tmp_path, "./corp").problems
    assert "would have the same id 'corp-8-1'" in problem.what
