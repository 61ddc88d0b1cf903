"""`vcloud status` and `vcloud list`: what libvirt and the appliances report about vApps. No vApp
file is needed.

To show one more problem: yield it in `_problems`, with what the user can do about it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from vcloud.compile.libvirt.network import zone_networks
from vcloud.design.model import Design, Role, Vm
from vcloud.fleet.fleet import open_fleet
from vcloud.guests.appliances import check_appliances
from vcloud.hosts.connection import Host
from vcloud.hosts.manifests import vapp_names
from vcloud.hosts.observe import observe_vapp
from vcloud.plan.manifest import Manifest, Phase
from vcloud.plan.state import VappState
from vcloud.proof.checks import Outcome
from vcloud.proof.report import plain

SAVED = "saved"
"""The state of a vApp whose VMs are all stopped with their memory kept. libvirt calls such a domain
the same.
"""

STOPS = {
    Role.FIREWALL: ", so all traffic between zones is stopped",
    Role.IPS: ", so the traffic that it inspects is stopped",
}
"""What it means if an appliance does not run."""


@dataclass(frozen=True, slots=True)
class VmStatus:
    """One VM, as `vcloud status` shows it."""

    name: str
    role: str
    state: str
    zones: tuple[str, ...]
    addresses4: tuple[str, ...]
    addresses6: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Status:
    """One vApp on one host."""

    vapp: str
    host: str
    owner: str
    phase: str
    accelerator: str
    uplink: tuple[str, ...]
    vms: tuple[VmStatus, ...]
    published: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def healthy(self) -> bool:
        return not self.problems

    @property
    def summary(self) -> str:
        """The state in one line."""
        if self.phase == SAVED:
            return f"saved, {len(self.vms)} VMs; `vcloud up` restores them"
        running = sum(vm.state == "running" for vm in self.vms)
        return (
            f"{'protected' if self.healthy else 'DEGRADED'}, {running} of {len(self.vms)} VMs run"
        )

    def rows(self) -> list[tuple[str, ...]]:
        return [
            (
                vm.name,
                vm.role,
                vm.state,
                " ".join(vm.zones),
                " ".join(vm.addresses4),
                " ".join(vm.addresses6),
            )
            for vm in self.vms
        ]

    def as_data(self) -> dict[str, Any]:
        return {
            "vapp": self.vapp,
            "host": self.host,
            "owner": self.owner,
            "phase": self.phase,
            "healthy": self.healthy,
            "accelerator": self.accelerator,
            "uplink": list(self.uplink),
            "published": list(self.published),
            "problems": list(self.problems),
            "vms": [
                {
                    "name": vm.name,
                    "role": vm.role,
                    "state": vm.state,
                    "zones": list(vm.zones),
                    "ipv4": list(vm.addresses4),
                    "ipv6": list(vm.addresses6),
                }
                for vm in self.vms
            ],
        }


def status_of(vapp: str, connect: str | None) -> Status:
    """Asks libvirt and the vApp's appliances. Raises UsageError, HostError as `Fleet.standing`
    does.
    """
    with open_fleet(connect) as fleet:
        host, (state, manifest) = fleet.home, fleet.standing(vapp)
        found = _status(state, host.name)
        return (
            found
            if found.problems or state.saved()
            else replace(found, problems=tuple(_wrong_rules(host, manifest)))
        )


def all_vapps(connect: str | None) -> list[dict[str, Any]]:
    """A row for each vApp on the host, from what libvirt reports.

    No appliance is asked, so no vApp is called protected: `ready` only says that the last run has
    ended well.
    """
    with open_fleet(connect) as fleet:
        rows, host = [], fleet.home
        for name in vapp_names(host):
            state = observe_vapp(host, name)
            found = _status(state, host.name) if state.manifest else None
            rows.append(
                {
                    "vapp": name,
                    "host": host.name,
                    "state": "unreadable"
                    if state.unreadable
                    else (found.phase if found.healthy else "problem")
                    if found
                    else "leftovers",
                    "vms": len(found.vms) if found else len(state.domains),
                    "running": sum(domain.running for domain in state.domains),
                    "owner": found.owner if found else "",
                }
            )
        return rows


def _status(state: VappState, host: str) -> Status:
    manifest = state.manifest
    assert manifest is not None  # noqa: S101 - both callers look first
    design, uplink = manifest.design, manifest.uplink
    addresses = [str(address.ip) for address in (uplink.address4, uplink.address6) if address]
    return Status(
        vapp=design.vapp,
        host=host,
        owner=design.owner,
        phase=SAVED if manifest.phase is Phase.READY and state.saved() else manifest.phase.value,
        accelerator=manifest.accelerator,
        uplink=tuple(addresses),
        vms=tuple(_vm_status(vm, state) for vm in design.vms),
        published=tuple(_published(design, addresses)),
        problems=tuple(_problems(state, design, manifest.phase)),
    )


def _vm_status(vm: Vm, state: VappState) -> VmStatus:
    zones = tuple(dict.fromkeys(nic.zone for nic in vm.nics))
    shown = vm.nics if vm.role is not Role.IPS else ()
    addresses4 = tuple(str(nic.address4) for nic in shown if nic.address4)
    return VmStatus(
        vm.name,
        vm.role.value,
        _vm_state(vm, state),
        zones,
        addresses4,
        tuple(str(nic.address6) for nic in shown if nic.address6),
    )


def _vm_state(vm: Vm, state: VappState) -> str:
    domain = state.domain(vm.domain)
    if domain is None:
        return "missing"
    return (
        "paused"
        if domain.paused
        else "running"
        if domain.running
        else SAVED
        if domain.saved
        else "stopped"
    )


def _published(design: Design, addresses: list[str]) -> list[str]:
    lines = []
    for flow in design.flows:
        for service, port in zip(flow.services, flow.publish, strict=bool(flow.publish)):
            ports = str(port).rpartition("/")[2]
            ends = ", ".join(
                f"[{address}]:{ports}" if ":" in address else f"{address}:{ports}"
                for address in addresses
            )
            lines.append(f"{ends} -> {flow.target} {service} ({flow.id})")
    return lines


def _problems(state: VappState, design: Design, phase: Phase) -> list[str]:
    """What is wrong, by what libvirt reports."""
    problems = (
        ["a run of `vcloud up` is still going on or was interrupted; `vcloud up` finishes it"]
        if phase is Phase.APPLYING
        else []
    )
    for vm in design.vms if not state.saved() else ():
        found = _vm_state(vm, state)
        if found != "running":
            problems.append(
                f"{vm.role} '{vm.name}' is {found}{STOPS.get(vm.role, '')}; `vcloud up` repairs it"
            )
        elif phase is Phase.READY and not state.connected(vm):
            problems.append(
                f"{vm.role} '{vm.name}' was not started by `vcloud up`, so its links and services are not set up; `vcloud up` repairs it"
            )
    if state.uplink_gone:
        problems.append(
            "the uplink's network is stopped or removed, so no traffic goes out or comes in; `vcloud up` repairs it"
        )
    for zone in design.zones:
        for network in zone_networks(zone):
            standing = state.network(network.name)
            if standing is None or not standing.active:
                problems.append(
                    f"the network '{network.name}' is {'missing' if standing is None else 'not active'}; `vcloud up` repairs it"
                )
    return problems


def _wrong_rules(host: Host, manifest: Manifest) -> Iterator[str]:
    """What is wrong with the appliances, by what they report themselves."""
    for verdict in check_appliances(host, manifest):
        if verdict.outcome is not Outcome.PASS:
            yield f"this is not true: {verdict.check.claim} ({plain(verdict.detail)}); `vcloud up --reload` with its file loads the rules again"
