"""What single steps do to a host, on libvirt's own test driver: a real libvirt without a daemon."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from uuid import uuid4

import libvirt
import pytest

from tests.told import Told
from tests.vapps import TWO_HOMES, design_of_text
from vcloud.apply.actions import ACTIONS, act, left, tell_failure
from vcloud.apply.deletion import refuse_shared_disks
from vcloud.apply.power import _make_way, _power
from vcloud.apply.run import Run
from vcloud.apply.target import Target, target_of
from vcloud.compile.libvirt.network import zone_networks
from vcloud.design.names import domain_uuid, root_volume
from vcloud.errors import GuestError, HostError, VcloudError
from vcloud.hosts import machines
from vcloud.hosts.connection import Host, found_or_none, open_host
from vcloud.hosts.inventory import HostRef, UplinkConfig
from vcloud.hosts.lock import LostLockError, vapp_lock
from vcloud.hosts.manifests import delete_manifest, read_manifest, write_manifest
from vcloud.hosts.metadata import remove_record
from vcloud.hosts.observe import observe_vapp
from vcloud.hosts.volumes import VappVolumes
from vcloud.placement.place import on_one
from vcloud.plan.diff import plan_changes
from vcloud.plan.manifest import Manifest, Phase
from vcloud.plan.steps import Step, Verb

DESIGN = design_of_text(TWO_HOMES)
NETWORKS = tuple(network.name for zone in DESIGN.zones for network in zone_networks(zone))
UPLINK = UplinkConfig(
    network="uplink", prefix4=IPv4Network("198.18.0.0/16"), gateway4=IPv4Address("198.18.0.1")
)


POOL = "<pool type='dir'><name>vcloud</name><target><path>/var/lib/libvirt/images/vcloud</path></target></pool>"


@pytest.fixture
def host() -> Iterator[Host]:
    """With a storage pool, because the test driver does not let vcloud build one."""
    with open_host(HostRef("t", "test:///default", uplink=UPLINK)) as opened:
        pool = opened.connection.storagePoolCreateXML(POOL)
        yield opened
        pool.destroy()
        delete_manifest(opened, DESIGN.vapp)
        for name in NETWORKS:
            machines.remove_network(opened, name)


@pytest.fixture
def target(host: Host) -> Target:
    return target_of(host, DESIGN, on_one(DESIGN, "t"), observe_vapp(host, DESIGN.vapp), "tcg")


@pytest.fixture
def run(host: Host, target: Target) -> Iterator[Run]:
    """A run that has claimed the vApp."""
    state = observe_vapp(host, DESIGN.vapp)
    plan = plan_changes(target.wanted, state, "t")
    volumes = VappVolumes(host)
    with vapp_lock(host, DESIGN.vapp, "up") as lock:
        claim = target.wanted.claimed(lock.uuid, None, 7)
        write_manifest(host, claim)
        yield Run(
            host, lock, claim, volumes, target, state, plan, Told(), boots={}, waker=None, marked={}
        )


def step(verb: Verb, subject: str) -> Step:
    return Step(verb, subject, "", "t")


def test_every_kind_of_step_has_something_that_does_it() -> None:
    assert set(ACTIONS) == set(Verb)


def test_networks_are_made_with_the_mark_that_says_what_they_were_made_from(run: Run) -> None:
    for name in NETWORKS:
        act(run, step(Verb.MAKE_NETWORK, name))
    state = observe_vapp(run.host, DESIGN.vapp)
    assert {network.name for network in state.networks if network.active} == set(NETWORKS)
    assert {network.name: network.marks.digest for network in state.networks} == dict(
        run.target.wanted.networks
    )
    assert not plan_changes(run.target.wanted, state, "t").has(
        Verb.MAKE_NETWORK, Verb.REMAKE_NETWORK
    )


def test_a_network_is_made_anew_and_removed(run: Run) -> None:
    name = NETWORKS[0]
    old = replace(
        run,
        target=replace(
            run.target, wanted=replace(run.target.wanted, networks=((name, "another"),))
        ),
    )
    act(old, step(Verb.MAKE_NETWORK, name))
    assert plan_changes(run.target.wanted, observe_vapp(run.host, DESIGN.vapp), "t").subjects(
        Verb.REMAKE_NETWORK
    ) == (name,)
    act(run, step(Verb.REMAKE_NETWORK, name))
    assert not plan_changes(run.target.wanted, observe_vapp(run.host, DESIGN.vapp), "t").has(
        Verb.REMAKE_NETWORK
    )
    act(run, step(Verb.REMOVE_NETWORK, name))
    assert observe_vapp(run.host, DESIGN.vapp).networks == ()


@pytest.mark.parametrize(
    "verb", [Verb.MAKE_NETWORK, Verb.REMAKE_NETWORK, Verb.REMOVE_NETWORK, Verb.RECORD]
)
def test_a_step_that_a_killed_run_has_done_can_be_done_again(run: Run, verb: Verb) -> None:
    for _ in range(2):
        act(run, step(verb, NETWORKS[0]))


GONE = "relay.gone"
ROOT, DATA = f"root.{GONE}.qcow2", f"vm.{GONE}.data.qcow2"
COPY, SNAPSHOT = f"{DATA}.bak", f"vm.{GONE}.data.one"
DOMAIN = """\
<domain type='test'><name>{name}</name><uuid>{uuid}</uuid><memory>1024</memory>
  <os><type>hvm</type></os>
  <devices><disk type='file'><source file='{path}'/><target dev='vdb'/></disk></devices>
