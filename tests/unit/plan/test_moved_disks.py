"""A VM that gets another name gets its data disks, whatever happened on the way: a run that was
killed or failed, an edit that was undone, a domain that somebody removed. Where vcloud cannot tell
which disk is right, it says what stands and deletes nothing.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.standing import manifest_of, standing, with_domain, without_domain
from tests.unit.plan.test_diff import EMPTY, plan, told, why
from tests.unit.plan.test_losses import lost, stands, with_disk
from tests.vapps import design_of_text
from vcloud.design.model import Design
from vcloud.design.names import data_volume, domain_uuid, unfinished_copy
from vcloud.errors import SmallerDiskError, VcloudError
from vcloud.plan.disks import heirs, moves
from vcloud.plan.state import VappState

API, STORE, VAULT = (data_volume("shop", vm, "data") for vm in ("api", "store", "vault"))
RENAMED = with_disk("store", "was: api,")
UNFINISHED = unfinished_copy(STORE, API)


def has(state: VappState, *volumes: str, without: str = "\0") -> VappState:
    kept = {name for name in state.volumes or () if without not in name}
    return replace(state, volumes=frozenset({*kept, *volumes}))


def claimed(state: VappState, wanted: Design) -> VappState:
    """A run has begun to make what is wanted."""
    claim = manifest_of(wanted).claimed("lock", state.manifest, 1, ["store"])
    return replace(state, manifest=claim)


def after_a_failed_rename() -> VappState:
    """The disk has moved, the domain is gone, and the run ended before `store` was made."""
    state = claimed(without_domain(stands(), "shop.api"), RENAMED)
    return has(state, STORE, without=".api.")


def test_a_rename_to_a_smaller_disk_is_refused_before_anything_moves() -> None:
    with pytest.raises(SmallerDiskError, match="'data' of 'store' has 1024 MiB"):
        plan(with_disk("store", "was: api,", disks="data: 512M"), stands())
    assert lost(plan(with_disk("store", "was: api,", disks="data: 2G"), stands())) == []


def test_a_disk_that_comes_back_smaller_than_its_volume_is_refused() -> None:
    state = standing(with_disk(disks="logs: 1G"))
    state = replace(has(state, API), sizes={API: 2 << 30})
    with pytest.raises(SmallerDiskError, match="'data' of 'api' has 2048 MiB"):
        plan(with_disk(disks="logs: 1G, data: 1G"), state)
    again = plan(with_disk(disks="logs: 1G, data: 2G"), state)
    assert told(again) == [("restart VM", "api", "restart")]
    moved = replace(without_domain(stands(), "shop.api"), manifest=None, sizes={API: 2 << 30})
    with pytest.raises(SmallerDiskError, match="'data' of 'store' has 2048 MiB"):
        plan(RENAMED, moved)


def test_an_undone_rename_says_where_the_disk_is_and_gets_it_back() -> None:
    state = after_a_failed_rename()
    undone = plan(with_disk(), state)
    assert ("make VM", "api", "new") in told(undone)
    assert lost(undone) == ["api.data"]
    assert STORE in str(undone.lost_data()[0])
    assert "`was: store` in the entry of 'api'" in str(undone.lost_data()[0])
    back = plan(with_disk(more="was: store,"), state)
    assert lost(back) == []
    assert why(back, "shop.store") == "it is 'api' now, which gets its data disks"
    assert moves(with_disk(more="was: store,"), state) == {API: STORE}
    on = plan(RENAMED, state)
    assert lost(on) == [], "the same file goes on where the run ended"
    assert ("make VM", "store", "new") in told(on)


@pytest.mark.parametrize("stands_still", [True, False])
def test_another_name_after_a_killed_rename_says_where_the_disk_is(stands_still: bool) -> None:
    killed = with_domain(stands(), "shop.api", lambda vm: replace(vm, running=False))
    killed = has(claimed(killed, RENAMED), STORE, without=API)
    state = killed if stands_still else after_a_failed_rename()
    wrong = plan(with_disk("vault", "was: api,"), state)
    assert lost(wrong) == ["vault.data"]
    assert "`was: store` in the entry of 'vault'" in str(wrong.lost_data()[0])
    right = with_disk("vault", "was: store,")
    assert lost(plan(right, state)) == []
    assert moves(right, state) == {VAULT: STORE}


def test_a_stopped_vm_whose_disk_moved_away_gets_it_back() -> None:
    killed = with_domain(stands(), "shop.api", lambda vm: replace(vm, running=False))
    killed = has(claimed(killed, RENAMED), STORE, without=API)
    undone = plan(with_disk(), killed)
    assert lost(undone) == ["api.data"]
    assert "gone from the host" in str(undone.lost_data()[0])
    assert "`was: store`" in str(undone.lost_data()[0])
    assert lost(plan(with_disk(more="was: store,"), killed)) == []
    runs = has(claimed(stands(), RENAMED), STORE, without=API)
    assert heirs(with_disk(more="was: store,"), runs) == {}, "a running VM has its disk still"


def test_a_domain_that_somebody_removed_does_not_keep_its_disk_from_the_new_name() -> None:
    state = without_domain(stands(), "shop.api")
    found = plan(RENAMED, state)
    assert lost(found) == []
    assert ("remove VM", "shop.api", "remove") in told(found)
    assert moves(RENAMED, state) == {STORE: API}


def test_a_domain_that_somebody_renamed_is_found_by_the_name_that_the_vm_had() -> None:
    state = replace(
        without_domain(stands(), "shop.api"), others={domain_uuid("shop", "api"): "old-api"}
    )
    with pytest.raises(VcloudError, match="the domain of 'api' is called 'old-api'") as refused:
        plan(RENAMED, state)
    assert "virsh domrename old-api shop.api" in refused.value.hint
    done = replace(standing(RENAMED), others=state.others)
    assert plan(RENAMED, done).steps == (), "a VM that stands needs no other domain"


def test_of_two_disks_neither_is_called_the_one_to_delete() -> None:
    with pytest.raises(VcloudError, match="vcloud cannot tell which one is right") as refused:
        plan(RENAMED, has(stands(), STORE))
    hint = refused.value.hint
    assert hint.index("vol-clone") < hint.index("vol-delete")
    assert f"Without `was` in the file, '{STORE}' is used" in hint
    assert lost(plan(with_disk("store"), has(stands(), STORE))) == ["api.data"]


def test_a_disk_of_a_vm_that_is_gone_is_named_and_stays() -> None:
    noted = plan(with_disk(memory="memory: 512M,"), has(stands(), STORE))
    assert lost(noted) == []
    assert [STORE in note for note in noted.notes] == [True]
    assert plan(with_disk(memory="memory: 512M,"), stands()).notes == ()
    renamed = plan(with_disk(disks="logs: 1G"), stands())
    assert [API in note for note in renamed.notes] == [True], "a disk that the file drops"


def test_a_new_vm_that_finds_no_disk_of_its_name_is_simply_made() -> None:
    first = plan(with_disk(), replace(EMPTY, volumes=frozenset()))
    assert lost(first) == []
    other = has(replace(EMPTY, volumes=frozenset()), data_volume("shop", "old", "other"))
    assert lost(plan(with_disk(), other)) == [], "a disk of another name is no candidate"


def test_an_unfinished_copy_is_no_disk_and_a_whole_one_is() -> None:
    killed = has(claimed(stands(), RENAMED), STORE, UNFINISHED)
    assert lost(plan(RENAMED, killed)) == [], "it is made again"
    assert plan(with_disk(), killed).notes == (), "it holds nobody's data"
    whole = has(after_a_failed_rename(), UNFINISHED)
    assert lost(plan(with_disk(), whole)) == ["api.data"], "its original is gone"
    assert moves(with_disk(more="was: store,"), whole) == {API: STORE}


COUNTED = """\
vcloud: 1
name: shop
zones: {app: {}}
vms:
  api: {image: nginx, zone: app, count: 1, disks: {data: 1G}}
