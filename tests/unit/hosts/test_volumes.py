"""Data disks that a run makes or moves, on libvirt's own test driver: a real libvirt without a
daemon. What a killed run has left is never taken for a disk, and no disk for what was left.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from vcloud.design.names import unfinished_copy
from vcloud.errors import HostError
from vcloud.hosts.connection import Host, open_host
from vcloud.hosts.inventory import HostRef
from vcloud.hosts.volumes import VappVolumes, volumes_of_vms

POOL = "<pool type='dir'><name>vcloud</name><target><path>{}</path></target></pool>"
API, STORE = "vm.shop.api.data.qcow2", "vm.shop.store.data.qcow2"
MARKER = unfinished_copy(STORE, API)
MIB = 1 << 20


@pytest.fixture
def host() -> Iterator[Host]:
    with open_host(HostRef("t", "test:///default")) as opened:
        yield opened


@pytest.fixture
def volumes(host: Host, tmp_path: Path) -> Iterator[VappVolumes]:
    made = host.connection.storagePoolCreateXML(POOL.format(tmp_path))
    yield VappVolumes(host)
    made.destroy()


def names(volumes: VappVolumes) -> set[str]:
    return volumes.pool.names_without_refresh()


def size(volumes: VappVolumes, name: str) -> int:
    return int(volumes.pool.volume(name).info()[1])


def test_a_disk_that_is_there_is_kept_and_a_missing_one_is_made(
    volumes: VappVolumes, tmp_path: Path
) -> None:
    assert volumes.make_disk(API, MIB) == (f"{tmp_path}/{API}", True)
    assert volumes.make_disk(API, MIB) == (f"{tmp_path}/{API}", False)
    assert names(volumes) == {API}


def test_a_disk_that_vanished_since_the_run_began_is_not_made_again(volumes: VappVolumes) -> None:
    with pytest.raises(HostError, match="was there when this run began"):
        volumes.make_disk(API, MIB, stands=True)
    assert names(volumes) == set()
    volumes.make_disk(API, MIB)
    assert not volumes.make_disk(API, MIB, stands=True)[1]


def test_an_unfinished_copy_is_no_disk_of_a_new_vm(volumes: VappVolumes) -> None:
    for name in (API, STORE):
        volumes.pool.make_disk(name, 2 * MIB)
    volumes.pool.make_empty(MARKER)
    assert volumes.make_disk(STORE, MIB)[1], "it is made anew"
    assert size(volumes, STORE) == MIB
    assert names(volumes) == {API, STORE}


def test_a_whole_copy_whose_run_was_killed_is_the_disk(volumes: VappVolumes) -> None:
    volumes.pool.make_disk(STORE, MIB)
    volumes.pool.make_empty(MARKER)
    assert not volumes.make_disk(STORE, MIB)[1]
    assert names(volumes) == {STORE}


def test_a_whole_copy_stays_whole_when_its_original_is_made_again(volumes: VappVolumes) -> None:
    volumes.pool.make_disk(STORE, MIB)
    volumes.pool.make_empty(MARKER)
    assert volumes.make_disk(API, MIB)[1]
    assert names(volumes) == {API, STORE}, "without the sign of an unfinished copy"
    assert not volumes.make_disk(STORE, MIB)[1]


def test_an_unfinished_copy_stays_one_while_its_original_is_used(volumes: VappVolumes) -> None:
    for name in (API, STORE):
        volumes.pool.make_disk(name, MIB)
    volumes.pool.make_empty(MARKER)
    assert not volumes.make_disk(API, MIB)[1]
    assert names(volumes) == {API, STORE, MARKER}


def test_a_disk_moves_to_a_free_name_only(volumes: VappVolumes) -> None:
    volumes.pool.make_disk(API, MIB)
    volumes.pool.make_disk(STORE, MIB)
    with pytest.raises(HostError, match="exists on t, so"):
        volumes.move_disk(API, STORE)
    volumes.pool.make_empty(unfinished_copy(STORE, "vm.shop.other.data.qcow2"))
    with pytest.raises(HostError, match="exists on t, so"):
        volumes.move_disk(API, STORE)
    assert {API, STORE} <= names(volumes)
    volumes.delete([STORE, unfinished_copy(STORE, "vm.shop.other.data.qcow2")])
    volumes.move_disk(API, STORE)
    assert names(volumes) == {STORE}


def test_a_move_that_was_interrupted_is_done_again(volumes: VappVolumes) -> None:
    volumes.pool.make_disk(API, 2 * MIB)
    volumes.pool.make_disk(STORE, MIB)
    volumes.pool.make_empty(MARKER)
    volumes.move_disk(API, STORE)
    assert names(volumes) == {STORE}
    assert size(volumes, STORE) == 2 * MIB


def test_the_volumes_of_a_vapp_are_found_with_the_sizes_of_its_data_disks(
    host: Host, volumes: VappVolumes, tmp_path: Path
) -> None:
    volumes.pool.make_disk(API, 2 * MIB)
    volumes.pool.make_disk("root.shop.api.qcow2", MIB)
    volumes.pool.make_disk("vm.other.api.data.qcow2", MIB)
    found = volumes_of_vms(host, "shop")
    assert found is not None
    assert found.names == {API, "root.shop.api.qcow2"}
    assert dict(found.sizes) == {API: 2 * MIB}
    assert found.folder == str(tmp_path)


def test_a_disk_that_cannot_be_written_out_keeps_its_original(
    volumes: VappVolumes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host has no program `sync`."""
    volumes.pool.make_disk(API, MIB)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(HostError, match="'sync' cannot be run"):
        volumes.move_disk(API, STORE)
    assert {API, MARKER} <= names(volumes)
    monkeypatch.undo()
    volumes.move_disk(API, STORE)
    assert names(volumes) == {STORE}
