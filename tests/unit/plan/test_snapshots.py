"""A disk that a VM writes to and that is not the volume that vcloud gave it, such as an external
snapshot: what is written there is named before it goes, and a mend leaves it alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.standing import facts_of, manifest_of, standing, with_domain
from tests.unit.plan.test_diff import FILE, design, plan, told, why
from tests.unit.plan.test_losses import lost, stands, with_disk
from tests.vapps import design_of_text
from vcloud.design.model import Design
from vcloud.design.standing import in_standing_order
from vcloud.plan.facts import NO_FACTS, DomainFacts
from vcloud.plan.manifest import Phase
from vcloud.plan.state import DomainState, VappState
from vcloud.views.status import _problems

DATA, LOGS = "vm.shop.api.data.qcow2", "vm.shop.api.logs.qcow2"


def snapshot(
    state: VappState, target: str = "vdb", over: str = "vm.shop.api.data.one"
) -> VappState:
    """The state after `virsh snapshot-create-as --disk-only`: the running VM and its definition have
    another file in the place of the disk.
    """

    def other(facts: DomainFacts, base: str) -> DomainFacts:
        part = f"disk {target}"
        text = facts.parts[part]
        # A domain without its host's files says ROOT.
        said = base if base in text else "ROOT"
        assert said in text
        return replace(facts, parts={**facts.parts, part: text.replace(said, over)})

    def change(domain: DomainState) -> DomainState:
        files = domain.sources[target]
        base = files[0].rpartition("/")[2]
        return replace(
            domain,
            sources={**domain.sources, target: (f"/pool/{over}", *files)},
            live=other(domain.live, base),
            kept=other(domain.kept, base),
        )

    found = with_domain(state, "shop.api", change)
    return replace(found, volumes=(found.volumes or frozenset()) | {over})


def stopped(domain: DomainState) -> DomainState:
    """libvirt tells of a stopped domain only the files that are written to."""
    tops = {target: files[:1] for target, files in domain.sources.items()}
    return replace(domain, running=False, live=NO_FACTS, sources=tops)


def test_a_plain_up_leaves_a_snapshot_and_its_definition_alone() -> None:
    state = snapshot(stands())
    assert plan(with_disk(), state).steps == ()
    (problem,) = _problems(state, with_disk(), Phase.READY)
    assert "data is lost when 'api' is started again: api.data" in problem


def test_a_definition_that_went_back_below_the_snapshot_follows_the_running_vm() -> None:
    api = next(vm for vm in with_disk().vms if vm.name == "api")
    state = with_domain(
        snapshot(stands()),
        "shop.api",
        lambda domain: replace(domain, kept=facts_of(api, running=False)),
    )
    assert told(plan(with_disk(), state)) == [("mend VM", "api", "live")]
    assert f"source(file={DATA}), not source(file=vm.shop.api.data.one)" in why(
        plan(with_disk(), state), "api"
    )


def test_what_else_differs_is_mended_over_a_snapshot() -> None:
    state = with_domain(
        snapshot(stands()), "shop.api", lambda domain: replace(domain, autostart=True)
    )
    found = plan(with_disk(), state)
    assert told(found) == [("mend VM", "api", "live")]
    assert "disk" not in why(found, "api")
    assert lost(found) == []


def test_a_vm_that_stopped_above_its_snapshot_does_not_start_below_it_unasked() -> None:
    state = with_domain(snapshot(stands()), "shop.api", stopped)
    found = plan(with_disk(), state)
    assert told(found) == [("start VM", "api", "new")]
    assert lost(found) == ["api.data"]
    assert "/pool/vm.shop.api.data.one" in str(found.lost_data()[0])
    assert "virsh start shop.api" in str(found.lost_data()[0])
    twin = with_domain(stands(), "shop.api", stopped)
    assert lost(plan(with_disk(), twin)) == []


@pytest.mark.parametrize(("name", "more"), [("store", "was: api,"), ("api", "count: 1,")])
def test_a_vm_on_a_snapshot_does_not_get_another_name_unasked(name: str, more: str) -> None:
    found = plan(with_disk(name, more), snapshot(stands()))
    assert lost(found) == ["api.data"]
    assert f"virsh blockcommit shop.api vdb --base /pool/{DATA}" in str(found.lost_data()[0])
    assert lost(plan(with_disk(name, more), stands())) == []


def test_a_vm_on_a_snapshot_that_the_file_drops_loses_its_disk_once() -> None:
    assert lost(plan(with_disk("store", disks="logs: 1G"), snapshot(stands()))) == ["api.data"]


@pytest.mark.parametrize(
    ("old", "new", "target", "told_as"),
    [
        ("data: 1G", "cache: 1G, data: 1G", "vdb", "api.data"),
        ("data: 1G, logs: 1G", "logs: 1G", "vdc", "api.logs"),
        ("data: 1G, logs: 1G", "data: 1G", "vdc", "api.logs"),
    ],
    ids=["one before it", "one before it less", "itself less"],
)
@pytest.mark.parametrize("runs", [True, False])
def test_a_snapshot_is_found_also_where_the_file_has_other_disks(
    old: str, new: str, target: str, told_as: str, runs: bool
) -> None:
    before = standing(with_disk(disks=old))
    wanted = in_standing_order(with_disk(disks=new), with_disk(disks=old))
    over = f"vm.shop.{told_as}.one"
    state = snapshot(before, target, over)
    state = state if runs else with_domain(state, "shop.api", stopped)
    assert lost(plan(wanted, state)) == [told_as]
    assert lost(plan(wanted, before)) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [("data: 1G", "cache: 1G, data: 1G"), ("data: 1G, logs: 1G", "logs: 1G")],
)
def test_a_run_that_was_killed_before_it_moved_a_disk_leaves_no_snapshot(
    old: str, new: str
) -> None:
    """The manifest says already where the disks are to be."""
    before, wanted = standing(with_disk(disks=old)), with_disk(disks=new)
    assert before.manifest
    claim = manifest_of(wanted).claimed("lock", before.manifest, 1, ["api"])
    killed = replace(before, manifest=claim)
    found = plan(wanted, killed)
    assert ("restart VM", "api", "restart") in told(found)
    assert lost(found) == []
    over = snapshot(killed, "vdb")
    assert lost(plan(wanted, over)) == ["api.data"], "its base says which disk it is"
    without_base = with_domain(over, "shop.api", stopped)
    assert lost(plan(wanted, without_base)) == ["api.vdb"], "nobody knows which disk it was"


def larger(memory: str = "memory: 512M,") -> Design:
    return with_disk(memory=memory)


@pytest.mark.parametrize("source", ["", "/dev/vg/api", f"/mnt/large/{DATA}"])
def test_a_disk_that_somebody_moved_elsewhere_is_not_left_there_unasked(source: str) -> None:
    def moved(domain: DomainState) -> DomainState:
        return replace(domain, sources={**domain.sources, "vdb": (source,)})

    found = plan(larger(), with_domain(stands(), "shop.api", moved))
    assert lost(found) == ["api.data"]
    assert source in str(found.lost_data()[0])
    assert f"would write to '{DATA}' again" in str(found.lost_data()[0])
    assert lost(plan(larger(), stands())) == []


def test_snapshots_that_libvirt_knows_are_named_before_they_go_with_their_domain() -> None:
    state = with_domain(stands(), "shop.api", lambda domain: replace(domain, snapshots=True))
    anew = design_of_text(FILE.replace("echo one", "echo two"))
    assert lost(plan(with_disk("store", "was: api,"), state)) == ["api (snapshots)"]
    assert lost(plan(anew, state)) == ["api (snapshots)"]
    assert lost(plan(anew, stands())) == []
    assert lost(plan(larger(), state)) == [], "a domain that is defined again keeps them"


def test_a_disk_that_somebody_attached_is_taken_off_and_not_lost() -> None:
    def attached(domain: DomainState) -> DomainState:
        return replace(domain, sources={**domain.sources, "vdx": ("/srv/backup.qcow2",), "sda": ()})

    assert lost(plan(larger(), with_domain(stands(), "shop.api", attached))) == []


SNAP = "vm.shop.api.snap.qcow2"


def copied(state: VappState, name: str) -> VappState:
    """The state after `virsh blockcopy --pivot` of the data disk into a file of that name."""
    found = with_domain(
        state,
        "shop.api",
        lambda domain: replace(domain, sources={**domain.sources, "vdb": (f"/pool/{name}",)}),
    )
    return replace(found, volumes=(found.volumes or frozenset()) | {name})


@pytest.mark.parametrize("make", [snapshot, lambda state, _target, name: copied(state, name)])
@pytest.mark.parametrize("runs", [True, False])
def test_a_snapshot_or_copy_with_the_name_of_a_data_disk_is_one(
    make: Callable[[VappState, str, str], VappState], runs: bool
) -> None:
    state = make(stands(), "vdb", SNAP)
    state = state if runs else with_domain(state, "shop.api", stopped)
    found = plan(larger(), state)
    assert lost(found) == ["api.data"]
    assert SNAP in str(found.lost_data()[0])
    assert found.notes == (), "nobody is told that the file is of no use"
    assert lost(plan(larger(), stands())) == []
    (problem, *_) = _problems(make(stands(), "vdb", SNAP), with_disk(), Phase.READY)
    assert "data is lost when 'api' is started again: api.data" in problem


def test_a_copy_does_not_hide_behind_another_disk_of_its_vm() -> None:
    disks = "data: 1G, logs: 1G"
    state = standing(with_disk(disks=disks))

    def detached(domain: DomainState) -> DomainState:
        return replace(domain, sources={**domain.sources, "vdb": (f"/pool/{LOGS}",), "vdc": ()})

    wanted = with_disk(disks=disks, memory="memory: 512M,")
    assert lost(plan(wanted, with_domain(state, "shop.api", detached))) == ["api.data"]
    assert lost(plan(wanted, state)) == []


@pytest.mark.parametrize("name", [SNAP, "vm.shop.gone.data.qcow2"])
def test_a_snapshot_of_the_root_disk_with_the_name_of_a_data_disk_is_one(name: str) -> None:
    found = plan(larger(), snapshot(stands(), "vda", name))
    assert lost(found) == ["api"]
    assert "virsh blockcommit shop.api vda --base /pool/root.shop.api.qcow2" in str(
        found.lost_data()[0]
    )
    assert found.notes == ()


def test_the_base_of_two_snapshots_is_the_disk_below_both() -> None:
    found = plan(
        larger(), snapshot(snapshot(stands(), over=SNAP), over=SNAP.replace("snap", "two"))
    )
    assert f"--base /pool/{DATA}" in str(found.lost_data()[0])


def test_a_snapshot_is_none_of_the_disks_that_the_file_adds() -> None:
    state = snapshot(stands(), over=SNAP)
    assert lost(plan(with_disk(disks="data: 1G, snap: 1G"), state)) == ["api.data"]
    assert lost(plan(with_disk(disks="data: 1G, snap: 1G"), stands())) == []


def test_a_killed_run_does_not_hide_a_copy_with_the_name_of_a_data_disk() -> None:
    wanted, before = larger(), stands()
    claim = manifest_of(wanted).claimed("lock", before.manifest, 1, ["api"])
    killed = replace(before, manifest=claim)
    assert lost(plan(wanted, copied(killed, SNAP))) == ["api.vdb"]
    assert lost(plan(wanted, snapshot(killed, over=SNAP))) == ["api.data"]
    assert lost(plan(wanted, killed)) == []


def test_a_disk_that_the_file_drops_is_named_as_staying() -> None:
    (note,) = plan(with_disk(disks="cache: 1G"), stands()).notes
    assert DATA in note
    assert "stays on the host" in note


@pytest.mark.parametrize("kind", ["recipe", "of the user's own"])
def test_a_vm_that_a_snapshot_brought_back_gets_all_that_it_should_have(kind: str) -> None:
    """It has the token of then, and with it old files, an old password and an old clock."""
    own = FILE.replace(
        "image: nginx, zone: app",
        "image: {url: 'https://images.example/a.qcow2', sha256: '" + "0" * 64 + "'}, zone: app",
    )
    wanted = design("", "", FILE if kind == "recipe" else own)
    stands = standing(wanted)
    state = with_domain(stands, "shop.api", lambda domain: replace(domain, brought_back=True))
    changes = plan(wanted, state)
    if kind == "recipe":
        assert told(changes) == [("start VM", "api", "new")]
    else:
        assert told(changes) == [("restart VM", "api", "restart")], "cloud-init looks at boot only"
    assert why(changes, "api").startswith("somebody reverted it to a snapshot")
    assert plan(wanted, stands).steps == ()
    (problem,) = _problems(state, wanted, Phase.READY)
    assert "reverted it to a snapshot" in problem
