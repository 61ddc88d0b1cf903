"""Copies of images are deleted only while nobody uses them and nobody is at work, on libvirt's own test
driver.
"""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from vcloud.errors import HostError
from vcloud.hosts.connection import Host
from vcloud.hosts.holder import this_process
from vcloud.hosts.host_images import HostImages, is_called
from vcloud.hosts.lock import PREFIX, LockedError, vapp_lock
from vcloud.hosts.metadata import Record, remove_record, write_record
from vcloud.hosts.pool import StoragePool
from vcloud.plan.host_images import COMPLETE, DOMAIN, User, stem, suffix

POOL = "<pool type='dir'><name>vcloud</name><target><path>{}</path></target></pool>"
BASE, NGINX = "1" * 64, "2" * 64
KINDS = ("disk", "kernel", "initrd")


class VisitedPool(StoragePool):
    """A pool on a host where somebody does something right after a first volume was deleted."""

    visit: Callable[[], object] = staticmethod(lambda: None)

    def delete(self, names: Iterable[str]) -> None:
        some = list(names)
        super().delete(some)
        if some:
            visit, self.visit = self.visit, lambda: None
            visit()


@pytest.fixture
def pool(host: Host, tmp_path: Path) -> VisitedPool:
    host.connection.storagePoolCreateXML(POOL.format(tmp_path))
    return VisitedPool(host)


@pytest.fixture
def images(host: Host, pool: VisitedPool) -> HostImages:
    for image, content in (("base", BASE), ("nginx", NGINX)):
        for kind in KINDS:
            pool.make_empty(file(image, content, kind))
            pool.make_empty(file(image, content, kind) + COMPLETE)
    pool.make_empty("accelerator.json")
    return HostImages(host, pool)


def file(image: str, content: str, kind: str = "disk") -> str:
    number = str(KINDS.index(kind)) * 8
    return f"{stem(kind, image, content)}.{number}{suffix(kind)}"


def use(host: Host, path: str, name: str = "shop.web") -> None:
    host.connection.defineXML(
        f"<domain type='test'><name>{name}</name><memory>1</memory><os><type>hvm</type>"
        f"<kernel>{path}</kernel></os></domain>"
    )


def of(image: str, names: Iterable[str]) -> set[str]:
    return {name for name in names if f"-{image}-" in name}


def test_what_nobody_uses_goes_with_its_markers_and_a_total(
    host: Host, images: HostImages, pool: VisitedPool
) -> None:
    use(host, pool.path(file("base", BASE, "kernel")))
    agreed = images.freeable()
    gone, taken = images.free(agreed)
    assert gone == agreed
    assert (gone.number, taken) == (10, ())
    kernel = file("base", BASE, "kernel")
    assert pool.names_without_refresh() == {kernel, kernel + COMPLETE, "accelerator.json"}
    assert images.freeable().number == 0


def test_the_list_says_who_uses_which(host: Host, images: HostImages, pool: VisitedPool) -> None:
    use(host, pool.path(file("base", BASE, "kernel")))
    assert [(copy.name, copy.content, copy.users) for copy in images.list()] == [
        ("base", BASE, (User(DOMAIN, "shop.web"),)),
        ("nginx", NGINX, ()),
    ]


def test_only_what_is_named_goes(images: HostImages, pool: VisitedPool) -> None:
    assert images.freeable(["other"]).number == 0
    gone, _ = images.free(images.freeable([f"nginx-{NGINX[:12]}"]))
    assert gone.number == 6
    assert of("nginx", pool.names_without_refresh()) == set()
    assert len(of("base", pool.names_without_refresh())) == 6


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("nginx", True),
        ("nginx-222222222222", True),
        (f"nginx-{NGINX}", True),
        ("nginx-22222222222", False),
        ("nginx-222222222223", False),
        ("ngin", False),
        ("nginx-", False),
    ],
)
def test_a_copy_is_named_by_its_image_or_with_twelve_digits_of_its_content(
    name: str, meant: bool
) -> None:
    assert is_called("nginx", NGINX, [name]) is meant


# Races


def test_what_a_run_begins_to_use_after_it_was_agreed_to_stays(
    host: Host, images: HostImages, pool: VisitedPool
) -> None:
    agreed = images.freeable()
    use(host, pool.path(file("base", BASE)))
    gone, taken = images.free(agreed)
    assert of("base", gone.files) == {
        name + ending
        for kind in KINDS[1:]
        for name in [file("base", BASE, kind)]
        for ending in ("", COMPLETE)
    }
    assert taken == (f"{file('base', BASE)}, which the domain 'shop.web' uses",)
    assert {file("base", BASE), file("base", BASE) + COMPLETE} <= pool.names_without_refresh()
    assert of("nginx", pool.names_without_refresh()) == set()


def test_what_somebody_begins_to_use_at_the_last_moment_gets_its_marker_back(
    host: Host, images: HostImages, pool: VisitedPool
) -> None:
    """A person, or a release that does not know the lock."""
    agreed = images.freeable()
    pool.visit = lambda: use(host, pool.path(file("base", BASE)))
    gone, taken = images.free(agreed)
    assert len(taken) == 1
    assert {file("base", BASE), file("base", BASE) + COMPLETE} <= pool.names_without_refresh()
    assert file("base", BASE) not in gone.files
    assert of("nginx", pool.names_without_refresh()) == set()


def test_where_a_run_begins_at_the_last_moment_everything_stays_as_it_was(
    host: Host, images: HostImages, pool: VisitedPool
) -> None:
    before, agreed = pool.names_without_refresh(), images.freeable()
    lock = Record(PREFIX + "shop", str(uuid.uuid4()), asdict(this_process("up")))
    pool.visit = lambda: write_record(host, lock)
    with pytest.raises(LockedError, match=r"locked by `vcloud up`"):
        images.free(agreed)
    assert pool.names_without_refresh() == before
    remove_record(host, lock.uuid)
    assert images.free(agreed)[0] == agreed


def test_where_nobody_can_tell_any_more_everything_stays_as_it_was(
    host: Host, images: HostImages, pool: VisitedPool, tmp_path: Path
) -> None:
    before, agreed = pool.names_without_refresh(), images.freeable()

    def unreadable() -> None:
        disk = f"<disk type='file'><driver type='qcow2'/><source file='{tmp_path}/x/gone'/><target dev='vda'/></disk>"
        host.connection.defineXML(
            "<domain type='test'><name>foreign</name><memory>1</memory><os><type>hvm</type></os>"
            f"<devices>{disk}</devices></domain>"
        )

    pool.visit = unreadable
    with pytest.raises(HostError, match="nobody can tell"):
        images.free(agreed)
    assert pool.names_without_refresh() == before


def test_nothing_is_deleted_while_a_run_holds_a_lock(
    host: Host, images: HostImages, pool: VisitedPool
) -> None:
    before, agreed = pool.names_without_refresh(), images.freeable()
    with (
        vapp_lock(host, "shop", "up"),
        pytest.raises(LockedError, match="deleting copies of images"),
    ):
        images.free(agreed)
    assert pool.names_without_refresh() == before
    assert images.free(agreed)[0].number == 12


def test_a_lock_of_a_run_that_was_killed_stops_nobody(host: Host, images: HostImages) -> None:
    with subprocess.Popen(["true"]) as process:
        ended = replace(this_process("up"), pid=str(process.pid), started="1")
    lock = Record(PREFIX + "shop", str(uuid.uuid4()), asdict(ended))
    write_record(host, lock)
    assert images.free(images.freeable())[0].number == 12
    with suppress(HostError):
        remove_record(host, lock.uuid)
