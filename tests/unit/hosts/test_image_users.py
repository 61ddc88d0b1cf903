"""Who uses the copies of images on a host, on libvirt's own test driver and with the real qemu-img: a
VM that runs, is only defined, or can go back to a snapshot; its disk in vcloud's pool, in another, or
in none. Where that cannot be found out, nothing may be deleted.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest

from vcloud.errors import HostError
from vcloud.hosts.connection import Host
from vcloud.hosts.image_users import users_on
from vcloud.hosts.pool import StoragePool
from vcloud.plan.host_images import DOMAIN, VOLUME, User, users_of

ID = f"{'1' * 64}.{'a' * 8}"
DISK, KERNEL = f"image-base-{ID}.qcow2", f"kernel-base-{ID}"
POOL = "<pool type='dir'><name>{}</name><target><path>{}</path></target></pool>"
DOMAIN_XML = """<domain type='test'><name>foreign</name><memory>1</memory>
<os><type>hvm</type>{kernel}</os><devices>{disk}</devices></domain>"""
FOREIGN = User(DOMAIN, "foreign")
FILE = "<disk type='file' device='{device}'><driver name='qemu' type='{kind}'/><source file='{path}'/><target dev='vda' bus='virtio'/></disk>"


@pytest.fixture
def pool(host: Host, tmp_path: Path) -> Iterator[StoragePool]:
    """The pool in a folder where the image really is; the test driver itself opens no file."""
    folder = tmp_path / "pool"
    folder.mkdir()
    qemu_img("create", "-f", "qcow2", folder / DISK, "1M")
    made = host.connection.storagePoolCreateXML(POOL.format("vcloud", folder))
    yield StoragePool(host)
    made.destroy()


def qemu_img(*argv: str | Path) -> None:
    subprocess.run(["qemu-img", *map(str, argv)], check=True, capture_output=True)


def overlay(path: Path, backing: str | Path) -> Path:
    qemu_img("create", "-f", "qcow2", "-F", "qcow2", "-b", backing, path)
    return path


def disk(path: Path, kind: str = "qcow2", device: str = "disk") -> str:
    return FILE.format(path=path, kind=kind, device=device)


def define(host: Host, disk: str = "", kernel: str = "") -> libvirt.virDomain:
    return host.connection.defineXML(DOMAIN_XML.format(disk=disk, kernel=kernel))


def users(host: Host, pool: StoragePool, name: str = DISK) -> set[User]:
    return {*users_of(name, users_on(host, pool))}


def test_nobody_uses_what_no_text_names(host: Host, pool: StoragePool, tmp_path: Path) -> None:
    qemu_img("create", "-f", "qcow2", tmp_path / "own.qcow2", "1M")
    define(host, disk(tmp_path / "own.qcow2"))
    assert users(host, pool) == set()
    assert users(host, pool, KERNEL) == set()


@pytest.mark.parametrize("running", [False, True], ids=["defined", "running"])
def test_a_vm_uses_its_kernel_and_its_disk(host: Host, pool: StoragePool, running: bool) -> None:
    domain = define(host, disk(Path(pool.path(DISK))), f"<kernel>{pool.path(KERNEL)}</kernel>")
    if running:
        domain.create()
        domain.undefine()
    assert users(host, pool) == users(host, pool, KERNEL) == {FOREIGN}


def test_a_disk_outside_of_all_pools_needs_all_that_it_is_based_on(
    host: Host, pool: StoragePool, tmp_path: Path
) -> None:
    """A person made a copy on write of an image, and another over it, by a relative path."""
    first = overlay(tmp_path / "first.qcow2", pool.path(DISK))
    define(host, disk(overlay(tmp_path / "second.qcow2", first.name)))
    assert users(host, pool) == {FOREIGN}


def test_a_disk_in_the_folder_of_the_pool_that_libvirt_did_not_see_needs_what_it_is_based_on(
    host: Host, pool: StoragePool
) -> None:
    """The test driver never reads the folder, so what another program put there is no volume."""
    define(host, disk(overlay(Path(pool.folder) / "theirs.qcow2", pool.path(DISK))))
    assert users(host, pool) == {FOREIGN}


def test_a_disk_that_names_its_base_as_json_needs_it(
    host: Host, pool: StoragePool, tmp_path: Path
) -> None:
    backing = (
        f'json:{{"driver": "qcow2", "file": {{"driver": "file", "filename": "{pool.path(DISK)}"}}}}'
    )
    define(host, disk(overlay(tmp_path / "top.qcow2", backing)))
    assert users(host, pool) == {FOREIGN}


def test_a_disk_named_by_another_pool_needs_what_it_is_based_on(
    host: Host, pool: StoragePool, tmp_path: Path
) -> None:
    other = host.connection.storagePoolCreateXML(POOL.format("other", tmp_path))
    overlay(tmp_path / "top.qcow2", pool.path(DISK))
    other.createXML("<volume><name>top.qcow2</name><capacity>1048576</capacity></volume>")
    define(
        host,
        "<disk type='volume' device='disk'><driver name='qemu' type='qcow2'/>"
        "<source pool='other' volume='top.qcow2'/><target dev='vda' bus='virtio'/></disk>",
    )
    assert users(host, pool) == {FOREIGN}
    other.storageVolLookupByName("top.qcow2").delete()
    with pytest.raises(HostError, match=r"'top.qcow2' of the pool 'other' is not there"):
        users_on(host, pool)
    other.destroy()


@pytest.mark.parametrize("name", ["vcloud", "other"])
def test_a_volume_that_is_based_on_an_image_counts_without_any_vm(
    host: Host, pool: StoragePool, tmp_path: Path, name: str
) -> None:
    """The root disk of a VM whose domain somebody undefined, for example."""
    other = host.connection.storagePoolCreateXML(POOL.format("other", tmp_path))
    host.connection.storagePoolLookupByName(name).createXML(
        "<volume><name>root.shop.web.qcow2</name><capacity>1048576</capacity>"
        f"<backingStore><path>{pool.path(DISK)}</path></backingStore></volume>"
    )
    (found,) = users(host, pool)
    assert (found.kind, Path(found.name).name) == (VOLUME, "root.shop.web.qcow2")
    other.destroy()


@pytest.mark.parametrize("name", ["vcloud", "other"])
def test_a_volume_needs_what_its_backing_file_outside_of_all_pools_is_based_on(
    host: Host, pool: StoragePool, tmp_path: Path, name: str
) -> None:
    """libvirt tells of a volume only the file that it is directly based on."""
    folder = tmp_path / "outside"
    folder.mkdir()
    middle = overlay(folder / "middle.qcow2", overlay(folder / "first.qcow2", pool.path(DISK)))
    other = host.connection.storagePoolCreateXML(POOL.format("other", tmp_path / "others"))
    made = host.connection.storagePoolLookupByName(name).createXML(
        "<volume><name>theirs.qcow2</name><capacity>1048576</capacity>"
        f"<backingStore><path>{middle}</path></backingStore></volume>"
    )
    define(host, disk(Path(made.path()))) if name == "vcloud" else None
    (found,) = users(host, pool)
    assert (found.kind, Path(found.name).name) == (VOLUME, "theirs.qcow2")
    qemu_img("rebase", "-u", "-b", "", folder / "first.qcow2")
    assert users(host, pool) == set()
    middle.rename(folder / "away")
    with pytest.raises(HostError, match=r"middle.qcow2' of the volume '.*theirs.qcow2'"):
        users_on(host, pool)
    made.delete()
    host.connection.lookupByName("foreign").undefine() if name == "vcloud" else None
    assert users(host, pool) == set()
    other.destroy()


def test_a_chain_of_volumes_in_two_pools_keeps_its_image(
    host: Host, pool: StoragePool, tmp_path: Path
) -> None:
    """Each text names the next one, so no program is asked: none of these files exists."""
    other = host.connection.storagePoolCreateXML(POOL.format("other", tmp_path))
    volume = "<volume><name>{}</name><capacity>1048576</capacity><backingStore><path>{}</path></backingStore></volume>"
    middle = other.createXML(volume.format("middle.qcow2", pool.path(DISK)))
    mine = host.connection.storagePoolLookupByName("vcloud")
    mine.createXML(volume.format("top.qcow2", middle.path()))
    assert {user.name for user in users(host, pool)} == {middle.key()}
    middle.delete()
    with pytest.raises(HostError, match=r"middle.qcow2' of the volume 'top.qcow2'"):
        users_on(host, pool)
    other.destroy()


def test_a_vm_may_need_what_its_snapshot_goes_back_to(host: Host, pool: StoragePool) -> None:
    domain = define(
        host, disk(Path(pool.path("mine.qcow2"))), f"<kernel>{pool.path(KERNEL)}</kernel>"
    )
    domain.snapshotCreateXML("<domainsnapshot><name>before</name></domainsnapshot>")
    define_again = DOMAIN_XML.format(disk=disk(Path(pool.path("mine.qcow2"))), kernel="")
    uuid = f"<name>foreign</name><uuid>{domain.UUIDString()}</uuid>"
    host.connection.defineXML(define_again.replace("<name>foreign</name>", uuid))
    assert "kernel" not in host.connection.lookupByName("foreign").XMLDesc()
    assert users(host, pool, KERNEL) == {FOREIGN}


# What cannot be found out


def test_where_a_disk_cannot_be_read_nobody_can_tell_and_the_error_names_it(
    host: Host, pool: StoragePool, tmp_path: Path
) -> None:
    top = overlay(tmp_path / "top.qcow2", pool.path(DISK))
    define(host, disk(top))
    top.rename(tmp_path / "away")
    with pytest.raises(HostError, match=r"top.qcow2' of the domain 'foreign'") as caught:
        users_on(host, pool)
    assert "Nothing was deleted" in caught.value.hint
    (tmp_path / "away").rename(top)
    assert users(host, pool) == {FOREIGN}


def test_a_chain_with_a_missing_link_is_not_taken_for_a_short_one(
    host: Host, pool: StoragePool, tmp_path: Path
) -> None:
    middle = overlay(tmp_path / "middle.qcow2", pool.path(DISK))
    define(host, disk(overlay(tmp_path / "top.qcow2", middle)))
    middle.unlink()
    with pytest.raises(HostError, match="nobody can tell which images"):
        users_on(host, pool)


def test_without_qemu_img_nobody_can_tell(
    host: Host, pool: StoragePool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    define(host, disk(overlay(tmp_path / "top.qcow2", pool.path(DISK))))
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(HostError, match="'qemu-img' cannot be run"):
        users_on(host, pool)


@pytest.mark.parametrize(("kind", "device"), [("raw", "disk"), ("raw", "cdrom")])
def test_what_is_based_on_nothing_may_be_missing(
    host: Host, pool: StoragePool, tmp_path: Path, kind: str, device: str
) -> None:
    define(host, disk(tmp_path / "gone.iso", kind, device))
    assert users(host, pool) == set()


def test_a_disk_that_is_gone_from_the_pool_stops_nobody_and_one_without_its_base_does(
    host: Host, pool: StoragePool
) -> None:
    top = Path(pool.folder) / "theirs.qcow2"
    define(host, disk(top))
    assert users(host, pool) == set()
    base = overlay(Path(pool.folder) / "base.qcow2", pool.path(DISK))
    overlay(top, base)
    assert users(host, pool) == {FOREIGN}
    base.unlink()
    with pytest.raises(HostError, match=r"base\.qcow2'"):
        users_on(host, pool)


def test_a_snapshot_whose_disk_is_gone_stops_nobody(
    host: Host, pool: StoragePool, tmp_path: Path
) -> None:
    gone = tmp_path / "gone.qcow2"
    domain = define(host, disk(gone))
    domain.snapshotCreateXML("<domainsnapshot><name>before</name></domainsnapshot>")
    uuid = f"<name>foreign</name><uuid>{domain.UUIDString()}</uuid>"
    plain = DOMAIN_XML.format(disk="", kernel="").replace("<name>foreign</name>", uuid)
    host.connection.defineXML(plain)
    assert users(host, pool) == set()
    overlay(gone, pool.path(DISK))
    assert users(host, pool) == {FOREIGN}
