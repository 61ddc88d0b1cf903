"""What this machine lacks: a host with more processors, two threads on each core, cgroups, and locked
memory. Its VMs run under TCG, because the emulated virtualisation does not bear several processors.
That takes long, so only `make test-long` does it; tests/vm/test_isolation.py has what this machine can
do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.nested.conftest import BOOT_SECONDS, KvmHost, await_host, booted_host, write_way_in
from tests.vm.driver import Operator, environment, write_vapp
from vcloud.hosts.connection import Host
from vcloud.hosts.cores import topology_of
from vcloud.hosts.inventory import load_inventory
from vcloud.hosts.labels import labels_of
from vcloud.hosts.patience import BOOT_VARIABLE
from vcloud.hosts.pool import FOLDER, StoragePool

pytestmark = [pytest.mark.nested, pytest.mark.long, pytest.mark.timeout(4800)]

THREADED = ("-cpu", "max", "-smp", "6,sockets=1,cores=3,threads=2")
"""Three cores. Linux numbers the two threads of a core one after the other here."""


def document(name: str, **isolation: str) -> dict[str, Any]:
    return {
        "vcloud": 1,
        "name": name,
        "zones": {"one": {}},
        "vms": {"solo": {"image": "base", "zone": "one", "memory": "192M"}},
        "isolation": isolation,
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("threaded-host")


@pytest.fixture(scope="module")
def threaded(folder: Path) -> Iterator[KvmHost]:
    with booted_host(folder, THREADED) as machine:
        machine.guest.shell(f"mkdir -p {FOLDER} && mount /dev/vdb {FOLDER}")
        yield machine


@pytest.fixture(scope="module")
def inventory(threaded: KvmHost, folder: Path) -> Path:
    return write_way_in(folder, threaded.port, threaded.key)


@pytest.fixture(scope="module")
def host(inventory: Path) -> Iterator[Host]:
    with await_host(load_inventory(inventory)[0]) as host:
        StoragePool(host).refresh()
        yield host


@pytest.fixture(scope="module")
def person(inventory: Path, host: Host, tmp_path_factory: pytest.TempPathFactory) -> Operator:
    assert host.processors == 6
    return Operator(
        environment("none", tmp_path_factory.mktemp("home"))
        | {"VCLOUD_INVENTORY": str(inventory), BOOT_VARIABLE: str(BOOT_SECONDS)}
    )


def test_two_vapps_have_whole_cores_and_locked_memory_and_a_third_finds_none(
    person: Operator, host: Host, threaded: KvmHost, tmp_path: Path
) -> None:
    """Each has two virtual CPUs, which take the two threads of one core."""
    cores = topology_of(host).cores
    assert len(cores) == 3
    demands = {"cpus": "own", "memory": "locked", "page_sharing": "forbidden", "ksm": "forbidden"}
    try:
        for place, name in enumerate(("first", "second"), 1):
            file = write_vapp(tmp_path / f"{name}.yaml", document(name, **demands))
            person.up(file, "--accel", "tcg")
            found = person.status(name)["host_side"]
            assert (found["looked_at"], found["differences"]) == (True, [])
            for domain in (f"{name}.solo", f"{name}.firewall"):
                pid = threaded.guest.shell(f"cat /run/libvirt/qemu/{domain}.pid").strip()
                said = threaded.guest.shell(f"cat /proc/{pid}/status /proc/{pid}/task/*/status")
                used = {int(cpu) for cpu in re.findall(r"Cpus_allowed_list:\s*(\d+)$", said, re.M)}
                assert used
                assert used <= {*cores[place]}
                locked = re.search(r"^VmLck:\s*(\d+) kB", said, re.M)
                assert locked is not None
                assert int(locked[1]) >= 192 << 10
        third = write_vapp(tmp_path / "third.yaml", document("third", cpus="own"))
        refused = person.up(third, "--accel", "tcg", code=6)
        assert "get none on nested" in refused.err
        pid = threaded.guest.shell("cat /run/libvirt/qemu/second.solo.pid").strip()
        threaded.guest.shell(f"taskset -a -p -c 0-5 {pid}")
        kinds = {item["kind"] for item in person.status("second")["host_side"]["differences"]}
        assert kinds == {"cores"}
        assert {item["kind"] for item in person.status("first")["host_side"]["differences"]} == {
            "foreign vm on cores"
        }
        person.up(tmp_path / "second.yaml", "--accel", "tcg")
        for name in ("first", "second"):
            assert person.status(name)["host_side"]["differences"] == []
    finally:
        for name in ("first", "second"):
            person.run("down", "--yes", name, code=None)


def test_two_threads_on_a_core_are_refused_to_who_forbids_them(
    person: Operator, tmp_path: Path
) -> None:
    file = write_vapp(tmp_path / "strict.yaml", document("strict", smt="forbidden"))
    refused = person.run("plan", str(file), "--accel", "tcg", code=6)
    assert "isolation.smt: nested has smt=on" in refused.err
    assert "smt/control" in refused.err


def test_a_kernel_that_merges_pages_is_refused_and_told_of_who_stands(
    person: Operator, threaded: KvmHost, tmp_path: Path
) -> None:
    file = write_vapp(tmp_path / "calm.yaml", document("calm", ksm="forbidden"))
    threaded.guest.shell("echo 1 >/sys/kernel/mm/ksm/run")
    try:
        refused = person.run("plan", str(file), "--accel", "tcg", code=6)
        assert "isolation.ksm: nested has ksm=on" in refused.err
    finally:
        threaded.guest.shell("echo 2 >/sys/kernel/mm/ksm/run")
    assert person.run("plan", str(file), "--accel", "tcg", code=None).code == 0


def test_svirt_is_taken_by_libvirts_word_and_proved_by_the_process(
    person: Operator, host: Host, tmp_path: Path
) -> None:
    """Debian's host has AppArmor where its package is installed."""
    file = write_vapp(tmp_path / "kept.yaml", document("kept", svirt="required"))
    if labels_of(host).labels["svirt"] == "none":
        refused = person.run("plan", str(file), "--accel", "tcg", code=6)
        assert "isolation.svirt: nested has svirt=none" in refused.err
        return
    try:
        person.up(file, "--accel", "tcg")
        assert person.status("kept")["host_side"]["differences"] == []
    finally:
        person.run("down", "--yes", "kept", code=None)
