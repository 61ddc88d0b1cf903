"""Data on disks outlives what people do to a vApp with other tools, and what they write in its
file, or it is named before it goes. Each test writes a marker on the data disk and looks for it.
"""

from __future__ import annotations

import copy
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.vm.conftest import Raise
from tests.vm.driver import (
    Operator,
    Vapp,
    domains,
    mark,
    parse,
    stages,
    stop_at,
    volumes,
    wait_until,
    with_data_disk,
    write_vapp,
)
from vcloud.marks import NAMESPACE

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3000)]

NAME = "kept"
DISK = "vm.kept.solo.data.qcow2"
DOCUMENT = with_data_disk(NAME)


@pytest.fixture(scope="module")
def kept(raised: Raise, tmp_path_factory: pytest.TempPathFactory) -> Vapp:
    return raised(NAME, write_vapp(tmp_path_factory.mktemp(NAME) / "kept.yaml", DOCUMENT))


def changed(path: Path, name: str = "solo", **fields: Any) -> Path:
    """The file with another name of its one VM, and with other fields."""
    document = copy.deepcopy(DOCUMENT)
    document["vms"] = {name: document["vms"]["solo"] | fields}
    return write_vapp(path / "changed.yaml", document)


def put_marker(vapp: Vapp, text: str, vm: str = "solo") -> None:
    vapp.inside(vm, f"echo {text} > /srv/d/marker; sync")


def marker(vapp: Vapp, vm: str = "solo") -> str:
    return vapp.inside(vm, "cat /srv/d/marker 2>/dev/null || echo none").strip()


def lost(operator: Operator, file: Path) -> list[str]:
    steps = operator.run("plan", str(file), "-o", "json").data["steps"]
    return [loss.partition(":")[0] for step in steps for loss in step["loses"]]


def restart_libvirtd(operator: Operator) -> None:
    (pid,) = operator.at("h1", "pgrep", "-x", "libvirtd").out.split()
    operator.at("h1", "kill", "-9", pid)
    operator.run("lab", "up")


def test_a_mark_that_somebody_removed_costs_no_data(kept: Vapp, tmp_path: Path) -> None:
    operator = kept.operator
    put_marker(kept, "mark")
    operator.virsh("metadata", "kept.solo", NAMESPACE, "--remove", "--live", "--config")
    assert mark(operator, "kept.solo") == {}
    larger = changed(tmp_path, memory="320M")
    stop_at(operator, larger, "firewall", signal.SIGKILL, "--reload")
    assert mark(operator, "kept.solo"), "the mark is back since the claim"
    assert lost(operator, larger) == []
    operator.up(larger)
    assert marker(kept) == "mark"
    operator.up(kept.file)
    assert operator.run("ssh", "kept/solo", "--", "hostname").out == "solo\n"


@pytest.mark.long
def test_a_killed_run_and_a_missing_mark_cost_the_root_disk_at_most(kept: Vapp) -> None:
    operator = kept.operator
    put_marker(kept, "both")
    stop_at(operator, kept.file, "firewall", signal.SIGKILL, "--reload")
    operator.virsh("metadata", "kept.solo", NAMESPACE, "--remove", "--live", "--config")
    step = next(
        step
        for step in operator.run("plan", str(kept.file), "-o", "json").data["steps"]
        if step["subject"] == "solo"
    )
    assert (step["verb"], step["loses"]) == ("make VM anew", [])
    assert "its data disks are kept" in step["why"]
    assert "--yes" in operator.run("up", str(kept.file), code=2).err
    operator.up(kept.file)
    assert marker(kept) == "both"


@pytest.mark.long
def test_a_disk_that_never_served_is_made_anew(operator: Operator, tmp_path: Path) -> None:
    """The twin: no link was up yet, so the half-made file system holds nobody's data."""
    file = write_vapp(tmp_path / "blank.yaml", DOCUMENT | {"name": "blank"})
    disk = "vm.blank.solo.data.qcow2"
    try:
        stop_at(operator, file, "solo: setting name", signal.SIGKILL, "--cold")
        assert mark(operator, "blank.solo")["blank"] == "data"
        operator.at("h1", "truncate", "-s", "0", f"/var/lib/libvirt/images/vcloud/{disk}")
        operator.up(file)
        assert "blank" not in mark(operator, "blank.solo")
        assert operator.inside("blank/solo", "mountpoint -q /srv/d && echo mounted") == "mounted\n"
    finally:
        operator.run("down", "--yes", "blank", code=None)


