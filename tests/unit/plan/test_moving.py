"""The move of a vApp to another host, as values: which copy counts, what is copied, and what is in the
way.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.standing import manifest_of, standing, with_domain, without_domain
from tests.vapps import shop
from vcloud.apply.up import refuse_any_loss
from vcloud.compile.artifacts import compile_vapp
from vcloud.design.names import root_volume
from vcloud.errors import RefusedError, UsageError, VcloudError
from vcloud.plan.copies import gives_way, newest_copy, refuse_unsaid
from vcloud.plan.diff import plan_changes
from vcloud.plan.formats import decoded, encoded
from vcloud.plan.manifest import Manifest, Move, Phase
from vcloud.plan.moving import (
    CopiedFile,
    MovePlan,
    addresses_outside,
    refuse_move,
    started_order,
    stop_order,
    volumes_to_copy,
    with_files_of,
)
from vcloud.plan.state import VappState
from vcloud.plan.steps import STARTED, Verb
from vcloud.views.render import UPLINK

DESIGN = shop()
STANDING = standing(DESIGN)
assert STANDING.manifest is not None
MANIFEST: Manifest = STANDING.manifest
MOVE = Move("0f0f", "h1", "h2")
SWITCHED = replace(MOVE, switched=True)


def copy(move: Move | None, generation: int = 5) -> Manifest:
    return replace(MANIFEST, move=move, generation=generation)


@pytest.mark.parametrize(
    ("copies", "newest"),
    [
        # One write of the source's manifest decides, whatever the destination says.
        ({"h1": copy(MOVE), "h2": copy(MOVE)}, "h1"),
        ({"h1": copy(SWITCHED), "h2": copy(MOVE)}, "h2"),
        ({"h1": copy(SWITCHED), "h2": copy(SWITCHED)}, "h2"),
        # Whichever has the higher generation.
        ({"h1": copy(MOVE, 4), "h2": copy(MOVE, 9)}, "h1"),
        ({"h1": copy(SWITCHED, 9), "h2": copy(MOVE, 4)}, "h2"),
        # Killed before the destination got its manifest, and after the source lost its own.
        ({"h1": copy(MOVE)}, "h1"),
        ({"h2": copy(SWITCHED)}, "h2"),
        # Nobody knows whether this copy is complete, and this one was left behind.
        ({"h2": copy(MOVE)}, None),
        ({"h1": copy(SWITCHED)}, None),
        # The source has begun another move since, to a third host.
        ({"h1": copy(replace(MOVE, id="1e1e", destination="h3")), "h2": copy(MOVE)}, "h1"),
    ],
)
def test_one_of_the_two_copies_of_a_move_counts(
    copies: dict[str, Manifest], newest: str | None
) -> None:
    assert newest_copy(copies) == newest
    assert [host for host in copies if not gives_way(host, copies)] == [newest] * bool(newest)


def test_both_copies_of_a_move_may_be_removed_and_others_not() -> None:
    refuse_unsaid("shop", "h1", copy(MOVE), ["h2"])
    refuse_unsaid("shop", "h2", copy(SWITCHED), ["h1"])
    with pytest.raises(UsageError, match="nobody has said"):
        refuse_unsaid("shop", "h1", copy(MOVE), ["h3"])
    with pytest.raises(UsageError, match="nobody has said"):
        refuse_unsaid("shop", "h1", copy(None), ["h2"])


def test_the_record_of_a_move_is_kept_by_later_runs_and_is_no_difference() -> None:
    move = replace(SWITCHED, volumes=(("vm.shop.db.data.qcow2", "ab"),), host_keys=(("db", "k"),))
    moving = copy(move)
    assert decoded(*encoded(moving)) == moving
    assert MANIFEST.claimed("lock", moving, 6).move == move
    assert MANIFEST.claimed("lock", None, 6).move is None
    assert moving.agrees_with(MANIFEST)


def test_a_run_without_the_file_finds_nothing_to_change() -> None:
    """The guests keep their files, so nothing that was made from them may look different."""
    seen = MANIFEST.design
    assert any(file.content.startswith(b"sha256:") for vm in seen.workloads for file in vm.files)
    artifacts = compile_vapp(seen, UPLINK, keeps_files=True)
    wanted = replace(
        manifest_of(seen), vms=tuple((vm.name, MANIFEST.digests_of(vm.name)) for vm in seen.vms)
    )
    wanted = with_files_of(wanted, MANIFEST)
    assert wanted.design == seen
    # Otherwise every digest of a secret would look different to the next `up` with the file.
    salted = with_files_of(replace(wanted, salt="new"), replace(MANIFEST, salt="old"))
    assert (wanted.salt, salted.salt) == (MANIFEST.salt, "old")
    assert wanted.vms == MANIFEST.vms
    assert plan_changes(wanted, STANDING, "h1").steps == ()
    for vm in seen.workloads:
        lines = artifacts.identities[vm.name]
        assert {line for line in lines if line.startswith("had ")} == {
            f"had {file.path}" for file in vm.files
        }
        assert not any(line.startswith(f"file {file.path} ") for file in vm.files for line in lines)
    # With the file, each of these lines has a content.
    whole = compile_vapp(DESIGN, UPLINK).identities["db"]
    assert any(line.startswith("file ") for line in whole)
    assert not any(line.startswith("had ") for line in whole)


def test_stopped_vms_of_a_moved_vapp_are_started_and_not_made_anew() -> None:
    stopped = replace(
        STANDING,
        manifest=replace(MANIFEST, phase=Phase.APPLYING, connected=(), move=SWITCHED),
        domains=tuple(replace(domain, running=False, token="") for domain in STANDING.domains),
        networks=(),
        filter_gone=True,
    )
    steps = plan_changes(MANIFEST, stopped, "h2").steps
    started = {step.subject: step.verb for step in steps if step.verb in STARTED}
    assert started.keys() == {vm.name for vm in DESIGN.vms}
    assert {*started.values()} <= {Verb.START_VM, Verb.RESTART_VM}
    assert not any(step.loses for step in steps)


def test_what_is_started_without_a_question_loses_no_data() -> None:
    """Somebody has saved a VM's memory, or put a snapshot over its disk, since it was looked at."""
    off = with_domain(STANDING, "shop.db", lambda one: replace(one, running=False, token=""))
    refuse_any_loss(plan_changes(MANIFEST, off, "h1", cold=True))
    saved = with_domain(off, "shop.db", lambda one: replace(one, saved=True))
    above = ("/pool/root.shop.db.snap", f"/pool/{root_volume('shop.db')}")
    snapshot = with_domain(
        off, "shop.db", lambda one: replace(one, sources={**one.sources, "vda": above})
    )
    gone = replace(off, volumes=WHOLE - {root_volume("shop.db")})
    for state, told in ((saved, "saved memory"), (snapshot, "root.shop.db.snap"), (gone, "gone")):
        with pytest.raises(VcloudError, match=told):
            refuse_any_loss(plan_changes(MANIFEST, state, "h1", cold=True))


