"""Runs all checks of a vApp: starts listeners, and then in each round forges ICMP errors, measures
how long an answer takes, reads counters, sends the probes, and reads the counters again. In the end
it stops the listeners.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from ipaddress import ip_address
from itertools import groupby
from typing import TypeVar

from vcloud.design.model import Design
from vcloud.errors import GuestError, HostError, VcloudError
from vcloud.fleet.fleet import open_home
from vcloud.guests.appliances import ask_appliances, firewall_report, ips_events, ips_report
from vcloud.guests.probes import Listening, Prober
from vcloud.hosts.connection import Host
from vcloud.hosts.host_side import looking_at
from vcloud.hosts.labels import misplaced
from vcloud.hosts.observe import observe_domain
from vcloud.hosts.tenancy import kept_together
from vcloud.plan.host_isolation import demanded_kinds
from vcloud.plan.manifest import Manifest
from vcloud.proof.checks import (
    HOST,
    TIMEOUT_MS,
    Check,
    Connection,
    Kind,
    Listener,
    Outcome,
    Probe,
)
from vcloud.proof.config import libvirt_verdicts, placement_verdicts, tenancy_verdicts
from vcloud.proof.errors import with_frame
from vcloud.proof.firewall_report import NOTHING, FirewallReport
from vcloud.proof.forged import ends_of
from vcloud.proof.host import host_verdicts
from vcloud.proof.inspection import inspection_checks, not_carried
from vcloud.proof.ips_report import Alert, alerts_after
from vcloud.proof.judge import judge
from vcloud.proof.network import left_out, network_checks
from vcloud.proof.observed import THROUGH, UNREADABLE, Answer, Observed, Verdict
from vcloud.proof.report import Findings
from vcloud.proof.rounds import (
    CONTROL_MS,
    LONGEST_MS,
    ROUNDS,
    Tries,
    added,
    asked_next,
    controls,
    in_sum,
    paced,
)
from vcloud.reporter import Reporter
from vcloud.values import INTERNET, Protocol
from vcloud.verify.vantage import (
    host_prober,
    outside_prober,
    parse_server,
    vm_prober,
    wait_for_agent,
    world_of,
)

LISTEN_SECONDS = 600
"""Seconds after which listeners end by themselves, even if this process has died."""
EVENTS = 20_000
"""Events of the IPS that are read after the probes."""
HELD_SECONDS = 60
"""Seconds for which the connections for forged ICMP errors stay open."""
COUNT_SECONDS = 4
"""Seconds until Suricata's counters include all lost packets; it updates them every 3 seconds."""
T = TypeVar("T")


def verify_vapp(
    vapp: str, connect: str | None, seed: int, reporter: Reporter, servers: Sequence[str] = ()
) -> Findings:
    """Runs every check of a running vApp. `seed` chooses the random ports. `servers` are test
    servers outside, as `vantage.parse_server` reads them.

    Raises:
        NoVappError: the host does not have the vApp.
        UsageError: a server is not written as it should be.
        VcloudError: the vApp is saved, or the host cannot be asked.
    """
    named = tuple(map(parse_server, servers))
    with open_home(connect, vapp) as fleet:
        host = fleet.home
        world = world_of(host, named)
        with looking_at(host) as host_side_of:
            state, manifest = fleet.standing(vapp)
            host_side = host_side_of(state, manifest)
        if state.saved():
            raise VcloudError(
                f"'{vapp}' is saved on {host.name}, so nothing of it can be tested",
                "`vcloud up` restores it.",
            )
        design, uplink = manifest.design, manifest.uplink
        checks = (
            *network_checks(design, uplink, world, seed),
            *inspection_checks(design, uplink, world),
        )
        session = _Session(host, manifest, reporter)
        # This comes first, so that a VM without an agent costs only one timeout and is then left
        # out.
        session.reach_own_images()
        return Findings(
            (
                *libvirt_verdicts(manifest, state),
                *host_verdicts(host_side.differences, host_side.unseen, demanded_kinds(design)),
                *tenancy_verdicts(design, kept_together(host, design)),
                *placement_verdicts(design, misplaced(host, design, manifest.accelerator)),
                *session.verdicts(checks),
            ),
            "; ".join(filter(None, (left_out(design, uplink), not_carried(design)))),
            design,
        )


