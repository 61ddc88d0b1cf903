"""Asks a vApp's appliances for their configuration, their counts and their logs.

An attacker may control an appliance like any other VM, so the form of every report is checked. If a
report cannot be read, only the checks of that appliance are affected.
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
from vcloud.plan.manifest import Manifest, Phase
from vcloud.plan.state import DomainState, VappState
from vcloud.plan.steps import Drift
from vcloud.proof.checks import Outcome
from vcloud.proof.config import config_verdicts
from vcloud.proof.firewall_report import FirewallReport, parse_firewall_report
from vcloud.proof.ips_report import NO_REPORT, Event, IpsReport, parse_events, parse_ips_report
from vcloud.proof.mending import mends
from vcloud.proof.observed import Verdict
from vcloud.proof.report import plain
from vcloud.proof.rounds import added, in_sum
from vcloud.untrusted import UnreadableError

T = TypeVar("T")
FIREWALL_REPORT = "/usr/lib/vcloud/firewall-report"
IPS_REPORT = "/usr/lib/vcloud/ips-report"
TIMEOUT = 60
"""Seconds for a report."""
SAID = 200
"""Characters of an error of an appliance that are shown."""


def firewall_report(
    host: Host, domain: str, *, counts: bool = False, make_room: bool = False
) -> FirewallReport:
    """The firewall's configuration and, if asked for, its counts of dropped packets.

    Args:
        host: an open host.
        domain: the firewall's domain.
        counts: also ask for the counts of dropped packets. This about doubles the time.
        make_room: as `counts`, but first empty the firewall's sets of denied packets if they are
            nearly full, so that new packets can be counted.

    Raises:
        GuestError: the firewall does not answer, or its report cannot be read.
        HostError: libvirt refuses the call.
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


def ips_report(host: Host, domain: str) -> IpsReport:
    """The configuration of the IPS; `NO_REPORT` if its answer cannot be read. Raises GuestError,
    HostError.
    """
    done = _ask(host, domain, [IPS_REPORT])
    return parse_ips_report(done.stdout) if done.code == 0 else NO_REPORT


def ips_events(host: Host, domain: str, newest: int) -> tuple[Event, ...]:
    """The last `newest` events of the IPS's log, the oldest first. Raises GuestError, HostError."""
    return tuple(
        parse_events(
            # A single event fits into one message of the agent, so the faster call is enough.
            _ask(host, domain, [IPS_REPORT, "events", str(newest)], long=newest > 1).stdout
        )
    )


@dataclass(frozen=True, slots=True)
class Reports:
    """What the appliances of a vApp report about themselves."""

    loaded: str
    """The digest that the firewall printed when its ruleset was loaded; empty if none was loaded."""
    firewall: FirewallReport | None
    """None: it did not answer."""
    ips: IpsReport | None
    """None: it did not answer. `NO_REPORT` if the vApp has no IPS."""
    reason: str
    """Why the firewall did not answer."""

    def verdicts(self, manifest: Manifest) -> tuple[Verdict, ...]:
        """Whether each appliance runs with the rules that it was given."""
        return tuple(config_verdicts(manifest, self.loaded, self.firewall, self.ips, self.reason))


def ask_appliances(
    host: Host, manifest: Manifest, firewall_domain: DomainState | None, *, counts: bool = False
) -> Reports:
    """The reports of the appliances, which are asked at the same time. `firewall_domain` is the
    firewall's domain as libvirt has it. With `counts`, the firewall also reports its counts, and
    makes room for new ones (`make_room`).
    """
    firewall, ips = manifest.design.firewall, manifest.design.ips
    with ThreadPoolExecutor(2) as pool:
        counted = pool.submit(
            _or_reason,
            lambda: firewall_report(host, firewall.domain, make_room=counts),
        )
        inspected = pool.submit(_or_reason, lambda: _ips_report_of(host, ips))
    report, reason = counted.result()
    loaded = firewall_domain.marks.rules if firewall_domain else ""
    return Reports(loaded, report, inspected.result()[0], reason)


def with_reports(host: Host, state: VappState, wanted: Manifest) -> VappState:
    """The state, with the differences that the appliances report.

    They are asked only if all of them run, none is paused, and `up` has connected them. Otherwise
    the plan starts or loads them anyway. An appliance that does not answer twice is restarted. If it
    answers, but leaves out a part, no step follows: `status` and `verify` report the part as unknown.
    """
    delivered, vms = delivered_to(state, wanted)
    if not vms:
        return state
    firewall = state.domain(delivered.design.firewall.domain)
    tries = added({}, ask_appliances(host, delivered, firewall).verdicts(delivered))
    if any(
        verdict.outcome in (Outcome.FAIL, Outcome.ERROR) and not verdict.stays
        for (verdict,) in map(tuple, tries.values())
    ):
        # The appliances are asked once more, so that one that was just busy is not restarted.
        tries = added(tries, ask_appliances(host, delivered, firewall).verdicts(delivered))
    found = mends(delivered.design, (in_sum(seen, 0) for seen in tries.values()))
    return replace(
        state,
        reported=tuple(
            Drift(mend.vm, plain(mend.why), mend.verb) for mend in found if mend.vm in vms
        ),
    )


def delivered_to(state: VappState, wanted: Manifest) -> tuple[Manifest, frozenset[str]]:
    """The manifest that the appliances are compared with, and the names of those that are compared.

    After a run that did not end, the host's manifest does not say what was delivered. Then an
    appliance is compared with `wanted` if its own mark says that it was made so. Any other appliance
    is changed by the plan anyway.
    """
    have = state.manifest
    settled = have is not None and have.phase is Phase.READY
    delivered = have if have is not None and settled else wanted
    appliances = delivered.design.appliances
    # A paused appliance cannot answer. The plan resumes it.
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
    """The appliance's answer, or the reason why there is none."""
    try:
        return ask(), ""
    except (GuestError, HostError) as error:
        return None, error.what


def _ask(host: Host, domain: str, argv: Sequence[str], *, long: bool = False) -> Executed:
    """Runs a program in an appliance. With `long`, its output may have any length, but the call
    takes longer. Raises GuestError, HostError.
    """
    agent = machines.agent_of(host, domain)
    return (agent.execute_at_length if long else agent.execute)(argv, timeout=TIMEOUT)
