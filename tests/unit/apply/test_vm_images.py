"""Which build each VM of a run gets, and what must be built or uploaded for that: by what stands, what
the host has, and what this machine has.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.standing import manifest_of
from tests.vapps import TWO_HOMES, design_of_text
from vcloud.apply.vm_images import VmImages, cache_name
from vcloud.design.model import Vm
from vcloud.images.cache import Image, default_cache
from vcloud.images.description import Description
from vcloud.packages import packages_digest
from vcloud.plan.manifest import Manifest, VmImage

DESIGN = design_of_text(TWO_HOMES)
BENCH, STORE = (next(vm for vm in DESIGN.vms if vm.name == name) for name in ("bench", "store"))
OLD = packages_digest(["a=1"])
EARLIER, LATER = "2026-09-01T00:00:00.000+00:00", "2026-11-30T00:00:00.000+00:00"
HOST = "c" * 64


@pytest.fixture(autouse=True)
def _empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VCLOUD_CACHE_DIR", str(tmp_path))


def recipe(vm: Vm) -> str:
    return VmImages.of(DESIGN).digests[vm.name]


def cached(vm: Vm, package: str, built: str) -> Image:
    """An image of a VM in this machine's cache."""

    def make(folder: Path) -> Description:
        (folder / "disk.qcow2").write_text(package)
        (folder / "manifest.txt").write_text(f"{package}\n")
        return Description(cache_name(vm.image), recipe(vm))

    image = default_cache().fill(cache_name(vm.image), recipe(vm), make, lambda _: None)
    path = image.folder / "image.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"built": built}))
    return replace(image, built=built)


def standing(**changes: str) -> Manifest:
    """The manifest of a vApp all of whose VMs were made from old builds."""
    first = VmImages.of(DESIGN)
    builds = {
        vm.name: replace(VmImage(first.digests[vm.name], HOST, OLD, EARLIER), **changes)
        for vm in DESIGN.vms
    }
    return manifest_of(DESIGN, images=builds)


def chosen(images: VmImages, vm: Vm = BENCH) -> VmImage:
    return images.chosen[vm.name]


def test_a_new_vapp_gets_what_this_machine_has_and_the_rest_is_built() -> None:
    image = cached(BENCH, "a=1", EARLIER)
    images = VmImages.of(DESIGN)
    assert chosen(images) == image.build
    assert {vm.name for vm in DESIGN.vms if images.chosen[vm.name] == VmImage(recipe(vm))} == {
        vm.name for vm in DESIGN.vms if vm.image != BENCH.image
    }
    assert images.missing([BENCH]) == ()
    assert images.missing([BENCH, STORE]) == (STORE.image,)
    assert images.to_upload([BENCH, STORE]) == (image,)


def test_a_vm_that_is_made_anew_boots_from_the_host_without_any_build_or_upload() -> None:
    """Of a machine with an empty cache, or one with its own build of the same packages."""
    for _ in ("empty", "own"):
        images = VmImages.of(DESIGN, standing(), frozenset({HOST}))
        assert chosen(images) == VmImage(recipe(BENCH), HOST, OLD, EARLIER)
        assert images.lost(["bench"]) == frozenset()
        assert images.missing([BENCH]) == images.to_upload([BENCH]) == ()
        cached(BENCH, "a=1", LATER)


def test_a_later_build_with_other_packages_is_uploaded_and_taken() -> None:
    image = cached(BENCH, "a=2", LATER)
    images = VmImages.of(DESIGN, standing(), frozenset({HOST}))
    assert chosen(images) == image.build
    assert images.missing([BENCH]) == ()
    assert images.to_upload([BENCH]) == (image,)
    again = VmImages.of(DESIGN, standing(), frozenset({HOST, image.content}))
    assert again.to_upload([BENCH]) == ()


def test_where_the_host_has_lost_a_build_a_new_vm_gets_another_and_a_standing_one_does_not() -> (
    None
):
    images = VmImages.of(DESIGN, standing(), frozenset())
    assert images.lost([]) == frozenset()
    assert images.lost(["bench"]) == {"bench"}
    again = VmImages.of(DESIGN, standing(), frozenset(), fresh=frozenset({"bench"}))
    assert chosen(again) == VmImage(recipe(BENCH))
    assert chosen(again, STORE) == chosen(images, STORE)
    assert again.missing([BENCH]) == (BENCH.image,)
    assert again.lost(["bench"]) == frozenset()
    image = cached(BENCH, "a=1", EARLIER)
    built = VmImages.of(DESIGN, standing(), frozenset(), fresh=frozenset({"bench"}))
    assert chosen(built) == image.build


def test_what_an_earlier_release_uploaded_serves_who_stands_on_it_and_no_new_vm() -> None:
    unknown = standing(content="", packages="", built="")
    images = VmImages.of(DESIGN, unknown, frozenset({recipe(BENCH)[:12]}))
    assert images.missing([BENCH]) == ()
    assert images.lost(["bench"]) == {"bench"}
    fresh = VmImages.of(
        DESIGN, unknown, frozenset({recipe(BENCH)[:12]}), fresh=frozenset({"bench"})
    )
    assert fresh.missing([BENCH]) == (BENCH.image,)


def test_a_build_that_a_run_makes_for_one_vm_makes_no_other_anew() -> None:
    """The images of both VMs start from a base that was built on the way."""
    have = standing()
    planned = VmImages.of(DESIGN, have, frozenset(), fresh=frozenset({"bench"}))
    cached(BENCH, "a=2", LATER)
    cached(STORE, "a=2", LATER)
    assert chosen(VmImages.of(DESIGN, have), STORE).packages != OLD
    kept = VmImages.of(DESIGN, have, settled=planned)
    assert chosen(kept, STORE).packages == OLD
    assert chosen(kept).packages != OLD
    others = VmImages.of(DESIGN, replace(have, firewall="changed meanwhile"), settled=planned)
    assert chosen(others, STORE).packages != OLD


def test_only_on_request_a_build_of_unknown_packages_is_replaced() -> None:
    image = cached(BENCH, "a=1", LATER)
    unknown = standing(content="", packages="", built="")
    assert chosen(VmImages.of(DESIGN, unknown)) == VmImage(recipe(BENCH))
    assert chosen(VmImages.of(DESIGN, unknown, renew=True)) == image.build


def test_the_age_of_a_build_counts_from_the_last_time_that_it_was_checked() -> None:
    now = "2026-11-30T12:00:00+00:00"
    notes = [*VmImages.of(DESIGN, standing()).notes(now)]
    assert len(notes) == len({vm.image for vm in DESIGN.vms})
    assert all(" is 90 days old (of 2026-09-01); " in note for note in notes)
    cached(BENCH, "a=1", LATER)
    fewer = [*VmImages.of(DESIGN, standing()).notes(now)]
    # What was checked are the packages, and all of these builds have the same.
    assert fewer == []
