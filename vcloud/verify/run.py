"""Sends the probes of a vApp's checks and gathers what was seen. It adds listeners and, in a lab, routes of the outside world; no rule,
no address and no link of the vApp is changed, so what is tested is what runs."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from itertools import groupby
from typing import TYPE_CHECKING, Any

from vcloud.design.model import Design
from vcloud.errors import GuestError, HostError, UsageError, VcloudError
from vcloud.hosts import machines
from vcloud.hosts.agent import Agent
from vcloud.hosts.connection import Host, open_host
from vcloud.hosts.executed import Executed
from vcloud.hosts.inventory import choose_host
from vcloud.hosts.observe import observe_vapp
from vcloud.verify.appliances import FIREWALL_REPORT, IPS_REPORT, in_force
from vcloud.verify.checks import HOST, OUTSIDE, Check, Listener, Probe, network_checks
from vcloud.verify.firewall_report import NOTHING, FirewallReport, parse_report
from vcloud.verify.inspection import inspection_checks
from vcloud.verify.judge import Alert, Answer, Observed, Verdict, judge
from vcloud.verify.vantage import Vantages, guest_program

if TYPE_CHECKING:
    from vcloud.apply.up import Reporter

GUEST = "/usr/lib/vcloud/guest"
BROUGHT = "/var/lib/vcloud/guest"
"""Where the same program is put in a user's own image; /run is mounted without leave to execute in some distributions."""
AGENT_SECONDS = 10
LISTEN_SECONDS = 300
PROBE_TIMEOUT = 240
EVENTS = "20000"


def verify_vapp(vapp: str, connect: str | None, seed: int, reporter: Reporter) -> tuple[Verdict, ...]:
    """Runs every check of a vApp that stands. Raises UsageError when there is none."""
    with open_host(choose_host(connect)) as host:
        manifest = observe_vapp(host, vapp).manifest
        if manifest is None:
            raise UsageError(f"there is no vApp '{vapp}' on {host.name}", "vcloud list shows what is there.")
        design, uplink = manifest.design, manifest.uplink
        vantages = Vantages(host, uplink)
        checks = (*network_checks(design, uplink, vantages.world, seed), *inspection_checks(design, uplink, vantages.world))
        session = _Session(host, design, vantages, reporter)
        session.equip()
        config = in_force(host, manifest)
        seen = session.observe(checks)
        return (*config, *(judge(check, seen) for check in checks))


