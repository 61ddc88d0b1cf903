"""Each control of the shipped profiles that has demands: what it renders, and a file that breaks it."""

from __future__ import annotations

from datetime import date

import pytest

from tests.cards import DAY, VERSIONS, cards, design, hardened, said
from tests.unit.profiles.breaking import (
    DETECT_ONLY,
    INTO_VAULT,
    MANY_IN,
    MANY_OUT,
    OPEN,
    PLAIN,
    TELNET,
    TELNET_IN_RANGE,
    TWO_NICS,
    UNSAID,
    WITHOUT_ID,
    WITHOUT_WHY,
    Change,
    flow,
)
from vcloud.compile.ips.files import FOLDER, ips_files
from vcloud.design.model import Design
from vcloud.design.origin import FromControl
from vcloud.errors import RefusedError, SpecError
from vcloud.profile_files import shipped
from vcloud.values import Action, Mode

BREAKS: dict[str, list[tuple[Change, str]]] = {
    "1.1.6": [(WITHOUT_WHY, "flows[1]"), (WITHOUT_ID, "flows[1]"), (TELNET, "flows[2].service")],
    "1.2.5": [(WITHOUT_WHY, "flows[1]"), (WITHOUT_ID, "flows[1]")],
    "1.2.6": [(TELNET, "flows[2].service"), (TELNET_IN_RANGE, "flows[2].service")],
    "1.3.2": [(MANY_OUT, "flows[2].service"), (MANY_IN, "flows[2].service")],
    "1.3.3": [(OPEN, "zones.vault.open")],
    "1.3.4": [(MANY_OUT, "flows[2].service")],
    "1.3.6": [(INTO_VAULT, "flows[2].to"), (TWO_NICS, "vms.db.zone")],
    "1.4.3": [(OPEN, "zones.vault.open")],
    "1.4.4": [(INTO_VAULT, "flows[2].to")],
    "1.5.1": [(TWO_NICS, "vms.db.zone")],
    "2.2.1": [(OPEN, "zones.vault.open")],
    "2.2.3": [(OPEN, "zones.vault.open")],
    "4.1": [(PLAIN, "flows[3].service")],
    "4.2.1": [(PLAIN, "flows[3].service")],
    "6.4.2": [(UNSAID, "flows[0]")],
    "11.4": [(DETECT_ONLY, "protection.ips.mode")],
    "11.5.1": [(DETECT_ONLY, "protection.ips.mode")],
}


def demanding() -> list[tuple[str, str]]:
    return [
        (profile.version, control.id)
        for profile in shipped()["pci-dss"]
        for control in profile.controls
        if control.demands
    ]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_file_that_fits_breaks_no_control(version: str) -> None:
    found = hardened(cards(version))
    assert (found.problems, found.refusals) == ((), ())


@pytest.mark.parametrize(("version", "control"), demanding())
def test_a_file_that_breaks_a_control_is_told_its_number_its_line_and_the_way_out(
    version: str, control: str
) -> None:
    for change, field in BREAKS[control]:
        found = [
            problem
            for problem in hardened(cards(version, change)).problems
            if problem.field == field and control in problem.what.partition(":")[0]
        ]
        assert found, (control, change)
        for problem in found:
            assert problem.what.startswith(f"pci-dss@{version} ")
            assert problem.line
            assert problem.hint


def test_what_one_version_asks_for_another_does_not() -> None:
    """Ports to other zones of the vApp: only since 4.0."""
    assert said(cards("3.2.1", MANY_IN)) == []
    assert said(cards("3.2.1", UNSAID)) == []


def test_a_file_that_breaks_a_control_has_no_design() -> None:
    with pytest.raises(SpecError, match=r"vapp.yaml:14: flows\[2\].to: pci-dss@4.0.1 1.4.4: "):
        design(cards("4.0.1", INTO_VAULT))


# What controls add


def shown(made: Design) -> dict[str, object]:
    inspection = made.inspection
    return {
        "zones": inspection.zones,
        "mode": inspection.mode,
        "why": {zone: str(inspection.origin_in(zone)) for zone in inspection.zones},
        "detectors": [
            (one.id, one.zones, one.excepted, one.action) for one in inspection.detectors
        ],
    }


def test_3_2_1_inspects_what_touches_card_data_and_keeps_card_numbers_from_the_outside() -> None:
    assert shown(design(cards("3.2.1"))) == {
        "zones": ("app", "vault"),
        "mode": Mode.PREVENT,
        "why": {"app": "pci-dss@3.2.1 11.4", "vault": "pci-dss@3.2.1 11.4"},
        "detectors": [
            ("pci-dss-1-3-4", ("app", "vault"), ("acquirer", "orders"), Action.BLOCK),
        ],
    }


@pytest.mark.parametrize("version", ["4.0", "4.0.1"])
def test_4_0_also_inspects_web_applications_and_keeps_card_numbers_from_other_zones(
    version: str,
) -> None:
    label = f"pci-dss@{version}"
    assert shown(design(cards(version))) == {
        "zones": ("front", "app", "vault"),
        "mode": Mode.PREVENT,
        "why": {
            "front": f"{label} 6.4.2",
            "app": f"{label} 11.5.1",
            "vault": f"{label} 11.5.1",
        },
        "detectors": [("pci-dss-1-3-2", ("app", "vault"), ("acquirer",), Action.BLOCK)],
    }


def test_a_requirement_counts_from_its_day_on() -> None:
    before, after = date(2025, 3, 30), date(2025, 3, 31)
    assert design(cards("4.0"), before).inspection.zones == ("app", "vault")
    assert design(cards("4.0"), after).inspection.zones == ("front", "app", "vault")


