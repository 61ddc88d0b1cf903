"""Builds every image that the tests boot. All workers find them then."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.vm.cloud_image import cloud_image, cloud_image_without_agent
from vcloud.data import images_dir
from vcloud.images.build import build
from vcloud.images.recipe import load_recipe

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3600)]

WORKLOADS = ("base", "postgres", "nginx", "shop-api", "kvm-host")
APPLIANCES = ("firewall", "ips")


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


def shipped(name: str) -> Callable[[], Path]:
    """Builds an image of the product; the path of its disk."""
    return lambda: build(load_recipe(images_dir() / name)).disk
