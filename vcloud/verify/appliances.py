"""Asks a vApp's appliances what they hold at this moment."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from vcloud.design.model import Vm
from vcloud.errors import GuestError, HostError
from vcloud.hosts import machines
from vcloud.hosts.connection import Host
from vcloud.hosts.observe import observe_domain
from vcloud.plan.state import Manifest
from vcloud.verify.config import config_verdicts
from vcloud.verify.firewall_report import NOTHING, parse_report
from vcloud.verify.judge import Verdict

FIREWALL_REPORT = "/usr/lib/vcloud/firewall-report"
IPS_REPORT = "/usr/lib/vcloud/ips-report"
TIMEOUT = 60
"""Seconds for a report; one that does not come counts as one of an appliance that holds nothing."""


def in_force(host: Host, manifest: Manifest) -> tuple[Verdict, ...]:
    """Whether each appliance holds the rules that it was given, and runs with them."""
    design = manifest.design
    domain = observe_domain(host, design.firewall.domain)
    with ThreadPoolExecutor(2) as pool:
        firewall = pool.submit(_report, host, design.firewall, FIREWALL_REPORT)
        ips = pool.submit(_report, host, design.ips, IPS_REPORT)
    found = parse_report(firewall.result()) if firewall.result() else NOTHING
    return tuple(config_verdicts(manifest, domain.rules if domain else "", found, ips.result()))


def _report(host: Host, vm: Vm | None, program: str) -> bytes:
    if vm is None:
        return b""
    try:
        done = machines.agent_of(host, vm.domain).execute([program], timeout=TIMEOUT)
    except (GuestError, HostError):
        return b""
    return done.stdout if done.code == 0 else b""
