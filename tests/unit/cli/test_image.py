"""`vcloud image`: what it lists and frees, in a cache of its own and on libvirt's own test driver."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from vcloud.cli.app import app
from vcloud.data import images_dir
from vcloud.errors import HostError, UsageError
from vcloud.hosts.connection import Host, open_host
from vcloud.hosts.inventory import HostRef
from vcloud.hosts.pool import StoragePool
from vcloud.images.cache import Image, default_cache
from vcloud.images.description import Description
from vcloud.images.recipe import digest, load_recipe
from vcloud.plan.host_images import COMPLETE, stem, suffix

URI = "test:///default"
POOL = "<pool type='dir'><name>vcloud</name><target><path>{}</path></target></pool>"
KINDS = ("disk", "kernel", "initrd")


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VCLOUD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for name in ("VCLOUD_INVENTORY", "VCLOUD_CONNECT", "VCLOUD_LAB"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", URI)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """The test driver's default host, which all connections of this process share while it is open.
    Its usual domain has a disk that does not exist.
    """
    with open_host(HostRef("t", URI)) as opened:
        for domain in opened.connection.listAllDomains():
            domain.destroy()
            domain.undefine()
        pool = opened.connection.storagePoolCreateXML(POOL.format(tmp_path))
        yield opened
        pool.destroy()


def put(name: str, key: str, source: str) -> Image:
    """An image of a recipe in the cache."""

    def make(folder: Path) -> Description:
        for file in ("disk.qcow2", "vmlinux"):
            (folder / file).write_bytes(name.encode() * (2_000_000 // len(name)))
        (folder / "manifest.txt").write_text("bash=1\n")
        return Description(name, key, source=source)

    return default_cache().fill(name, key, make, lambda _: None)


def current() -> Image:
    folder = images_dir() / "nginx"
    return put("nginx", digest(load_recipe(folder)), str(folder))


def upload(host: Host, image: Image) -> None:
    """The volumes of a copy of an image on the host."""
    pool = StoragePool(host)
    for number, kind in enumerate(KINDS):
        name = f"{stem(kind, image.name, image.content)}.{str(number) * 8}{suffix(kind)}"
        host.connection.storagePoolLookupByName("vcloud").createXML(
            f"<volume><name>{name}</name><capacity>1000000</capacity><allocation>1000000</allocation></volume>"
        )
        pool.make_empty(name + COMPLETE)


def use(host: Host, image: Image) -> None:
    path = f"/pool/{stem('kernel', image.name, image.content)}.11111111"
    host.connection.defineXML(
        "<domain type='test'><name>shop.web</name><memory>1</memory><os><type>hvm</type>"
        f"<kernel>{path}</kernel></os></domain>"
    )


def vcloud(*argv: str) -> Result:
    return CliRunner().invoke(app, ["image", *argv])


def left(host: Host) -> list[str]:
    return sorted(StoragePool(host).names_without_refresh())


def test_the_list_tells_the_age_of_each_image_and_who_uses_which_copy(host: Host) -> None:
    image = current()
    upload(host, image)
    use(host, image)
    listed = json.loads(vcloud("list", "-o", "json").stdout)
    assert [(row["name"], row["content"], row["built"]) for row in listed] == [
        ("nginx", image.content, image.built)
    ]
    both = json.loads(vcloud("list", "--on-host", "-o", "json").stdout)
    assert both["cache"] == listed
    (copy,) = both["host"]["images"]
    assert (copy["name"], copy["content"], copy["bytes"]) == ("nginx", image.content, 3_000_000)
    assert copy["used_by"] == [{"kind": "domain", "name": "shop.web"}]
    table = vcloud("list", "--on-host").stdout
    assert [line.split()[0] for line in table.splitlines()] == [
        "IMAGE",
        "nginx",
        "copies",
        "IMAGE",
        "nginx",
    ]
    assert "shop.web" in table


def test_an_image_is_removed_here_and_on_the_host_with_totals(host: Host) -> None:
    upload(host, current())
    done = vcloud("rm", "nginx")
    assert done.exit_code == 0, done.output
    assert "freed 3 MB in 6 files on localhost, 4 MB in 1 image of the cache" in done.stdout
    assert default_cache().list() == ()
    assert left(host) == []


def test_a_copy_that_a_vm_uses_stays_and_is_named(host: Host) -> None:
    image = current()
    upload(host, image)
    use(host, image)
    done = vcloud("rm", f"nginx-{image.digest[:12]}")
    assert done.exit_code == 0, done.output
    assert (
        f"stays on localhost: nginx-{image.content[:12]}, which the domain 'shop.web' uses"
        in done.stderr
    )
    kernel = f"{stem('kernel', 'nginx', image.content)}.11111111"
    assert left(host) == [kernel, kernel + COMPLETE]


def test_an_image_that_only_the_host_has_is_removed_by_its_content(host: Host) -> None:
    image = current()
    upload(host, image)
    default_cache().remove(image)
    assert vcloud("rm", f"nginx-{image.content[:12]}").exit_code == 0
    assert left(host) == []
    unknown = vcloud("rm", f"nginx-{image.content[:12]}")
    assert isinstance(unknown.exception, UsageError)
    assert "no image is called" in str(unknown.exception)


def test_prune_frees_what_nobody_needs_and_asks_before(host: Host) -> None:
    kept, old = current(), put("api", "a" * 64, "/nowhere/api")
    upload(host, kept)
    upload(host, old)
    use(host, kept)
    before = left(host)
    refused = vcloud("prune")
    assert isinstance(refused.exception, UsageError)
    assert "this would free 5 MB in 10 files on localhost, 4 MB in 1 image of the cache" in str(
        refused.exception
    )
    assert (left(host), len(default_cache().list())) == (before, 2)
    done = vcloud("prune", "--yes")
    assert done.exit_code == 0, done.output
    assert "freed 5 MB in 10 files on localhost, 4 MB in 1 image of the cache" in done.stdout
    assert default_cache().list() == (kept,)
    assert len(left(host)) == 2
    again = vcloud("prune")
    assert again.exit_code == 0, "where nothing is to be freed, nobody is asked"
    assert "freed 0 MB in 0 files on localhost, 0 MB in 0 images of the cache" in again.stdout


def test_only_the_cache_is_cleared_where_that_is_asked_for_or_no_host_is_there(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = current()
    upload(host, image)
    before = left(host)
    assert "freed 4 MB in 1 image of the cache" in vcloud("rm", "nginx", "--cache-only").stdout
    current()
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", "test:///no/such/file")
    done = vcloud("rm", "nginx")
    assert done.exit_code == 0, done.output
    assert "no host was asked" in done.stderr
    assert default_cache().list() == ()
    current()
    named = vcloud("rm", "nginx", "-c", "test:///no/such/file")
    assert isinstance(named.exception, HostError)
    assert len(default_cache().list()) == 1, "a host that was named must answer first"
    assert left(host) == before


def test_a_refresh_needs_a_recipe(host: Host) -> None:  # noqa: ARG001 - so that no other host is asked
    for argv in ([], ["nginx-of-nobody"]):
        done = vcloud("refresh", *argv)
        assert isinstance(done.exception, UsageError)
    gone = put("api", "a" * 64, "/nowhere/api")
    done = vcloud("refresh", "api")
    assert f"nobody knows the recipe of the image {gone.entry}" in str(done.exception)
