"""Asks a vApp's appliances what they hold at this moment.

Whatever a VM says, its agent included, is the word of somebody who may have been broken into: it is read as data that may be anything, and
what cannot be read costs that VM's own checks and no others.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from vcloud.design.model import Role, Vm
from vcloud.errors import GuestError, HostError
from vcloud.hosts import machines
from vcloud.hosts.connection import Host
from vcloud.hosts.executed import Executed
from vcloud.hosts.observe import observe_domain
from vcloud.plan.manifest import Manifest
from vcloud.proof.config import config_verdicts
from vcloud.proof.firewall_report import NOTHING, FirewallReport, parse_report
from vcloud.proof.judge import Verdict

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
    return tuple(config_verdicts(manifest, domain.marks.rules if domain else "", _counted(firewall.result()), ips.result()))


def _counted(output: bytes) -> FirewallReport:
    """What the firewall has to report; `NOTHING` where that cannot be read."""
    try:
        return parse_report(output)
    except GuestError:
        return NOTHING


def ask(host: Host, domain: str, argv: Sequence[str], stdin: bytes = b"", *, timeout: float, long: bool = False) -> Executed:
    """Runs a program in a VM, at most `timeout` seconds. `long`: its output may be of any length, which takes longer.

    Raises:
        GuestError: the VM does not answer, or its agent answers nonsense.
        HostError: libvirt refuses it.
    """
    agent = machines.agent_of(host, domain)
    return (agent.execute_at_length if long else agent.execute)(argv, stdin=stdin, timeout=timeout)


def _report(host: Host, vm: Vm | None, program: str) -> bytes:
    if vm is None:
        return b""
    try:
        done = ask(host, vm.domain, [program], timeout=TIMEOUT, long=vm.role is Role.FIREWALL)
    except (GuestError, HostError):
        return b""
    return done.stdout if done.code == 0 else b""
