"""What another version of a profile, and another day, change of a vApp that stands."""

from __future__ import annotations

from datetime import date, timedelta

from tests.cards import DAY, cards, design
from tests.standing import manifest_of, standing
from vcloud.design.model import Design
from vcloud.plan.diff import plan_changes
from vcloud.plan.formats import decoded, encoded
from vcloud.plan.steps import Verb

FRONT = "  ips: {inspect: [front]}\n"
"""With it no version changes which zones are inspected."""


def steps(before: Design, after: Design) -> list[tuple[Verb, str, str]]:
    plan = plan_changes(manifest_of(after), standing(before), "h1")
    return [(step.verb, step.subject, step.why) for step in plan.steps]


def test_a_new_version_that_demands_the_same_loads_nothing() -> None:
    one, other = (design(cards(version)) for version in ("4.0", "4.0.1"))
    why = "profiles: + pci-dss@4.0.1, - pci-dss@4.0; nothing that runs is touched"
    assert steps(one, other) == [(Verb.RECORD, "cards", why)]


def test_a_new_version_that_demands_more_is_loaded_live() -> None:
    one, other = (design(cards(version, more=FRONT)) for version in ("3.2.1", "4.0"))
    why = "detectors: + pci-dss-1-3-2, - pci-dss-1-3-4"
    assert steps(one, other) == [(Verb.LOAD_IPS, "ips", why)]


def test_a_zone_that_a_new_version_inspects_restarts_what_the_plan_names() -> None:
    one, other = (design(cards(version)) for version in ("3.2.1", "4.0"))
    verbs = {(verb, subject) for verb, subject, _ in steps(one, other)}
    assert (Verb.LOAD_IPS, "ips") in verbs
    assert (Verb.RESTART_VM, "ips") in verbs


def test_another_day_alone_is_nothing_to_do() -> None:
    assert steps(design(cards()), design(cards(), DAY + timedelta(1))) == []
    # The twin: a day on which a requirement comes into force.
    before, after = (design(cards("4.0"), date(2025, 3, day)) for day in (30, 31))
    assert steps(before, after)


def test_the_manifest_says_profile_version_digest_and_day() -> None:
    manifest = manifest_of(design(cards()))
    read = decoded(*encoded(manifest))
    assert read == manifest
    (profile,) = manifest.design.controls.profiles
    assert (profile.label, len(profile.digest)) == ("pci-dss@4.0.1", 64)
    assert manifest.design.controls.day == DAY
