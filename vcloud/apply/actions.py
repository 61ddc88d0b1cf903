"""What is done for each kind of step. A plan says which steps there are, `vcloud.apply.schedule`
when each one begins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from vcloud.apply.connect import connect
from vcloud.apply.power import start
from vcloud.apply.rules import load
from vcloud.apply.run import Run
from vcloud.compile.libvirt.network import render_network, zone_networks
from vcloud.compile.libvirt.nwfilter import render_filter
from vcloud.design.names import filter_name
from vcloud.hosts import machines
from vcloud.hosts.manifests import write_manifest
from vcloud.hosts.observe import domain_ids
from vcloud.marks import NetworkMarks
from vcloud.plan.manifest import Phase
from vcloud.plan.steps import LOADED, TOUCHED, Step, Verb


def act(run: Run, step: Step) -> None:
    """Does one step. Raises VcloudError where it fails."""
    ACTIONS[step.verb](run, step.subject)


def left(run: Run, step: Step) -> None:
    """Says of a workload that it does not become ready, because another step has failed."""
    if step.verb is Verb.CONNECT_VM:
        run.reporter.report(step.subject, "not connected: an earlier step failed")


def _remove_vm(run: Run, domain: str) -> None:
    """The definition goes last: it tells the next run what is still to be removed."""
    run.reporter.report(domain.partition(".")[2], "removed")
    machines.cut_links(run.host, domain)
    machines.stop_domain(run.host, domain, graceful=False)
    run.volumes.delete_of_domain(domain)
    machines.remove_domain(run.host, domain)


def _define_filter(run: Run, _: str) -> None:
    vapp = run.design.instance.name
    machines.define_filter(run.host, filter_name(vapp), render_filter(vapp))


def _make_network(run: Run, name: str) -> None:
    zone, network = next(
        (zone, network)
        for zone in run.design.zones
        for network in zone_networks(zone)
        if network.name == name
    )
    marks = NetworkMarks(
        run.design.instance.name, zone.name, run.target.wanted.network_digest(name)
    )
    machines.make_network(run.host, name, render_network(network, marks.attributes()))


def _remake_network(run: Run, name: str) -> None:
    """The NICs that hang on it are plugged in again when their VMs restart, which the plan says."""
    machines.remove_network(run.host, name)
    _make_network(run, name)


def _remove_network(run: Run, name: str) -> None:
    run.reporter.report(name, "removed")
    machines.remove_network(run.host, name)


def _make_memory_image(run: Run, key: str) -> None:
    if run.waker:
        run.waker.make(key)


def _record(run: Run, _: str) -> None:
    """Until here the manifest said that a run goes on, and named the VMs that were connected
    before, so that a killed run's are looked after.
    """
    write_manifest(
        run.host,
        replace(run.target.wanted, phase=Phase.READY, ids=domain_ids(run.host, run.design)),
    )


ACTIONS: Final[Mapping[Verb, Callable[[Run, str], None]]] = {
    Verb.REMOVE_VM: _remove_vm,
    Verb.DEFINE_FILTER: _define_filter,
    Verb.MAKE_NETWORK: _make_network,
    Verb.REMAKE_NETWORK: _remake_network,
    Verb.MAKE_MEMORY_IMAGE: _make_memory_image,
    **{verb: lambda run, vm: start(run, run.vm(vm)) for verb in TOUCHED},
    **{verb: lambda run, vm: load(run, run.vm(vm)) for verb in LOADED},
    Verb.CONNECT_VM: lambda run, vm: connect(run, run.vm(vm)),
    Verb.REMOVE_NETWORK: _remove_network,
    Verb.RECORD: _record,
}
