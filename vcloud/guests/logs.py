"""The text of `vcloud logs`: the end of a VM's console and, for an appliance, the packets that it
stopped.
"""

from __future__ import annotations

from collections.abc import Mapping

from vcloud.compile.ips.apps import app_rules
from vcloud.compile.ips.rules import SHIPPED
from vcloud.compile.leaks.rules import rule_sids
from vcloud.compile.leaks.undecoded import undecoded_sids
from vcloud.design.model import Design, Role
from vcloud.design.origin import Origin
from vcloud.errors import UsageError
from vcloud.fleet.fleet import open_home
from vcloud.guests.appliances import firewall_report, ips_events
from vcloud.hosts.connection import Host
from vcloud.hosts.manifests import read_manifest
from vcloud.hosts.observe import observe_domain
from vcloud.hosts.volumes import VappVolumes
from vcloud.plan.manifest import Manifest
from vcloud.plan.state import DomainState
from vcloud.printable import on_one_line

EVENTS = 1000
"""Events of the IPS that are read. A dropped packet is in its log twice."""


def log_of(vapp: str, vm: str, connect: str | None, lines: int) -> str:
    """The last `lines` lines of a VM's console and, for a running appliance, the last `lines`
    packets that it stopped. The VM need not run.

    Raises UsageError if there is no such VM.
    """
    with open_home(connect, vapp) as fleet:
        host = fleet.home
        domain = observe_domain(host, f"{vapp}.{vm}")
        if domain is None:
            raise UsageError(
                f"there is no VM '{vapp}/{vm}'", f"vcloud status {vapp} shows what there is."
            )
        manifest = read_manifest(host, vapp)
        origins = rule_origins(manifest.design) if isinstance(manifest, Manifest) else {}
        shown = [
            *VappVolumes(host).console_tail(domain.name, lines),
            *_stopped(host, domain, origins)[-lines:],
        ]
        return "".join(f"{on_one_line(line)}\n" for line in shown)


def rule_origins(design: Design) -> dict[str, Origin]:
    """Sid of each rule of the IPS -> why the IPS has it."""
    leaks = {
        str(sid): design.origin_of(f"detector:{detector}")
        for sids in (rule_sids, undecoded_sids)
        for (detector, _), sid in sids(design.inspection.detectors).items()
    }
    apps = {
        sid: design.origin_of(f"flow:{flow}" if flow else f"rule:{sid}")
        for sid, flow in app_rules(design).flows
    }
    shipped = {str(one.rule.sid): design.origin_of(f"rule:{one.rule.sid}") for one in SHIPPED}
    return shipped | apps | leaks


def _stopped(host: Host, domain: DomainState, origins: Mapping[str, Origin]) -> list[str]:
    if domain.running and domain.marks.role == Role.FIREWALL:
        return _denied(host, domain.name)
    if domain.running and domain.marks.role == Role.IPS:
        return _alerts(host, domain.name, origins)
    return []


def _denied(host: Host, firewall: str) -> list[str]:
    return [
        f"denied: {source} -> {target} {protocol}/{port}, {packets} packets"
        for (source, target, protocol, port), packets in sorted(
            firewall_report(host, firewall, counts=True).denied.items()
        )
    ]


def _alerts(host: Host, ips: str, origins: Mapping[str, Origin]) -> list[str]:
    """One line for each alert, with the origin of its rule. Drop events are left out, because a
    packet that a rule drops causes an alert, too.
    """
    return [
        f"{event.time} {'blocked' if event.blocked else 'allowed'}: {event.message}"
        f" ({event.source}:{event.source_port} -> {event.target}:{event.target_port}) rule:{event.rule}"
        + (f" [{origins[event.rule]}]" if event.rule in origins else "")
        for event in ips_events(host, ips, EVENTS)
        if event.kind == "alert"
    ]
