"""Asks a vApp's appliances what they run with, what they have counted and what they have logged.

An attacker may control an appliance like any other VM. What it reports is read as data of any form.
A report that cannot be read costs the checks of that appliance, and no others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

from vcloud.design.model import Vm
from vcloud.errors import GuestError, HostError
from vcloud.hosts import machines
from vcloud.hosts.connection import Host
from vcloud.hosts.executed import Executed
from vcloud.hosts.observe import observe_domain
from vcloud.plan.manifest import Manifest, Phase
from vcloud.plan.state import VappState
from vcloud.plan.steps import Drift
from vcloud.proof.checks import Outcome
from vcloud.proof.config import config_verdicts
from vcloud.proof.firewall_report import (
    REFUSED,
    TABLE,
    Card,
    FirewallReport,
    parse_firewall_report,
    parse_refused,
)
from vcloud.proof.ips_report import NO_REPORT, Event, IpsReport, parse_events, parse_ips_report
from vcloud.proof.mending import mends
from vcloud.proof.observed import Verdict
from vcloud.proof.report import plain
from vcloud.proof.rounds import added, in_sum
from vcloud.untrusted import UnreadableError

T = TypeVar("T")
FIREWALL_REPORT = "/usr/lib/vcloud/firewall-report"
IPS_REPORT = "/usr/lib/vcloud/ips-report"
NFT = "/usr/sbin/nft"
TIMEOUT = 60
"""Seconds for a report."""
SAID = 200
"""Characters of an error of an appliance that are shown."""


def firewall_report(
    host: Host, domain: str, *, counts: bool = False, make_room: bool = False
) -> FirewallReport:
    """What the firewall runs with and, if asked for, what it has dropped.

    Args:
        host: an open host.
        domain: the firewall's domain.
        counts: ask for what it has dropped, too. This takes about as long as all else.
        make_room: the same, and empty the firewall's sets of denied packets first if they are nearly
            full, so that the next packets can be counted.

    Raises:
        GuestError: the firewall does not answer, or its report cannot be read.
        HostError: libvirt refuses it.
    """
    words = ["counts", "room"] if make_room else ["counts"] if counts else []
    done = _ask(host, domain, [FIREWALL_REPORT, *words], long=bool(words))
    if done.code != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise GuestError(
            f"the firewall cannot report about itself: {said[-1][:SAID] if said else f'exit {done.code}'}"
        )
    try:
        return parse_firewall_report(done.stdout)
    except UnreadableError:
        raise GuestError(
            "the firewall's report cannot be read",
            "Its image may be older than this vcloud: build it again with 'vcloud image build'.",
        ) from None


def refused_connections(host: Host, domain: str) -> dict[Card, int]:
    """Packets that the firewall has refused because their senders had begun too many connections.
    Empty where its rules are of an earlier release, which did not tell.

    Raises:
        GuestError: the firewall does not answer, or its answer cannot be read.
        HostError: libvirt refuses it.
    """
    done = _ask(host, domain, [NFT, "-j", "list", "set", *TABLE.split(), REFUSED], long=True)
    try:
        return parse_refused(done.stdout) if done.code == 0 else {}
    except UnreadableError:
        raise GuestError("the firewall's list of refused connections cannot be read") from None


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
            # One event fits into one message of the agent.
            _ask(host, domain, [IPS_REPORT, "events", str(newest)], long=newest > 1).stdout
        )
    )


@dataclass(frozen=True, slots=True)
class Reports:
    """What the appliances of a vApp report about themselves."""

    loaded: str
    """The digest that the firewall printed when its ruleset was loaded; empty if it never was."""
    firewall: FirewallReport | None
    """None: it did not answer."""
    ips: IpsReport | None
    """None: it did not answer. `NO_REPORT` if the vApp has no IPS."""
    reason: str
    """Why the firewall did not answer."""

    def verdicts(self, manifest: Manifest) -> tuple[Verdict, ...]:
        """Whether each appliance runs with the rules that it was given."""
        return tuple(config_verdicts(manifest, self.loaded, self.firewall, self.ips, self.reason))


def check_appliances(host: Host, manifest: Manifest) -> tuple[Verdict, ...]:
    """Whether each appliance runs with the rules that it was given."""
    return ask_appliances(host, manifest).verdicts(manifest)


def ask_appliances(host: Host, manifest: Manifest, *, counts: bool = False) -> Reports:
    """What the appliances report, asked side by side. `counts`: the firewall makes room for counts,
    and tells those that it has.
    """
    firewall, ips = manifest.design.firewall, manifest.design.ips
    domain = observe_domain(host, firewall.domain)
    with ThreadPoolExecutor(2) as pool:
        counted = pool.submit(
            _or_reason,
            lambda: firewall_report(host, firewall.domain, make_room=counts),
        )
        inspected = pool.submit(_or_reason, lambda: _ips_report_of(host, ips))
    report, reason = counted.result()
    return Reports(domain.marks.rules if domain else "", report, inspected.result()[0], reason)


def with_reports(host: Host, state: VappState, wanted: Manifest) -> VappState:
    """The state, with what the appliances report to be otherwise than it was delivered.

    They are asked only where all of them run, not paused, and an `up` has connected them. In any other case the
    plan starts or loads them anyway. One that does not answer two times is restarted. What it does
    not tell beside its other answers gives no step: `status` and `verify` say that it is not known.
    """
    delivered, vms = delivered_to(state, wanted)
    if not vms:
        return state
    tries = added({}, check_appliances(host, delivered))
    if any(
        verdict.outcome in (Outcome.FAIL, Outcome.ERROR) and not verdict.stays
        for (verdict,) in map(tuple, tries.values())
    ):
        # Asked once more, so that an appliance that was just busy is not restarted.
        tries = added(tries, check_appliances(host, delivered))
    found = mends(delivered.design, (in_sum(seen, 0) for seen in tries.values()))
    return replace(
        state,
        reported=tuple(
            Drift(mend.vm, plain(mend.why), mend.verb) for mend in found if mend.vm in vms
        ),
    )


def delivered_to(state: VappState, wanted: Manifest) -> tuple[Manifest, frozenset[str]]:
    """What the appliances are compared with, and which of them are.

    After a run that did not end, its manifest does not say what it delivered. An appliance whose own
    mark says that it was made as it is wanted is compared with that. Any other is changed anyway.
    """
    have = state.manifest
    settled = have is not None and have.phase is Phase.READY
    delivered = have if have is not None and settled else wanted
    appliances = delivered.design.appliances
    # One that is paused cannot answer. The plan resumes it.
    paused = {domain.name for domain in state.domains if domain.paused}
    if not all(state.connected(vm) and vm.domain not in paused for vm in appliances):
        return delivered, frozenset()
    return delivered, frozenset(
        vm.name for vm in appliances if settled or _is_as_wanted(vm, state, wanted)
    )


def _is_as_wanted(vm: Vm, state: VappState, wanted: Manifest) -> bool:
    domain = state.domain(vm.domain)
    return domain is not None and domain.marks.digests == wanted.digests_of(vm.name)


def _ips_report_of(host: Host, ips: Vm | None) -> IpsReport:
    return ips_report(host, ips.domain) if ips else NO_REPORT


def _or_reason(ask: Callable[[], T]) -> tuple[T | None, str]:
    """What the appliance answers, or why it does not."""
    try:
        return ask(), ""
    except (GuestError, HostError) as error:
        return None, error.what


def _ask(host: Host, domain: str, argv: Sequence[str], *, long: bool = False) -> Executed:
    """Runs a program in an appliance. `long`: its output may have any length, which takes longer.
    Raises GuestError, HostError.
    """
    agent = machines.agent_of(host, domain)
    return (agent.execute_at_length if long else agent.execute)(argv, timeout=TIMEOUT)
