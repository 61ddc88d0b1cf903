"""A copy of a vApp, such as a drill, is planned beside the vApp and touches nothing of it."""

from __future__ import annotations

import pytest

from tests.standing import manifest_of, standing
from tests.vapps import SHOP, vapp_of
from vcloud.design.model import Design
from vcloud.hosts.connection import open_host
from vcloud.hosts.inventory import HostRef
from vcloud.hosts.manifests import delete_manifest, read_manifest, vapp_names, write_manifest
from vcloud.pipeline import design_of
from vcloud.plan.diff import plan_changes
from vcloud.plan.manifest import Manifest
from vcloud.plan.state import VappState
from vcloud.plan.steps import Verb


def design(label: str = "") -> Design:
    return design_of(vapp_of(SHOP.read_text()), label)


ORIGINAL, COPY = design(), design("drill")


def test_the_plan_of_a_copy_makes_all_of_it_and_touches_nothing_of_the_vapp() -> None:
    """Whatever stands of the vApp itself is not the copy's."""
    there = standing(ORIGINAL)
    plan = plan_changes(
        manifest_of(COPY), VappState(None, there.domains, there.networks, filter_gone=True), "h1"
    )
    assert set(plan.subjects(Verb.MAKE_VM)) == {vm.name for vm in COPY.vms}
    assert not plan.has(Verb.REMOVE_VM, Verb.REMOVE_NETWORK, Verb.REMAKE_VM)
    assert not {*plan.subjects(Verb.MAKE_NETWORK)} & {network.name for network in there.networks}
    assert plan.subjects(Verb.DEFINE_FILTER) == ("vcloud-shop_drill",)


def test_a_standing_copy_has_nothing_to_do_and_its_twin_neither() -> None:
    for one in (ORIGINAL, COPY):
        assert plan_changes(manifest_of(one), standing(one), "h1").steps == ()


def test_both_have_a_manifest_of_their_own_on_one_host() -> None:
    manifests = [standing(one).manifest for one in (ORIGINAL, COPY)]
    with open_host(HostRef("t", "test:///default")) as host:
        for manifest in manifests:
            assert manifest
            write_manifest(host, manifest)
        try:
            assert vapp_names(host) == ("shop", "shop_drill")
            found = read_manifest(host, "shop_drill")
            assert isinstance(found, Manifest)
            assert found.design.label == "drill"
        finally:
            for name in vapp_names(host):
                delete_manifest(host, name)


@pytest.mark.parametrize("label", ["", "drill"])
def test_the_marks_of_an_instance_name_it(label: str) -> None:
    one = design(label)
    assert {domain.marks.vapp for domain in standing(one).domains} == {one.instance.name}