def test_a_new_name_keeps_the_disk_if_the_file_says_so(kept: Vapp, tmp_path: Path) -> None:
    operator = kept.operator
    put_marker(kept, "name")
    renamed = changed(tmp_path, "other")
    assert lost(operator, renamed) == ["solo.data"]
    refused = operator.up(renamed, code=2).err
    assert "solo.data: deleted with its VM" in refused
    assert "was: OLDNAME" in refused
    assert "kept.solo" in domains(operator, NAME, live=True)
    assert marker(kept) == "name"

    data = DOCUMENT["vms"]["solo"]["disks"]["data"]
    smaller = changed(tmp_path, "other", was="solo", disks={"data": data | {"size": "16M"}})
    assert "cannot become smaller" in operator.up(smaller, code=6).err
    assert marker(kept) == "name"

    renamed = changed(tmp_path, "other", was="solo")
    assert lost(operator, renamed) == []
    stop_at(operator, renamed, "solo: removed", signal.SIGKILL)
    undone = operator.up(kept.file, code=2).err
    assert "solo.data: it starts empty" in undone
    assert "`was: other` in the entry of 'solo'" in undone
    operator.up(renamed)
    assert marker(kept, "other") == "name"
    assert "nothing to do" in operator.up(renamed).out
    assert volumes(operator, "vm.kept.") == ["vm.kept.other.data.qcow2"]

    counted = changed(tmp_path, "other", count=1)
    operator.up(counted)
    assert marker(kept, "other-1") == "name"
    operator.up(changed(tmp_path, "solo", was="other-1"))
    assert marker(kept) == "name"
    operator.up(kept.file)
    assert volumes(operator, "vm.kept.") == [DISK]


def test_a_disk_file_that_somebody_removed_is_named_before_the_vm_stops(
    kept: Vapp, tmp_path: Path
) -> None:
    operator = kept.operator
    put_marker(kept, "file")
    operator.at("h1", "rm", f"/var/lib/libvirt/images/vcloud/{DISK}")
    status = operator.run("status", NAME, "--exit-code", code=3).err
    assert DISK in status
    larger = changed(tmp_path, memory="320M")
    assert "solo.data" in operator.up(larger, code=2).err
    assert marker(kept) == "file", "the running VM has it still"
    operator.up(larger, "--accept-data-loss")
    assert marker(kept) == "none", "what was agreed to is done"

    put_marker(kept, "root")
    operator.virsh("destroy", "kept.solo")
    operator.at("h1", "rm", "/var/lib/libvirt/images/vcloud/root.kept.solo.qcow2")
    assert lost(operator, kept.file) == ["solo"]
    assert "solo: its file 'root.kept.solo.qcow2' is gone" in operator.up(kept.file, code=2).err
    operator.up(kept.file, "--accept-data-loss")
    assert marker(kept) == "root"