</domain>
"""


@pytest.mark.parametrize("shared", [False, True])
def test_a_vm_that_goes_takes_its_own_volumes_only(run: Run, shared: bool) -> None:
    pool, connection = run.volumes.pool, run.host.connection
    for name in (ROOT, DATA, COPY, SNAPSHOT, f"vm.{GONE}-2.data.qcow2"):
        pool.make_disk(name, 1 << 20)
    uuids = {GONE: domain_uuid("relay", "gone"), "elsewhere": str(uuid4())}
    paths = {GONE: pool.path(SNAPSHOT), "elsewhere": pool.path(DATA if shared else "other")}
    for name, uuid in uuids.items():
        connection.createXML(DOMAIN.format(name=name, uuid=uuid, path=paths[name]))
    try:
        act(replace(run, state=observe_vapp(run.host, "relay")), step(Verb.REMOVE_VM, GONE))
        kept = {COPY, f"vm.{GONE}-2.data.qcow2", *([DATA] if shared else [])}
        assert pool.names_without_refresh() == kept
        assert isinstance(run.reporter, Told)
        told = [text for _, text in run.reporter.stages]
        assert f"the volume '{COPY}' stays, which vcloud did not make" in told
        assert (f"the volume '{DATA}' stays, which the domain 'elsewhere' uses" in told) == shared
        left = {found.name() for found in connection.listAllDomains()} & uuids.keys()
        assert left == {"elsewhere"}
    finally:
        for found in connection.listAllDomains():
            if found.name() in uuids:
                found.destroy()


def test_a_disk_that_another_domain_uses_does_not_move(run: Run) -> None:
    """The design's `store` was called `gone`."""
    store = next(vm for vm in DESIGN.workloads if vm.disks)
    data = f"vm.{GONE}.{store.disks[0].name}.qcow2"
    run.volumes.pool.make_disk(data, 1 << 20)
    workloads = tuple(replace(vm, was=("gone",)) if vm is store else vm for vm in DESIGN.workloads)
    target = replace(run.target, design=replace(DESIGN, workloads=workloads))
    path = run.volumes.pool.path(data)
    other = run.host.connection.createXML(DOMAIN.format(name="elsewhere", uuid=uuid4(), path=path))
    try:
        moving = replace(run, target=target, state=observe_vapp(run.host, "relay"))
        with pytest.raises(HostError, match="which the domain 'elsewhere' uses"):
            act(moving, step(Verb.REMOVE_VM, GONE))
        assert run.volumes.pool.names_without_refresh() == {data}
    finally:
        other.destroy()


STORE = next(vm for vm in DESIGN.workloads if vm.disks)
STORE_ROOT = root_volume(STORE.domain)
BACKUP = f"vm.{STORE.domain}.data.backup"


def store_on(run: Run, volume: str, devices: str = "", *, saved: bool = False) -> libvirt.virDomain:
    """The running domain of `store`, whose first data disk writes to a volume. With `saved`, its
    memory is saved.
    """
    xml = DOMAIN.format(name=STORE.domain, uuid=STORE.uuid, path=run.volumes.pool.path(volume))
    xml = xml.replace("</devices>", f"{devices}</devices>")
    if not saved:
        return run.host.connection.createXML(xml)
    domain = run.host.connection.defineXML(xml)
    domain.create()
    domain.managedSave()
    return domain