class _Session:
    """One run. If a place does not answer, only its own checks are `not run`, with the reason."""

    def __init__(self, host: Host, manifest: Manifest, reporter: Reporter) -> None:
        self.host = host
        self.manifest = manifest
        self.design: Design = manifest.design
        self.reporter = reporter
        self.probers: Mapping[str, Prober] = {
            HOST: host_prober(host),
            INTERNET: outside_prober(host, manifest.uplink),
            **{vm.name: vm_prober(host, vm) for vm in self.design.workloads},
        }
        self.reasons: dict[str, str] = {}
        """Place -> why it could not be used in this round."""
        self.unusable: dict[str, str] = {}
        """VMs that are not used in this run -> the reason. Each further attempt would take
        `AGENT_SECONDS`.
        """
        self.started: dict[str, Listening] = {}
        """VM -> its temporary listeners."""
        self.uncounted = ""
        self.lost_before = 0

    def reach_own_images(self) -> None:
        """Tries to reach the VMs of a user's own image. No probe can be sent from a VM without
        guest agent or python3.
        """
        for vm in (vm for vm in self.design.workloads if not vm.image.recipe):
            try:
                wait_for_agent(self.host, vm)
            except (GuestError, HostError) as error:
                self.unusable[vm.name] = error.what

    def verdicts(self, checks: Sequence[Check]) -> tuple[Verdict, ...]:
        """The verdicts on all checks, after one round or, for checks that do not pass, after
        several.
        """
        measuring = controls(checks)
        tries: Tries = {}
        with self._listeners_stopped_in_the_end(), ThreadPoolExecutor(1) as pool:
            reported = pool.submit(self._config)
            self._listen(checks)
            config, counted = reported.result()
            for number in range(ROUNDS):
                asked = asked_next(checks, tries)
                if not asked:
                    break
                self.reporter.report(
                    "verify",
                    f"sending {len(asked)} probes{' again, with more time' * bool(number)}",
                )
                sent, seen = self._round(asked, number, measuring, counted)
                tries = added(tries, (judge(check, seen) for check in sent))
                counted = seen.after
            lost = self._lost(tries)
        return (*config, *(in_sum(tries[check.id], lost) for check in checks))

    def _config(self) -> tuple[tuple[Verdict, ...], FirewallReport]:
        """The verdicts on the reports of the appliances, and the firewall's report with its counts.
        An appliance that may just be busy is asked again.
        """
        tries: Tries = {}
        for _ in range(ROUNDS):
            firewall = observe_domain(self.host, self.design.firewall.domain)
            reports = ask_appliances(self.host, self.manifest, firewall, counts=True)
            verdicts = reports.verdicts(self.manifest)
            tries = added(tries, verdicts)
            if not asked_next([verdict.check for verdict in verdicts], tries):
                break
        self.uncounted = reports.reason
        self.lost_before = reports.ips.lost if reports.ips else 0
        return tuple(in_sum(seen, 0) for seen in tries.values()), reports.firewall or NOTHING

    def _round(
        self,
        asked: Sequence[Check],
        number: int,
        measuring: Mapping[str, Check],
        before: FirewallReport,
    ) -> tuple[list[Check], Observed]:
        """Sends the probes of these checks. Returns the checks with the probes that were really
        sent, and all observations.
        """
        self.reasons = dict(self.unusable)
        if number:
            # The listeners are started again, because a listener may have ended, which must not
            # spoil another round.
            self._stop_listening(_by_vm(asked))
        self._listen(asked)
        # Only a report before the probes may empty full sets. After the probes, counts would be
        # lost.
        if before is NOTHING and number:
            before = self._firewall_report(make_room=True)
        first = before
        with ThreadPoolExecutor(2) as pool:
            last = pool.submit(self._last_event)
            asked_locally = pool.submit(self._ask_locally, asked)
            with self._standing(asked) as forged:
                answers = self._send(list(forged.values()))
                if forged:
                    before = self._firewall_report()
            local, since = asked_locally.result(), last.result()
        round_trip = self._round_trip(measuring)
        answers |= self._send(
            [paced(one, number, round_trip) for one in asked if one.probe and not one.about]
        )
        with ThreadPoolExecutor(1) as pool:
            alerts = pool.submit(self._alerts, since)
            after = self._firewall_report()
        # One report alone cannot show that a count has grown.
        if NOTHING in (before, after):
            before = after = NOTHING
        return [forged.get(check.id, check) for check in asked], Observed(
            answers,
            local,
            before,
            after,
            alerts.result(),
            self.reasons,
            self.uncounted,
            frozenset(self.unusable),
            first,
            frozenset(map(ends_of, forged.values())),
            frozenset().union(*(listening.busy for listening in self.started.values())),
        )

    def _firewall_report(self, *, make_room: bool = False) -> FirewallReport:
        try:
            report = firewall_report(
                self.host, self.design.firewall.domain, counts=True, make_room=make_room
            )
        except (GuestError, HostError) as error:
            self.uncounted = error.what
            return NOTHING
        self.uncounted = ""
        return report

    def _last_event(self) -> str | None:
        """The time of the last event in the log of the IPS, by its own clock; empty if there is
        none. None if the log cannot be read; then new events cannot be distinguished from older
        ones.
        """
        ips = self.design.ips
        if ips is None:
            return ""
        events = self._attempt(ips.name, lambda: ips_events(self.host, ips.domain, 1))
        return None if events is None else max((event.time for event in events), default="")

    def _alerts(self, since: str | None) -> tuple[Alert, ...] | None:
        """The events of the IPS after a time; None if its log cannot be read."""
        ips = self.design.ips
        if ips is None:
            return ()
        # An unreadable log does not prove that nothing was logged, so the result is None and not an
        # empty tuple.
        events = self._attempt(ips.name, lambda: ips_events(self.host, ips.domain, EVENTS))
        return None if events is None or since is None else alerts_after(events, since)

    def _lost(self, tries: Tries) -> int:
        """How many packets the IPS has lost in this run. The IPS is asked only if a check of a
        payload did not pass.
        """
        ips = self.design.ips
        red = any(
            seen[-1].check.kind in (Kind.IPS, Kind.LEAK)
            and not any(verdict.stays for verdict in seen)
            and seen[-1].outcome in (Outcome.FAIL, Outcome.ERROR)
            for seen in tries.values()
        )
        if ips is None or not red:
            return 0
        time.sleep(COUNT_SECONDS)
        report = self._attempt(ips.name, lambda: ips_report(self.host, ips.domain))
        return max(0, report.lost - self.lost_before) if report else 0

    def _listen(self, checks: Sequence[Check]) -> None:
        """Starts temporary listeners in the VMs that have none yet, on the ports on which no
        service of the VM listens.
        """
        found = self._side_by_side(
            {
                vm: partial(Prober.listen, listeners=members, seconds=LISTEN_SECONDS)
                for vm, members in _by_vm(checks).items()
                if vm not in self.started
            }
        )
        self.started |= {vm: listening for vm, listening in found.items() if listening}

    @contextmanager
    def _listeners_stopped_in_the_end(self) -> Iterator[None]:
        try:
            yield
        finally:
            self._stop_listening(self.started)

    def _stop_listening(self, vms: Iterable[str]) -> None:
        """Stops the temporary listeners in these VMs."""
        self._side_by_side(
            {
                vm: partial(Prober.stop_listening, pid=self.started[vm].pid)
                for vm in vms
                if vm in self.started
            }
        )
        self.started = {vm: its for vm, its in self.started.items() if vm not in {*vms}}

    def _ask_locally(self, asked: Sequence[Check]) -> dict[Listener, Answer]:
        """The answer of each listener to a probe from within its own VM."""
        by_vm = _by_vm(asked)
        found = self._side_by_side(
            {
                vm: partial(Prober.probe, probes=[_local_probe(listener) for listener in its])
                for vm, its in by_vm.items()
            }
        )
        return {
            listener: answer
            for vm, members in by_vm.items()
            for listener, answer in zip(members, found[vm] or (), strict=False)
        }

    def _round_trip(self, measuring: Mapping[str, Check]) -> int:
        """How many milliseconds the slowest control probe takes. No other probes run meanwhile, so
        only other load of the machine makes it slow.
        """
        found = self._side_by_side(
            {
                place: partial(Prober.probe, probes=[replace(check.sent, timeout_ms=CONTROL_MS)])
                for place, check in measuring.items()
            }
        )
        answers = [answer for its in found.values() for answer in its or ()]
        trips = [answer.ms for answer in answers if answer.result in THROUGH]
        return max(trips, default=CONTROL_MS if measuring else 0)

    @contextmanager
    def _standing(self, asked: Sequence[Check]) -> Iterator[dict[str, Check]]:
        """Opens the connections for forged ICMP errors and keeps them open until the block ends.
        Gives the checks with the frames of their errors, by id. Checks whose connections could not
        be opened are missing.
        """
        places: dict[str, list[Connection]] = {}
        for connection in dict.fromkeys(check.about for check in asked if check.about):
            places.setdefault(connection.client, []).append(connection)
        found = self._side_by_side(
            {
                place: partial(Prober.hold, connections=its, seconds=HELD_SECONDS)
                for place, its in places.items()
            }
        )
        held = {place: holding for place, holding in found.items() if holding}
        ends = {
            connection: end
            for place, holding in held.items()
            for connection, end in zip(places[place], holding.ends, strict=True)
        }
        try:
            yield {
                check.id: with_frame(check, end)
                for check in asked
                if check.about and (end := ends.get(check.about))
            }
        finally:
            # A service that serves one connection at a time would otherwise stay busy.
            self._side_by_side(
                {
                    place: partial(Prober.let_go, pid=holding.pid)
                    for place, holding in held.items()
                    if holding.pid
                }
            )

    def _send(self, checks: Sequence[Check]) -> dict[str, Answer]:
        """Sends all probes. The places work side by side."""
        by_place: dict[str, list[Check]] = {}
        for check in checks:
            by_place.setdefault(check.vantage, []).append(check)
        found = self._side_by_side(
            {
                place: partial(Prober.probe, probes=[check.sent for check in its])
                for place, its in by_place.items()
            }
        )
        answers: dict[str, Answer] = {}
        for place, its in by_place.items():
            got = found[place]
            if got is not None:
                readable = sum(answer.result != UNREADABLE for answer in got)
                self.reporter.report(place, f"{readable} of {len(its)} probes finished")
                answers |= {check.id: answer for check, answer in zip(its, got, strict=True)}
        return answers

    def _side_by_side(self, uses: Mapping[str, Callable[[Prober], T]]) -> dict[str, T | None]:
        """Uses the probe program at each of these places at the same time. The result is None for a
        place at which that is not possible.
        """
        with ThreadPoolExecutor(max(1, len(uses))) as pool:
            return dict(
                zip(uses, pool.map(lambda item: self._at(*item), uses.items()), strict=True)
            )

    def _at(self, place: str, use: Callable[[Prober], T]) -> T | None:
        """Uses the probe program at a place; None if that is not possible."""
        return (
            None
            if place in self.unusable
            else self._attempt(place, lambda: use(self.probers[place]))
        )

    def _attempt(self, place: str, ask: Callable[[], T]) -> T | None:
        """The result of `ask`; None if the place does not answer. The reason is stored."""
        try:
            return ask()
        except (GuestError, HostError) as error:
            self.reasons[place] = error.what
            return None


def _local_probe(listener: Listener) -> Probe:
    """A probe from within the listener's own VM. It waits long for a connection, but not for a UDP
    service that may never answer.
    """
    timeout = LONGEST_MS if listener.protocol == Protocol.TCP else TIMEOUT_MS
    return Probe(
        listener.protocol, "-", ip_address(listener.address), listener.port, timeout_ms=timeout
    )


def _by_vm(checks: Sequence[Check]) -> dict[str, list[Listener]]:
    """The listeners of each VM that these checks need."""
    listeners = sorted({check.listener for check in checks if check.listener})
    return {vm: list(members) for vm, members in groupby(listeners, key=lambda item: item.vm)}
