"""Memory images are made once, used when they fit, and removed when their space is needed. Where one
cannot be used, its VMs are booted cold.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.vm.driver import (
    Operator,
    mark,
    remains,
    stages,
    standing,
    stop_at,
    write_vapp,
)
from tests.vm.memory_images import imaged, make_memory_images, memory_images, volumes_of

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3000)]

POOL = "/var/lib/libvirt/images/vcloud"


@pytest.fixture
def tiny(operator: Operator, tmp_path: Path) -> Iterator[Path]:
    document = {
        "vcloud": 1,
        "name": "tiny",
        "zones": {"one": {}},
        "vms": {"solo": {"image": "base", "zone": "one", "memory": "256M"}},
    }
    yield write_vapp(tmp_path / "tiny.yaml", document)
    if remains(operator, "tiny"):
        operator.run("down", "--yes", "tiny")
    assert remains(operator, "tiny") == []


def test_every_vm_wakes_and_none_boots(operator: Operator, tiny: Path) -> None:
    done = operator.up(tiny)
    for vm in ("firewall", "solo"):
        assert "waking" in stages(done, vm)
        assert "booting" not in stages(done, vm)


def test_cold_boots_and_gives_the_same(operator: Operator, tiny: Path) -> None:
    done = operator.up(tiny, "--cold")
    for vm in ("firewall", "solo"):
        assert "booting" in stages(done, vm)
        assert "waking" not in stages(done, vm)
    assert "nothing to do" in operator.up(tiny).out
    assert operator.run("verify", "tiny").code == 0


def test_what_was_not_used_for_longest_goes_when_the_room_is_taken(
    operator: Operator, tiny: Path, tmp_path: Path
) -> None:
    frugal = operator.with_host(tmp_path, lambda host: host.update(templates="1M"))
    operator.run("image", "memory", "rm", "--all")
    make_memory_images(operator, tiny)
    before = set(memory_images(operator))
    assert imaged(operator) == ["base", "firewall"]
    document = yaml.safe_load(tiny.read_text())
    document["vms"]["solo"]["memory"] = "208M"
    write_vapp(tiny, document)
    make_memory_images(frugal, tiny)
    assert imaged(operator) == ["base", "firewall"], (
        "those of the run stay, even where they take too much"
    )
    assert {name.partition("-")[0] for name in before & set(memory_images(operator))} == {
        "firewall"
    }, "the other base has made room"
    assert "of 1 MiB are taken" in frugal.run("image", "memory", "list").err
    assert "waking" in stages(operator.up(tiny), "solo")
    operator.run("image", "memory", "rm", "base")


@pytest.mark.long
def test_from_the_memory_image_of_an_image_that_has_changed_nobody_wakes(
    operator: Operator, tmp_path: Path
) -> None:
    recipe = tmp_path / "mine"
    (recipe / "files/etc").mkdir(parents=True)
    (recipe / "image.yaml").write_text("base: base\n")
    vms = {"solo": {"image": "./mine", "zone": "one", "memory": "256M"}}
    file = write_vapp(
        tmp_path / "renewed.yaml",
        {"vcloud": 1, "name": "renewed", "zones": {"one": {}}, "vms": vms},
    )
    said, made, told = [], [], []
    try:
        for text in ("old", "new"):
            (recipe / "files/etc/told").write_text(text)
            make_memory_images(operator, file)
            made.append({name for name in memory_images(operator) if name.startswith("mine-")})
            done = operator.up(file, "--yes")
            told.append(done.err)
            said += [stages(done, "solo")[0], operator.inside("renewed/solo", "cat /etc/told")]
    finally:
        operator.run("down", "--yes", "renewed")
    assert [len(names) for names in made] == [1, 2]
    assert said == ["waking", "old", "waking", "new"], "\n".join((*told, *map(str, made)))


# When a memory image cannot be used


@pytest.mark.parametrize(
    "size",
    [
        pytest.param("90", id="its header", marks=pytest.mark.long),
        pytest.param("40K", id="its description", marks=pytest.mark.long),
        pytest.param("20M", id="its memory"),
    ],
)
def test_from_a_memory_that_was_cut_short_nobody_wakes_and_it_is_said(
    operator: Operator, tiny: Path, size: str
) -> None:
    make_memory_images(operator, tiny)
    before = memory_images(operator)
    assert (
        operator.at("h1", "sh", "-c", f"truncate -s {size} {POOL}/template-base-*.save").code == 0
    )
    done = operator.up(tiny)
    if size != "90":
        assert "solo is booted cold: " in done.err
    assert "booting" in stages(done, "solo")
    assert "waking" in stages(done, "firewall")
    if size == "20M":
        assert operator.run("verify", "tiny").code == 0
    assert set(memory_images(operator)) <= {name for name in before if not name.startswith("base-")}


@pytest.mark.long
def test_a_killed_making_leaves_no_vm_and_the_next_one_makes_it(
    operator: Operator, tiny: Path
) -> None:
    operator.run("image", "memory", "rm", "--all")
    process = operator.start("image", "memory", "make", str(tiny))
    assert process.stderr is not None
    for line in process.stderr:
        if "memory image base: booting" in line:
            break
    else:
        pytest.fail("no memory image of the base was made")
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=600)
    assert "template" not in operator.virsh("list", "--all", "--name")
    assert memory_images(operator) == []
    make_memory_images(operator, tiny)
    made = memory_images(operator)
    assert len(made) == 2
    assert (
        sum(
            len([volume for volume in volumes_of(operator, name) if volume.endswith(".save")])
            for name in made
        )
        == 2
    )
    (base,) = (name for name in made if name.startswith("base-"))
    assert len(volumes_of(operator, base)) == 2, "what the killed one left is gone"


@pytest.mark.long
def test_two_operators_who_need_the_same_memory_image_make_it_once(
    operator: Operator, tiny: Path
) -> None:
    operator.run("image", "memory", "rm", "--all")
    both = [operator.start("image", "memory", "make", str(tiny)) for _ in range(2)]
    said = [process.communicate(timeout=2400)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert imaged(operator) == ["base", "firewall"]
    assert sum(name.endswith(".save") for name in volumes_of(operator)) == 2


@pytest.mark.long
def test_a_kill_while_waking_is_mended_by_the_next_up(operator: Operator, tiny: Path) -> None:
    make_memory_images(operator, tiny)
    stop_at(operator, tiny, "solo: waking", signal.SIGKILL)
    operator.up(tiny)
    assert operator.run("verify", "tiny").code == 0
    assert standing(operator, "tiny", tiny).inside("solo", "hostname") == "solo\n"


@pytest.mark.parametrize("count", [6, pytest.param(20, marks=pytest.mark.long)])
def test_many_vms_wake_side_by_side(operator: Operator, tmp_path: Path, count: int) -> None:
    document = {
        "vcloud": 1,
        "name": "crowd",
        "zones": {"one": {}},
        "vms": {"each": {"image": "base", "zone": "one", "memory": "256M", "count": count}},
    }
    file = write_vapp(tmp_path / "crowd.yaml", document)
    make_memory_images(operator, file)
    done = operator.up(file)
    try:
        assert "booted cold" not in done.err
        crowd = standing(operator, "crowd", file)
        keys = {
            mark(operator, crowd.domain(f"each-{number}"))["host-key"]
            for number in range(1, count + 1)
        }
        assert len(keys) == count
    finally:
        operator.run("down", "--yes", "crowd")
    assert remains(operator, "crowd") == []