"""
ENTRIES = (
    "  api: {image: nginx, zone: app, disks: {data: 1G}}\n",
    "  store: {image: nginx, zone: app, was: api-1, disks: {data: 1G}}\n",
)


@pytest.mark.parametrize("entries", [ENTRIES, ENTRIES[::-1]])
def test_what_a_was_says_counts_more_than_a_lost_count_in_any_order(
    entries: tuple[str, str],
) -> None:
    head, state = COUNTED[: COUNTED.index("  api:")], standing(design_of_text(COUNTED))
    both = design_of_text(head + "".join(entries))
    assert {old: vm.name for old, vm in heirs(both, state).items()} == {"shop.api-1": "store"}
    alone = design_of_text(head + ENTRIES[0])
    assert {old: vm.name for old, vm in heirs(alone, state).items()} == {"shop.api-1": "api"}


def test_of_two_names_that_two_entries_may_have_had_the_written_one_counts() -> None:
    head, state = COUNTED[: COUNTED.index("  api:")], standing(design_of_text(COUNTED))
    first = ENTRIES[1].replace("store", "first").replace("api-1", "api")
    both = design_of_text(head + first + ENTRIES[1])
    assert {old: vm.name for old, vm in heirs(both, state).items()} == {"shop.api-1": "store"}
