"""What running processes share of processors and memory, beside what a vApp's file demands.
tests/netns/host looks at real processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.vapps import design_of_text
from vcloud.design.model import Design, Vm
from vcloud.plan.host_difference import LOST, ON_DEMAND, HostDifference, HostKind, HostSide
from vcloud.plan.host_isolation import demanded_kinds, kinds_of
from vcloud.plan.host_mending import host_drift, told_once, unmended, verb_of, way_out
from vcloud.plan.host_report import Guest, HostReport, Kernel, Process, Thread
from vcloud.plan.host_side import host_differences, unseen_kinds
from vcloud.plan.steps import Drift, Step, Verb

TEXT = """\
vcloud: 1
name: vault
zones: {dmz: {}}
vms:
  web: {image: base, zone: dmz}
  db: {image: base, zone: dmz%s}
%s
"""
NOTHING = HostReport("", {}, (), (), (), (), (), (), (), {}, ())
QUIET = Kernel(ksm="0", ksm_pages="0", smt="0")


def design(section: str = "", of_db: str = "") -> Design:
    return design_of_text(TEXT % (of_db, section))


ALL = design(
    "isolation: {memory: locked, page_sharing: forbidden, smt: forbidden, ksm: forbidden, svirt: required}"
)


def number(wanted: Design, vm: Vm) -> int:
    return 100 + wanted.vms.index(vm)


def guest(wanted: Design, vm: Vm) -> Guest:
    """The process of a VM that has all that can be demanded."""
    label = f"libvirt-{vm.uuid} (enforce)"
    return Guest(number(wanted, vm), (), vm.memory, False, label)


def report(
    wanted: Design, guests: Sequence[Guest] | None = None, kernel: Kernel = QUIET
) -> HostReport:
    processes = tuple(
        Process(number(wanted, vm), "qemu", vm.domain, True, (), ()) for vm in wanted.vms
    )
    found = [guest(wanted, vm) for vm in wanted.vms] if guests is None else guests
    return replace(NOTHING, processes=processes, guests=tuple(found), kernel=kernel)


def differences(wanted: Design, seen: HostReport) -> list[HostDifference]:
    running = frozenset(vm.name for vm in wanted.vms)
    found = host_differences(wanted, running, "br0", seen)
    return [one for one in found if one.kind in ON_DEMAND]


def named(wanted: Design, seen: HostReport) -> list[tuple[HostKind, str]]:
    return [(one.kind, one.vm) for one in differences(wanted, seen)]


def changed(wanted: Design, name: str, **fields: object) -> HostReport:
    guests = [
        replace(guest(wanted, vm), **fields) if vm.name == name else guest(wanted, vm)  # type: ignore[arg-type]
        for vm in wanted.vms
    ]
    return report(wanted, guests)


def test_processes_as_demanded_have_no_difference() -> None:
    assert differences(ALL, report(ALL)) == []


def test_every_vm_has_the_demands_of_its_vapp_and_its_own() -> None:
    """The appliances are VMs of the vApp, too."""
    assert {vm.name for vm in ALL.vms if vm.isolation.locked_memory} == {"firewall", "web", "db"}
    own = design("isolation: {page_sharing: forbidden}", ", isolation: {memory: locked}")
    assert [vm.name for vm in own.vms if vm.isolation.locked_memory] == ["db"]
    assert all(vm.isolation.no_page_sharing for vm in own.vms)


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"merges": True}, HostKind.MERGING),
        ({"locked": 0}, HostKind.LOCKING),
        ({"locked": (384 << 20) - 4096}, HostKind.LOCKING),
        ({"label": ""}, HostKind.LABEL),
        ({"label": "unconfined"}, HostKind.LABEL),
        ({"label": f"libvirt-{ALL.firewall.uuid} (enforce)"}, HostKind.LABEL),
        (
            {"label": f"libvirt-{ALL.workloads[0].uuid} (complain)"},
            HostKind.LABEL,
        ),
    ],
)
def test_a_process_that_shares_more_is_named_alone(
    fields: dict[str, object], kind: HostKind
) -> None:
    assert named(ALL, changed(ALL, "web", **fields)) == [(kind, "web")]
    bare = design()
    assert named(bare, changed(bare, "web", **fields)) == []


@pytest.mark.parametrize(
    ("kernel", "kinds"),
    [
        (replace(QUIET, ksm="1"), [HostKind.KSM]),
        (replace(QUIET, ksm_pages="7"), [HostKind.KSM]),
        (replace(QUIET, ksm="2"), []),
        (replace(QUIET, smt="1"), [HostKind.SMT]),
        (Kernel(), []),
    ],
)
def test_settings_of_the_kernel_count_for_whom_demands_them(
    kernel: Kernel, kinds: list[HostKind]
) -> None:
    assert [one.kind for one in differences(ALL, report(ALL, kernel=kernel))] == kinds
    assert differences(design(), report(design(), kernel=kernel)) == []


@pytest.mark.parametrize(
    ("enforces", "same", "wrong"), [("1", False, False), ("0", False, True), ("1", True, True)]
)
def test_selinux_must_enforce_and_tell_vms_apart(enforces: str, same: bool, wrong: bool) -> None:
    guests = [
        replace(
            guest(ALL, vm),
            label=f"system_u:system_r:svirt_t:s0:c1,c{2 if same else 2 + place}",
        )
        for place, vm in enumerate(ALL.vms)
    ]
    found = differences(ALL, report(ALL, guests, replace(QUIET, selinux=enforces)))
    assert {one.kind for one in found} == ({HostKind.LABEL} if wrong else set())


def test_a_process_that_is_not_found_is_no_proof() -> None:
    found = differences(ALL, report(ALL, [guest(ALL, vm) for vm in ALL.vms[1:]]))
    assert {(one.kind, one.vm, one.other) for one in found} == {
        (kind, "firewall", LOST) for kind in (HostKind.MERGING, HostKind.LOCKING, HostKind.LABEL)
    }
    assert {verb_of(one, as_root=True) for one in found} == {None}
    assert "vcloud doctor" in way_out(found[0], as_root=True)


def test_a_vm_that_does_not_run_shares_nothing() -> None:
    assert host_differences(ALL, frozenset(), "br0", report(ALL, [])) == tuple(
        one for one in host_differences(design(), frozenset(), "br0", report(design(), []))
    )


def test_what_ends_each_difference() -> None:
    """A new process locks its memory and gets its label. Others decide over the kernel."""
    verbs = {
        kind: verb_of(HostDifference(kind, "what", "web"), as_root=True)
        for kind in (HostKind.LOCKING, HostKind.LABEL, HostKind.MERGING, HostKind.KSM, HostKind.SMT)
    }
    assert verbs == {
        HostKind.LOCKING: Verb.RESTART_VM,
        HostKind.LABEL: Verb.RESTART_VM,
        HostKind.MERGING: None,
        HostKind.KSM: None,
        HostKind.SMT: None,
    }
    assert "MemoryKSM" in way_out(HostDifference(HostKind.MERGING, "", "web"), as_root=True)
    assert "/ksm/run" in way_out(HostDifference(HostKind.KSM, ""), as_root=True)
    assert "smt/control" in way_out(HostDifference(HostKind.SMT, ""), as_root=True)


def test_a_restart_that_is_planned_anyway_ends_what_its_process_shares() -> None:
    merging = HostDifference(HostKind.MERGING, "what", "web")
    side = HostSide((merging,))
    restart = Step(Verb.RESTART_VM, "web", "another reason")
    assert unmended(side, side.differences, [restart]) == ()
    assert unmended(side, side.differences, []) != ()
    locking = HostSide((HostDifference(HostKind.LOCKING, "what", "web"),))
    assert [one.mend for one in host_drift(locking, locking.differences)] == [Verb.RESTART_VM]


def test_what_the_kernel_does_not_tell_is_unseen_where_it_is_demanded() -> None:
    seen = replace(NOTHING, unseen=(("merging", "too many mappings"),))
    assert unseen_kinds(seen) == {HostKind.MERGING: "too many mappings"}
    assert HostKind.MERGING in kinds_of(ALL)
    assert HostKind.MERGING not in kinds_of(design())
    assert demanded_kinds(ALL) == {
        HostKind.MERGING,
        HostKind.LOCKING,
        HostKind.LABEL,
        HostKind.KSM,
        HostKind.SMT,
    }


CORES = {"db": (2, 3)}
OWN = design(of_db=", cpus: 2, isolation: {cpus: own}")
DB = next(vm for vm in OWN.vms if vm.name == "db")
THREADS = (
    Thread("qemu-system-x86", frozenset({2, 3})),
    Thread("CPU 0/KVM", frozenset({2})),
    Thread("CPU 1/KVM", frozenset({3})),
)
ELSEWHERE = (Thread("qemu-system-x86", frozenset({0, 1})),)


def on_cores(
    threads: tuple[Thread, ...] = THREADS, others: tuple[Thread, ...] = ELSEWHERE
) -> HostReport:
    """The database on these processors, and a VM of somebody else's on others."""
    guests = [replace(guest(OWN, vm), threads=threads if vm.name == "db" else ()) for vm in OWN.vms]
    seen = report(OWN, [*guests, Guest(7, others, 0, True, "")])
    foreign = Process(7, "qemu", "mail", True, (), ())
    return replace(seen, processes=(*seen.processes, foreign), machines={})


