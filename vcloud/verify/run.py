"""Sends the probes of a vApp's checks and gathers what was seen. It adds listeners and, in a lab, routes of the outside world; no rule,
no address and no link of the vApp is changed, so what is tested is what runs."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from ipaddress import ip_address
from itertools import groupby
from typing import Any

from vcloud.design.model import Design
from vcloud.errors import NONSENSE, GuestError, HostError, NoVappError, VcloudError
from vcloud.guests.appliances import FIREWALL_REPORT, IPS_REPORT, ask, in_force
from vcloud.hosts import machines
from vcloud.hosts.agent import Agent
from vcloud.hosts.connection import Host, open_host
from vcloud.hosts.executed import Executed
from vcloud.hosts.inventory import choose_host
from vcloud.hosts.observe import observe_vapp
from vcloud.proof.checks import HOST, OUTSIDE, Check, Listener, Probe, left_out, network_checks
from vcloud.proof.firewall_report import NOTHING, FirewallReport, parse_report
from vcloud.proof.inspection import inspection_checks, not_carried
from vcloud.proof.judge import RESULTS, UNREADABLE, Alert, Answer, Observed, judge
from vcloud.proof.report import Findings
from vcloud.reporter import Reporter
from vcloud.verify.vantage import Vantages, guest_program

GUEST = "/usr/lib/vcloud/guest"
BROUGHT = "/var/lib/vcloud/guest"
"""Where the same program is put in a user's own image; /run is mounted without leave to execute in some distributions."""
AGENT_SECONDS = 10
LISTEN_SECONDS = 300
PROBE_TIMEOUT = 240
EVENTS = "20000"


def verify_vapp(vapp: str, connect: str | None, seed: int, reporter: Reporter) -> Findings:
    """Runs every check of a vApp that stands. Raises NoVappError when there is none, VcloudError when it is saved."""
    with open_host(choose_host(connect)) as host:
        state = observe_vapp(host, vapp)
        manifest = state.manifest
        if manifest is None:
            raise NoVappError(vapp, host.name)
        if state.saved():
            raise VcloudError(f"'{vapp}' is saved on {host.name}, so that nothing of it can be tried", "`vcloud up` restores it.")
        design, uplink = manifest.design, manifest.uplink
        vantages = Vantages(host, uplink)
        checks = (*network_checks(design, uplink, vantages.world, seed), *inspection_checks(design, uplink, vantages.world))
        session = _Session(host, design, vantages, reporter)
        session.equip()
        config = in_force(host, manifest)
        seen = session.observe(checks)
        return Findings(
            (*config, *(judge(check, seen) for check in checks)), "; ".join(filter(None, (left_out(design, uplink), not_carried(design))))
        )


class _Session:
    """One run: listeners up, counters read, probes sent, counters read again, listeners down."""

    def __init__(self, host: Host, design: Design, vantages: Vantages, reporter: Reporter) -> None:
        self.host = host
        self.design = design
        self.vantages = vantages
        self.reporter = reporter
        self.reasons: dict[str, str] = {}
        self.without_agent: set[str] = set()
        self.uncounted = ""

    def equip(self) -> None:
        """Brings the guest program to the VMs of a user's own image. Nothing can be tested from one that has no agent."""
        for vm in (vm for vm in self.design.workloads if not vm.image.recipe):
            try:
                bring_program(machines.agent_of(self.host, vm.domain))
            except (GuestError, HostError) as error:
                self.without_agent.add(vm.name)
                self.reasons[vm.name] = error.what

    def observe(self, checks: Sequence[Check]) -> Observed:
        listeners = sorted({check.listener for check in checks if check.listener})
        with self._listening(listeners):
            twins = self._ask_twins(listeners)
            before, since = self._firewall("counting"), self._last_event()
            self.reporter.report("verify", f"sending {len(checks)} probes")
            answers = self._send(checks)
            after = self._firewall()
        if NOTHING in (before, after):
            before = after = NOTHING
        return Observed(answers, twins, before, after, self._alerts(since), self.reasons, self.uncounted)

    def _firewall(self, *argv: str) -> FirewallReport:
        firewall = self.design.firewall.name
        done = self._run(firewall, [FIREWALL_REPORT, *argv], long=True)
        if done is None:
            self.uncounted = self.reasons[firewall]
        elif done.code == 0:
            try:
                return parse_report(done.stdout)
            except GuestError as error:
                self.uncounted = error.what
        return NOTHING

    def _last_event(self) -> str:
        """When the IPS saw what it logged last, by its own clock."""
        done = self._run(self.design.ips.name, [IPS_REPORT, "events", "1"]) if self.design.ips else None
        return max((str(event.get("timestamp", "")) for event in parse_events(done.stdout)), default="") if done else ""

    def _alerts(self, since: str) -> tuple[Alert, ...] | None:
        if self.design.ips is None:
            return ()
        done = self._run(self.design.ips.name, [IPS_REPORT, "events", EVENTS], long=True)
        return parse_alerts(done.stdout, since) if done else None

    @contextmanager
    def _listening(self, listeners: Sequence[Listener]) -> Iterator[None]:
        """Temporary listeners where no service listens; they end by themselves even if this process dies."""
        pids: dict[str, int] = {}
        try:
            for vm, members in groupby(listeners, key=lambda listener: listener.vm):
                lines = "".join(f"{item.protocol} {item.address} {item.port}\n" for item in members)
                done = self._run_guest(vm, ["listen", str(LISTEN_SECONDS)], lines)
                if done is not None and done.code == 0 and (pid := parse_pid(done.stdout)):
                    pids[vm] = pid
            yield
        finally:
            for vm, pid in pids.items():
                self._run_guest(vm, ["listen-stop", str(pid)])

    def _ask_twins(self, listeners: Sequence[Listener]) -> dict[Listener, Answer]:
        """Every listener, asked from within its own VM."""
        twins: dict[Listener, Answer] = {}
        for vm, group in groupby(listeners, key=lambda listener: listener.vm):
            members = list(group)
            lines = [
                probe_line(str(index), Probe(item.protocol, "-", ip_address(item.address), item.port)) for index, item in enumerate(members)
            ]
            done = self._run_guest(vm, ["probe"], "".join(lines))
            if done:
                twins.update(zip(members, parse_answers(done.stdout, len(members)), strict=True))
        return twins

    def _send(self, checks: Sequence[Check]) -> dict[str, Answer]:
        """All probes, each from its vantage; the vantages work side by side."""
        by_vantage: dict[str, list[Check]] = {}
        for check in checks:
            if check.probe is None:
                continue
            by_vantage.setdefault(check.vantage, []).append(check)
        with ThreadPoolExecutor(max(1, len(by_vantage))) as pool:
            found = pool.map(lambda item: self._send_from(*item), by_vantage.items())
            return {key: answer for answers in found for key, answer in answers.items()}

    def _send_from(self, vantage: str, checks: Sequence[Check]) -> dict[str, Answer]:
        text = "".join(probe_line(str(index), check.probe) for index, check in enumerate(checks) if check.probe)
        if vantage in (OUTSIDE, HOST):
            try:
                output = self.vantages.send(vantage, text.encode())
            except VcloudError as error:
                self.reasons[vantage] = error.what
                return {}
        else:
            done = self._run_guest(vantage, ["probe"], text)
            if done is None:
                return {}
            output = done.stdout
        answers = parse_answers(output, len(checks))
        readable = sum(answer.result != UNREADABLE for answer in answers)
        self.reporter.report(vantage, f"{readable} of {len(checks)} probes answered for")
        return {check.id: answer for check, answer in zip(checks, answers, strict=True)}

    def _run_guest(self, vm: str, argv: list[str], stdin: str = "") -> Executed | None:
        """The guest program in a VM, by the same rules as `_run`."""
        own = any(other.name == vm and not other.image.recipe for other in self.design.workloads)
        return None if vm in self.without_agent else self._run(vm, [BROUGHT if own else GUEST, *argv], stdin)

    def _run(self, vm: str, argv: list[str], stdin: str = "", *, long: bool = False) -> Executed | None:
        """A command in a VM; a VM that does not answer makes its checks `not run`, with the reason, and no others."""
        try:
            return ask(self.host, f"{self.design.vapp}.{vm}", argv, stdin.encode(), timeout=PROBE_TIMEOUT, long=long)
        except (GuestError, HostError) as error:
            self.reasons[vm] = error.what
            return None


