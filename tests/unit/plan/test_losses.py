"""Which changes only take something away, and which ones lose data: those are refused, or named so
that a person can agree to them.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.standing import manifest_of, standing, with_domain, without_domain
from tests.unit.plan.test_diff import FILE, STANDING, design, plan, told, why
from tests.vapps import design_of_text
from vcloud.apply.down import _out_of_sight
from vcloud.design.model import Design
from vcloud.design.names import unfinished_copy
from vcloud.errors import SmallerDiskError, VcloudError
from vcloud.marks import NO_VM
from vcloud.plan.diff import plan_changes
from vcloud.plan.facts import NO_FACTS
from vcloud.plan.losses import of_down, refuse_unnamed
from vcloud.plan.manifest import Phase
from vcloud.plan.reasons import flow_changes
from vcloud.plan.state import VappState
from vcloud.plan.steps import Plan, Verb
from vcloud.views.status import _problems, libvirt_status

ORDERS = "  - {id: orders, from: web, to: api, service: tcp/8000, why: the API}\n"


@pytest.mark.parametrize(
    ("new", "only"),
    [
        ("", True),
        (ORDERS, False),
        (ORDERS.replace("orders", "prices"), False),
        (ORDERS.replace("8000", "8001"), False),
    ],
    ids=["revoked", "nothing", "renamed", "changed"],
)
def test_rules_only_revoke_where_nothing_is_allowed_or_changed(new: str, only: bool) -> None:
    assert flow_changes(design(ORDERS, new), STANDING.manifest).only_revokes == only


def test_a_disk_may_grow_and_not_shrink() -> None:
    def sized(size: str) -> Design:
        return design("zone: app,", f"zone: app, disks: {{data: {size}}},")

    state = standing(sized("2G"))
    assert told(plan(sized("3G"), state)) == [("restart VM", "api", "restart")]
    with pytest.raises(SmallerDiskError, match="'data' of 'api' has 2048 MiB") as refused:
        plan(sized("1G"), state)
    assert refused.value.exit == 6
    assert refused.value.hint


def test_a_disk_that_somebody_made_larger_is_told_before_a_vm_is_stopped_for_it() -> None:
    state = replace(stands(), sizes={"vm.shop.api.data.qcow2": 3 << 30})
    for wanted in (with_disk(), with_disk(memory="memory: 512M,")):
        with pytest.raises(SmallerDiskError, match="'data' of 'api' has 3072 MiB") as refused:
            plan(wanted, state)
        assert "Write 3072M" in refused.value.hint
    (problem,) = _problems(state, with_disk(), Phase.READY)
    assert "the disk 'data' of 'api' larger" in problem
    assert told(plan(with_disk(disks="data: 3G"), state)) == [("restart VM", "api", "restart")]
    same = replace(stands(), sizes={"vm.shop.api.data.qcow2": 1 << 30})
    assert plan(with_disk(), same).steps == ()
    assert _problems(same, with_disk(), Phase.READY) == []
    smaller = replace(stands(), sizes={"vm.shop.api.data.qcow2": 1 << 29})
    with pytest.raises(SmallerDiskError):
        plan(with_disk(disks="data: 600M"), smaller)


def test_losses_are_what_is_made_anew_or_removed() -> None:
    assert plan(design("count: 2, memory: 256M", "count: 1, memory: 512M"), STANDING).losses() == {
        "shop.web-2"
    }
    assert plan(design("echo one", "echo two"), STANDING).losses() == {"api"}
    assert plan(design("memory: 256M", "memory: 512M"), STANDING).losses() == set()


# Data disks

API = "  api: {image: nginx, zone: app,"


def with_disk(
    name: str = "api", more: str = "", disks: str = "data: 1G", memory: str = ""
) -> Design:
    """The vApp, whose API has a data disk."""
    entry = f"  {name}: {{image: nginx, zone: app, {more} {memory} disks: {{{disks}}},"
    text = FILE.replace(API, entry)
    return design_of_text(text.replace("to: api", f"to: {name}"))


def stands() -> VappState:
    return standing(with_disk())


def without_volumes(state: VappState, *names: str) -> VappState:
    return replace(state, volumes=(state.volumes or frozenset()) - {*names})


def applying(state: VappState) -> VappState:
    assert state.manifest
    return replace(state, manifest=replace(state.manifest, phase=Phase.APPLYING))


def lost(plan: Plan) -> list[str]:
    return [loss.what for loss in plan.lost_data()]


def test_a_vm_that_the_file_drops_loses_its_data_disk_and_the_plan_says_so() -> None:
    other = with_disk("store", disks="logs: 1G")
    found = plan(other, stands())
    assert lost(found) == ["api.data"]
    assert [step.loses for step in found.steps if step.loses] == [found.lost_data()]
    assert "deleted" in str(found.lost_data()[0])


@pytest.mark.parametrize(
    ("old", "new", "more"),
    [
        ("api", "store", "was: api,"),
        ("api", "api", "count: 1,"),
        ("api", "api", "count: 2,"),
        ("api", "store", "count: 2, was: api,"),
    ],
)
def test_a_vm_with_another_name_keeps_its_data_disk(old: str, new: str, more: str) -> None:
    found = plan(with_disk(new, more), stands())
    assert lost(found) == []
    heir = f"{new}-1" if "count" in more else new
    assert ("remove VM", f"shop.{old}", "remove") in told(found)
    assert ("make VM", heir, "new") in told(found)
    assert why(found, f"shop.{old}") == f"it is '{heir}' now, which gets its data disks"


def test_the_way_back_from_a_count_keeps_the_disk_of_the_first_vm() -> None:
    state = standing(with_disk("api", "count: 2,"))
    found = plan(with_disk(), state)
    assert lost(found) == ["api-2.data"]
    assert why(found, "shop.api-1").startswith("it is 'api' now")


def test_a_disk_that_the_new_name_does_not_have_is_lost() -> None:
    assert lost(plan(with_disk("store", "was: api,", disks="other: 1G"), stands())) == ["api.data"]


def test_a_blank_disk_is_no_loss() -> None:
    state = with_domain(
        stands(), "shop.api", lambda vm: replace(vm, marks=vm.marks.with_blank(["data"]))
    )
    assert lost(plan(with_disk("store"), state)) == []


def test_a_vm_does_not_get_a_disk_that_would_replace_its_own() -> None:
    state, wanted = stands(), with_disk("store", "was: api,")
    taken = "vm.shop.store.data.qcow2"
    both = replace(state, volumes=(state.volumes or frozenset()) | {taken})
    with pytest.raises(VcloudError, match="exists already") as refused:
        plan(wanted, both)
    assert taken in refused.value.hint
    unfinished = replace(
        both,
        volumes=(both.volumes or frozenset()) | {unfinished_copy(taken, "vm.shop.api.data.qcow2")},
    )
    assert lost(plan(wanted, unfinished)) == [], "an interrupted copy is made again"


def test_a_disk_whose_file_is_gone_is_named_before_an_empty_one_takes_its_place() -> None:
    state = without_volumes(stands(), "vm.shop.api.data.qcow2")
    assert plan(with_disk(), state).steps == (), "the running VM still has it"
    restarted = plan(with_disk(memory="memory: 512M,"), state)
    assert told(restarted) == [("restart VM", "api", "restart")]
    assert lost(restarted) == ["api.data"]
    assert "gone" in str(restarted.lost_data()[0])
    stopped = with_domain(state, "shop.api", lambda vm: replace(vm, running=False))
    assert lost(plan(with_disk(), stopped)) == ["api.data"]
    undefined = without_volumes(without_domain(state, "shop.api"), "root.shop.api.qcow2")
    assert lost(plan(with_disk(), undefined)) == ["api.data"]
    killed = applying(undefined)
    assert lost(plan(with_disk(), killed)) == ["api.data"], "it was connected once"
    assert killed.manifest
    never = replace(killed, manifest=replace(killed.manifest, connected=()))
    assert lost(plan(with_disk(), never)) == [], "a first run was killed before it made the disk"
    unknown = replace(stopped, volumes=None)
    assert lost(plan(with_disk(), unknown)) == [], "nobody can tell while the pool is not active"


def test_a_root_disk_whose_file_is_gone_is_made_anew_and_named() -> None:
    root = "root.shop.api.qcow2"
    state = without_volumes(stands(), root)
    assert plan(with_disk(), state).steps == (), "the running VM still has it"
    (problem,) = _problems(state, with_disk(), Phase.READY)
    assert f"data is lost when 'api' is started again: api: its file '{root}' is gone" in problem
    stopped = with_domain(state, "shop.api", lambda vm: replace(vm, running=False))
    for found in (plan(with_disk(memory="memory: 512M,"), state), plan(with_disk(), stopped)):
        assert told(found) == [("make VM anew", "api", "recreate")]
        assert lost(found) == ["api"]
    there = with_domain(stands(), "shop.api", lambda vm: replace(vm, running=False))
    assert told(plan(with_disk(), there)) == [("start VM", "api", "new")]
    assert lost(plan(with_disk(), there)) == []
    appliance = with_domain(
        without_volumes(stands(), "root.shop.firewall.qcow2"),
        "shop.firewall",
        lambda vm: replace(vm, running=False),
    )
    found = plan(with_disk(), appliance)
    assert ("make VM anew", "firewall", "recreate") in told(found)
    assert lost(found) == [], "an appliance has nothing that vcloud did not give it"


def test_a_root_disk_whose_domain_somebody_removed_is_named_before_it_is_made_anew() -> None:
    state = without_domain(stands(), "shop.api")
    found = plan(with_disk(), state)
    assert told(found) == [("make VM", "api", "new")]
    assert lost(found) == ["api"]
    assert "'root.shop.api.qcow2' is made anew" in str(found.lost_data()[0])
    assert lost(plan(with_disk(), replace(state, manifest=None))) == ["api"]
    assert state.manifest
    claim = state.manifest.claimed("lock", state.manifest, 1, {"api"}, {"api"})
    killed = replace(state, manifest=claim)
    assert lost(plan(with_disk(), killed)) == [], "what a killed run began to make anew"
    assert lost(plan(with_disk(), without_domain(stands(), "shop.firewall"))) == []


def saved(state: VappState) -> VappState:
    """The state that `vcloud save` leaves."""
    assert state.manifest
    return replace(
        state,
        domains=tuple(
            replace(vm, running=False, saved=True, live=NO_FACTS, token="") for vm in state.domains
        ),
        manifest=state.manifest.saved("lock of save"),
    )


def test_a_root_disk_whose_saved_domain_somebody_removed_is_named_before_it_is_made_anew() -> None:
    """`virsh undefine --managed-save` after `vcloud save`: the tokens of `up` are gone by then."""
    state = without_domain(saved(stands()), "shop.api")
    assert lost(plan(with_disk(), state)) == ["api"]
    assert state.manifest
    claim = state.manifest.claimed("lock", state.manifest, 1)
    assert lost(plan(with_disk(), replace(state, manifest=claim))) == ["api"]
    new = manifest_of(with_disk()).claimed("lock", None, 1)
    first = replace(state, domains=(), manifest=new)
    assert lost(plan(with_disk(), first)) == [], "a killed first run has left it"


def test_a_vm_that_an_earlier_release_connected_keeps_its_root_disk_unless_named() -> None:
    """Releases without tokens noted libvirt's ids."""
    state = without_domain(applying(stands()), "shop.api")
    assert state.manifest
    by_ids = replace(state.manifest, connected=(), ids=(("api", 4),))
    assert lost(plan(with_disk(), replace(state, manifest=by_ids))) == ["api"]
    other = replace(by_ids, ids=(("web-1", 2),))
    assert lost(plan(with_disk(), replace(state, manifest=other))) == []


