"""`vcloud status`: what libvirt and the appliances report about a vApp. No vApp file is needed.

To show one more problem: yield it in `_problems`, with what the user can do about it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Any

from vcloud.compile.libvirt.network import vapp_networks
from vcloud.design.model import Design, Role, Vm
from vcloud.fleet.fleet import open_home
from vcloud.guests.appliances import ask_appliances
from vcloud.hosts.connection import Host, run_both
from vcloud.hosts.host_side import looking_at
from vcloud.hosts.labels import misplaced
from vcloud.hosts.tenancy import kept_together
from vcloud.pipeline import today
from vcloud.plan.drift import drift_of
from vcloud.plan.host_difference import HostKind, HostSide
from vcloud.plan.host_mending import told_once, way_out
from vcloud.plan.losses import told_of_next_start, told_of_restore
from vcloud.plan.manifest import Manifest, Phase
from vcloud.plan.reasons import BROUGHT_BACK
from vcloud.plan.state import VappState
from vcloud.plan.steps import Drift, OlderCopy, Verb
from vcloud.proof.checks import Outcome
from vcloud.proof.config import SILENT
from vcloud.proof.firewall_report import Card
from vcloud.proof.mending import mend_of
from vcloud.proof.observed import Verdict
from vcloud.proof.report import plain
from vcloud.views.affected import due, expired
from vcloud.views.services import down_services

SAVED = "saved"
"""The state of a vApp whose VMs are all stopped with their memory kept. libvirt calls such a domain
the same.
"""
STOPPED = "stopped"
"""The state of a VM that `vcloud stop` has stopped, and of a vApp all of whose VMs it has stopped."""
SHUT_OFF = "shut off"
"""The state of a VM that does not run for any other reason, as libvirt calls it."""

UNSEEN = HostSide(unseen=dict.fromkeys(HostKind, "nothing runs there"))
SHOWN_OF_DIFFERENCES = ("kind", "what", "vm", "network", "device", "other")
FOREIGN = "not vcloud's"
"""The state of a VM whose name a domain has that vcloud did not make."""

STOPS = {
    Role.FIREWALL: ", so all traffic between zones is stopped",
    Role.IPS: ", so the traffic that it inspects is stopped",
}
"""What it means if an appliance does not run."""

LOADS = "`vcloud up` with its file loads the rules again"
WAYS_OUT = {
    None: LOADS,
    Verb.LOAD_FIREWALL: LOADS,
    Verb.LOAD_IPS: LOADS,
    Verb.CONFIGURE_VM: "`vcloud up` with its file gives the VM its identity again",
    Verb.RESTART_VM: "`vcloud up` with its file restarts the VM",
}
"""What mends an appliance that is not as it was delivered."""


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
class Refused:
    """Whose new connections the firewall refused in the last ten minutes, because there were too many."""

    vm: str
    """Empty for clients outside."""
    zone: str
    """The zone of its NIC; empty for clients outside."""
    packets: int

    def __str__(self) -> str:
        who = f"{self.vm} in {self.zone}" if self.vm else "clients outside"
        return f"{self.packets} packets of {who}"


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
    profiles: tuple[str, ...] = ()
    """A sentence for each profile that counts, for each exception, and for what has come into force
    since.
    """
    host_side: HostSide | None = None
    """None: nothing runs whose host's side could be looked at."""
    refused: tuple[Refused, ...] = ()

    @property
    def healthy(self) -> bool:
        return not self.problems

    @property
    def summary(self) -> str:
        """The state in one line."""
        if self.phase == SAVED:
            word = "saved" if self.healthy else "DEGRADED, saved"
            way = "; `vcloud up` restores them" if self.healthy else ""
            return f"{word}, {len(self.vms)} VMs{way}"
        if self.phase == STOPPED and self.healthy:
            return f"stopped, {len(self.vms)} VMs; `vcloud start {self.vapp}` starts them"
        running = sum(vm.state == "running" for vm in self.vms)
        side = self.host_side or UNSEEN
        word = f"protected {side.caveat};" if side.unseen else "protected,"
        stopped = [vm.name for vm in self.vms if vm.state == STOPPED]
        told = f", stopped by `vcloud stop`: {', '.join(stopped)}" if stopped else ""
        return f"{word if self.healthy else 'DEGRADED,'} {running} of {len(self.vms)} VMs run{told}"

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
            "refused_connections": [
                {"vm": one.vm or None, "zone": one.zone or None, "packets": one.packets}
                for one in self.refused
            ],
            "profiles": list(self.profiles),
            "host_side": _host_side_data(self.host_side) if self.host_side else None,
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
    with open_home(connect, vapp) as fleet:
        host = fleet.home
        with looking_at(host) as host_side_of:
            state, manifest = fleet.standing(vapp)
            found = libvirt_status(state, host.name)
            copies = (OlderCopy(other.name).told(vapp, host.name) for other in fleet.older)
            older = (
                f"{told}; `vcloud up` or `vcloud down` removes it with its data disks"
                for told in copies
            )
            reported = bool(found.problems)
            found = replace(found, problems=(*found.problems, *older))
            design, accelerator = manifest.design, manifest.accelerator
            if found.phase in (SAVED, STOPPED):
                rules = misplaced(host, design, accelerator)
                return replace(found, problems=(*found.problems, *rules))
            if manifest.phase is Phase.APPLYING:  # its cards and bridges may come and go
                return found
            # The appliances are asked only if libvirt reports no problem. Otherwise vcloud might
            # wait for one that does not run.
            (wrong, refused), rules = run_both(
                lambda: ((), ()) if reported else _told_by_guests(host, manifest, state),
                lambda: (*kept_together(host, design), *misplaced(host, design, accelerator)),
            )
            host_side = host_side_of(state, manifest)
        on_host = tuple(_problems_of_host(host_side, drift_of(manifest, state)))
        return replace(
            found,
            problems=(*found.problems, *wrong, *on_host, *rules),
            host_side=host_side,
            refused=refused,
        )