def test_workloads_stop_before_the_appliances_and_before_those_that_they_start_after() -> None:
    running = {vm.domain for vm in DESIGN.vms}
    order = [vm.name for vm in stop_order(DESIGN, running)]
    assert {*order} == {vm.name for vm in DESIGN.vms}
    appliances = {vm.name for vm in DESIGN.appliances}
    assert {*order[-len(appliances) :]} == appliances
    for vm in DESIGN.workloads:
        for earlier in vm.after:
            assert order.index(vm.name) < order.index(earlier)
    assert [vm.name for vm in stop_order(DESIGN, {"shop.db"})] == ["db"]
    assert {*started_order(DESIGN)[: len(appliances)]} == appliances


def test_the_volumes_of_vms_are_copied_and_no_others() -> None:
    own = ["console.shop.db.log", "root.shop.db.qcow2", "seed.shop.x.iso", "vm.shop.db.data.qcow2"]
    others = ["wake.shop.db.save", "vm.shop.db.data.qcow2.kept", "root.shop.db.base"]
    assert volumes_to_copy([*others, *reversed(own)]) == tuple(own)


def with_state(**changes: object) -> VappState:
    return replace(STANDING, **changes)  # type: ignore[arg-type]


def with_disk(path: str) -> VappState:
    """Somebody has plugged a further disk into a VM."""
    return with_domain(
        STANDING, "shop.db", lambda one: replace(one, sources={**one.sources, "vdz": (path,)})
    )


WHOLE = STANDING.volumes or frozenset()