def core_differences(seen: HostReport, owned: tuple[int, ...] = (2, 3)) -> list[HostDifference]:
    running = frozenset(vm.name for vm in OWN.vms)
    found = host_differences(OWN, running, "br0", seen, CORES, owned)
    return [one for one in found if one.kind in (HostKind.CORES, HostKind.INTRUDER)]


def test_a_vm_on_its_cores_beside_others_on_others_has_no_difference() -> None:
    assert core_differences(on_cores()) == []


@pytest.mark.parametrize(
    ("threads", "said"),
    [
        ((THREADS[0], Thread("CPU 0/KVM", frozenset({2, 3})), THREADS[2]), "CPU 0 of 'db' may run"),
        ((THREADS[0], Thread("CPU 0/TCG", frozenset({3})), THREADS[2]), "processors 3, and must"),
        (THREADS[:2], "CPU 1 of 'db' has no thread"),
        ((Thread("ALL CPUs/TCG", frozenset({2})),), "CPU 0 of 'db' has no thread"),
        ((*THREADS, Thread("worker", frozenset({1, 2}))), "a thread of 'db' may run on the host's processors 1,"),
    ],
)  # fmt: skip
def test_a_thread_that_may_run_elsewhere_is_named_and_pinned_again(
    threads: tuple[Thread, ...], said: str
) -> None:
    (found,) = core_differences(on_cores(threads))
    assert (found.kind, found.vm) == (HostKind.CORES, "db")
    assert said in found.what
    assert verb_of(found, as_root=False) is Verb.MEND_VM


