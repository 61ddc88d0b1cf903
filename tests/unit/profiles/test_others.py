"""Each enforced control of the shipped profiles beside pci-dss: what it renders, and what breaks it."""

from __future__ import annotations

import pytest

from tests.cards import CARDS, design, hardened
from tests.unit.profiles.breaking import (
    DETECT_ONLY,
    INTO_VAULT,
    OPEN,
    PLAIN,
    TELNET,
    TWO_NICS,
    WITHOUT_ID,
    WITHOUT_WHY,
    Change,
)
from vcloud.design.model import Design
from vcloud.errors import RefusedError
from vcloud.placement.labels import HostLabels, refuse_rules
from vcloud.profile_files import shipped
from vcloud.profiles.model import Status

OTHERS = [
    profile for versions in shipped().values() for profile in versions if profile.name != "pci-dss"
]
BREAKS: dict[str, list[tuple[Change, str]]] = {
    "hipaa 164.312(a)(1)": [
        (WITHOUT_WHY, "flows[1]"),
        (WITHOUT_ID, "flows[1]"),
        (INTO_VAULT, "flows[2].to"),
        (TWO_NICS, "vms.db.zone"),
    ],
    "hipaa 164.312(e)(1)": [(OPEN, "zones.vault.open"), (DETECT_ONLY, "protection.ips.mode")],
    "hipaa 164.312(e)(2)(ii)": [(PLAIN, "flows[3].service")],
    "nist-800-53 AC-4": [(WITHOUT_WHY, "flows[1]"), (OPEN, "zones.vault.open")],
    "nist-800-53 SC-7": [(INTO_VAULT, "flows[2].to"), (TWO_NICS, "vms.db.zone")],
    "nist-800-53 SC-8(1)": [(PLAIN, "flows[3].service")],
    "nist-800-53 CM-7": [(TELNET, "flows[2].service")],
    "iso27001 A.8.20": [(WITHOUT_WHY, "flows[1]"), (WITHOUT_ID, "flows[1]")],
    "iso27001 A.8.21": [(TELNET, "flows[2].service")],
    "iso27001 A.8.22": [(OPEN, "zones.vault.open"), (INTO_VAULT, "flows[2].to")],
    "iso27001 A.8.24": [(PLAIN, "flows[3].service")],
    "cis-v8 3.8": [(WITHOUT_WHY, "flows[1]"), (WITHOUT_ID, "flows[1]")],
    "cis-v8 3.10": [(PLAIN, "flows[3].service")],
    "cis-v8 3.12": [(OPEN, "zones.vault.open"), (INTO_VAULT, "flows[2].to")],
    "cis-v8 4.6": [(TELNET, "flows[2].service")],
    "cis-v8 13.8": [(DETECT_ONLY, "protection.ips.mode")],
}
ONLY_ADDS = {"nist-800-53 SC-39", "nist-800-53 SI-4(4)", "iso27001 A.8.16"}
"""A host can break the first. The others accept what the IPS does in any mode."""


def text(profile: str, *changes: Change) -> str:
    """The vApp under another profile, which knows other data."""
    made = CARDS.replace("pci-dss@4.0.1", profile)
    for before, after in changes:
        assert before in made
        made = made.replace(before, after)
    return made.replace("cardholder-data", "health-data") if profile == "hipaa" else made


def test_each_enforced_control_is_tested() -> None:
    enforced = {
        f"{profile.name} {one.id}"
        for profile in OTHERS
        for one in profile.controls
        if one.status is Status.ENFORCED
    }
    assert enforced == {*BREAKS, *ONLY_ADDS}


@pytest.mark.parametrize("profile", OTHERS, ids=lambda profile: profile.name)
def test_a_file_that_fits_breaks_no_control(profile: object) -> None:
    found = hardened(text(profile.name))  # type: ignore[attr-defined]
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
