"""Each enforced control of the shipped profiles beside pci-dss: what it renders, and what breaks it."""

from __future__ import annotations

from datetime import date

import pytest

from tests.cards import CARDS, design, hardened
from tests.unit.profiles.breaking import (
    DETECT_ONLY,
    INTO_VAULT,
    MANY_OUT,
    OPEN,
    PLAIN,
    TELNET,
    TWO_NICS,
    WITHOUT_ID,
    WITHOUT_WHY,
    Change,
)
from vcloud.design.model import Design
from vcloud.errors import RefusedError, SpecError
from vcloud.placement.labels import HostLabels, refuse_rules
from vcloud.profile_files import shipped
from vcloud.profiles.model import Profile

OTHERS = [
    profile for versions in shipped().values() for profile in versions if profile.name != "pci-dss"
]
BREAKS: dict[str, list[tuple[Change, str]]] = {
    "hipaa@2013 164.312(a)(1)": [
        (WITHOUT_WHY, "flows[1]"),
        (WITHOUT_ID, "flows[1]"),
        (INTO_VAULT, "flows[2].to"),
        (TWO_NICS, "vms.db.zone"),
    ],
    "hipaa@2013 164.312(e)(1)": [(OPEN, "zones.vault.open"), (DETECT_ONLY, "protection.ips.mode")],
    "hipaa@2013 164.312(e)(2)(ii)": [(PLAIN, "flows[3].service")],
    "nist-800-53@5.1.1 AC-4": [(WITHOUT_WHY, "flows[1]"), (OPEN, "zones.vault.open")],
    "nist-800-53@5.1.1 SC-7": [(INTO_VAULT, "flows[2].to"), (TWO_NICS, "vms.db.zone")],
    "nist-800-53@5.1.1 SC-8(1)": [(PLAIN, "flows[3].service")],
    "nist-800-53@5.1.1 CM-7": [(TELNET, "flows[2].service")],
    "hipaa@nprm-2025 164.312(a)(1)": [(WITHOUT_WHY, "flows[1]"), (WITHOUT_ID, "flows[1]")],
    "hipaa@nprm-2025 164.312(a)(2)(vi)": [
        (OPEN, "zones.vault.open"),
        (INTO_VAULT, "flows[2].to"),
        (TWO_NICS, "vms.db.zone"),
    ],
    "hipaa@nprm-2025 164.312(b)": [(PLAIN, "flows[3].service")],
    "hipaa@nprm-2025 164.312(c)(2)(iv)": [
        (MANY_OUT, "flows[2].service"),
        (TELNET, "flows[2].service"),
    ],
    "hipaa@nprm-2025 164.312(g)": [(DETECT_ONLY, "protection.ips.mode")],
    "iso27001@2013 A.13.1.1": [(WITHOUT_WHY, "flows[1]"), (WITHOUT_ID, "flows[1]")],
    "iso27001@2013 A.13.1.2": [(TELNET, "flows[2].service")],
    "iso27001@2013 A.13.1.3": [
        (OPEN, "zones.vault.open"),
        (INTO_VAULT, "flows[2].to"),
        (TWO_NICS, "vms.db.zone"),
    ],
    "iso27001@2013 A.10.1.1": [(PLAIN, "flows[3].service")],
    "iso27001@2022 A.8.20": [(WITHOUT_WHY, "flows[1]"), (WITHOUT_ID, "flows[1]")],
    "iso27001@2022 A.8.21": [(TELNET, "flows[2].service")],
    "iso27001@2022 A.8.22": [(OPEN, "zones.vault.open"), (INTO_VAULT, "flows[2].to")],
    "iso27001@2022 A.8.24": [(PLAIN, "flows[3].service")],
    "cis-v8@8.0 3.8": [(WITHOUT_WHY, "flows[1]"), (WITHOUT_ID, "flows[1]")],
    "cis-v8@8.0 3.10": [(PLAIN, "flows[3].service")],
    "cis-v8@8.0 3.12": [(OPEN, "zones.vault.open"), (INTO_VAULT, "flows[2].to")],
    "cis-v8@8.0 4.6": [(TELNET, "flows[2].service")],
    "cis-v8@8.0 13.8": [(DETECT_ONLY, "protection.ips.mode")],
}
ONLY_ADDS = {"nist-800-53@5.1.1 SC-39", "nist-800-53@5.1.1 SI-4(4)", "iso27001@2022 A.8.16"}
"""A host can break the first. The others accept what the IPS does in any mode."""


