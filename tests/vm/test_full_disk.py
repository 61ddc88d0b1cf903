"""A host whose disk is full: one sentence says so, nothing stays half made, and what can be done
without the room is done.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.driver import Operator, domains, lab, links, remains, volumes, write_vapp

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3000)]

LAB = "t-full"
POOL = "/var/lib/libvirt/images/vcloud"
SAVED = "/var/lib/libvirt/qemu/save"
BALLAST = f"{POOL}/ballast"
MIB = 1 << 20
NAME = "cramped"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """Somebody whose host keeps its VMs on a disk of its own."""
    with lab(LAB, tmp_path_factory.mktemp("home")) as operator:
        assert (
            operator.at(
                "h1",
                "sh",
                "-c",
                f"mkdir -p {POOL} && mount -t tmpfs -o size=64M,mode=711 tmpfs {POOL}",
            ).code
            == 0
        )
        yield operator


@pytest.fixture
def file(host: Operator, tmp_path: Path) -> Iterator[Path]:
    document = {
        "vcloud": 1,
        "name": NAME,
        "zones": {"one": {}},
        "vms": {"solo": {"image": "base", "zone": "one", "memory": "200M"}},
    }
    yield write_vapp(tmp_path / "cramped.yaml", document)
    host.at("h1", "rm", "-f", BALLAST)
    if remains(host, NAME):
        host.run("down", "--yes", NAME)
    assert remains(host, NAME) == []


def leave_room(host: Operator, room: int) -> None:
    """Fills the disk until so many bytes are left."""
    free = int(host.at("h1", "df", "--output=avail", "-B1", POOL).out.split()[1])
    assert host.at("h1", "fallocate", "-l", str(free - room), BALLAST).code == 0


def test_up_says_what_is_missing_and_the_next_one_goes_on_where_there_is_room(
    host: Operator, file: Path
) -> None:
    """The second attempt has the pool that the first one made, so that already the plan says it."""
    for command in ("up", "up", "plan"):
        done = host.run(command, str(file), code=6)
        assert "MiB are missing" in done.err
        assert "nothing was changed" in done.err
        assert "Traceback" not in done.err
        assert remains(host, NAME) == []
        assert volumes(host, "image-", "kernel-", "initrd-") == []
    assert host.at("h1", "mount", "-o", "remount,size=1500M", POOL).code == 0
    host.up(file, "--cold")
    assert host.run("verify", NAME).code == 0


@pytest.mark.long
def test_what_was_saved_is_restored_where_nothing_need_be_written(
    host: Operator, file: Path
) -> None:
    """All images are there. Whoever asks for room that nothing needs keeps the vApp down."""
    host.up(file, "--cold")
    before = host.boot_id(f"{NAME}/solo")
    host.run("save", NAME)
    leave_room(host, 16 * MIB)
    host.up(file)
    assert host.boot_id(f"{NAME}/solo") == before


@pytest.mark.long
def test_a_template_that_has_no_room_is_not_made(host: Operator, file: Path) -> None:
    leave_room(host, 60 * MIB)
    done = host.run("image", "memory", "make", str(file), code=1)
    assert "MiB are missing" in done.err
    assert volumes(host, "template-") == []
    assert host.virsh("list", "--name").split() == []


@pytest.mark.long
def test_where_a_vm_has_no_room_to_wake_it_boots_and_it_is_said(host: Operator, file: Path) -> None:
    host.run("image", "memory", "make", str(file))
    before = volumes(host, "template-")
    sizes = {
        item["image"]: item["bytes"]
        for item in host.run("image", "memory", "list", "-o", "json").data
    }
    assert sizes.keys() == {"base", "firewall"}
    leave_room(host, sizes["base"] - MIB)
    done = host.up(file)
    assert "solo is booted cold: " in done.err
    assert "MiB are missing" in done.err
    host.at("h1", "rm", "-f", BALLAST)
    assert host.run("verify", NAME).code == 0
    assert volumes(host, "template-") == before, "they are as good as they were"
    host.run("down", "--yes", NAME)
    assert "booted cold" not in host.up(file).err


def test_a_vm_whose_memory_has_no_room_runs_on_and_up_brings_its_links_back(
    host: Operator, file: Path
) -> None:
    host.up(file)
    before = host.boot_id(f"{NAME}/solo")
    assert host.at("h1", "mount", "-t", "tmpfs", "-o", "size=8M", "tmpfs", SAVED).code == 0
    try:
        refused = host.run("save", NAME, code=1)
    finally:
        assert host.at("h1", "umount", SAVED).code == 0
    assert f"the memory of '{NAME}.solo' could not be saved" in refused.err
    assert f"`vcloud save {NAME}`" in refused.err
    assert "-" not in domains(host, NAME).values()
    assert links(host, f"{NAME}.solo") == {"down"}
    assert not host.status(NAME)["healthy"]
    host.up(file)
    assert links(host, f"{NAME}.solo") == {"up"}
    assert host.boot_id(f"{NAME}/solo") == before
    host.run("save", NAME)
    host.up(file)
    assert host.boot_id(f"{NAME}/solo") == before