def test_a_vm_on_a_snapshot_does_not_go_back_to_the_disk_of_before(
    kept: Vapp, tmp_path: Path
) -> None:
    operator = kept.operator
    put_marker(kept, "before")
    operator.virsh(
        "snapshot-create-as", "kept.solo", "one", "--disk-only", "--no-metadata", "--atomic"
    )
    put_marker(kept, "after")
    # It has another disk than the one that was signed with its terms of tenancy.
    assert "no operator has signed" in operator.run("plan", str(kept.file)).out
    assert stages(operator.up(kept.file), "solo") == ["mended"]
    assert "nothing to do" in operator.up(kept.file).out
    operator.virsh("autostart", "kept.solo")
    assert "mend VM" in operator.run("plan", str(kept.file)).out
    operator.up(kept.file)
    definition = parse(operator.virsh("dumpxml", "--inactive", "kept.solo"))
    files = [source.get("file", "") for source in definition.iterfind("devices/disk/source")]
    assert [file.endswith(".one") for file in files] == [True, True], "a mend keeps the snapshot"
    assert "nothing to do" in operator.up(kept.file).out
    assert lost(operator, changed(tmp_path, "other", was="solo")) == ["solo.data"]
    larger = changed(tmp_path, memory="320M")
    refused = operator.up(larger, code=2).err
    assert marker(kept) == "after"
    commands = re.findall("`virsh (blockcommit [^`]*)`", refused)
    assert {command.split()[2] for command in commands} == {"vda", "vdb"}
    for command in commands:
        operator.virsh(*command.split(), "--wait")
    operator.up(larger)
    assert marker(kept) == "after"
    for disk in ("root.kept.solo", "vm.kept.solo.data"):  # `down` leaves what vcloud did not make
        operator.at("h1", "rm", f"/var/lib/libvirt/images/vcloud/{disk}.one")
    operator.up(kept.file)


@pytest.mark.long
def test_a_snapshot_with_the_name_of_a_data_disk_is_named_before_it_is_left(
    kept: Vapp, tmp_path: Path
) -> None:
    operator, snap = kept.operator, "/var/lib/libvirt/images/vcloud/vm.kept.solo.snap.qcow2"
    made = ("snapshot-create-as", "kept.solo", "one", "--disk-only", "--no-metadata", "--atomic")
    places = ("--diskspec", "vda,snapshot=no", "--diskspec", f"vdb,file={snap}")
    put_marker(kept, "before")
    operator.virsh(*made, *places)
    put_marker(kept, "after")
    larger = changed(tmp_path, memory="320M")
    assert lost(operator, larger) == ["solo.data"]
    told = operator.run("plan", str(larger), "-o", "json").data
    assert not [note for note in told["notes"] if "stays on the host" in note]
    (command,) = re.findall("`virsh (blockcommit [^`]*)`", operator.up(larger, code=2).err)
    assert marker(kept) == "after"
    operator.virsh(*command.split(), "--wait")
    operator.at("h1", "rm", snap)
    operator.up(larger)
    assert marker(kept) == "after"
    operator.up(kept.file)


def test_a_vm_that_was_restored_by_hand_is_set_up_again(kept: Vapp) -> None:
    """Its saved memory has the token of then."""
    operator = kept.operator
    operator.virsh("managedsave", "kept.solo")
    operator.virsh("start", "kept.solo")
    status = operator.run("status", NAME, "--exit-code", code=3)
    assert "restored its saved memory" in status.err
    assert "start VM" in operator.run("plan", str(kept.file)).out
    operator.up(kept.file)
    assert operator.status(NAME)["healthy"]
    assert "nothing to do" in operator.up(kept.file).out


def test_down_asks_for_its_flag_where_nobody_can_answer(kept: Vapp) -> None:
    refused = kept.operator.run("down", NAME, code=2).err
    assert "--yes" in refused
    assert "kept.solo" in domains(kept.operator, NAME, live=True)


def test_the_same_ids_after_a_restart_of_libvirtd_are_no_sign_of_a_vm_that_runs_on(
    kept: Vapp,
) -> None:
    operator = kept.operator
    before = domains(operator, NAME)
    for name in before:
        operator.virsh("destroy", name)
    restart_libvirtd(operator)
    for name in sorted(before, key=lambda name: int(before[name])):
        operator.virsh("start", name)
    status = operator.run("status", NAME, "--exit-code", code=3)
    assert "was not started by `vcloud up`" in status.err
    operator.up(kept.file)
    assert operator.status(NAME)["healthy"]


@pytest.mark.long
def test_a_restart_of_libvirtd_alone_changes_nothing(kept: Vapp) -> None:
    operator = kept.operator
    restart_libvirtd(operator)
    wait_until("libvirtd knows its domains", lambda: len(domains(operator, NAME, live=True)) == 2)
    assert operator.status(NAME)["healthy"]
    assert "nothing to do" in operator.up(kept.file).out
