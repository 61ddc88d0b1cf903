"""Checks of each kind, and what their probes found, for tests of what observations mean; and the
checks of a design.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

from tests.design_builder import UPLINK
from vcloud.design.model import Design
from vcloud.proof.checks import HOST, Check, Echo, Kind, Listener, Outcome, Probe
from vcloud.proof.firewall_report import Denied, FirewallReport
from vcloud.proof.inspection import inspection_checks
from vcloud.proof.ips_report import Alert
from vcloud.proof.judge import judge
from vcloud.proof.network import network_checks
from vcloud.proof.observed import Answer, Observed
from vcloud.proof.world import Server, World
from vcloud.values import INTERNET

SOURCE, TARGET = ip_address("10.0.0.2"), ip_address("10.0.16.2")
LISTENER = Listener("db", "tcp", str(TARGET), 22)
KEY: Denied = (str(SOURCE), str(TARGET), "tcp", 22)
ALIVE, DEAD = {LISTENER: Answer("open")}, {LISTENER: Answer("refused")}
FLOW = Check(
    "flow/1",
    Kind.FLOW,
    "web reaches db",
    "web",
    Probe("tcp", str(SOURCE), TARGET, 22),
    True,
    "flow:orders",
    LISTENER,
    SOURCE,
)
DENIED = Check(
    "denied/1",
    Kind.DENIED,
    "web does not reach db",
    "web",
    Probe("tcp", str(SOURCE), TARGET, 22),
    False,
    "ctl:default-deny",
    LISTENER,
    SOURCE,
)
INBOUND = replace(DENIED, vantage=INTERNET, listener=None, source=None)
FROM_HOST = replace(DENIED, kind=Kind.HOST, vantage=HOST, source=None)
SPOOFED = replace(
    DENIED,
    kind=Kind.SPOOFED,
    probe=Probe("spoof-udp", str(SOURCE), TARGET, 9),
    listener=None,
    nic="front",
)
LEAK = Check(
    "leak/1",
    Kind.LEAK,
    "drops its payload",
    "web",
    Probe("tcp", "-", TARGET, 80, b"4111"),
    False,
    "detector:card",
    rules=("7", "8"),
)
HARMLESS = replace(LEAK, passes=True)
LOGGED = replace(LEAK, blocked=False)
HARMLESS_OF_ANSWER = replace(
    HARMLESS,
    id="leak/2",
    probe=Probe("tcp", "-", TARGET, 80, b"4112"),
    echo=Echo("leak/2", b"4112", b"4112"),
)
ANSWER = replace(LEAK, echo=Echo("leak/2", b"4112", b"4111"))
DATAGRAM = replace(LEAK, probe=Probe("udp", "-", TARGET, 80, b"4111"))
UDP = replace(FLOW, probe=Probe("udp", str(SOURCE), TARGET, 22))
FAR = (str(TARGET), 80)
"""The end that payloads are sent to."""
HIT, OTHERS_HIT, OTHER_RULE = (
    Alert("8", "tcp", 4000, *FAR, True),
    Alert("8", "tcp", 4001, *FAR, True),
    Alert("9", "tcp", 4000, *FAR, True),
)


SERVERS = {4: ip_address("203.0.113.10"), 6: ip_address("2001:db8:203::10")}
"""Test servers outside, which answer everything."""
WORLD, NOWHERE = World(tuple(map(Server, SERVERS.values()))), World()


def checks_of(design: Design, world: World = WORLD, seed: int = 1) -> tuple[Check, ...]:
    """Of the network."""
    return network_checks(design, UPLINK, world, seed)


def leak_checks(design: Design, world: World = WORLD) -> list[Check]:
    return [check for check in inspection_checks(design, UPLINK, world) if check.kind is Kind.LEAK]


def probe_of(check: Check) -> Probe:
    assert check.probe is not None
    return check.probe


def report(denied: int = 0, spoofed: int = 0) -> FirewallReport:
    forged = {("front", str(SOURCE)): spoofed, ("back", str(SOURCE)): 9, ("front", str(TARGET)): 9}
    return FirewallReport("digest", ("inet vcloud",), {KEY: denied} if denied else {}, forged)


def outcome(
    check: Check,
    result: str,
    *,
    local: dict[Listener, Answer] | None = None,
    after: FirewallReport | None = None,
    alerts: tuple[Alert, ...] = (),
) -> Outcome:
    """The verdict where the probe left from port 4000 and the firewall began with nothing counted."""
    seen = Observed(
        {check.id: Answer(result, 4000, sender=str(SOURCE))},
        local or {},
        report(),
        after or report(),
        alerts,
    )
    return judge(check, seen).outcome
