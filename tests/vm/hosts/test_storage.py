"""vcloud's storage pool on a host."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
from pathlib import Path

import pytest

from tests.vm.hosts.running import (
    line,
    program,
    stat,
)
from vcloud.errors import HostError
from vcloud.hosts.connection import Host, open_host
from vcloud.hosts.inventory import HostRef
from vcloud.hosts.pool import FOLDER, StoragePool
from vcloud.hosts.uploads import upload, uploaded
from vcloud.hosts.volumes import VappVolumes
from vcloud.plan.host_images import COMPLETE

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3000)]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "some.qcow2"
    path.write_bytes(os.urandom(5_000_000))
    return path


def sha256_there(host: Host, path: str) -> str:
    return host.shell.run(["sha256sum", path]).stdout.decode().split()[0]


def test_an_upload_arrives_whole_private_and_once(
    host: Host, pool: StoragePool, source: Path
) -> None:
    seen: list[int] = []
    path = upload(pool, source, "up-whole", ".qcow2", lambda done, _: seen.append(done))
    assert sha256_there(host, path) == hashlib.sha256(source.read_bytes()).hexdigest()
    assert stat(host, path) == "600 5000000"
    assert seen[-1] == 5_000_000
    assert len(seen) > 10
    again: list[int] = []
    assert upload(pool, source, "up-whole", ".qcow2", lambda done, _: again.append(done)) == path
    assert again == []


def test_an_interrupted_upload_is_never_used(host: Host, pool: StoragePool, source: Path) -> None:
    def interrupt(done: int, _: int) -> None:
        if done > 1_000_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        upload(pool, source, "up-broken", ".qcow2", interrupt)
    assert uploaded(pool, "up-broken", ".qcow2") is None
    assert pool.names("up-broken") == ()
    path = upload(pool, source, "up-broken", ".qcow2")
    assert sha256_there(host, path) == hashlib.sha256(source.read_bytes()).hexdigest()


UPLOAD = """
import sys
from pathlib import Path
from vcloud.hosts.connection import open_host
from vcloud.hosts.inventory import load_inventory
from vcloud.hosts.pool import StoragePool
from vcloud.hosts.uploads import upload
with open_host(load_inventory(Path(sys.argv[1]))[0]) as host:
    def progress(done, size):
        if done > size // 2:
            print("half", flush=True); input()
    upload(StoragePool(host), Path(sys.argv[2]), "up-killed", ".qcow2", progress)
"""


def test_an_upload_whose_operator_is_killed_is_never_used_and_swept(
    host: Host, ref: HostRef, pool: StoragePool, source: Path
) -> None:
    assert ref.ssh_config is not None
    killed = program(UPLOAD, str(ref.ssh_config.parent / "hosts.yaml"), str(source))
    assert line(killed) == "half"
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    rest = pool.names("up-killed")
    assert len(rest) == 1
    assert not rest[0].endswith(COMPLETE)
    assert uploaded(pool, "up-killed", ".qcow2") is None
    first = upload(pool, source, "up-killed", ".qcow2")
    assert rest[0] in pool.names("up-killed"), "it may still be on its way"
    host.shell.run(["touch", "-d", "2 hours ago", pool.path(rest[0])])
    theirs = ["qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "qcow2"]
    theirs += ["-b", pool.path(rest[0]), pool.path("theirs.qcow2"), "1M"]
    assert host.shell.run(theirs).code == 0
    pool.delete([Path(first).name, Path(first).name + COMPLETE])
    second = upload(pool, source, "up-killed", ".qcow2")
    assert rest[0] in pool.names("up-killed"), "somebody has based a disk on it"
    pool.delete(["theirs.qcow2", Path(second).name, Path(second).name + COMPLETE])
    upload(pool, source, "up-killed", ".qcow2")
    assert rest[0] not in pool.names("up-killed")


def test_two_who_upload_the_same_at_once_are_both_right(
    host: Host, ref: HostRef, source: Path
) -> None:
    paths: list[str] = []
    together = threading.Barrier(2, timeout=300)

    def operator() -> None:
        waited: list[None] = []

        def meet(done: int, _: int) -> None:
            if done > 1_000_000 and not waited:
                waited.append(None)
                together.wait()

        with open_host(ref) as mine:
            paths.append(upload(StoragePool(mine), source, "up-twice", ".qcow2", meet))

    threads = [threading.Thread(target=operator) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(paths)) == 2
    assert {sha256_there(host, path) for path in paths} == {
        hashlib.sha256(source.read_bytes()).hexdigest()
    }
    assert uploaded(StoragePool(host), "up-twice", ".qcow2") in paths


def test_a_full_disk_is_said_before_anything_is_made(pool: StoragePool) -> None:
    with pytest.raises(HostError) as caught:
        pool.require_space(pool.free + (1 << 30), "the image 'x'")
    assert "MiB are missing" in caught.value.what
    assert FOLDER in caught.value.hint
    pool.require_space(1 << 20, "the image 'x'")


def test_disks_are_made_once_and_kept(host: Host, pool: StoragePool) -> None:
    assert pool.make_disk("vm.t-disks.a.data.qcow2", 1 << 30), "it is made"
    path = pool.path("vm.t-disks.a.data.qcow2")
    host.shell.run(["qemu-io", "-c", "write -P 7 0 64k", path])
    written = sha256_there(host, path)
    assert not pool.make_disk("vm.t-disks.a.data.qcow2", 1 << 30), "it is there"
    assert pool.path("vm.t-disks.a.data.qcow2") == path
    assert sha256_there(host, path) == written
    assert stat(host, path).split()[0] == "600"
    overlay = pool.make_overlay("root.t-disks.a.qcow2", path)
    report = host.shell.run(["qemu-img", "info", overlay]).stdout.decode()
    assert "virtual size: 1 GiB" in report
    assert f"backing file: {path}" in report
    assert pool.names("vm.t-disks.", "root.t-disks.") == (
        "root.t-disks.a.qcow2",
        "vm.t-disks.a.data.qcow2",
    )
    VappVolumes(host).delete(VappVolumes(host).volumes_of_vapp("t-disks"))
    VappVolumes(host).delete(["vm.t-disks.a.data.qcow2"])
    assert VappVolumes(host).volumes_of_vapp("t-disks") == ()


def test_a_vapps_volumes_are_not_those_of_one_with_a_longer_name(
    host: Host, pool: StoragePool
) -> None:
    pool.make_disk("vm.shop.a.data.qcow2", 1 << 20)
    pool.make_disk("vm.shop-2.a.data.qcow2", 1 << 20)
    assert VappVolumes(host).volumes_of_vapp("shop") == ("vm.shop.a.data.qcow2",)
    pool.delete(["vm.shop.a.data.qcow2", "vm.shop-2.a.data.qcow2"])