def libvirt_status(state: VappState, host: str) -> Status:
    """What libvirt reports of a vApp that has a manifest."""
    manifest = state.manifest
    assert manifest is not None  # noqa: S101 - both callers look first
    design, uplink = manifest.design, manifest.uplink
    addresses = [str(address.ip) for address in (uplink.address4, uplink.address6) if address]
    return Status(
        vapp=design.vapp,
        host=host,
        owner=design.owner,
        phase=_phase(manifest, state),
        accelerator=manifest.accelerator,
        uplink=tuple(addresses),
        vms=tuple(_vm_status(vm, state) for vm in design.vms),
        published=tuple(published_ports(design, addresses)),
        problems=(*_problems(state, design, manifest.phase), *expired(design.controls, today())),
        profiles=(*design.controls.told(today()), *due(design.controls, today())),
    )


def _phase(manifest: Manifest, state: VappState) -> str:
    if manifest.phase is Phase.READY and state.saved():
        return SAVED
    if manifest.phase is Phase.READY and all(map(state.stopped, manifest.design.vms)):
        return STOPPED
    return manifest.phase.value


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
    if domain.uuid != vm.uuid:
        return FOREIGN
    return (
        "paused"
        if domain.paused
        else "running"
        if domain.running
        else SAVED
        if domain.saved
        else STOPPED
        if state.stopped(vm)
        else SHUT_OFF
    )


def published_ports(design: Design, addresses: list[str]) -> list[str]:
    """A line for each service that a flow publishes: where clients reach it, and which clients. A
    client has a prefix's version of IP only.
    """
    lines = []
    for flow in design.flows:
        for service, port in zip(flow.services, flow.publish, strict=bool(flow.publish)):
            ports = str(port).rpartition("/")[2]
            ends = ", ".join(
                f"[{address}]:{ports}" if ":" in address else f"{address}:{ports}"
                for address in addresses
                if flow.prefix is None or flow.prefix.version == ip_address(address).version
            )
            clients = f", for {flow.prefix}" if flow.prefix else ""
            lines.append(
                f"{ends or f'no address for port {ports}'} -> {flow.target} {service} ({flow.id}{clients})"
            )
    return lines


def _problems(state: VappState, design: Design, phase: Phase) -> list[str]:
    """What is wrong, by what libvirt reports."""
    problems = (
        [
            "a run of `vcloud up` is still going on, has failed or was interrupted; `vcloud up` finishes it"
        ]
        if phase is Phase.APPLYING
        else []
    )
    for vm in design.vms if state.saved() else ():
        problems += told_of_restore(vm, state)
    for vm in design.vms if not state.saved() else ():
        found = _vm_state(vm, state)
        if found == FOREIGN:
            problems.append(
                f"the domain '{vm.domain}' is not the one that vcloud made; `vcloud up` says what to do"
            )
        elif found == STOPPED:
            problems += _needed_by_running(vm, state, design)
        elif found != "running":
            problems.append(
                f"{vm.role} '{vm.name}' is {found}{STOPS.get(vm.role, '')}; `vcloud up` repairs it"
            )
        elif (domain := state.domain(vm.domain)) is not None and domain.brought_back:
            problems.append(f"{vm.role} '{vm.name}': {BROUGHT_BACK}; `vcloud up` repairs it")
        elif phase is Phase.READY and not state.connected(vm):
            problems.append(
                f"{vm.role} '{vm.name}' was not started by `vcloud up`, so its links and services are not set up; `vcloud up` repairs it"
            )
        problems += told_of_next_start(vm, design, state)
        problems += [
            f"somebody has made the disk '{disk.name}' of '{vm.name}' larger, which has {-(-size >> 20)} MiB now; `vcloud up` goes on when its file gives the disk {-(-size >> 20)}M"
            for disk in vm.disks
            if phase is Phase.READY and (size := state.sizes.get(disk.volume, 0)) > disk.size
        ]
    if phase is Phase.READY and state.manifest is not None:
        problems += [
            f"{found.subject}: {found.what}; `vcloud up` repairs it"
            for found in drift_of(state.manifest, state)
            if found.mend and not found.unknown
        ]
    if state.uplink_gone:
        problems.append(
            "the uplink's network is stopped or removed, so no traffic goes out or comes in; `vcloud up` repairs it"
        )
    for _, network in vapp_networks(design):
        standing = state.network(network.name)
        if standing is None or not standing.active:
            problems.append(
                f"the network '{network.name}' is {'missing' if standing is None else 'not active'}; `vcloud up` repairs it"
            )
    return problems


