"""Which images of this machine a vApp file may name: it may come from a stranger."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.vapps import SMALL, vapp_of
from vcloud.errors import SpecError
from vcloud.pipeline import design_of, load_file


def with_image(image: str) -> str:
    return SMALL.replace("image: nginx", f"image: {image}")


@pytest.fixture
def around(tmp_path: Path) -> Path:
    """The folder of a vApp file that somebody else wrote, beside an image and a recipe of the
    operator's.
    """
    for place in ("outside", "inside", "inside/deeper"):
        (tmp_path / place / "recipe").mkdir(parents=True)
        (tmp_path / place / "recipe" / "image.yaml").write_text("base: base\n")
        (tmp_path / place / "disk.qcow2").touch()
    inside = tmp_path / "inside"
    (inside / "leaves.qcow2").symlink_to("../outside/disk.qcow2")
    (inside / "leaves").symlink_to(tmp_path / "outside")
    (inside / "stays").symlink_to("deeper")
    return inside


OUTSIDE_IMAGES = (
    "../outside/disk.qcow2",
    "deeper/../../outside/disk.qcow2",
    "{around}/../outside/disk.qcow2",
    "leaves.qcow2",
    "leaves/disk.qcow2",
    "/etc/shadow.img",
    "{{file: /etc/shadow}}",
    "{{file: /proc/self/environ}}",
    "{{file: /dev/zero}}",
    "../outside/recipe",
    "./leaves/recipe",
    "./stays/../../outside/recipe",
)
INSIDE_IMAGES = (
    "disk.qcow2",
    "./disk.qcow2",
    "deeper/disk.qcow2",
    "deeper/../disk.qcow2",
    "stays/disk.qcow2",
    "{around}/disk.qcow2",
    "./recipe",
    "./stays/recipe",
    "{around}/deeper/recipe",
)


@pytest.mark.parametrize("image", OUTSIDE_IMAGES)
def test_an_image_outside_the_folder_of_the_vapp_file_is_refused(around: Path, image: str) -> None:
    with pytest.raises(SpecError) as raised:
        vapp_of(with_image(image.format(around=around)), around)
    (problem,) = raised.value.problems
    assert problem.field == "vms.web.image"
    assert problem.what.endswith("leads out of the folder of the vApp file")


@pytest.mark.parametrize("image", INSIDE_IMAGES)
def test_an_image_in_the_folder_of_the_vapp_file_is_taken(around: Path, image: str) -> None:
    assert vapp_of(with_image(image.format(around=around)), around).vms["web"].image.location


@pytest.mark.parametrize("image", ["../outside/disk.qcow2", "leaves.qcow2", "../outside/recipe"])
def test_the_operator_can_allow_another_folder_for_images(
    around: Path, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = around / "vapp.yaml"
    file.write_text(with_image(image))
    with pytest.raises(SpecError, match=r"export VCLOUD_IMAGE_FOLDERS=/srv/images\."):
        load_file(file, {})
    monkeypatch.setenv("VCLOUD_IMAGE_FOLDERS", f"/nowhere:{around.parent / 'outside'}")
    assert load_file(file, {}).vms["web"].image.location
    # Neither an empty nor a relative entry allows a folder.
    monkeypatch.chdir(around.parent)
    monkeypatch.setenv("VCLOUD_IMAGE_FOLDERS", ":.:outside")
    with pytest.raises(SpecError):
        load_file(file, {})


@pytest.mark.parametrize(
    ("base", "taken"), [("../other", True), ("../../outside/recipe", False), ("../gone", False)]
)
def test_the_base_of_a_recipe_lies_in_the_folder_of_the_vapp_file(
    around: Path, base: str, taken: bool
) -> None:
    (around / "other").mkdir()
    (around / "other" / "image.yaml").write_text("base: base\n")
    (around / "gone").symlink_to("../outside/recipe")
    (around / "recipe" / "image.yaml").write_text(f"base: {base}\n")
    file = around / "vapp.yaml"
    file.write_text(with_image("./recipe"))
    if taken:
        assert design_of(load_file(file, {})).workloads
        return
    with pytest.raises(SpecError) as raised:
        design_of(load_file(file, {}))
    (problem,) = raised.value.problems
    assert (problem.file, problem.field) == (str(around / "recipe" / "image.yaml"), "base")
    assert problem.what.endswith("leads out of the folder of the vApp file")