def end_store(run: Run) -> None:
    """The test driver does not know the flags with which vcloud undefines a domain."""
    domain = found_or_none(run.host.connection.lookupByName, STORE.domain)
    if domain is not None and domain.isActive():
        domain.destroy()
    elif domain is not None:
        domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE)


@pytest.fixture
def planned(run: Run) -> Iterator[Run]:
    """A run whose plan was made while `store` ran on its disks."""
    for volume in (STORE_ROOT, *(disk.volume for disk in STORE.disks)):
        run.volumes.pool.make_disk(volume, 1 << 20)
    store_on(run, STORE.disks[0].volume)
    yield replace(run, state=observe_vapp(run.host, DESIGN.vapp))
    end_store(run)


@pytest.mark.parametrize(
    "way",
    [
        lambda run: _make_way(run, STORE, Verb.RESTART_VM),
        lambda run: _make_way(run, STORE, Verb.REMAKE_VM),
        lambda run: act(run, step(Verb.REMOVE_VM, STORE.domain)),
    ],
    ids=["restart", "make anew", "remove"],
)
@pytest.mark.parametrize("since", ["a snapshot of a backup", "a saved memory"])
def test_what_came_to_a_vm_since_the_plan_was_made_is_not_lost(
    planned: Run, way: Callable[[Run], None], since: str
) -> None:
    """Images may be uploaded for minutes between the plan and the step."""
    before = planned.volumes.pool.names_without_refresh()
    end_store(planned)
    is_saved = since == "a saved memory"
    domain = store_on(planned, STORE.disks[0].volume if is_saved else BACKUP, saved=is_saved)
    with pytest.raises(VcloudError, match="since the plan was made, and data would be lost: store"):
        way(planned)
    assert (domain.isActive(), domain.hasManagedSaveImage()) == (not is_saved, is_saved)
    assert planned.volumes.pool.names_without_refresh() == before


def test_a_disk_that_came_since_the_plan_was_made_is_not_deleted_with_its_vm(planned: Run) -> None:
    """Somebody has made a copy of a disk, with a name that a data disk could have."""
    pool, copy = planned.volumes.pool, f"vm.{STORE.domain}.copy.qcow2"
    pool.make_disk(copy, 1 << 20)
    act(planned, step(Verb.REMOVE_VM, STORE.domain))
    assert pool.names_without_refresh() == {copy}
    assert isinstance(planned.reporter, Told)
    assert (
        "",
        f"the volume '{copy}' stays, which came since the plan was made",
    ) in planned.reporter.stages


def test_a_vm_that_nobody_has_changed_since_the_plan_makes_way(planned: Run) -> None:
    before = planned.volumes.pool.names_without_refresh()
    _make_way(planned, STORE, Verb.REMAKE_VM)
    assert planned.volumes.pool.names_without_refresh() == before - {STORE_ROOT}
    assert observe_vapp(planned.host, DESIGN.vapp).domains == ()


NIC = "<interface type='network'><source network='default'/><link state='{}'/></interface>"


@pytest.mark.parametrize("link", ["up", "down"])
def test_a_paused_vm_does_not_run_on_with_its_links_up(run: Run, link: str) -> None:
    """The test driver cannot cut a link, so the step ends before the VM runs."""
    domain = store_on(run, STORE.disks[0].volume, devices=NIC.format(link))
    domain.suspend()
    plan = replace(run.plan, steps=(step(Verb.START_VM, "store"),))
    paused = replace(run, state=observe_vapp(run.host, DESIGN.vapp), plan=plan)
    try:
        if link == "up":
            with pytest.raises(HostError, match=r"the links of 'relay\.store' could not be cut"):
                _power(paused, STORE)
        else:
            _power(paused, STORE)
        running = domain.state()[0] == libvirt.VIR_DOMAIN_RUNNING
        assert running == (link == "down")
    finally:
        end_store(run)