def test_a_saved_vapp_counts_as_not_connected() -> None:
    state = saved(stands())
    runs = replace(state, domains=stands().domains)
    assert not any(runs.connected(vm) for vm in with_disk().vms)
    assert all(stands().connected(vm) for vm in with_disk().vms)
    assert state.manifest
    assert state.manifest.saved("another") == replace(state.manifest, lock="another")


def test_saved_memory_is_named_before_it_is_given_up() -> None:
    state = saved(stands())
    assert lost(plan(with_disk(), state)) == []
    for wanted in (with_disk(memory="memory: 512M,"), with_disk("store", "was: api,")):
        found = plan(wanted, state)
        assert lost(found) == ["api (saved memory)"]
        assert lost(plan(wanted, stands())) == []
    cold = plan_changes(manifest_of(with_disk()), state, "h1", cold=True)
    assert {step.verb for step in cold.steps} == {Verb.RESTART_VM, Verb.LOAD_FIREWALL}
    assert lost(cold) == [f"{vm} (saved memory)" for vm in ("firewall", "web-1", "web-2", "api")]
    assert plan_changes(manifest_of(with_disk()), stands(), "h1", cold=True).steps == ()


def test_a_saved_vm_whose_disk_is_gone_is_not_called_restorable() -> None:
    for volume in ("vm.shop.api.data.qcow2", "root.shop.api.qcow2"):
        state = without_volumes(saved(stands()), volume)
        (problem,) = _problems(state, with_disk(), Phase.READY)
        assert "the memory of 'api' is saved" in problem
        assert f"'{volume}' is gone" in problem
        assert "restores them" not in libvirt_status(state, "h1").summary
    data = without_volumes(saved(stands()), "vm.shop.api.data.qcow2")
    (note,) = plan(with_disk(), data).notes
    assert "'vm.shop.api.data.qcow2' is gone" in note
    assert _problems(saved(stands()), with_disk(), Phase.READY) == []
    assert "restores them" in libvirt_status(saved(stands()), "h1").summary
    assert plan(with_disk(), saved(stands())).notes == ()


