"""Room in a storage pool, on libvirt's own test driver: a real libvirt without a daemon."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from vcloud.errors import HostError
from vcloud.hosts.connection import Host, open_host
from vcloud.hosts.inventory import HostRef
from vcloud.hosts.pool import StoragePool

POOL = "<pool type='dir'><name>vcloud</name><target><path>/pool</path></target></pool>"


@pytest.fixture
def host() -> Iterator[Host]:
    with open_host(HostRef("t", "test:///default")) as opened:
        yield opened


@pytest.fixture
def pool(host: Host) -> Iterator[StoragePool]:
    """The test driver gives each pool 100 GiB."""
    made = host.connection.storagePoolCreateXML(POOL)
    yield StoragePool(host)
    made.destroy()


def test_what_has_no_room_is_refused_and_what_has_room_is_not(pool: StoragePool) -> None:
    pool.require_space(pool.free - (64 << 20), "it")
    with pytest.raises(HostError, match=r"it needs .* 1 MiB are missing"):
        pool.require_space(pool.free - (64 << 20) + 1, "it")


def test_what_writes_nothing_needs_no_room_on_a_full_disk(host: Host, pool: StoragePool) -> None:
    """As where all images of a vApp are there, and its VMs are restored."""
    volume = f"<volume><name>ballast</name><capacity>{pool.free - (1 << 20)}</capacity></volume>"
    ballast = host.connection.storagePoolLookupByName("vcloud").createXML(volume)
    assert pool.free == 1 << 20
    pool.require_space(0, "it")
    with pytest.raises(HostError, match="MiB are missing"):
        pool.require_space(1, "it")
    ballast.delete()


def test_a_disk_that_cannot_become_smaller_is_refused_before_it_is_touched(
    pool: StoragePool,
) -> None:
    pool.make_disk("data", 2 << 20)
    with pytest.raises(HostError, match="'data' on t has 2 MiB") as refused:
        pool.refuse_smaller("data", 1 << 20)
    assert "Write 2M" in refused.value.hint
    for name, size in (("data", 2 << 20), ("data", 3 << 20), ("none", 1)):
        pool.refuse_smaller(name, size)
    volume = pool.volume("data")
    assert volume.info()[1] == 2 << 20


def test_a_command_that_only_reads_makes_no_pool(host: Host) -> None:
    assert StoragePool.existing(host) is None
    assert "vcloud" not in host.connection.listDefinedStoragePools()
    assert "vcloud" not in host.connection.listStoragePools()


def test_a_pool_that_is_there_is_found(host: Host, pool: StoragePool) -> None:
    found = StoragePool.existing(host)
    assert found is not None
    assert found.folder == pool.folder == "/pool"
