"""`vcloud save` and the `up` after it: nothing that ran is lost, and nothing passes before the
protection is in force again.
"""

from __future__ import annotations

import copy
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.vm.conftest import Raise
from tests.vm.driver import (
    LABS,
    Operator,
    Probe,
    Vapp,
    domains,
    links,
    must_open,
    parse,
    remains,
    stages,
    stop_at,
    wait_until,
    write_vapp,
)

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3000)]

WORKLOADS = ("web-1", "api", "db")
NAME = "kept"
DOCUMENT: dict[str, Any] = {
    "vcloud": 1,
    "name": NAME,
    "zones": {"one": {}, "two": {}},
    "vms": {
        "near": {"image": "base", "zone": "one", "memory": "256M"},
        "far": {
            "image": "base",
            "zone": "two",
            "memory": "256M",
            "files": {"/etc/note": "first\n"},
            "ready": {"tcp": 22},
        },
    },
    "flows": [
        {"id": "talk", "from": "near", "to": "far", "service": "tcp/7000"},
        {"id": "more", "from": "near", "to": "far", "service": "tcp/7001"},
    ],
}


@pytest.fixture(scope="module")
def kept(raised: Raise, tmp_path_factory: pytest.TempPathFactory) -> Vapp:
    """Two VMs and their firewall; `far` answers on both ports as long as it is not booted."""
    vapp = raised(NAME, write_vapp(tmp_path_factory.mktemp(NAME) / "kept.yaml", DOCUMENT))
    listen(vapp)
    return vapp


def listen(vapp: Vapp) -> None:
    vapp.operator.listen(
        vapp.vm("far"),
        *(f"tcp {vapp.addresses4['far']} {port}" for port in (7000, 7001)),
    )


def reached(vapp: Vapp, *must: int) -> list[str]:
    """What comes of the declared ports, and of one that is not. What must be open gets time."""
    far = vapp.addresses4["far"]
    probes = (
        must_open(far, port) if port in must else Probe("tcp", far, port)
        for port in (7000, 7001, 22)
    )
    return vapp.probe("near", *probes)


def boots(vapp: Vapp, *vms: str) -> list[str]:
    return [vapp.boot_id(vm) for vm in vms]


def changed(folder: Path, **parts: Any) -> Path:
    document = copy.deepcopy(DOCUMENT)
    document["vms"]["far"] |= parts.pop("far", {})
    return write_vapp(folder / "changed.yaml", document | parts)


def save_file(vapp: Vapp, vm: str) -> Path:
    """Where libvirt keeps a VM's memory."""
    return (
        LABS
        / vapp.operator.env["VCLOUD_LAB"]
        / f"h1/var/lib/libvirt/qemu/save/{vapp.domain(vm)}.save"
    )


def test_links_are_cut_in_what_is_saved_and_come_back_after_the_rules(kept: Vapp) -> None:
    before = boots(kept, "near", "far")
    kept.operator.run("save", NAME)
    for vm, states in (("near", {"down"}), ("far", {"down"}), ("firewall", {"up"})):
        saved = parse(kept.operator.virsh("managedsave-dumpxml", kept.domain(vm)))
        assert {link.attrib["state"] for link in saved.iterfind("devices/interface/link")} == states
    told = kept.operator.up(kept.file).err.splitlines()
    order = [
        next(number for number, line in enumerate(told) if end in line)
        for end in ("firewall: rules loaded and checked", "near: resumed with its services")
    ]
    assert order == sorted(order)
    assert boots(kept, "near", "far") == before
    assert reached(kept, 7000, 7001) == ["open", "open", "timeout"]


def test_what_changed_meanwhile_is_in_force_when_the_links_come_back(
    kept: Vapp, tmp_path: Path
) -> None:
    before = boots(kept, "near", "far")
    kept.operator.run("save", NAME)
    kept.operator.up(
        changed(tmp_path, flows=DOCUMENT["flows"][:1], far={"files": {"/etc/note": "second\n"}})
    )
    assert boots(kept, "near", "far") == before
    assert reached(kept, 7000) == ["open", "timeout", "timeout"]
    assert kept.inside("far", "cat /etc/note") == "second\n"
    kept.operator.up(kept.file)
    assert reached(kept, 7000, 7001) == ["open", "open", "timeout"]
    assert kept.inside("far", "cat /etc/note") == "first\n"