def test_a_plan_names_what_is_lost_later_although_nothing_is_to_be_done_now() -> None:
    """The running VM has its disk open."""
    state = without_volumes(stands(), "vm.shop.api.data.qcow2")
    found = plan(with_disk(), state)
    assert found.steps == ()
    (note,) = found.notes
    assert "data is lost when 'api' is started again: api.data: its file" in note
    assert plan(with_disk(memory="memory: 512M,"), state).notes == (), "the step names it"
    assert plan(with_disk(), stands()).notes == ()


def test_down_says_which_data_it_deletes() -> None:
    state = stands()
    volumes = state.volumes or frozenset()
    assert [loss.what for loss in of_down("shop", volumes, state)] == ["api.data"]
    kept = of_down("shop", volumes - {"vm.shop.api.data.qcow2"}, saved(state))
    assert [loss.what for loss in kept] == [
        f"{vm} (saved memory)" for vm in ("firewall", "web-1", "web-2", "api")
    ]


def test_down_names_a_disk_whose_file_is_out_of_sight() -> None:
    """The file system of the pool's folder is not mounted, so the folder is empty."""
    state = stands()
    (told,) = _out_of_sight(state.domains, (), "/pool")
    assert "the data disk '/pool/vm.shop.api.data.qcow2', which was not there" in told
    assert list(_out_of_sight(state.domains, state.volumes or (), "/pool")) == []
    assert list(_out_of_sight(state.domains, (), "/other")) == [], "the pool's folder is another"


