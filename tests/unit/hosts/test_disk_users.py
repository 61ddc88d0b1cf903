"""Which domains use a file as a disk, however they name it."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import pytest

from vcloud.hosts.connection import Host, open_host
from vcloud.hosts.disk_users import disk_users
from vcloud.hosts.inventory import HostRef
from vcloud.hosts.pool import StoragePool

POOL = "<pool type='dir'><name>vcloud</name><target><path>/var/lib/libvirt/images/vcloud</path></target></pool>"
DISK = "vm.shop.db.data.qcow2"
DOMAIN = """\
<domain type='test'><name>other</name><uuid>{uuid}</uuid><memory>1024</memory>
  <os><type>hvm</type></os>
  <devices><disk type='{kind}' device='{device}'>{driver}{source}<target dev='vdb'/></disk></devices>
</domain>
"""


@pytest.fixture
def pool() -> Iterator[StoragePool]:
    with open_host(HostRef("t", "test:///default")) as host:
        made = host.connection.storagePoolCreateXML(POOL)
        pool = StoragePool(host)
        pool.make_disk(DISK, 1 << 20)
        pool.make_overlay("one.qcow2", pool.path(DISK), 1 << 20)
        pool.make_overlay("two.qcow2", pool.path("one.qcow2"), 1 << 20)
        yield pool
        made.destroy()


def users(host: Host, pool: StoragePool, **parts: str) -> frozenset[str]:
    """Who uses the disk, while a domain that does not run has such a disk."""
    usual = {"kind": "file", "device": "disk", "driver": "<driver name='qemu' type='qcow2'/>"}
    domain = host.connection.defineXML(DOMAIN.format(uuid=uuid4(), **(usual | parts)))
    try:
        return disk_users(host).get(pool.path(DISK), frozenset())
    finally:
        domain.undefine()


def path_of(pool: StoragePool, name: str) -> str:
    return f"<source file='{pool.path(name)}'/>"


@pytest.mark.parametrize("name", [DISK, "one.qcow2", "two.qcow2"])
def test_a_stopped_domain_uses_what_its_disk_is_based_on(pool: StoragePool, name: str) -> None:
    assert users(pool.host, pool, source=path_of(pool, name)) == {"other"}


@pytest.mark.parametrize("name", [DISK, "two.qcow2"])
def test_a_domain_may_name_a_disk_by_its_pool(pool: StoragePool, name: str) -> None:
    source = f"<source pool='vcloud' volume='{name}'/>"
    assert users(pool.host, pool, kind="volume", source=source) == {"other"}


@pytest.mark.parametrize(
    "parts",
    [
        {"source": "<source file='/elsewhere/vm.shop.db.data.qcow2'/>"},
        {"source": "<source pool='gone' volume='vm.shop.db.data.qcow2'/>", "kind": "volume"},
        {"source": "<source pool='vcloud' volume='gone'/>", "kind": "volume"},
    ],
)
def test_a_disk_elsewhere_or_gone_is_another_one(pool: StoragePool, parts: dict[str, str]) -> None:
    assert users(pool.host, pool, **parts) == frozenset()


def test_a_raw_disk_is_based_on_nothing_whatever_its_guest_has_written(pool: StoragePool) -> None:
    raw = "<driver name='qemu' type='raw'/>"
    assert users(pool.host, pool, driver=raw, source=path_of(pool, "one.qcow2")) == frozenset()
    assert users(pool.host, pool, driver=raw, source=path_of(pool, DISK)) == {"other"}