def test_a_vm_without_a_core_in_the_manifest_has_none() -> None:
    running = frozenset(vm.name for vm in OWN.vms)
    found = host_differences(OWN, running, "br0", on_cores())
    assert [one.what for one in found if one.kind is HostKind.CORES] == [
        "'db' has no cores of its own yet"
    ]


def test_a_foreign_vm_on_the_cores_is_named_and_kept_off_where_libvirt_knows_it() -> None:
    seen = on_cores(others=(Thread("CPU 0/KVM", frozenset({0, 3})),))
    (found,) = core_differences(seen)
    assert (
        found.what
        == "'mail' (process 7) may run on the host's processors 3, which are the vApp's own"
    )
    assert verb_of(found, as_root=True) is None
    assert "root on the host" in way_out(found, as_root=True)
    (known,) = core_differences(replace(seen, machines={"mail": 7}))
    assert (known.vm, verb_of(known, as_root=False)) == ("db", Verb.MEND_VM)
    # It stays on the cores, whatever becomes of the vApp's own VM.
    side = HostSide((found,))
    assert unmended(side, side.differences, [Step(Verb.RESTART_VM, "db", "why")]) != ()


def test_what_libvirt_tells_of_pins_is_told_once() -> None:
    side = HostSide((HostDifference(HostKind.CORES, "what", "db"),))
    pins = Drift("db", "the running VM is not pinned", Verb.MEND_VM, pins=True)
    assert told_once(side, [pins]) == ()
    assert told_once(side, [replace(pins, pins=False)]) == side.differences


def test_what_a_rule_of_placement_tells_is_told_once() -> None:
    side = HostSide(
        (HostDifference(HostKind.KSM, "what"), HostDifference(HostKind.LABEL, "x", "web"))
    )
    assert [one.kind for one in told_once(side, [])] == [HostKind.LABEL]