def test_down_also_names_snapshots_and_what_nobody_can_tell() -> None:
    state = stands()
    (unknown,) = of_down("shop", None, state)
    assert "vcloud cannot tell which disks are deleted" in str(unknown)
    assert "virsh pool-start vcloud" in str(unknown)
    taken = with_domain(state, "shop.api", lambda domain: replace(domain, snapshots=True))
    names = ["vm.shop.api.data.qcow2", "vm.shop.api.data.one", "console.shop.api.log"]
    assert [loss.what for loss in of_down("shop", names, taken)] == [
        "'vm.shop.api.data.one'",
        "api.data",
        "api (snapshots)",
    ]


def test_down_deletes_no_more_than_was_named() -> None:
    state, data, more = stands(), "vm.shop.api.data.qcow2", "vm.shop.web-1.data.qcow2"
    shown = tuple(of_down("shop", [data], state))
    refuse_unnamed("shop", shown, shown)
    refuse_unnamed("shop", (), shown)
    for now in (of_down("shop", [data, more], state), of_down("shop", [data], saved(state))):
        with pytest.raises(VcloudError, match="more data would be lost: ") as refused:
            refuse_unnamed("shop", now, shown)
        assert "api.data" not in refused.value.what
        assert "Nothing was deleted" in refused.value.hint
    refuse_unnamed("shop", of_down("shop", [data, more], state), [*of_down("shop", None, state)])