def text(profile: str, *changes: Change) -> str:
    """The vApp under another profile, which knows other data."""
    made = CARDS.replace("pci-dss@4.0.1", profile)
    for before, after in changes:
        assert before in made
        made = made.replace(before, after)
    return made.replace("cardholder-data", "health-data") if profile.startswith("hipaa") else made


def test_each_enforced_control_is_tested() -> None:
    enforced = {
        f"{profile.label} {one.id}" for profile in OTHERS for one in profile.controls if one.demands
    }
    assert enforced == {*BREAKS, *ONLY_ADDS}


@pytest.mark.parametrize("profile", OTHERS, ids=lambda profile: profile.label)
def test_a_file_that_fits_breaks_no_control(profile: Profile) -> None:
    found = hardened(text(profile.label))
    assert (found.problems, found.refusals) == ((), ())


@pytest.mark.parametrize("control", BREAKS)
def test_a_file_that_breaks_a_control_is_told_its_number(control: str) -> None:
    profile, _, name = control.partition(" ")
    for change, field in BREAKS[control]:
        problems = hardened(text(profile, change)).problems
        assert [
            one
            for one in problems
            if one.field == field and name in one.what.partition(": ")[0] and one.line and one.hint
        ], (change, problems)


def added(profile: str) -> Design:
    return design(text(profile))


@pytest.mark.parametrize(
    ("profile", "zones", "control"),
    [
        ("hipaa", ("app", "vault"), "hipaa@2013 164.312(e)(1)"),
        ("nist-800-53", ("front", "app", "vault"), "nist-800-53@5.1.1 SI-4(4)"),
        ("iso27001", ("app", "vault"), "iso27001@2022 A.8.16"),
        ("cis-v8", ("app", "vault"), "cis-v8@8.0 13.8"),
        ("hipaa@nprm-2025", ("app", "vault"), "hipaa@nprm-2025 164.312(g)"),
    ],
)
def test_zones_are_inspected_because_a_control_says_so(
    profile: str, zones: tuple[str, ...], control: str
) -> None:
    inspection = added(profile).inspection
    assert inspection.zones == zones
    assert {str(inspection.origin_in(zone)) for zone in zones} == {control}


def test_a_host_that_does_not_keep_vms_apart_is_refused_by_the_control() -> None:
    made = added("nist-800-53")
    refuse_rules(made, HostLabels("h1", {"svirt": "apparmor"}))
    with pytest.raises(RefusedError, match=r"nist-800-53@5.1.1 SC-39") as raised:
        refuse_rules(made, HostLabels("h1", {"svirt": "none"}))
    assert raised.value.exit == 6


def test_several_profiles_add_up() -> None:
    both = CARDS.replace("[pci-dss@4.0.1]", "[iso27001, pci-dss@4.0.1, nist-800-53]")
    made = design(both)
    assert [one.label for one in made.controls.profiles] == [
        "iso27001@2022",
        "pci-dss@4.0.1",
        "nist-800-53@5.1.1",
    ]
    assert made.inspection.zones == ("front", "app", "vault")
    (problem,) = hardened(both.replace(*WITHOUT_WHY)).problems
    broken, _, what = problem.what.partition(": ")
    assert broken == "iso27001@2022 A.8.20; nist-800-53@5.1.1 AC-4; pci-dss@4.0.1 1.2.5"
    assert what == "flow 'orders' says no why"


def test_from_2013_to_2022_iso27001_adds_inspection() -> None:
    """2013 inspects only where a flow is held to encryption."""
    assert added("iso27001@2013").inspection.zones == ("app",)
    assert added("iso27001@2022").inspection.zones == ("app", "vault")


# Drafts


def test_a_draft_counts_only_where_its_version_is_named() -> None:
    assert [one.label for one in added("hipaa").controls.profiles] == ["hipaa@2013"]
    (found,) = added("hipaa@nprm-2025").controls.profiles
    assert (found.label, found.floats, found.draft) == ("hipaa@nprm-2025", False, True)


def test_a_draft_is_told_as_one_and_a_law_is_not() -> None:
    for profile, is_draft in (("hipaa@nprm-2025", True), ("hipaa@2013", False)):
        controls = added(profile).controls
        assert ("a draft that is no law" in controls.told()[0]) == is_draft
        data = controls.as_data()
        assert data
        assert data["profiles"][0]["draft"] is is_draft


def test_a_draft_alone_is_never_offered_as_what_is_in_force() -> None:
    with pytest.raises(SpecError) as raised:
        hardened(text("hipaa"), date(2010, 1, 1))
    assert "Name a version: hipaa@2013. Known: 2013, nprm-2025 (draft)." in str(raised.value)
