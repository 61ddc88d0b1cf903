"""What single steps do to a host, on libvirt's own test driver: a real libvirt without a daemon."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from tests.vapps import TWO_HOMES, design_of_text
from vcloud.apply.actions import ACTIONS, act, left
from vcloud.apply.run import Run
from vcloud.apply.target import Target, target_of
from vcloud.compile.libvirt.network import zone_networks
from vcloud.errors import GuestError, HostError
from vcloud.hosts import machines
from vcloud.hosts.connection import Host, open_host
from vcloud.hosts.inventory import HostRef, UplinkConfig
from vcloud.hosts.manifests import delete_manifest, read_manifest
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


@dataclass
class Told:
    """Keeps what a run reports."""

    stages: list[tuple[str, str]] = field(default_factory=list)

    def report(self, subject: str, stage: str) -> None:
        self.stages.append((subject, stage))

    def note(self, text: str) -> None:
        self.stages.append(("", text))

    def part(self, name: str) -> None:
        pass


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
def run(host: Host, target: Target) -> Run:
    state = observe_vapp(host, DESIGN.vapp)
    plan = plan_changes(target.wanted, state, "t")
    return Run(
        host, VappVolumes(host), target, state, plan, Told(), boots={}, waker=None, marked={}
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


def test_the_last_step_says_that_the_vapp_is_ready(run: Run) -> None:
    act(run, step(Verb.RECORD, DESIGN.vapp))
    written = read_manifest(run.host, DESIGN.vapp)
    assert isinstance(written, Manifest)
    assert written.phase is Phase.READY


def test_a_failure_says_what_to_type_next_and_keeps_a_hint_that_there_is(run: Run) -> None:
    vm = DESIGN.workloads[0]
    with pytest.raises(GuestError) as caught, run.explained(vm):
        raise GuestError("it failed")
    assert caught.value.what == "it failed"
    assert (
        caught.value.hint
        == f"`vcloud up` tries again, `vcloud down {DESIGN.vapp}` removes what stands."
    )
    with pytest.raises(HostError) as caught_too, run.explained(vm):
        raise HostError("it failed", "Plug it in.")
    assert caught_too.value.hint == "Plug it in."
    assert isinstance(run.reporter, Told)
    assert run.reporter.stages == [(vm.name, "failed"), (vm.name, "failed")]


def test_of_what_did_not_begin_only_workloads_that_stay_unconnected_are_named(run: Run) -> None:
    left(run, step(Verb.CONNECT_VM, "gate-1"))
    left(run, step(Verb.LOAD_FIREWALL, "firewall"))
    assert isinstance(run.reporter, Told)
    assert run.reporter.stages == [("gate-1", "not connected: an earlier step failed")]
