"""Builds every image that the tests boot, and the memory images of the VMs that several tests use.
All workers find them then.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.vm import stock
from tests.vm.cloud_image import cloud_image, cloud_image_without_agent
from tests.vm.conftest import SHOP
from tests.vm.driver import LABS, lab, volumes, write_vapp
from vcloud.data import images_dir
from vcloud.images.build import build
from vcloud.images.recipe import load_recipe

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3600)]

LAB = "t-stock"
WORKLOADS = ("base", "postgres", "nginx", "shop-api", "kvm-host")
APPLIANCES = ("firewall", "ips")


def kinds() -> dict[str, object]:
    """A vApp of a VM of each kind that the tests have. A memory image serves VMs of one image, one
    size and one kind of zone.
    """
    return {
        "vcloud": 1,
        "name": "kinds",
        "zones": {"plain": {}, "inspected": {}},
        "vms": {
            "plain": {"image": "base", "zone": "plain", "memory": "256M"},
            "inspected": {"image": "base", "zone": "inspected", "memory": "256M"},
            "web": {"image": "nginx", "zone": "inspected", "memory": "256M"},
            "own": {"image": {"file": str(cloud_image())}, "zone": "plain", "memory": "640M"},
        },
        "protection": {"ips": {"inspect": ["inspected"]}},
    }


def test_every_image_that_tests_boot_is_built() -> None:
    """Two at a time. All shipped images begin with the base; the cloud image does not, so it is
    built beside the base.
    """
    with ThreadPoolExecutor(2) as pool:
        built = [
            pool.submit(in_order, *map(shipped, WORKLOADS)),
            pool.submit(
                in_order, cloud_image, cloud_image_without_agent, *map(shipped, APPLIANCES)
            ),
        ]
        assert all(path.is_file() for future in built for path in future.result())


def in_order(*makers: Callable[[], Path]) -> list[Path]:
    return [make() for make in makers]


def test_the_hosts_of_the_labs_get_a_stock(tmp_path: Path) -> None:
    """`warm` makes only what the kept pool does not have yet."""
    with lab(LAB, tmp_path / "home", stocked=True) as operator:
        before = volumes(operator, "template-", "image-")
        for file in (SHOP, write_vapp(tmp_path / "kinds.yaml", kinds())):
            operator.run("image", "memory", "make", str(file), timeout=1800)
        made = volumes(operator, "template-", "image-")
        assert {name.split("-")[1] for name in made if name.startswith("template-")} >= {
            "base",
            "firewall",
            "ips",
            "nginx",
            "postgres",
        }
        if made != before:
            stock.keep(LABS / LAB)


def shipped(name: str) -> Callable[[], Path]:
    """Builds an image of the product; the path of its disk."""
    return lambda: build(load_recipe(images_dir() / name)).disk