def _needed_by_running(vm: Vm, state: VappState, design: Design) -> Iterator[str]:
    """`vcloud stop` stops appliances last. If a workload runs without them, somebody else started it,
    or the stop was interrupted.
    """
    domains = (state.domain(workload.domain) for workload in design.workloads)
    if vm.role is not Role.WORKLOAD and any(domain and domain.running for domain in domains):
        yield f"{vm.role} '{vm.name}' is stopped{STOPS[vm.role]}, and workloads run; `vcloud start {design.instance.name}` starts it"


def _told_by_guests(
    host: Host, manifest: Manifest, state: VappState
) -> tuple[tuple[str, ...], tuple[Refused, ...]]:
    """What is wrong inside the VMs, and whose connections the firewall refuses.
    Appliances and workloads are asked side by side, each once. VMs that `vcloud stop` has stopped
    are not asked.
    """
    design = manifest.design
    up = tuple(vm for vm in design.workloads if not state.stopped(vm))
    reports, services = run_both(
        lambda: ask_appliances(host, manifest, state.domain(design.firewall.domain)),
        lambda: tuple(down_services(host, up)),
    )
    refused = refused_by_vm(design, reports.firewall.refused) if reports.firewall else ()
    return (*_wrong_rules(reports.verdicts(manifest)), *services), refused


def refused_by_vm(design: Design, refused: Mapping[Card, int]) -> tuple[Refused, ...]:
    """What the firewall has refused, with the names of VMs and zones, the most first."""
    vms = {nic.mac: (vm.name, nic.zone) for vm in design.workloads for nic in vm.nics}
    uplink = design.firewall.nics[-1].ifname
    packets = Counter[tuple[str, str]]()
    for (ifname, mac), number in refused.items():
        # A NIC that is none of a VM's is none of a zone's: the firewall drops what it sends.
        if ifname == uplink or mac in vms:
            packets[("", "") if ifname == uplink else vms[mac]] += number
    return tuple(Refused(*who, number) for who, number in packets.most_common())


def _wrong_rules(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """What is wrong with the appliances, by what they report themselves."""
    unknown: dict[tuple[str, str], list[str]] = {}
    for verdict in verdicts:
        check, detail = verdict.check, plain(verdict.detail)
        if verdict.outcome is Outcome.FAIL:
            way = WAYS_OUT[mend_of(verdict)]
            yield f"this is not true: {check.claim} ({detail}); {way}"
        elif verdict.outcome is not Outcome.PASS:
            unknown.setdefault((check.proves, detail), []).append(check.claim)
    for (_, detail), claims in unknown.items():
        more = f", and {len(claims) - 1} things more" if len(claims) > 1 else ""
        way = (
            "; `vcloud up` with its file restarts a VM that stays silent"
            if detail.startswith(SILENT)
            else ""
        )
        yield f"it is not known whether {claims[0]}{more} ({detail}){way}"


def _problems_of_host(side: HostSide, drift: tuple[Drift, ...]) -> Iterator[str]:
    """What is wrong on the host, and libvirt does not tell (`drift`)."""
    for difference in told_once(side, drift):
        way = way_out(difference, as_root=side.as_root)
        yield f"{plain(difference.what)}; {plain(way)}"


def _host_side_data(side: HostSide) -> dict[str, Any]:
    return {
        "looked_at": not side.unseen,
        "reason": plain(side.reason),
        "not_looked_at": sorted(side.unseen),
        "differences": [
            {key: plain(getattr(difference, key)) for key in SHOWN_OF_DIFFERENCES}
            for difference in side.differences
        ],
    }