@pytest.mark.parametrize(
    ("state", "manifest", "told"),
    [
        (STANDING, replace(MANIFEST, phase=Phase.APPLYING), "has not ended"),
        (with_state(volumes=None), MANIFEST, "pool 'vcloud' is not active"),
        (with_domain(STANDING, "shop.db", lambda one: replace(one, saved=True)), MANIFEST, "saved"),
        (
            with_domain(STANDING, "shop.db", lambda one: replace(one, snapshots=True)),
            MANIFEST,
            "'db' has snapshots",
        ),
        (
            with_domain(
                STANDING,
                "shop.db",
                lambda one: replace(one, sources={**one.sources, "vdz": ("/srv/other.img",)}),
            ),
            MANIFEST,
            "/srv/other.img",
        ),
        (
            with_domain(STANDING, "shop.db", lambda one: replace(one, paused=True)),
            MANIFEST,
            "'db' is paused",
        ),
        (
            with_domain(STANDING, "shop.db", lambda one: replace(one, persistent=False)),
            MANIFEST,
            "removed the definition of 'db'",
        ),
        # They are called like disks of a VM, and no definition on the destination has them.
        *(
            (with_disk(path), MANIFEST, path)
            for path in ("/pool/vm.shop.db.more.qcow2", "/srv/root.shop.db.qcow2")
        ),
        (without_domain(STANDING, "shop.db"), MANIFEST, "'db' is not complete"),
        (with_state(volumes=WHOLE - {root_volume("shop.db")}), MANIFEST, "'db' is not complete"),
        (with_state(volumes=WHOLE | {"vm.shop.db.x.kept"}), MANIFEST, "vm.shop.db.x.kept"),
        (STANDING, replace(MANIFEST, images=()), "which build of its image"),
    ],
)
def test_what_a_move_cannot_take_along_is_refused_by_name(
    state: VappState, manifest: Manifest, told: str
) -> None:
    refuse_move(MANIFEST, STANDING, "h1")
    with pytest.raises(RefusedError) as caught:
        refuse_move(manifest, state, "h1")
    assert any(told in problem.what for problem in caught.value.problems)
    assert all(problem.hint for problem in caught.value.problems)


PLAN = MovePlan(
    "shop",
    "h1",
    "h2",
    ("web", "firewall"),
    (CopiedFile("root.shop.web.qcow2", 3 << 30),),
    (CopiedFile("image-base-ab.01234567.qcow2", 1 << 20),),
    ("firewall", "web"),
    (("198.18.0.9", "198.18.0.10"), ("none", "none")),
)


def test_a_person_is_told_what_a_move_costs_before_it_begins() -> None:
    told = PLAN.announced
    assert "'shop' is stopped for the move" in told
    assert "about 3.0 GiB are copied from h1 to h2" in told
    assert "its address outside changes from 198.18.0.9 to 198.18.0.10" in told
    assert "none to none" not in told
    rows = [(what, name, host) for what, name, host, _ in PLAN.rows()]
    assert rows == [
        ("copy image", "image-base-ab.01234567.qcow2", "h2"),
        ("stop VM", "web", "h1"),
        ("stop VM", "firewall", "h1"),
        ("copy volume", "root.shop.web.qcow2", "h2"),
        ("switch", "shop", "h1"),
        ("start VM", "firewall", "h2"),
        ("start VM", "web", "h2"),
        ("delete volume", "root.shop.web.qcow2", "h1"),
    ]


def test_a_move_that_deletes_or_stops_more_than_was_shown_was_not_agreed_to() -> None:
    assert PLAN.agrees_with(PLAN)
    assert replace(PLAN, stopped=("web",)).agrees_with(PLAN)
    assert PLAN.is_agreed_to_as(replace(PLAN, stopped=()))
    more = (*PLAN.volumes, CopiedFile("vm.shop.web.data.qcow2", 1))
    for other in (
        replace(PLAN, volumes=more),
        replace(PLAN, destination="h3"),
        replace(PLAN, stopped=("web", "db", "firewall")),
    ):
        assert not other.agrees_with(PLAN)


def test_the_address_outside_is_told_before_and_after() -> None:
    other = replace(UPLINK, address4=type(UPLINK.address4)("198.18.0.99/16"), address6=None)
    before, after = addresses_outside(MANIFEST, replace(MANIFEST, uplink=other))
    assert before == (str(UPLINK.address4.ip), "198.18.0.99")
    assert after[1] == "none"
