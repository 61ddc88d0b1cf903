"""Asks a vApp's appliances what they run with, what they have counted and what they have logged.

An attacker may control an appliance like any other VM. What it reports is read as data of any form.
A report that cannot be read costs the checks of that appliance, and no others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from vcloud.design.model import Vm
from vcloud.errors import GuestError, HostError
from vcloud.hosts import machines
from vcloud.hosts.connection import Host
from vcloud.hosts.executed import Executed
from vcloud.hosts.observe import observe_domain
from vcloud.plan.manifest import Manifest
from vcloud.proof.config import config_verdicts
from vcloud.proof.firewall_report import NOTHING, FirewallReport, parse_firewall_report
from vcloud.proof.ips_report import NO_REPORT, Event, IpsReport, parse_events, parse_ips_report
from vcloud.proof.judge import Verdict
from vcloud.untrusted import UnreadableError

T = TypeVar("T")
FIREWALL_REPORT = "/usr/lib/vcloud/firewall-report"
IPS_REPORT = "/usr/lib/vcloud/ips-report"
TIMEOUT = 60
"""Seconds for a report."""


def firewall_report(host: Host, domain: str, *, make_room: bool = False) -> FirewallReport:
    """What the firewall runs with, and what it has dropped; `NOTHING` if it runs without vcloud's
    ruleset.

    Args:
        host: an open host.
        domain: the firewall's domain.
        make_room: empty the firewall's sets of denied packets first if they are nearly full, so
            that the next packets can be counted.

    Raises:
        GuestError: the firewall does not answer, or its report cannot be read.
        HostError: libvirt refuses it.
    """
    done = _ask(host, domain, [FIREWALL_REPORT, *(["counting"] if make_room else [])], long=True)
    if done.code != 0:
        return NOTHING
    try:
        return parse_firewall_report(done.stdout)
    except UnreadableError:
        raise GuestError(
            "the firewall's report cannot be read",
            "Its image may be older than this vcloud: build it again with 'vcloud image build'.",
        ) from None


def ips_report(host: Host, domain: str) -> IpsReport:
    """What the IPS runs with; `NO_REPORT` if its answer cannot be read. Raises GuestError,
    HostError.
    """
    done = _ask(host, domain, [IPS_REPORT])
    return parse_ips_report(done.stdout) if done.code == 0 else NO_REPORT


def ips_events(host: Host, domain: str, newest: int) -> tuple[Event, ...]:
    """The last `newest` events of the IPS's log, the oldest first. Raises GuestError, HostError."""
    return tuple(
        parse_events(
            _ask(host, domain, [IPS_REPORT, "events", str(newest)], long=newest > 1).stdout
        )
    )


def check_appliances(host: Host, manifest: Manifest) -> tuple[Verdict, ...]:
    """Whether each appliance runs with the rules that it was given. An appliance that does not
    answer has none.
    """
    firewall, ips = manifest.design.firewall, manifest.design.ips
    domain = observe_domain(host, firewall.domain)
    with ThreadPoolExecutor(2) as pool:
        counted = pool.submit(_or, NOTHING, lambda: firewall_report(host, firewall.domain))
        inspected = pool.submit(_or, NO_REPORT, lambda: _ips_report_of(host, ips))
    return tuple(
        config_verdicts(
            manifest, domain.marks.rules if domain else "", counted.result(), inspected.result()
        )
    )


def _ips_report_of(host: Host, ips: Vm | None) -> IpsReport:
    return ips_report(host, ips.domain) if ips else NO_REPORT


def _or(otherwise: T, ask: Callable[[], T]) -> T:
    """What the appliance answers; `otherwise` if it does not."""
    try:
        return ask()
    except (GuestError, HostError):
        return otherwise


def _ask(host: Host, domain: str, argv: Sequence[str], *, long: bool = False) -> Executed:
    """Runs a program in an appliance. `long`: its output may have any length, which takes longer.
    Raises GuestError, HostError.
    """
    agent = machines.agent_of(host, domain)
    return (agent.execute_at_length if long else agent.execute)(argv, timeout=TIMEOUT)
