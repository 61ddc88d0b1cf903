"""A move that has begun, on two hosts of libvirt's test driver: it is undone or finished, or nothing is
started where nobody knows which copy counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from tests.standing import manifest_of
from tests.told import Told
from tests.vapps import TWO_HOMES, design_of_text
from vcloud.apply.down import remove_copy
from vcloud.apply.settle import begun_move, settle_move
from vcloud.errors import Exit, RefusedError, SilentError, UnreachableError, VcloudError
from vcloud.fleet.fleet import Copies, Fleet
from vcloud.hosts import machines
from vcloud.hosts.connection import Host, open_host
from vcloud.hosts.drained import is_drained, mark_drained, refuse_drained, unmark_drained
from vcloud.hosts.inventory import HostRef
from vcloud.hosts.lock import Lock
from vcloud.hosts.manifests import read_manifest, vapp_names, write_manifest
from vcloud.plan.manifest import Manifest, Move, Phase
from vcloud.reporter import Reporter

MANIFEST = replace(manifest_of(design_of_text(TWO_HOMES)), phase=Phase.READY, generation=5)
VAPP = MANIFEST.design.vapp
MOVE = Move("0f0f", "h1", "h2")
SWITCHED = replace(MOVE, switched=True)
NODE = """\
<node>
  <pool type='dir'>
    <name>vcloud</name>
    <uuid>4d1b1a5c-7b0e-4d70-8a55-8c2a3a1f0a01</uuid>
    <target><path>/vcloud</path></target>
  </pool>
