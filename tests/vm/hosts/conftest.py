"""A lab of this folder's own, with one host and one VM."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from tests.vm.hosts.running import (
    DOMAIN,
    NAME,
    Running,
)
from vcloud.data import images_dir
from vcloud.hosts import machines
from vcloud.hosts.connection import Host, open_host
from vcloud.hosts.inventory import HostRef, load_inventory
from vcloud.hosts.pool import StoragePool
from vcloud.hosts.volumes import VappVolumes
from vcloud.images.build import build
from vcloud.images.cache import Image
from vcloud.images.recipe import load_recipe
from vcloud.lab import lab as labs
from vcloud.lab import layout


@pytest.fixture(scope="package")
def ref() -> Iterator[HostRef]:
    """A lab of this folder's own, with one host, which is new."""
    lab = layout.lab("t-hosts-vm")
    labs.down(lab)
    try:
        labs.up(lab, 1)
        yield load_inventory(lab.inventory)[0]
    finally:
        labs.down(lab)


@pytest.fixture(scope="package")
def host(ref: HostRef) -> Iterator[Host]:
    with open_host(ref) as opened:
        yield opened


@pytest.fixture(scope="package")
def pool(host: Host) -> StoragePool:
    return StoragePool(host)


@pytest.fixture(scope="package")
def image() -> Image:
    return build(load_recipe(images_dir() / "base"))


@pytest.fixture(scope="package")
def vm(host: Host, image: Image) -> Iterator[Running]:
    volumes = VappVolumes(host)
    base = volumes.upload_image(image)
    boot = volumes.boot_files(NAME, base, image.cmdline)
    volumes.make_root(SimpleNamespace(domain=NAME), boot)
    machines.start_domain(host, NAME, DOMAIN.format(name=NAME, boot=boot))
    agent = machines.agent_of(host, NAME)
    agent.wait(900)
    yield Running(volumes, base, boot, agent)
    machines.remove_domain(host, NAME)
    volumes.delete(volumes.volumes_of_domain(NAME))