@pytest.mark.long
def test_one_vm_that_virsh_saved_with_its_links_up_is_restored(kept: Vapp) -> None:
    before = boots(kept, "far")
    kept.operator.virsh("managedsave", kept.domain("far"))
    found = kept.operator.status(NAME)
    assert not found["healthy"]
    assert any("'far' is saved" in problem for problem in found["problems"])
    assert "restoring" in stages(kept.operator.up(kept.file), "far")
    assert boots(kept, "far") == before
    assert reached(kept, 7000, 7001) == ["open", "open", "timeout"]


def test_a_saved_vm_that_virsh_starts_has_no_link_until_up_has_seen_to_it(kept: Vapp) -> None:
    kept.operator.run("save", NAME)
    kept.operator.virsh("start", kept.domain("far"))
    assert links(kept.operator, kept.domain("far")) == {"down"}
    kept.operator.up(kept.file)
    assert links(kept.operator, kept.domain("far")) == {"up"}
    assert reached(kept, 7000, 7001) == ["open", "open", "timeout"]


@pytest.mark.long
def test_a_save_that_is_killed_in_the_middle_is_mended_by_up(kept: Vapp) -> None:
    before = boots(kept, "near", "far")
    process = kept.operator.start("save", NAME)
    wait_until("the first VM is saved", lambda: "-" in domains(kept.operator, NAME).values())
    process.kill()
    process.communicate(timeout=600)
    kept.operator.up(kept.file)
    assert boots(kept, "near", "far") == before
    assert reached(kept, 7000, 7001) == ["open", "open", "timeout"]
    assert "nothing to do" in kept.operator.up(kept.file).out


@pytest.mark.long
def test_a_memory_that_cannot_be_restored_is_kept_until_it_is_given_up(kept: Vapp) -> None:
    before = boots(kept, "near", "far")
    kept.inside("far", "echo written > /root/written")
    kept.operator.run("save", NAME)
    path = save_file(kept, "far")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    failed = kept.operator.up(kept.file, code=1)
    assert "'kept.far' could not be restored" in failed.err
    assert "vcloud up --cold" in failed.err
    assert path.exists()
    path.write_bytes(whole)
    kept.operator.up(kept.file)
    assert boots(kept, "near", "far") == before
    kept.operator.run("save", NAME)
    path.write_bytes(whole[:100])
    kept.operator.up(kept.file, code=1)
    assert "far (saved memory)" in kept.operator.up(kept.file, "--cold", code=2).err
    assert path.exists(), "nobody has agreed yet"
    kept.operator.up(kept.file, "--cold", "--accept-data-loss")
    assert not path.exists()
    assert boots(kept, "far") != before[1:]
    assert kept.inside("far", "cat /root/written") == "written\n"
    listen(kept)
    assert reached(kept, 7000, 7001) == ["open", "open", "timeout"]


def test_what_an_interrupted_up_has_left_is_not_saved(kept: Vapp, tmp_path: Path) -> None:
    more = changed(tmp_path, far={"memory": "320M"})
    stop_at(kept.operator, more, "far: booting", signal.SIGKILL)
    refused = kept.operator.run("save", NAME, code=1)
    assert "has failed or was interrupted" in refused.err
    assert domains(kept.operator, NAME)[kept.domain("near")] != "-"
    kept.operator.up(more)
    kept.operator.run("save", NAME)
    kept.operator.up(kept.file, "--accept-data-loss")


def test_down_takes_the_saved_memory_too(kept: Vapp) -> None:
    kept.operator.run("save", NAME)
    assert save_file(kept, "far").exists()
    kept.operator.run("down", "--yes", NAME)
    assert remains(kept.operator, NAME) == []
    assert not list(save_file(kept, "far").parent.glob(f"{NAME}.*"))


def test_there_is_nothing_to_save_where_nothing_runs(operator: Operator) -> None:
    assert "there is no vApp 'nowhere'" in operator.run("save", "nowhere", code=2).err
