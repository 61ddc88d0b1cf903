"""Where a vApp may run: what a host cannot enforce or carry is refused by name, before anything is
touched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from tests.design_builder import build_design
from tests.vapps import design_of_text, shop
from vcloud.compile.libvirt.limits import most_nics
from vcloud.design.model import Design
from vcloud.errors import Exit, RefusedError
from vcloud.hosts.capabilities import capabilities_of
from vcloud.hosts.connection import open_host
from vcloud.hosts.inventory import HostRef
from vcloud.placement.capabilities import Capabilities, Locking, RunningVm, Storage, Version
from vcloud.placement.capacity import QEMU_MEMORY, SPARE, Demand, capacity_notes
from vcloud.placement.place import Offered, chosen_host, on_one, place

GIB = 1 << 30
HOST = Capabilities("h1", 2, 24 * GIB, Version(9, 0, 0), Version(7, 2, 0), free_memory=20 * GIB)
DESIGN = shop()
ONE = """\
vcloud: 1
name: big
zones: {{dmz: {{}}}}
vms:
  web: {{image: base, zone: dmz, memory: {memory}, count: {count}}}
"""
NEEDED = sum(vm.memory + QEMU_MEMORY for vm in DESIGN.vms)
"""Bytes that the VMs of the shop may take."""


def all_of(design: Design) -> Demand:
    return Demand(design.vms)


def refusal(design: Design, host: Capabilities, demand: Demand | None = None) -> str:
    with pytest.raises(RefusedError) as refused:
        place(design, demand or all_of(design), host)
    assert refused.value.exit is Exit.REFUSED
    return str(refused.value)


def test_a_vapp_goes_wholly_to_the_one_host_that_can_enforce_and_carry_it() -> None:
    placement = place(DESIGN, all_of(DESIGN), HOST)
    assert placement == on_one(DESIGN, "h1")
    assert placement.home == "h1"
    assert {placement.host_of(vm.name) for vm in DESIGN.vms} == {"h1"}


def test_a_host_without_network_filters_is_refused_by_name() -> None:
    """On it a VM could send in another VM's name."""
    said = refusal(DESIGN, replace(HOST, no_filters="no nwfilter driver"))
    assert "h1 cannot bind a VM to its own MAC address" in said
    assert "no nwfilter driver" in said
    assert "vcloud doctor" in said


def test_all_that_a_host_lacks_is_said_at_once() -> None:
    poor = replace(HOST, free_memory=GIB, no_filters="none", processors=0)
    said = refusal(DESIGN, poor)
    for words in ("MAC address", "CPUs, and h1 has 0", "MiB are missing"):
        assert words in said


# Memory


@pytest.mark.parametrize("memory", ["25G", "40G"])
def test_a_vm_that_no_memory_of_the_host_could_hold_is_refused_at_its_line(memory: str) -> None:
    design = design_of_text(ONE.format(memory=memory, count=1))
    said = refusal(design, replace(HOST, overcommit=10))
    assert said.startswith("vapp.yaml:5: vms.web.memory: 'web-1' has ")
    assert "h1 has 24576 MiB in all" in said
    design = design_of_text(ONE.format(memory="18G", count=1))
    place(design, all_of(design), HOST)


def test_many_vms_that_together_have_more_memory_than_is_free_are_refused() -> None:
    many = design_of_text(ONE.format(memory="4G", count=20))
    said = refusal(many, HOST)
    assert "21 VMs would be started" in said
    assert "h1 has 20480 MiB free" in said
    assert "`overcommit: 4.1`" in said
    few = design_of_text(ONE.format(memory="4G", count=4))
    place(few, all_of(few), HOST)


def test_the_limit_is_what_is_free_to_the_byte() -> None:
    place(DESIGN, all_of(DESIGN), replace(HOST, free_memory=NEEDED))
    assert "1 MiB are missing" in refusal(DESIGN, replace(HOST, free_memory=NEEDED - 1))


def test_what_running_vms_have_not_taken_yet_is_not_free() -> None:
    """A guest takes its memory little by little. Whoever counts only what is taken today promises
    the rest twice.
    """
    lazy = RunningVm("other.db", promised=4 * GIB, held=1 * GIB)
    host = replace(HOST, free_memory=NEEDED + 3 * GIB, running=(lazy,))
    place(DESIGN, all_of(DESIGN), host)
    said = refusal(DESIGN, replace(host, free_memory=host.free_memory - 1))
    assert "and 3072 MiB for VMs that run" in said
    # QEMU itself needs memory, too, so that a process may have taken more than its guest may.
    place(
        DESIGN,
        all_of(DESIGN),
        replace(host, free_memory=NEEDED, running=(replace(lazy, held=5 * GIB),)),
    )