def test_4_0_1_in_the_place_of_4_0_loads_nothing_anew() -> None:
    """What is loaded carries the stable id of a control only. The twin: 3.2.1 loads something else."""
    one, other, earlier = (
        ips_files(design(cards(version))) for version in ("4.0", "4.0.1", "3.2.1")
    )
    assert one == other
    assert one != earlier
    assert b"pci-dss-1-3-2" in one[f"{FOLDER}/rules/leaks.rules"]
    assert not [name for name, text in one.items() if b"pci-dss@" in text]


def test_an_insecure_service_away_from_card_data_is_inspected() -> None:
    extra = flow("id: files, from: internet, to: web, service: tcp/21")
    made = design(cards("3.2.1", extra))
    assert made.inspection.zones == ("front", "app", "vault")
    assert str(made.inspection.origin_in("front")) == "pci-dss@3.2.1 1.1.6"


def test_what_the_file_does_already_is_not_added_again() -> None:
    own = "  dlp: [{detect: card-number, leaving: [app, vault], except: [acquirer]}]\n"
    (detector,) = design(cards(more=own)).inspection.detectors
    assert (detector.id, str(detector.origin)) == ("card-number-leaving-app-vault", "vapp.yaml:18")
    proofs = {str(one.origin): one.proved_by for one in design(cards(more=own)).controls.controls}
    assert "detector:card-number-leaving-app-vault" in proofs["pci-dss@4.0.1 1.3.2"]


@pytest.mark.parametrize(
    "weaker",
    [
        "{detect: card-number, leaving: [app, vault], except: [acquirer, orders]}",
        "{detect: card-number, leaving: [app, vault], except: [acquirer], action: alert}",
        "{detect: card-number, leaving: [app, vault], except: [acquirer], at_least: 2}",
        "{detect: card-number, leaving: [front, app, vault], except: [acquirer]}",
    ],
)
def test_a_weaker_detector_of_the_file_does_not_take_the_place_of_the_controls(weaker: str) -> None:
    made = design(cards(more=f"  dlp: [{weaker}]\n"))
    assert [one.id for one in made.inspection.detectors][1:] == ["pci-dss-1-3-2"]
    assert made.inspection.detectors[1].origin == FromControl("pci-dss", "4.0.1", "1.3.2")


def test_a_detector_of_the_file_may_not_take_a_controls_name() -> None:
    own = "  dlp: [{detect: {name: a, regex: 'X{5}'}, leaving: app, id: pci-dss-1-3-2}]\n"
    assert said(cards(more=own)) == [
        "protection.dlp[0].id the detector of pci-dss@4.0.1 1.3.2 has the id 'pci-dss-1-3-2'"
    ]


def test_a_profile_about_data_that_the_file_does_not_name_is_an_error() -> None:
    """A wrong word must not protect nothing in silence."""
    text = cards("4.0.1", ("cardholder-data", "card-holder-data"))
    (problem,) = hardened(text).problems
    assert problem.field == "protection.profiles[0]"
    assert "card-holder-data" in problem.hint


def test_a_web_application_that_the_ips_cannot_read_is_refused() -> None:
    tls = ("service: tcp/8000, app: http, publish: 8080", "service: tcp/443, publish: 443")
    text = cards("4.0.1", tls)
    with pytest.raises(RefusedError, match=r"flows\[0\].service: pci-dss@4.0.1 6.4.2: "):
        design(text)
    excepted = "  exceptions: [{control: 6.4.2, reason: a WAF is before it, approved_by: me, expires: 2026-12-31}]\n"
    assert design(text + excepted).inspection.zones == ("app", "vault")
    assert design(cards("3.2.1", tls)).inspection.zones == ("app", "vault")


def test_a_web_application_over_quic_is_refused_and_one_of_another_protocol_inspected() -> None:
    both = (
        "service: tcp/8000, app: http, publish: 8080",
        "service: [tcp/8000, udp/443], app: [http, other]",
    )
    (problem,) = hardened(cards("4.0.1", both)).refusals
    assert "for QUIC" in problem.what
    other = ("app: http, publish: 8080", "app: other, publish: 8080")
    assert "front" in design(cards("4.0.1", other)).inspection.zones


def test_a_control_that_would_need_too_many_rules_is_refused() -> None:
    flows = "".join(
        f"  - {{id: f{number}, from: web, to: api, service: [{', '.join(f'tcp/{9000 + number * 50 + port}' for port in range(50))}], app: http, why: x}}\n"
        for number in range(41)
    )
    many = ("  - {id: store", f"{flows}  - {{id: store")
    (problem,) = hardened(cards("3.2.1", many)).refusals
    assert "would except 2052 services" in problem.what
    assert hardened(cards("4.0", many)).refusals == ()


@pytest.mark.parametrize("version", VERSIONS)
def test_checks_name_the_controls_that_they_are_evidence_for(version: str) -> None:
    controls = design(cards(version)).controls
    assert controls.day == DAY
    spoofed, outwards = {"3.2.1": ("1.3.3", "4.1")}.get(version, ("1.4.3", "4.2.1"))
    assert controls.proved_by("ctl:antispoof") == (f"pci-dss@{version} {spoofed}",)
    assert f"pci-dss@{version} {outwards}" in controls.proved_by("flow:acquirer")
    assert f"pci-dss@{version} {outwards}" not in controls.proved_by("flow:orders")
    assert controls.proved_by("ctl:unknown") == ()