@pytest.mark.parametrize("volume", [STORE_ROOT, STORE.disks[0].volume])
def test_a_vm_whose_root_disk_another_domain_needs_is_not_made_anew(
    planned: Run, volume: str
) -> None:
    """Somebody has made an overlay of a disk for a VM of its own, which is stopped."""
    pool = planned.volumes.pool
    overlay = pool.make_overlay("clone.qcow2", pool.path(volume), 1 << 20)
    other = planned.host.connection.defineXML(
        DOMAIN.format(name="clone", uuid=uuid4(), path=overlay)
    )
    plan = replace(planned.plan, steps=(step(Verb.REMAKE_VM, "store"),))
    try:
        if volume == STORE_ROOT:
            with pytest.raises(HostError, match="the domain 'clone' uses its disk") as refused:
                refuse_shared_disks(planned.host, DESIGN, planned.state, plan)
            assert "Nothing of 'relay' was stopped" in refused.value.hint
        else:  # A data disk stays.
            refuse_shared_disks(planned.host, DESIGN, planned.state, plan)
        restarted = replace(plan, steps=(step(Verb.RESTART_VM, "store"),))
        refuse_shared_disks(planned.host, DESIGN, planned.state, restarted)
    finally:
        other.undefine()


def test_the_last_step_says_that_the_vapp_is_ready(run: Run) -> None:
    act(run, step(Verb.RECORD, DESIGN.vapp))
    written = read_manifest(run.host, DESIGN.vapp)
    assert isinstance(written, Manifest)
    assert written == replace(run.claim, phase=Phase.READY)


def test_a_run_that_has_lost_its_lock_does_no_step_and_does_not_say_that_the_vapp_is_ready(
    run: Run,
) -> None:
    """Another run, which holds the lock now, has claimed the vApp."""
    remove_record(run.host, run.lock.uuid)
    with open_host(HostRef("other", "test:///default")) as other:
        later = run.claim.claimed("another lock", run.claim, 0)
        write_manifest(other, later)
        for verb in (Verb.MAKE_NETWORK, Verb.RECORD):
            with pytest.raises(LostLockError, match="was removed while this process worked"):
                act(run, step(verb, NETWORKS[0]))
        assert read_manifest(other, DESIGN.vapp) == later
        assert observe_vapp(other, DESIGN.vapp).networks == ()


def test_what_a_run_without_its_lock_has_written_is_not_called_ready(run: Run) -> None:
    """It was about to write when it was stopped, and does it before it notices."""
    write_manifest(run.host, replace(run.claim, phase=Phase.READY, lock="of the run before"))
    with pytest.raises(VcloudError, match="another run without the lock has written"):
        act(run, step(Verb.RECORD, DESIGN.vapp))
    assert read_manifest(run.host, DESIGN.vapp) == run.claim


def test_a_failure_says_what_to_type_next_and_keeps_a_hint_that_there_is(run: Run) -> None:
    vm = DESIGN.workloads[0]
    with pytest.raises(GuestError) as caught, run.explained(vm):
        raise GuestError("it failed")
    assert caught.value.what == "it failed"
    assert (
        caught.value.hint
        == f"`vcloud up` tries again, `vcloud down {DESIGN.vapp}` removes the vApp."
    )
    with pytest.raises(HostError) as caught_too, run.explained(vm):
        raise HostError("it failed", "Plug it in.")
    assert caught_too.value.hint == "Plug it in."
    assert isinstance(run.reporter, Told)
    assert run.reporter.stages == [(vm.name, "failed"), (vm.name, "failed")]


def test_an_error_is_told_with_what_is_still_awaited(run: Run) -> None:
    awaited = (step(Verb.MAKE_VM, "gate-1"), step(Verb.LOAD_IPS, "ips"))
    tell_failure(run, HostError("it failed", "Plug it in."), awaited)
    tell_failure(run, HostError("this, too"), ())
    tell_failure(run, ZeroDivisionError("a bug"), awaited)
    assert isinstance(run.reporter, Told)
    assert run.reporter.stages == [
        (
            "",
            "error: it failed\n  No other step begins; up waits for the steps that still run: make VM gate-1, load IPS ips.",
        ),
        ("", "error: this, too"),
    ]


def test_of_what_did_not_begin_only_workloads_that_stay_unconnected_are_named(run: Run) -> None:
    left(run, step(Verb.CONNECT_VM, "gate-1"))
    left(run, step(Verb.LOAD_FIREWALL, "firewall"))
    assert isinstance(run.reporter, Told)
    assert run.reporter.stages == [("gate-1", "not connected: an earlier step failed")]