</node>
"""
AWAY = {name: SilentError(f"{name} does not answer") for name in ("h1", "h2")}


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[tuple[Host, Host]]:
    """Two hosts of their own."""
    node = tmp_path / "node.xml"
    node.write_text(NODE)
    with ExitStack() as opened:
        first, second = (
            opened.enter_context(open_host(HostRef(name, f"test://{node}")))
            for name in ("h1", "h2")
        )
        yield first, second


def has(host: Host, move: Move | None, phase: Phase = Phase.READY) -> None:
    write_manifest(host, replace(MANIFEST, move=move, phase=phase))


def move_on(host: Host) -> Move | None:
    found = read_manifest(host, VAPP)
    assert isinstance(found, Manifest)
    return found.move


def nobody(_fleet: Fleet, _manifest: Manifest, _reporter: Reporter, _lock: Lock) -> None:
    raise AssertionError("nothing may be started")


def test_without_a_move_nothing_is_done(hosts: tuple[Host, Host]) -> None:
    has(hosts[0], None)
    assert begun_move(Fleet(hosts), VAPP) is None
    assert settle_move(Fleet(hosts), VAPP, Told(), nobody) is None
    assert settle_move(Fleet(hosts), "another", Told(), nobody) is None


def test_before_the_switch_the_copy_on_the_destination_is_deleted(
    hosts: tuple[Host, Host],
) -> None:
    first, second = hosts
    has(first, MOVE)
    has(second, MOVE, Phase.APPLYING)
    assert Fleet(hosts).copies_of(VAPP) == Copies(first, (second,))
    told = Told()
    begun = settle_move(Fleet(hosts), VAPP, told, nobody)
    assert begun is not None
    assert not begun.has_switched
    assert vapp_names(second) == ()
    assert move_on(first) is None
    assert any("is undone now" in stage for _, stage in told.stages)
    assert settle_move(Fleet(hosts), VAPP, told, nobody) is None


def test_a_kill_between_the_two_records_is_undone_and_deletes_no_other_copy(
    hosts: tuple[Host, Host],
) -> None:
    first, second = hosts
    has(first, MOVE)
    settle_move(Fleet(hosts), VAPP, Told(), nobody)
    assert move_on(first) is None
    # The other host has a copy of its own, which is of no move.
    has(first, MOVE)
    write_manifest(second, replace(MANIFEST, generation=1))
    settle_move(Fleet(hosts), VAPP, Told(), nobody)
    assert vapp_names(second) == (VAPP,)


def test_after_the_switch_what_was_moved_is_deleted_on_the_source(
    hosts: tuple[Host, Host],
) -> None:
    """The vApp is ready on the destination already."""
    first, second = hosts
    has(first, SWITCHED)
    has(second, SWITCHED)
    assert Fleet(hosts).copies_of(VAPP) == Copies(second, (first,))
    begun = settle_move(Fleet(hosts), VAPP, Told(), nobody)
    assert begun is not None
    assert begun.has_switched
    assert vapp_names(first) == ()
    assert move_on(second) is None


def test_a_vm_that_somebody_has_started_on_the_source_is_not_removed(
    hosts: tuple[Host, Host],
) -> None:
    """What it has written since the move is nowhere else."""
    first, second = hosts
    has(first, SWITCHED)
    has(second, SWITCHED)
    vm = MANIFEST.design.vms[0]
    xml = f"<domain type='test'><name>{vm.domain}</name><uuid>{vm.uuid}</uuid><memory>8192</memory><os><type>hvm</type></os></domain>"
    machines.start_domain(first, vm.domain, xml)
    with pytest.raises(VcloudError, match="somebody has started it on h1 since") as caught:
        settle_move(Fleet(hosts), VAPP, Told(), nobody)
    assert "Nothing was started or deleted" in caught.value.hint
    assert machines.is_running(first, vm.domain)
    assert move_on(first) == SWITCHED
    # The way out that the hint names.
    machines.stop_domain(first, vm.domain, graceful=False)
    first.connection.lookupByName(vm.domain).undefine()
    settle_move(Fleet(hosts), VAPP, Told(), nobody)
    assert vapp_names(first) == ()
    assert move_on(second) is None


def test_a_later_run_that_failed_on_the_destination_is_left_to_up(
    hosts: tuple[Host, Host],
) -> None:
    """It may have had another file, from which the VMs are not made yet. Before the vApp was ready there
    for the first time, no VM is connected.
    """
    first, second = hosts
    has(first, SWITCHED)
    failed = replace(MANIFEST, phase=Phase.APPLYING, move=SWITCHED)
    write_manifest(second, failed)
    with pytest.raises(VcloudError, match="is not whole on h2"):
        settle_move(Fleet(hosts), VAPP, Told(), nobody)
    assert move_on(first) == SWITCHED
    write_manifest(second, replace(failed, connected=((MANIFEST.design.vms[0].name, "token"),)))
    settle_move(Fleet(hosts), VAPP, Told(), nobody)
    found = read_manifest(second, VAPP)
    assert isinstance(found, Manifest)
    assert (found.phase, found.move) == (Phase.APPLYING, None)
    assert vapp_names(first) == ()


def test_a_kill_after_the_source_is_empty_leaves_only_the_record_to_remove(
    hosts: tuple[Host, Host],
) -> None:
    has(hosts[1], SWITCHED)
    settle_move(Fleet(hosts), VAPP, Told(), nobody)
    assert move_on(hosts[1]) is None


def test_a_host_that_is_away_keeps_its_copy_until_it_is_reached(hosts: tuple[Host, Host]) -> None:
    first, second = hosts
    # Before the switch the source may go on: the record stays, so that the copy is removed later.
    has(first, MOVE)
    settle_move(Fleet([first], {"h2": AWAY["h2"]}), VAPP, Told(), nobody)
    assert move_on(first) == MOVE
    # After the switch the destination may go on.
    has(second, SWITCHED)
    settle_move(Fleet([second], {"h1": AWAY["h1"]}), VAPP, Told(), nobody)
    assert move_on(second) == SWITCHED


@pytest.mark.parametrize(
    ("reached", "move", "told"),
    [
        (0, SWITCHED, "was moved from h1 to h2, which cannot be reached"),
        (1, MOVE, "may not be complete: h1 cannot be reached"),
    ],
)
def test_nothing_is_started_where_the_copy_that_counts_cannot_be_reached(
    hosts: tuple[Host, Host], reached: int, move: Move, told: str
) -> None:
    has(hosts[reached], move)
    away = f"h{2 - reached}"
    with pytest.raises(UnreachableError, match=told) as caught:
        settle_move(Fleet([hosts[reached]], {away: AWAY[away]}), VAPP, Told(), nobody)
    assert caught.value.exit == Exit.REFUSED
    assert caught.value.hint
    assert move_on(hosts[reached]) == move


@pytest.mark.parametrize(("move", "is_told"), [(MOVE, True), (None, False)])
def test_down_tells_of_the_other_copy_of_a_move_that_it_does_not_reach(
    hosts: tuple[Host, Host], move: Move | None, is_told: bool
) -> None:
    first, second = hosts
    told = Told()
    has(first, move)
    remove_copy(Fleet([first], older=[second]), VAPP, told, superseded=False)
    assert vapp_names(first) == ()
    assert not any("has not ended" in stage for _, stage in told.stages)
    has(first, move)
    remove_copy(Fleet([first]), VAPP, told, superseded=False)
    assert any(f"vcloud down {VAPP} -c h2" in stage for _, stage in told.stages) == is_told


def test_a_host_is_drained_until_somebody_says_otherwise(hosts: tuple[Host, Host]) -> None:
    first, second = hosts
    mark_drained(first)
    mark_drained(first)
    assert (is_drained(first), is_drained(second)) == (True, False)
    refuse_drained(second, "shop.yaml")
    with pytest.raises(RefusedError, match="h1 is drained") as caught:
        refuse_drained(first, "shop.yaml")
    assert "vcloud host undrain h1" in caught.value.problems[0].hint
    unmark_drained(first)
    unmark_drained(first)
    assert not is_drained(first)
    refuse_drained(first, "shop.yaml")