def test_a_vm_whose_disks_nobody_can_tell_is_not_removed_in_silence() -> None:
    unknown = replace(stands(), volumes=None, folder="")
    found = plan(with_disk("store"), unknown)
    assert lost(found) == ["api.data", "api (data disks)"]
    assert "virsh pool-start vcloud" in str(found.lost_data()[1])
    assert lost(plan(with_disk("store", "was: api,"), unknown)) == ["api (data disks)"]


def test_what_has_a_name_like_a_disk_is_none() -> None:
    copies = {"vm.shop.api.data.qcow2.bak", "vm.shop.api.data.before-upgrade"}
    state = replace(stands(), volumes=(stands().volumes or frozenset()) | copies)
    assert lost(plan(with_disk("store"), state)) == ["api.data"]
    assert lost(plan(with_disk("store", "was: api,"), state)) == []


def test_a_disk_that_is_new_in_the_file_is_no_loss() -> None:
    found = plan(with_disk(disks="data: 1G, logs: 1G"), stands())
    assert told(found) == [("restart VM", "api", "restart")]
    assert lost(found) == []
    first = plan(with_disk(), replace(stands(), manifest=None, domains=(), volumes=frozenset()))
    assert lost(first) == []


@pytest.mark.parametrize(("target", "disk"), [("vdb", "api.data"), ("vda", "api")])
def test_a_disk_below_a_snapshot_is_named_before_the_vm_goes_back_to_it(
    target: str, disk: str
) -> None:
    state = with_domain(
        stands(),
        "shop.api",
        lambda vm: replace(
            vm, sources={**vm.sources, target: ("/pool/api.one", *vm.sources[target])}
        ),
    )
    assert plan(with_disk(), state).steps == ()
    restarted = plan(with_disk(memory="memory: 512M,"), state)
    assert lost(restarted) == [disk]
    (base,) = stands().domain("shop.api").sources[target]  # type: ignore[union-attr]
    command = f"virsh blockcommit shop.api {target} --base {base} --active --pivot"
    assert command in str(restarted.lost_data()[0])


def test_disks_in_another_order_are_no_snapshots() -> None:
    state = standing(with_disk(disks="data: 1G, logs: 1G"))
    found = plan(with_disk(disks="logs: 1G, data: 1G"), state)
    assert told(found) == [("restart VM", "api", "restart")]
    assert lost(found) == []


def test_a_missing_mark_deletes_no_data_disk() -> None:
    state = with_domain(stands(), "shop.api", lambda vm: replace(vm, marks=NO_VM))
    settled = plan(with_disk(), state)
    assert told(settled) == [("configure VM", "api", "live")]
    assert state.manifest
    killed = replace(state, manifest=replace(state.manifest, phase=Phase.APPLYING))
    found = plan(with_disk(), killed)
    assert ("make VM anew", "api", "recreate") in told(found)
    assert why(found, "api").endswith("its data disks are kept")
    assert lost(found) == []