def bring_program(agent: Agent) -> None:
    """Puts the guest program into a VM of a user's own image. Raises GuestError where the VM does not take it."""
    agent.wait(AGENT_SECONDS)
    agent.write_file(BROUGHT, guest_program().read_bytes(), 0o700)


def probe_line(key: str, probe: Probe) -> str:
    """A line for `guest probe`."""
    payload = base64.b64encode(probe.payload).decode() or "-"
    return f"{key} {probe.protocol} {probe.source} {probe.target} {probe.port} {probe.timeout_ms} {payload}\n"


def parse_answers(output: bytes, count: int) -> tuple[Answer, ...]:
    """What `guest probe` printed for the probes 0 to `count` - 1, one JSON object a line. What is missing or makes no sense is `UNREADABLE`."""
    found = dict(filter(None, map(_numbered_answer, output.splitlines())))
    return tuple(found.get(str(number), Answer(UNREADABLE)) for number in range(count))


def _numbered_answer(line: bytes) -> tuple[str, Answer] | None:
    try:
        item = json.loads(line)
        answer = Answer(str(item["result"]), _port(item.get("port", 0)), base64.b64decode(item.get("answer", "")))
        return (str(item["id"]), answer) if answer.result in RESULTS else None
    except NONSENSE:
        return None


def parse_pid(output: bytes) -> int | None:
    """The process that `guest listen` said it has started; None where it said nothing of the kind."""
    try:
        return int(json.loads(output)["pid"])
    except NONSENSE:
        return None


def parse_events(output: bytes) -> Iterator[dict[str, Any]]:
    """The events that `ips-report events` printed. Suricata may be half way through the last line."""
    for line in output.splitlines():
        try:
            event = json.loads(line)
        except NONSENSE:
            continue
        if isinstance(event, dict):
            yield event


def parse_alerts(output: bytes, since: str = "") -> tuple[Alert, ...]:
    """EVE's alerts and drops after a time as `ips-report events` prints them; what is neither is passed over."""
    alerts: list[Alert] = []
    for event in parse_events(output):
        if since and str(event.get("timestamp", "")) <= since:
            continue
        try:
            alerts += _alerts_of(event)
        except NONSENSE:
            continue
    return tuple(alerts)


def _alerts_of(event: dict[str, Any]) -> Iterator[Alert]:
    """One by each port, as either end may have sent what was matched."""
    kind = str(event.get("event_type"))
    detail = event.get(kind, {})
    rule = str(detail["signature_id"]) if kind == "alert" else str(detail.get("reason", ""))
    blocked = kind == "drop" or detail.get("action") == "blocked"
    protocol = str(event.get("proto", "")).lower()
    for side in ("src_port", "dest_port"):
        yield Alert(rule, protocol, _port(event.get(side, 0)), blocked)


def _port(value: object) -> int:
    """Raises ValueError for what is no port."""
    if not isinstance(value, int) or not 0 <= value <= 0xFFFF:
        raise ValueError("no port")
    return value