class _Session:
    """One run: listeners up, counters read, probes sent, counters read again, listeners down."""

    def __init__(self, host: Host, design: Design, vantages: Vantages, reporter: Reporter) -> None:
        self.host = host
        self.design = design
        self.vantages = vantages
        self.reporter = reporter
        self.reasons: dict[str, str] = {}
        self.without_agent: set[str] = set()

    def equip(self) -> None:
        """Brings the guest program to the VMs of a user's own image. Nothing can be tested from one that has no agent."""
        for vm in (vm for vm in self.design.workloads if not vm.image.recipe):
            try:
                self._agent(vm.name).wait(AGENT_SECONDS)
                self._agent(vm.name).write_file(BROUGHT, guest_program().read_bytes(), 0o700)
            except (GuestError, HostError) as error:
                self.without_agent.add(vm.name)
                self.reasons[vm.name] = error.what

    def observe(self, checks: Sequence[Check]) -> Observed:
        listeners = sorted({check.listener for check in checks if check.listener})
        with self._listening(listeners):
            twins = self._ask_twins(listeners)
            before = self._firewall()
            self.reporter.report("verify", f"sending {len(checks)} probes")
            answers = self._send(checks)
            after = self._firewall()
        return Observed(answers, twins, before, after, self._alerts(), self.reasons)

    def _agent(self, vm: str) -> Agent:
        return machines.agent_of(self.host, f"{self.design.vapp}.{vm}")

    def _firewall(self) -> FirewallReport:
        done = self._run(self.design.firewall.name, [FIREWALL_REPORT])
        return parse_report(done.stdout) if done and done.code == 0 else NOTHING

    def _alerts(self) -> tuple[Alert, ...]:
        if self.design.ips is None:
            return ()
        done = self._run(self.design.ips.name, [IPS_REPORT, "events", EVENTS])
        return parse_alerts(done.stdout) if done else ()

    @contextmanager
    def _listening(self, listeners: Sequence[Listener]) -> Iterator[None]:
        """Temporary listeners where no service listens; they end by themselves even if this process dies."""
        pids: dict[str, int] = {}
        try:
            for vm, members in groupby(listeners, key=lambda listener: listener.vm):
                lines = "".join(f"{item.protocol} {item.address} {item.port}\n" for item in members)
                done = self._run_guest(vm, ["listen", str(LISTEN_SECONDS)], lines)
                if done is not None and done.code == 0:
                    pids[vm] = json.loads(done.stdout)["pid"]
            yield
        finally:
            for vm, pid in pids.items():
                self._run_guest(vm, ["listen-stop", str(pid)])

    def _ask_twins(self, listeners: Sequence[Listener]) -> dict[Listener, Answer]:
        """Every listener, asked from within its own VM."""
        twins = {}
        for vm, group in groupby(listeners, key=lambda listener: listener.vm):
            members = list(group)
            lines = [
                probe_line(str(index), Probe(item.protocol, "-", ip_address(item.address), item.port)) for index, item in enumerate(members)
            ]
            done = self._run_guest(vm, ["probe"], "".join(lines))
            answers = parse_answers(done.stdout) if done else {}
            twins.update({item: answers[str(index)] for index, item in enumerate(members) if str(index) in answers})
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
            output = done.stdout if done else b""
        answers = parse_answers(output)
        self.reporter.report(vantage, f"{len(answers)} of {len(checks)} probes answered for")
        return {check.id: answers[str(index)] for index, check in enumerate(checks) if str(index) in answers}

    def _run_guest(self, vm: str, argv: list[str], stdin: str = "") -> Executed | None:
        """The guest program in a VM, by the same rules as `_run`."""
        own = any(other.name == vm and not other.image.recipe for other in self.design.workloads)
        return None if vm in self.without_agent else self._run(vm, [BROUGHT if own else GUEST, *argv], stdin)

    def _run(self, vm: str, argv: list[str], stdin: str = "") -> Executed | None:
        """A command in a VM; a VM that does not answer makes its checks `not run`, with the reason, and no others."""
        try:
            return self._agent(vm).execute(argv, stdin=stdin.encode(), timeout=PROBE_TIMEOUT)
        except (GuestError, HostError) as error:
            self.reasons[vm] = error.what
            return None


def probe_line(key: str, probe: Probe) -> str:
    """A line for `guest probe`."""
    payload = base64.b64encode(probe.payload).decode() or "-"
    return f"{key} {probe.protocol} {probe.source} {probe.target} {probe.port} {probe.timeout_ms} {payload}\n"


def parse_answers(output: bytes) -> dict[str, Answer]:
    """What `guest probe` printed: one JSON object a line."""
    found = {}
    for line in output.splitlines():
        item = json.loads(line)
        found[str(item["id"])] = Answer(item["result"], int(item.get("port", 0)), base64.b64decode(item.get("answer", "")))
    return found


def parse_events(output: bytes) -> Iterator[dict[str, Any]]:
    """The events that `ips-report events` printed. Suricata may be half way through the last line."""
    for line in output.splitlines():
        with suppress(ValueError):
            yield json.loads(line)


def parse_alerts(output: bytes) -> tuple[Alert, ...]:
    """EVE's alerts and drops as `ips-report events` prints them."""
    alerts = []
    for event in parse_events(output):
        kind = str(event.get("event_type"))
        detail = event.get(kind, {})
        rule = str(detail["signature_id"]) if kind == "alert" else str(detail.get("reason", ""))
        blocked = kind == "drop" or detail.get("action") == "blocked"
        alerts += [Alert(rule, int(event.get(side, 0)), blocked) for side in ("src_port", "dest_port")]
    return tuple(alerts)
