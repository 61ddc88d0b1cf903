"""Which build of its image a VM gets: a later one with other packages, and otherwise the one that it
has.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.standing import build_of, manifest_of, standing, without_domain
from tests.vapps import TWO_HOMES, design_of_text
from vcloud.plan.diff import plan_changes
from vcloud.plan.images import age_in_days, age_notes, chosen_image, standing_image
from vcloud.plan.manifest import VmImage
from vcloud.plan.state import VappState
from vcloud.plan.steps import Verb

RECIPE = "r" * 64
STANDING = VmImage(RECIPE, "content 1", "packages 1", "2026-09-01T08:00:00+00:00")
LATER = VmImage(RECIPE, "content 2", "packages 2", "2026-11-30T08:00:00+00:00")
UNKNOWN = VmImage(RECIPE)
DESIGN = design_of_text(TWO_HOMES)
BENCH = next(vm for vm in DESIGN.vms if vm.name == "bench")


@pytest.mark.parametrize(
    ("cached", "chosen"),
    [
        (LATER, LATER),
        (None, STANDING),
        (replace(LATER, packages=STANDING.packages), STANDING),
        (replace(LATER, built="2026-08-01T08:00:00+00:00"), STANDING),
        (replace(LATER, built=STANDING.built), STANDING),
        (STANDING, STANDING),
    ],
    ids=["later", "none", "same packages", "older", "same time", "same"],
)
def test_only_a_later_build_with_other_packages_takes_the_place_of_the_standing_one(
    cached: VmImage | None, chosen: VmImage
) -> None:
    assert chosen_image(RECIPE, STANDING, cached) == chosen


def test_another_recipe_takes_the_cached_build_or_one_that_is_still_to_be_made() -> None:
    older = replace(LATER, recipe="other", built="2020-01-01T00:00:00+00:00")
    assert chosen_image("other", STANDING, older) == older
    assert chosen_image("other", STANDING, None) == VmImage("other")
    assert chosen_image(RECIPE, None, LATER) == LATER
    assert chosen_image(RECIPE, None, None) == VmImage(RECIPE)


def test_a_build_of_unknown_packages_stays_unless_somebody_asks_for_another() -> None:
    assert chosen_image(RECIPE, UNKNOWN, LATER) == UNKNOWN
    assert chosen_image(RECIPE, UNKNOWN, LATER, renew=True) == LATER
    assert chosen_image(RECIPE, UNKNOWN, None, renew=True) == UNKNOWN


def test_a_build_of_a_wrong_clock_does_not_stay_for_ever() -> None:
    ahead = replace(STANDING, built="2099-01-01T00:00:00.000+00:00")
    assert chosen_image(RECIPE, ahead, LATER) == ahead
    assert chosen_image(RECIPE, ahead, LATER, renew=True) == LATER
    assert chosen_image(RECIPE, STANDING, replace(STANDING, built=LATER.built), renew=True) == (
        STANDING
    )
    own = VmImage("sha", "sha", "", LATER.built)
    assert chosen_image("sha", own, replace(own, built="2027"), renew=True) == own


def test_a_new_vm_gets_the_build_that_its_neighbours_have() -> None:
    manifest = standing(DESIGN).manifest
    assert manifest
    recipe = build_of(BENCH).recipe
    late = replace(build_of(BENCH), built="2026-02-01T00:00:00Z", content="c2")
    some = (("gate-1", build_of(BENCH)), ("gate-2", late), ("store", STANDING))
    assert standing_image(BENCH, recipe, replace(manifest, images=some)) == late
    own = (*some, ("bench", STANDING))
    assert standing_image(BENCH, recipe, replace(manifest, images=own)) == STANDING
    assert standing_image(BENCH, "another", replace(manifest, images=some)) is None
    assert standing_image(BENCH, recipe, None) is None


# The plan


def changed(state: VappState, image: VmImage) -> list[tuple[str, str]]:
    packages = {
        "packages of nginx": ("bash=1", "openssl=3.5.1-1"),
        "newer": ("bash=1", "openssl=3.5.4-1"),
    }
    wanted = manifest_of(DESIGN, images={"bench": image})
    plan = plan_changes(wanted, state, "h1", packages=packages)
    return [(str(step.verb), f"{step.subject}: {step.why}") for step in plan.steps]


def test_a_vm_whose_image_was_built_anew_is_made_anew_and_the_plan_says_what_differs() -> None:
    assert BENCH.image.name == "nginx"
    newer = build_of(BENCH, packages="newer", built="2026-11-30T08:00:00Z", content="c2")
    assert changed(standing(DESIGN), newer) == [
        (
            "make VM anew",
            "bench: its image was built anew: 1 package differs (openssl 3.5.1-1 -> 3.5.4-1), "
            "of 2026-11-30 in place of 2026-01-01",
        )
    ]
    unknown = replace(newer, packages="nobody knows the list")
    assert changed(standing(DESIGN), unknown) == [
        (
            "make VM anew",
            "bench: its image was built anew: its packages differ, of 2026-11-30 in place of 2026-01-01",
        )
    ]


def test_other_bytes_of_the_same_packages_make_no_vm_anew() -> None:
    other = build_of(BENCH, content="c2", built="2026-11-30T08:00:00Z")
    assert [verb for verb, _ in changed(standing(DESIGN), other)] == [Verb.RECORD]
    assert changed(standing(DESIGN), build_of(BENCH)) == []


def test_a_recipe_that_changed_is_told_as_that() -> None:
    other = build_of(BENCH, recipe="another", packages="newer")
    assert changed(standing(DESIGN), other) == [("make VM anew", "bench: its image changed")]


def test_a_missing_vm_is_made_of_the_build_that_the_others_stand_on() -> None:
    state = without_domain(standing(DESIGN), "relay.bench")
    assert [verb for verb, _ in changed(state, build_of(BENCH))] == ["make VM"]


# Ages


@pytest.mark.parametrize(
    ("built", "days"),
    [
        ("2026-10-31T23:59:00+00:00", 30),
        ("2026-11-30T00:00:00+00:00", 0),
        ("", None),
        ("soon", None),
        ("2026-13-01", None),
    ],
)
def test_days_between_two_times(built: str, days: int | None) -> None:
    assert age_in_days(built, "2026-11-30T12:00:00+00:00") == days


def notes(images: dict[str, VmImage], checked: dict[str, str] | None = None) -> list[str]:
    manifest = standing(DESIGN).manifest
    assert manifest
    builds = {vm.name: build_of(vm, built="2026-11-20T00:00:00Z") for vm in DESIGN.vms} | images
    had = replace(manifest, images=tuple(builds.items()))
    return [*age_notes(DESIGN, builds, had, checked or {}, "2026-11-30T12:00:00+00:00")]


def test_an_image_of_more_than_thirty_days_is_told_with_the_way_out() -> None:
    assert notes({}) == []
    assert notes({"bench": build_of(BENCH, built="2026-10-31T00:00:00Z")}) == []
    old = build_of(BENCH, built="2026-10-30T00:00:00Z")
    (note,) = notes({"bench": old})
    assert note.startswith("the image nginx of bench is 31 days old (of 2026-10-30); ")
    assert "`vcloud image refresh`" in note
    assert notes({"bench": old}, {old.packages: "2026-11-29T00:00:00Z"}) == [], (
        "a build of yesterday has the same packages"
    )


def test_an_image_of_unknown_age_is_told_only_where_a_vm_stands_on_it() -> None:
    (note,) = notes({"bench": VmImage("digest of nginx")})
    assert note.startswith("the age of the image nginx of bench is not known")
    assert "`vcloud up --refresh`" in note
    to_build = {vm.name: VmImage(build_of(vm).recipe) for vm in DESIGN.vms}
    assert [*age_notes(DESIGN, to_build, None, {}, "2026-11-30")] == []
