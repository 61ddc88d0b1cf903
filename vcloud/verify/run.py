"""Runs all checks of a vApp: starts listeners, reads counters, sends the probes, reads the counters
again, and stops the listeners.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from ipaddress import ip_address
from itertools import groupby
from typing import TypeVar

from vcloud.design.model import Design
from vcloud.errors import GuestError, HostError, VcloudError
from vcloud.fleet.fleet import open_fleet
from vcloud.guests.appliances import check_appliances, firewall_report, ips_events
from vcloud.guests.probes import Prober
from vcloud.hosts.connection import Host
from vcloud.plan.manifest import Manifest
from vcloud.proof.checks import HOST, TIMEOUT_MS, Check, Listener, Probe, left_out, network_checks
from vcloud.proof.firewall_report import NOTHING, FirewallReport
from vcloud.proof.inspection import inspection_checks, not_carried
from vcloud.proof.ips_report import Alert, alerts_after
from vcloud.proof.judge import UNREADABLE, Answer, Observed, inconclusive, judge
from vcloud.proof.report import Findings
from vcloud.reporter import Reporter
from vcloud.values import INTERNET, Protocol
from vcloud.verify.vantage import host_prober, outside_prober, vm_prober, wait_for_agent, world_of

LISTEN_SECONDS = 600
"""Seconds after which listeners end by themselves, even if this process has died."""
PATIENT_MS = 15_000
"""How long a probe waits that is sent for the second time."""
EVENTS = 20_000
"""Events of the IPS that are read after the probes."""
T = TypeVar("T")


def verify_vapp(vapp: str, connect: str | None, seed: int, reporter: Reporter) -> Findings:
    """Runs every check of a running vApp. `seed` chooses the random ports.

    Raises:
        NoVappError: the host does not have the vApp.
        VcloudError: the vApp is saved, or the host cannot be asked.
    """
    with open_fleet(connect) as fleet:
        host = fleet.home
        state, manifest = fleet.standing(vapp)
        if state.saved():
            raise VcloudError(
                f"'{vapp}' is saved on {host.name}, so nothing of it can be tested",
                "`vcloud up` restores it.",
            )
        design, uplink, world = manifest.design, manifest.uplink, world_of(host)
        checks = (
            *network_checks(design, uplink, world, seed),
            *inspection_checks(design, uplink, world),
        )
        session = _Session(host, manifest, reporter)
        session.reach_own_images()
        config = check_appliances(host, manifest)
        seen = session.observe(checks)
        verdicts = (*config, *(judge(check, seen) for check in checks))
        return Findings(
            verdicts,
            "; ".join(filter(None, (left_out(design, uplink), not_carried(design)))),
            design,
        )


class _Session:
    """One run. A place that does not answer makes its own checks `not run`, with the reason, and no
    others.
    """

    def __init__(self, host: Host, manifest: Manifest, reporter: Reporter) -> None:
        self.host = host
        self.design: Design = manifest.design
        self.reporter = reporter
        self.probers: Mapping[str, Prober] = {
            HOST: host_prober(host),
            INTERNET: outside_prober(host, manifest.uplink),
            **{vm.name: vm_prober(host, vm) for vm in self.design.workloads},
        }
        self.reasons: dict[str, str] = {}
        """Place -> why it cannot be used."""
        self.unusable: set[str] = set()
        """VMs that are not asked again, because each attempt would take `AGENT_SECONDS`."""
        self.uncounted = ""

    def reach_own_images(self) -> None:
        """Tries to reach the VMs of a user's own image: nothing can be tested from one that has no
        guest agent or no python3.
        """
        for vm in (vm for vm in self.design.workloads if not vm.image.recipe):
            try:
                wait_for_agent(self.host, vm)
            except (GuestError, HostError) as error:
                self.unusable.add(vm.name)
                self.reasons[vm.name] = error.what

    def observe(self, checks: Sequence[Check]) -> Observed:
        """Sends all probes, and returns everything that was seen."""
        listeners = sorted({check.listener for check in checks if check.listener})
        with self._listening(listeners):
            local = self._ask_locally(listeners)
            before, since = self._firewall_report(make_room=True), self._last_event()
            self.reporter.report("verify", f"sending {len(checks)} probes")
            answers = self._send(checks)
            answers |= self._send(self._more_patient(checks, answers))
            after = self._firewall_report()
        if NOTHING in (before, after):
            before = after = NOTHING
        return Observed(
            answers, local, before, after, self._alerts(since), self.reasons, self.uncounted
        )

    def _more_patient(self, checks: Sequence[Check], answers: Mapping[str, Answer]) -> list[Check]:
        """The checks whose probe is sent once more, with more time."""
        again = [
            check for check in checks if check.probe and inconclusive(check, answers.get(check.id))
        ]
        if again:
            self.reporter.report("verify", f"sending {len(again)} probes again, with more time")
        return [
            replace(check, probe=replace(check.probe, timeout_ms=PATIENT_MS))
            for check in again
            if check.probe
        ]

    def _firewall_report(self, *, make_room: bool = False) -> FirewallReport:
        try:
            return firewall_report(self.host, self.design.firewall.domain, make_room=make_room)
        except (GuestError, HostError) as error:
            self.uncounted = error.what
            return NOTHING

    def _last_event(self) -> str:
        """The time of the last event that the IPS has logged, by its own clock; empty if there is
        none.
        """
        ips = self.design.ips
        events = (
            self._attempt(ips.name, lambda: ips_events(self.host, ips.domain, 1)) if ips else None
        )
        return max((event.time for event in events or ()), default="")

    def _alerts(self, since: str) -> tuple[Alert, ...] | None:
        """What the IPS has logged after a time; None if its log cannot be read."""
        ips = self.design.ips
        if ips is None:
            return ()
        events = self._attempt(ips.name, lambda: ips_events(self.host, ips.domain, EVENTS))
        return None if events is None else alerts_after(events, since)

    @contextmanager
    def _listening(self, listeners: Sequence[Listener]) -> Iterator[None]:
        """Temporary listeners on the ports where no service of the VM listens."""
        pids: dict[str, int] = {}
        try:
            for vm, members in _by_vm(listeners):
                if pid := self._at(
                    vm, partial(Prober.listen, listeners=members, seconds=LISTEN_SECONDS)
                ):
                    pids[vm] = pid
            yield
        finally:
            for vm, pid in pids.items():
                self._at(vm, partial(Prober.stop_listening, pid=pid))

    def _ask_locally(self, listeners: Sequence[Listener]) -> dict[Listener, Answer]:
        """What each listener answers to a probe from within its own VM."""
        found: dict[Listener, Answer] = {}
        for vm, members in _by_vm(listeners):
            probes = [_local_probe(item) for item in members]
            answers = self._at(vm, partial(Prober.probe, probes=probes))
            found.update(zip(members, answers or (), strict=bool(answers)))
        return found

    def _send(self, checks: Sequence[Check]) -> dict[str, Answer]:
        """Sends all probes. The places work side by side."""
        by_place: dict[str, list[Check]] = {}
        for check in checks:
            if check.probe:
                by_place.setdefault(check.vantage, []).append(check)
        with ThreadPoolExecutor(max(1, len(by_place))) as pool:
            found = pool.map(lambda item: self._send_from(*item), by_place.items())
            return {key: answer for answers in found for key, answer in answers.items()}

    def _send_from(self, place: str, checks: Sequence[Check]) -> dict[str, Answer]:
        answers = self._at(
            place, lambda prober: prober.probe([check.probe for check in checks if check.probe])
        )
        if answers is None:
            return {}
        readable = sum(answer.result != UNREADABLE for answer in answers)
        self.reporter.report(place, f"{readable} of {len(checks)} probes finished")
        return {check.id: answer for check, answer in zip(checks, answers, strict=True)}

    def _at(self, place: str, use: Callable[[Prober], T]) -> T | None:
        """Uses the probe program at a place; None if that is not possible."""
        return (
            None
            if place in self.unusable
            else self._attempt(place, lambda: use(self.probers[place]))
        )

    def _attempt(self, place: str, ask: Callable[[], T]) -> T | None:
        """What is asked of a place; None if it does not answer. The reason is kept."""
        try:
            return ask()
        except (GuestError, HostError) as error:
            self.reasons[place] = error.what
            return None


def _local_probe(listener: Listener) -> Probe:
    """A probe from within the listener's own VM. It waits long for a connection, but not for a UDP
    service that may never answer.
    """
    timeout = PATIENT_MS if listener.protocol == Protocol.TCP else TIMEOUT_MS
    return Probe(
        listener.protocol, "-", ip_address(listener.address), listener.port, timeout_ms=timeout
    )


def _by_vm(listeners: Sequence[Listener]) -> Iterator[tuple[str, list[Listener]]]:
    """The listeners of each VM. They must be sorted."""
    for vm, members in groupby(listeners, key=lambda listener: listener.vm):
        yield vm, list(members)
