"""Makes the memory images of the VMs that several tests use. The hosts of all labs find them then."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.vm import stock
from tests.vm.cloud_image import cloud_image
from tests.vm.conftest import SHOP
from tests.vm.driver import LABS, lab, volumes, write_vapp

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3600)]

LAB = "t-stock"


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


def test_the_hosts_of_the_labs_get_a_stock(tmp_path: Path) -> None:
    """`warm` makes only what the kept pool does not have yet."""
    with lab(LAB, tmp_path / "home", stocked=True) as operator:
        before = volumes(operator, "template-", "image-")
        for file in (SHOP, write_vapp(tmp_path / "kinds.yaml", kinds())):
            operator.run("image", "memory", "make", str(file))
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
