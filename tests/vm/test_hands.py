"""What other hands do to a vApp: virsh beside vcloud, and guests that refuse. Nothing is lost in
silence, and no run says more than is so.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.vm.conftest import Raise
from tests.vm.driver import Operator, Vapp, remains, volumes, with_data_disk, write_vapp

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3000)]

NAME = "hands"
SOLO = "hands.solo"
DOCUMENT = with_data_disk(NAME, files={"/etc/note": "first\n"})


@pytest.fixture(scope="module")
def hands(raised: Raise, tmp_path_factory: pytest.TempPathFactory) -> Vapp:
    return raised(NAME, write_vapp(tmp_path_factory.mktemp(NAME) / "hands.yaml", DOCUMENT))


def changed(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The file with something else about its one VM."""
    document = copy.deepcopy(DOCUMENT)
    change(document["vms"]["solo"])
    return write_vapp(path / "changed.yaml", document)


def steps(operator: Operator, file: Path) -> list[tuple[str, str]]:
    return [
        (step["verb"], step["subject"])
        for step in operator.run("plan", str(file), "-o", "json").data["steps"]
    ]


def test_a_change_that_the_guest_refuses_is_an_error_and_is_tried_again(
    hands: Vapp, tmp_path: Path
) -> None:
    nobody = changed(
        tmp_path,
        lambda vm: vm.update(
            files={"/etc/note": {"content": "second\n", "owner": "stranger:stranger"}}
        ),
    )
    failed = hands.operator.up(nobody, code=1)
    assert "stranger" in failed.err
    assert "up and protected" not in failed.out
    assert ("configure VM", "solo") in steps(hands.operator, nobody)
    hands.operator.up(nobody, code=1)
    right = changed(tmp_path, lambda vm: vm.update(files={"/etc/note": "second\n"}))
    assert "up and protected" in hands.operator.up(right).out
    assert hands.inside("solo", "cat /etc/note") == "second\n"
    hands.operator.up(hands.file)
    assert hands.inside("solo", "cat /etc/note") == "first\n"


@pytest.mark.long
def test_a_vm_that_was_undefined_while_it_ran_is_changed_restarted_and_defined_again(
    hands: Vapp, tmp_path: Path
) -> None:
    operator = hands.operator
    hands.inside("solo", "echo kept > /srv/d/kept; sync")
    operator.virsh("undefine", SOLO)
    operator.up(changed(tmp_path, lambda vm: vm.update(files={"/etc/note": "live\n"})))
    assert hands.inside("solo", "cat /etc/note") == "live\n"
    operator.up(changed(tmp_path, lambda vm: vm.update(memory="320M")))
    assert SOLO in operator.virsh("list", "--all", "--persistent", "--name").split()
    assert hands.inside("solo", "cat /srv/d/kept") == "kept\n"
    operator.up(hands.file)


@pytest.mark.long
def test_a_memory_that_virsh_saved_does_not_bring_back_the_hardware_of_then(
    hands: Vapp, tmp_path: Path
) -> None:
    hands.operator.virsh("managedsave", SOLO)
    file = changed(tmp_path, lambda vm: vm.update(memory="384M"))
    assert "solo (saved memory)" in hands.operator.up(file, code=2).err
    hands.operator.up(file, "--accept-data-loss")
    assert int(hands.inside("solo", "awk '/MemTotal/ {print $2}' /proc/meminfo")) > 320 << 10
    hands.operator.up(hands.file)
    assert "nothing to do" in hands.operator.up(hands.file).out


def test_a_renamed_domain_keeps_its_disks_and_nobody_makes_another(hands: Vapp) -> None:
    operator = hands.operator
    hands.inside("solo", "echo kept > /root/kept; sync")
    operator.virsh("destroy", SOLO)
    operator.virsh("domrename", SOLO, "backup")
    before = volumes(operator, "root.", "vm.")
    for command in (
        ("plan", str(hands.file)),
        ("up", "--yes", str(hands.file)),
        ("down", "--yes", NAME),
    ):
        refused = operator.run(*command, code=1)
        assert "is called 'backup'" in refused.err
        assert f"virsh domrename backup {SOLO}" in refused.err
    assert volumes(operator, "root.", "vm.") == before
    operator.virsh("domrename", "backup", SOLO)
    operator.up(hands.file)
    assert hands.inside("solo", "cat /root/kept") == "kept\n"


@pytest.mark.long
def test_data_of_a_disk_that_the_file_renames_outlives_a_failed_making_anew(
    hands: Vapp, tmp_path: Path
) -> None:
    hands.inside("solo", "echo kept > /srv/d/kept; sync")

    def broken(vm: dict[str, Any]) -> None:
        vm.update(disks={"more": {"size": "64M", "mount": "/srv/d"}}, run=["false"])

    hands.operator.up(changed(tmp_path, broken), code=1)
    hands.operator.up(changed(tmp_path, broken), code=1)
    hands.operator.up(hands.file)
    assert hands.inside("solo", "cat /srv/d/kept") == "kept\n"


@pytest.mark.long
def test_data_written_by_a_vm_that_serves_but_is_never_ready_stays(
    hands: Vapp, tmp_path: Path
) -> None:
    """Its file asks for something that never comes true. What it wrote meanwhile is not of a
    beginning.
    """

    def unready(vm: dict[str, Any]) -> None:
        vm.update(ready={"command": "false", "timeout": 3}, run=["echo begun > /srv/d/begun"])

    hands.operator.run("down", "--yes", NAME)
    hands.operator.up(changed(tmp_path, unready), code=1)
    hands.inside("solo", "echo orders > /srv/d/orders; sync")
    hands.operator.up(hands.file)
    assert hands.inside("solo", "cat /srv/d/orders") == "orders\n"


@pytest.mark.long
def test_a_clone_that_somebody_made_is_left_alone(hands: Vapp, tmp_path: Path) -> None:
    """Its disks are those of the VM: somebody copied the definition only."""
    operator = hands.operator
    text = operator.virsh("dumpxml", "--inactive", SOLO)
    uuid = operator.virsh("domuuid", SOLO).strip()
    clone = tmp_path / "clone.xml"
    clone.write_text(
        text.replace(f"<name>{SOLO}<", f"<name>{SOLO}-clone<").replace(
            uuid, "11111111-2222-4333-8444-777777777777"
        )
    )
    operator.virsh("define", str(clone))
    try:
        assert "nothing to do" in operator.up(hands.file).out
        disks = [f"root.{SOLO}.qcow2", f"vm.{SOLO}.data.qcow2"]
        done = operator.run("down", "--yes", NAME)
        assert remains(operator, NAME) == [f"{SOLO}-clone", *disks]
        assert f"left: the domain '{SOLO}-clone', which vcloud did not make" in done.err
        for disk in disks:
            assert f"left: the volume '{disk}', which the domain '{SOLO}-clone' uses" in done.err
    finally:
        operator.virsh("undefine", f"{SOLO}-clone")
    assert "left:" not in operator.run("down", "--yes", NAME).err
    assert remains(operator, NAME) == []
