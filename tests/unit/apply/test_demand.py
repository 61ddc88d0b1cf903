"""What a run needs of its host: only what it starts, and only what the host lacks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.standing import manifest_of, standing, with_domain, without_domain
from tests.unit.apply.test_actions import POOL
from tests.vapps import TWO_HOMES, design_of_text
from vcloud.apply.demand import demand_of
from vcloud.apply.vm_images import VmImages
from vcloud.design.model import Design
from vcloud.hosts.connection import Host, open_host
from vcloud.hosts.inventory import HostRef
from vcloud.placement.capacity import Demand
from vcloud.plan.diff import plan_changes
from vcloud.plan.state import VappState

DESIGN = design_of_text(TWO_HOMES)
LIVE = standing(DESIGN)
NOTHING = VappState(None, (), (), filter_gone=True)


@pytest.fixture
def host(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Host]:
    """With this machine's cache of images empty, so that nothing is to be uploaded."""
    monkeypatch.setenv("VCLOUD_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
    with open_host(HostRef("t", "test:///default")) as opened:
        yield opened


def demand(host: Host, state: VappState, design: Design = DESIGN) -> Demand:
    plan = plan_changes(manifest_of(design), state, "t")
    return demand_of(host, design, VmImages.of(design), plan, state)


def started(found: Demand) -> set[str]:
    return {vm.name for vm in found.starts}


def test_a_new_vapp_starts_all_of_its_vms_and_makes_all_of_its_disks(host: Host) -> None:
    found = demand(host, NOTHING)
    assert found.starts == DESIGN.vms
    assert found.ends == frozenset()
    assert found.growth == sum(disk.size for vm in DESIGN.vms for disk in vm.disks) > 1 << 30


def test_a_vapp_that_stands_needs_nothing(host: Host) -> None:
    assert demand(host, LIVE) == Demand(())


def test_a_change_of_rules_needs_nothing(host: Host) -> None:
    changed = design_of_text(TWO_HOMES.replace("tcp/443", "tcp/444"))
    assert demand(host, LIVE, changed) == Demand(())


def test_a_vm_that_restarts_gives_back_what_it_has(host: Host) -> None:
    more = design_of_text(TWO_HOMES.replace("bench: {", "bench: {memory: 2G, "))
    found = demand(host, LIVE, more)
    assert started(found) == {"bench"}
    assert found.ends == {"relay.bench"}


def test_a_vm_that_is_removed_gives_back_what_it_has(host: Host) -> None:
    fewer = design_of_text(TWO_HOMES.replace("count: 2", "count: 1"))
    found = demand(host, LIVE, fewer)
    assert started(found) == set()
    assert found.ends == {"relay.gate-2"}


def test_a_vm_that_runs_and_only_lacks_its_links_needs_nothing(host: Host) -> None:
    other_id = with_domain(LIVE, "relay.bench", lambda domain: replace(domain, id=99))
    paused = with_domain(LIVE, "relay.bench", lambda domain: replace(domain, paused=True))
    for state in (other_id, paused):
        assert demand(host, state) == Demand(())


def test_a_vm_that_is_stopped_saved_or_missing_is_started(host: Host) -> None:
    stopped = with_domain(LIVE, "relay.bench", lambda domain: replace(domain, running=False))
    saved = with_domain(
        LIVE, "relay.bench", lambda domain: replace(domain, running=False, saved=True)
    )
    for state in (stopped, saved, without_domain(LIVE, "relay.bench")):
        found = demand(host, state)
        assert started(found) == {"bench"}
        assert found.ends == frozenset()


def test_a_disk_that_gets_another_name_is_copied_and_needs_room_for_its_content(
    host: Host,
) -> None:
    renamed = TWO_HOMES.replace("store", "shelf").replace("shelf: {", "shelf: {was: store, ", 1)
    data = "vm.relay.store.data.qcow2"
    pool = host.connection.storagePoolCreateXML(POOL)
    try:
        pool.createXML(
            f"<volume><name>{data}</name><capacity>1073741824</capacity><allocation>4096</allocation></volume>"
        )
        found = demand(host, LIVE, design_of_text(renamed))
        assert (f"a copy of '{data}'", 4096) in found.files
        assert started(found) >= {"shelf"}
        assert demand(host, LIVE).files == ()
    finally:
        pool.destroy()
