"""The copies of images on a host: which name means what, who uses which, and what may be deleted."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcloud.packages import packages_digest
from vcloud.plan.host_images import (
    ABANDONED_AFTER,
    ABOUT,
    COMPLETE,
    DOMAIN,
    MEMORY_IMAGE,
    VOLUME,
    HostImage,
    User,
    Volume,
    contents,
    host_image,
    is_there,
    outdated_memory_images,
    prunable,
    stem,
    suffix,
    superseded,
    users_of,
    volume_name,
    without_memory_images,
)
from vcloud.plan.manifest import VmImage
from vcloud.untrusted import UnreadableError

ONE, TWO = "1" * 64, "2" * 64
FORMER = "abcdef012345"
KINDS = ("disk", "kernel", "initrd")
NOW = 1_000_000.0
LONG_AGO = NOW - ABANDONED_AFTER - 1


def file(content: str = ONE, kind: str = "disk", image: str = "base", number: str = "0" * 8) -> str:
    return f"{stem(kind, image, content)}.{number}{suffix(kind)}"


def copy(content: str = ONE, image: str = "base") -> set[str]:
    """All volumes of a complete copy."""
    files = {file(content, kind, image) for kind in KINDS}
    about = set() if len(content) < 64 else {file(content, "disk", image) + ABOUT}
    return files | {name + COMPLETE for name in files} | about


def volumes(*names: str, written: float = LONG_AGO) -> dict[str, Volume]:
    return {name: Volume(1, written) for name in names}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("image", ["base", "my-image.v2", "a-b-" + "c" * 12])
@pytest.mark.parametrize("content", [ONE, FORMER])
def test_a_name_says_what_the_volume_is(kind: str, image: str, content: str) -> None:
    name = file(content, kind, image)
    for ending in ("", COMPLETE, ABOUT):
        found = volume_name(name + ending)
        assert found
        assert (found.kind, found.image, found.content) == (kind, image, content)
        assert (found.volume, found.ending) == (name, ending)
        assert found.is_former is (content == FORMER)


@pytest.mark.parametrize(
    "name",
    [
        "root.shop.web.qcow2",
        "vm.image-base.web.data.qcow2",
        f"template-base-{'0' * 16}.{'0' * 8}.qcow2",
        f"image-base-{ONE}.{'0' * 8}.qcow2.copy",
        f"image-base-{ONE}.{'0' * 8}",
        f"kernel-base-{ONE}.{'0' * 8}.qcow2",
        f"image-base-{ONE[1:]}.{'0' * 8}.qcow2",
        f"image-base-{ONE}.snapshot1",
        "image-of-my-own.qcow2",
        "accelerator.json",
    ],
)
def test_what_somebody_else_named_is_no_copy_and_never_goes(name: str) -> None:
    assert volume_name(name) is None
    assert prunable(volumes(name), {}, NOW) == ()


def test_an_image_is_there_when_the_upload_of_its_disk_is_complete() -> None:
    names = {*copy(ONE), *copy(FORMER), file(TWO)}
    there = contents(names)
    assert there == {ONE, FORMER}
    assert is_there(VmImage("r" * 64, ONE), there)
    assert not is_there(VmImage("r" * 64, TWO), there)
    assert is_there(VmImage(FORMER + "0" * 52), there), (
        "of a former upload only the recipe is known"
    )
    assert not is_there(VmImage(FORMER + "0" * 52, TWO), there)


# What a host knows about an image

ABOUT_BASE = HostImage(
    "base",
    VmImage("r" * 64, ONE, packages_digest(["a=1"]), "2026-11-30T08:00:00+00:00"),
    "quiet",
    KINDS,
    ("a=1",),
)


def test_a_description_comes_back_as_it_was() -> None:
    assert host_image(ABOUT_BASE.to_bytes()) == ABOUT_BASE


def test_the_digest_of_packages_is_never_believed() -> None:
    written = json.loads(ABOUT_BASE.to_bytes())
    written["packages"] = ["a=2"]
    assert host_image(json.dumps(written).encode()).image.packages == packages_digest(["a=2"])


@given(
    st.binary(max_size=50) | st.recursive(st.none() | st.text(), st.lists).map(str).map(str.encode)
)
def test_nothing_that_somebody_else_wrote_is_more_than_unreadable(content: bytes) -> None:
    with pytest.raises(UnreadableError):
        host_image(content)


@pytest.mark.parametrize("key", ["name", "image", "cmdline", "kinds", "packages"])
def test_a_description_without_a_part_is_unreadable(key: str) -> None:
    written = json.loads(ABOUT_BASE.to_bytes())
    del written[key]
    with pytest.raises(UnreadableError):
        host_image(json.dumps(written).encode())
    with pytest.raises(UnreadableError):
        host_image(json.dumps(written | {key: 5}).encode())


# Who uses what

VM, OTHER = User(DOMAIN, "shop.web"), User(DOMAIN, "somebody's")
WARM = User(MEMORY_IMAGE, f"template-base-{'a' * 16}.{'b' * 8}")
ROOT = User(VOLUME, "root.shop.web.qcow2")


@pytest.mark.parametrize(
    "text",
    [
        "<source file='/pool/{}'/>",
        "<backingStore><path>/pool/{}</path></backingStore>",
        "<kernel>/elsewhere/../pool/{}</kernel>",
        '"full-backing-filename": "json:{{\\"file\\": \\"{}\\"}}"',
    ],
)
def test_whoever_names_a_volume_in_whatever_way_uses_it(text: str) -> None:
    texts = {VM: text.format(file(ONE)), OTHER: text.format(file(TWO))}
    assert users_of(file(ONE), texts) == {VM}
    assert users_of(file(TWO), texts) == {OTHER}
    assert users_of(file(ONE, number="1" * 8), texts) == set(), "another upload of the same image"


def test_a_name_that_xml_writes_otherwise_is_recognised() -> None:
    assert users_of(
        file(ONE, image="a&b"), {VM: f"<source file='/pool/image-a&amp;b-{ONE}.{'0' * 8}.qcow2'/>"}
    ) == {VM}


def test_a_removed_memory_image_still_counts_while_a_vm_runs_on_its_disk() -> None:
    warm = {WARM: file(ONE)}
    assert without_memory_images(warm, {WARM}) == {}
    based = warm | {ROOT: f"<path>/pool/{WARM.name}.qcow2</path>"}
    left = without_memory_images(based, {WARM})
    assert users_of(file(ONE), left) == {User(VOLUME, WARM.name)}
    assert without_memory_images(based, set()) == based


def test_memory_images_of_replaced_builds_go_unless_a_vm_needs_the_build() -> None:
    warm = {WARM: " ".join(sorted(copy(ONE)))}
    assert outdated_memory_images(warm, copy(ONE), {ONE}) == {WARM}
    assert outdated_memory_images(warm, copy(ONE), {TWO}) == set()
    assert outdated_memory_images(warm, copy(ONE), set()) == set()
    used = warm | {VM: file(ONE)}
    assert outdated_memory_images(used, copy(ONE), {ONE}) == set()
    former = {WARM: " ".join(sorted(copy(FORMER)))}
    assert outdated_memory_images(former, copy(FORMER), set()) == {WARM}


def test_a_build_is_replaced_by_a_later_one_of_its_recipe_with_other_packages() -> None:
    def about(content: str, recipe: str, packages: str, built: str) -> HostImage:
        return HostImage("base", VmImage(recipe, content, packages, built), "", ("disk",), ())

    old = about(ONE, "r", "p1", "2026-09-01")
    assert superseded([old, about(TWO, "r", "p2", "2026-11-30")]) == {ONE}
    assert superseded([old, about(TWO, "r", "p1", "2026-11-30")]) == set()
    assert superseded([old, about(TWO, "other", "p2", "2026-11-30")]) == set()
    assert superseded([old]) == set()


# What may be deleted


def test_a_copy_that_nobody_uses_goes_with_all_of_its_volumes_and_a_used_one_stays() -> None:
    there = volumes(*copy(ONE), *copy(TWO), "root.shop.web.qcow2", "accelerator.json")
    used = {file(TWO, kind): {VM} for kind in KINDS}
    assert set(prunable(there, used, NOW)) == copy(ONE)
    assert set(prunable(there, {}, NOW)) == copy(ONE) | copy(TWO)
    assert set(prunable(volumes(*copy(FORMER)), {}, NOW)) == copy(FORMER)


@pytest.mark.parametrize("kind", KINDS)
def test_each_file_of_a_copy_stays_for_its_own_users(kind: str) -> None:
    """A woken VM's root disk names the image's disk, and its definition names the kernel."""
    gone = set(prunable(volumes(*copy(ONE)), {file(ONE, kind): {VM}}, NOW))
    assert file(ONE, kind) not in gone
    assert file(ONE, kind) + COMPLETE not in gone
    if kind == "disk":
        assert gone == set(), "whoever defines the VM again needs the kernel of its disk"
    else:
        assert gone == {name for name in copy(ONE) if not name.startswith(file(ONE, kind))}


def test_an_upload_that_may_be_under_way_stays() -> None:
    upload = file(ONE)
    assert prunable(volumes(upload, written=NOW - ABANDONED_AFTER + 1), {}, NOW) == ()
    assert prunable(volumes(upload), {}, NOW) == (upload,)
    described = volumes(upload) | volumes(upload + ABOUT, written=NOW - 1)
    assert prunable(described, {}, NOW) == ()
    assert prunable(volumes(upload), {}, 0.0) == (), "nobody can read the host's clock"


def test_an_abandoned_upload_that_somebody_bases_a_disk_on_stays() -> None:
    assert prunable(volumes(file(ONE)), {file(ONE): {OTHER}}, NOW) == ()


def test_markers_without_their_volume_go() -> None:
    markers = {file(ONE) + COMPLETE, file(ONE) + ABOUT}
    assert set(prunable(volumes(*markers, written=NOW), {}, NOW)) == markers


@given(
    st.sets(st.sampled_from(sorted(copy(ONE) | copy(TWO) | copy(FORMER, "x")))),
    st.sets(
        st.sampled_from(sorted(file(content, kind) for content in (ONE, TWO) for kind in KINDS))
    ),
    st.sampled_from([NOW, LONG_AGO]),
)
def test_nothing_that_is_used_ever_goes(names: set[str], used: set[str], written: float) -> None:
    gone = prunable(volumes(*names, written=written), {name: {VM} for name in used}, NOW)
    assert set(gone) <= names
    for name in gone:
        part = volume_name(name)
        assert part
        assert part.volume not in used