def test_memory_of_vms_that_the_run_ends_is_free_for_it() -> None:
    """A VM that gets more memory restarts: what it holds now comes back first."""
    web = DESIGN.workloads[0]
    stands = RunningVm(web.domain, promised=2 * GIB, held=2 * GIB)
    host = replace(HOST, free_memory=0, running=(stands,))
    larger = replace(web, memory=2 * GIB - QEMU_MEMORY)
    place(DESIGN, Demand((larger,), ends=frozenset({web.domain})), host)
    assert "are missing" in refusal(DESIGN, host, Demand((larger,)))


def test_an_inventory_that_says_so_promises_more_memory_than_there_is_and_the_plan_tells_it() -> (
    None
):
    short = replace(HOST, free_memory=NEEDED // 2 + 1)
    assert "`overcommit: 2`" in refusal(DESIGN, short)
    place(DESIGN, all_of(DESIGN), replace(short, overcommit=2))
    (note,) = capacity_notes(all_of(DESIGN), replace(short, overcommit=2))
    assert "the kernel of h1 ends some of them" in note
    assert not [*capacity_notes(all_of(DESIGN), replace(HOST, overcommit=2))]


LOCKED = """\
vcloud: 1
name: vault
zones: {dmz: {}}
vms: {keys: {image: base, zone: dmz, memory: 1G}}
isolation: {memory: locked}
"""


def test_locked_memory_counts_wholly_also_where_memory_is_promised_twice() -> None:
    design = design_of_text(LOCKED)
    needed = sum(vm.memory + QEMU_MEMORY for vm in design.vms)
    place(design, all_of(design), replace(HOST, free_memory=needed, overcommit=2))
    said = refusal(design, replace(HOST, free_memory=needed - 1, overcommit=2))
    assert "vapp.yaml:5: isolation.memory: " in said
    assert "would be locked, and h1 has" in said


def test_a_host_that_cannot_lock_memory_is_refused_with_its_way_out() -> None:
    """What is not known of a host is no reason: libvirt tells it then."""
    design = design_of_text(LOCKED)
    place(design, all_of(design), replace(HOST, locking=Locking()))
    place(design, all_of(design), replace(HOST, locking=None))
    without = refusal(design, replace(HOST, locking=Locking(limits_memory=False)))
    assert "isolation.memory: libvirt starts no VM with locked memory on h1" in without
    small = refusal(design, replace(HOST, locking=Locking(most=GIB)))
    assert "'keys' would lock up to 2176 MiB" in small
    assert "LimitMEMLOCK=infinity" in small
    place(design, all_of(design), replace(HOST, locking=Locking(most=3 * GIB)))
    place(DESIGN, all_of(DESIGN), replace(HOST, locking=Locking(limits_memory=False, most=0)))


def test_a_run_that_starts_nothing_is_never_refused_for_lack_of_memory() -> None:
    place(DESIGN, Demand(()), replace(HOST, free_memory=0, memory=1))


# Processors and devices


def test_a_vm_with_more_processors_than_the_host_is_refused() -> None:
    design = design_of_text(ONE.format(memory="1G, cpus: 4", count=2))
    said = refusal(design, HOST)
    assert said.count("has 4 CPUs, and h1 has 2") == 1, "the replicas of a tier are one problem"
    place(design, all_of(design), replace(HOST, processors=4))


def test_vms_share_the_processors_of_their_host_up_to_the_limit_of_the_inventory() -> None:
    many = design_of_text(ONE.format(memory="64M", count=30))  # and the firewall
    said = refusal(many, replace(HOST, cpu_overcommit=15))
    assert "31 VMs with 31 CPUs in all would be started; h1 has 2 processors" in said
    assert "1 too many" in said
    assert "`cpu_overcommit: 16`" in said
    place(many, all_of(many), HOST)


def test_cpus_of_vms_that_run_count_and_those_of_vms_that_end_do_not() -> None:
    beside = RunningVm("other.db", promised=0, held=0, cpus=32 - len(DESIGN.vms))
    host = replace(HOST, running=(beside,))
    place(DESIGN, all_of(DESIGN), host)
    more = replace(host, running=(replace(beside, cpus=beside.cpus + 1),))
    assert "of VMs that run" in refusal(DESIGN, more)
    place(DESIGN, Demand(DESIGN.vms, ends=frozenset({"other.db"})), more)
    place(DESIGN, Demand(()), more)


# The choice of a host


def choice(placement: str = "", refused: Mapping[str, str] | None = None, **offers: Offered) -> str:
    rules = design_of_text(ONE.format(memory="1G", count=1) + placement).placement
    host, reasons = chosen_host(offers, refused or {}, rules)
    assert len(reasons) == len(offers) + len(refused or {})
    (reason,) = (reason for reason in reasons if "was chosen" in reason)
    assert reason.startswith(f"{host} was chosen: ")
    return reason


def test_a_new_vapp_gets_the_host_with_most_free_memory_or_with_least() -> None:
    offers = {"h1": Offered(2 * GIB), "h2": Offered(4 * GIB), "h3": Offered(3 * GIB)}
    assert (
        choice(**offers) == "h2 was chosen: of the hosts that can run it, it has most free memory"
    )
    assert choice("placement: {strategy: pack}\n", **offers) == (
        "h1 was chosen: of the hosts that can run it, it has least free memory"
    )


def test_of_hosts_that_are_alike_the_first_by_name_is_chosen() -> None:
    said = choice(h2=Offered(GIB), h1=Offered(GIB))
    assert said == (
        "h1 was chosen: of the hosts that can run it and have most free memory, it is the first by name"
    )


def test_a_preferred_label_counts_more_than_memory() -> None:
    prefer = "placement: {prefer: {rack: b, site: eu}}\n"
    said = choice(prefer, h1=Offered(1 * GIB, 1), h2=Offered(9 * GIB, 0))
    assert said.startswith("h1 was chosen: ")
    assert "1 of 2 preferred labels and 1024 MiB of free memory" in said
    said = choice(prefer, h1=Offered(1 * GIB, 1), h2=Offered(9 * GIB, 1), h3=Offered(9 * GIB, 0))
    assert (
        said
        == "h2 was chosen: of the hosts that have most of the preferred labels, it has most free memory"
    )


def test_the_only_host_that_can_run_it_is_chosen_and_the_others_say_why_not() -> None:
    assert (
        choice(refused={"h2": "it is full"}, h1=Offered(GIB))
        == "h1 was chosen: no other host can run it"
    )


def zones(number: int, mark: str = "") -> Design:
    names = [f"z{index}" for index in range(number)]
    return build_design(" ".join(name + mark for name in names), {"web": "z0"})


def test_a_firewall_with_more_nics_than_its_machine_can_have_is_refused() -> None:
    """It has a NIC per zone, and one on the uplink."""
    most = most_nics(zones(1).firewall) - 1
    place(zones(most), all_of(zones(most)), HOST)
    said = refusal(zones(most + 1), HOST)
    assert f"'firewall' has {most + 2} NICs, and a VM with 1 CPU can have {most + 1}" in said
    assert f"at most {most} zones" in said
    assert "can have" in refusal(zones(60), HOST)
    assert most == 44, "docs/limits.md says how many"


def test_an_ips_with_more_nics_than_its_machine_can_have_is_refused() -> None:
    """It has two NICs per inspected zone."""
    design = zones(1, ":inspected")
    assert design.ips
    most = most_nics(design.ips) // 2
    place(zones(most, ":inspected"), all_of(zones(most, ":inspected")), HOST)
    said = refusal(zones(most + 1, ":inspected"), HOST)
    assert f"Inspect at most {most} zones" in said
    assert "'firewall'" not in said
    assert most == 22, "docs/limits.md says how many"


def test_disks_leave_room_for_fewer_nics_and_processors_for_more() -> None:
    web = DESIGN.workloads[0]
    assert not web.disks
    store = design_of_text(ONE.format(memory="1G, disks: {one: 1G, two: 1G}", count=1)).workloads[0]
    assert most_nics(store) < most_nics(web) < most_nics(replace(web, cpus=2))


# Storage


ROOM = Storage("/pool", 300 << 20)


def test_images_that_have_no_room_are_refused_by_name() -> None:
    demand = Demand((), files=(("the image 'base'", 200 << 20), ("a copy of 'disk'", 36 << 20)))
    assert sum(size for _, size in demand.files) + SPARE == ROOM.free
    place(DESIGN, demand, replace(HOST, storage=ROOM))
    said = refusal(DESIGN, replace(HOST, storage=replace(ROOM, free=ROOM.free - 1)), demand)
    assert "the image 'base', a copy of 'disk' would take 300 MiB on h1" in said
    assert "1 MiB are missing" in said
    place(DESIGN, demand, replace(HOST, storage=None))


def test_where_nothing_is_uploaded_nothing_need_be_free() -> None:
    place(DESIGN, Demand(DESIGN.vms), replace(HOST, storage=replace(ROOM, free=1 << 20)))


def test_data_disks_that_may_outgrow_their_folder_are_told_and_not_refused() -> None:
    """They are files that grow."""
    host = replace(HOST, storage=ROOM)
    demand = Demand(DESIGN.vms, growth=ROOM.free + 1)
    place(DESIGN, demand, host)
    (note,) = capacity_notes(demand, host)
    assert "/pool on h1 has 300 MiB for them" in note
    assert not [*capacity_notes(replace(demand, growth=ROOM.free), host)]


# What libvirt tells


def test_libvirt_says_what_a_host_can_do() -> None:
    """Its test driver has no network filters, and says why."""
    with open_host(HostRef("t", "test:///default", overcommit=1.5)) as host:
        found = capabilities_of(host)
    assert found.host == "t"
    assert found.processors >= 1
    assert found.memory >= found.free_memory >= 1 << 20
    assert found.overcommit == 1.5
    assert found.storage is None
    assert found.libvirt >= Version(9, 0, 0)
    assert "not supported" in found.no_filters
    assert str(Version(9, 0, 0)) == "9.0.0"
