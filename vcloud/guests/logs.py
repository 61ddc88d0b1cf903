"""The text of `vcloud logs`: the end of a VM's console and, for an appliance, what it stopped."""

from __future__ import annotations

from vcloud.design.model import Role
from vcloud.errors import UsageError
from vcloud.fleet.fleet import open_fleet
from vcloud.guests.appliances import firewall_report, ips_events
from vcloud.hosts.connection import Host
from vcloud.hosts.observe import observe_domain
from vcloud.hosts.volumes import VappVolumes
from vcloud.plan.state import DomainState

EVENTS = 1000
"""Events of the IPS that are looked at. A packet that is dropped is in its log twice."""


def log_of(vapp: str, vm: str, connect: str | None, lines: int) -> str:
    """The last `lines` lines of a VM's console and, if it is a running appliance, of what it stopped. The VM need not run.

    Raises UsageError if there is no such VM.
    """
    with open_fleet(connect) as fleet:
        host = fleet.home
        domain = observe_domain(host, f"{vapp}.{vm}")
        if domain is None:
            raise UsageError(f"there is no VM '{vapp}/{vm}'", f"vcloud status {vapp} shows what there is.")
        shown = [*VappVolumes(host).console_tail(domain.name, lines), *_stopped(host, domain)[-lines:]]
        return "".join(f"{line}\n" for line in shown)


def _stopped(host: Host, domain: DomainState) -> list[str]:
    if domain.running and domain.marks.role == Role.FIREWALL:
        return _denied(host, domain.name)
    if domain.running and domain.marks.role == Role.IPS:
        return _alerts(host, domain.name)
    return []


def _denied(host: Host, firewall: str) -> list[str]:
    return [
        f"denied: {source} -> {target} {protocol}/{port}, {packets} packets"
        for (source, target, protocol, port), packets in sorted(firewall_report(host, firewall).denied.items())
    ]


def _alerts(host: Host, ips: str) -> list[str]:
    """One line for each alert. Drops are left out: what is dropped by a rule has an alert, too."""
    return [
        f"{event.time} {'blocked' if event.blocked else 'allowed'}: {event.message}"
        f" ({event.source}:{event.source_port} -> {event.target}:{event.target_port})"
        for event in ips_events(host, ips, EVENTS)
        if event.kind == "alert"
    ]
