"""What only looks like a part of a vApp: nothing is planned upon it, and none of it is removed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.plan.test_diff import STANDING, design, plan, told
from vcloud.design.names import is_vm_volume, network_uuid, unfinished_copy
from vcloud.errors import VcloudError


def test_somebodys_network_with_a_copied_mark_is_not_the_vapps() -> None:
    network = replace(
        STANDING.networks[0], name="shop.old", uuid="11111111-2222-4333-8444-555555555555"
    )
    assert plan(design(), replace(STANDING, networks=(*STANDING.networks, network))).steps == ()
    former = replace(network, uuid=network_uuid("shop.old"))
    assert told(plan(design(), replace(STANDING, networks=(*STANDING.networks, former)))) == [
        ("remove network", "shop.old", "remove")
    ]


def test_somebodys_filter_of_the_vapps_name_is_refused() -> None:
    taken = replace(STANDING, filter_gone=True, filter_foreign=True)
    with pytest.raises(VcloudError, match="'vcloud-shop' exists already and is not vcloud's"):
        plan(design(), taken)


@pytest.mark.parametrize(
    ("name", "is_ours"),
    [
        ("root.shop.web-1.qcow2", True),
        ("vm.shop.db.data.qcow2", True),
        (unfinished_copy("vm.shop.db.data.qcow2", "vm.shop.old.data.qcow2"), True),
        ("console.shop.db.log", True),
        ("console.shop.db.log.0", True),
        ("seed.shop.old.iso", True),
        ("wake.shop.web-1.save", True),
        ("vm.shop.db.data.qcow2.bak", False),
        ("vm.shop.db.data.before", False),
        ("root.shop.web-1.old.qcow2", False),
        ("vm.shop.db.qcow2", False),
        ("console.shop.db.log.txt", False),
    ],
)
def test_only_names_that_vcloud_gives_are_those_of_its_volumes(name: str, is_ours: bool) -> None:
    assert is_vm_volume(name) == is_ours
