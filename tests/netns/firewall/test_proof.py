"""What `verify` sends in whole frames and by a network card of the host, and what it makes of it:
in the vApp as it must be, and with one protection taken away.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_address

import pytest

from tests.design_builder import UPLINK
from tests.netns.fabric import Fabric, Namespace
from tests.netns.firewall.traffic import DESIGN, outside, settled
from vcloud.guests.probes import Prober
from vcloud.hosts.executed import Executed
from vcloud.proof.checks import Check, Kind, Outcome
from vcloud.proof.errors import error_checks, with_frame, without_errors
from vcloud.proof.forged import ends_of
from vcloud.proof.judge import judge
from vcloud.proof.network import network_checks
from vcloud.proof.observed import Answer, Observed
from vcloud.proof.world import Server, World
from vcloud.values import INTERNET

pytestmark = pytest.mark.timeout(900)
CHECKS = {check.id: check for check in network_checks(DESIGN, UPLINK, World(), 1)}


def prober(where: Namespace, *, shipped: bool) -> Prober:
    def run(argv: Sequence[str], stdin: bytes) -> Executed:
        enter = ["ip", "netns", "exec", where.name]
        done = subprocess.run([*enter, *argv], input=stdin, capture_output=True, timeout=600)
        return Executed(done.returncode, done.stdout, done.stderr)

    return Prober(run, shipped)


@contextmanager
def filtered(net: Fabric, vm: str) -> Iterator[None]:
    """What the vApp's network filter does on a host: a VM sends only with its own MAC address."""
    nic = net.card(vm)
    chain = f'chain own {{ type filter hook ingress device "{nic.tap}" priority 0; '
    rule = f"ether saddr != {nic.mac} drop\n}}"
    net.host.run("nft", f"table netdev {vm} {{ {chain}{rule}\n}}", check=True)
    try:
        yield
    finally:
        net.host.run("nft", "delete", "table", "netdev", vm, check=True)


def judged(net: Fabric, checks: Sequence[Check], sender: Prober) -> list[Outcome]:
    before = net.report()
    answers = sender.probe([check.sent for check in checks])
    found = dict(zip((check.id for check in checks), answers, strict=True))
    local = {check.listener: Answer("open") for check in checks if check.listener}
    seen = Observed(found, local, before, net.report())
    return [judge(check, seen).outcome for check in checks]


@pytest.mark.parametrize("shipped", [True, False], ids=["perl", "python"])
def test_a_foreign_mac_address_must_stop_at_the_host_and_the_own_one_at_the_firewall(
    net: Fabric, shipped: bool
) -> None:
    checks = [
        check
        for check in CHECKS.values()
        if check.id in ("spoofed/db/own-mac/4", "spoofed/db/mac/4")
    ]
    sender = prober(net.vms["db"], shipped=shipped)
    with filtered(net, "db"):
        assert judged(net, checks, sender) == [Outcome.PASS, Outcome.PASS]
    assert judged(net, checks, sender) == [Outcome.PASS, Outcome.FAIL]
    net.host.ip([f"link set {net.card('db').tap} down"])
    try:
        assert judged(net, checks, sender) == [Outcome.FAIL, Outcome.ERROR]
    finally:
        net.host.ip([f"link set {net.card('db').tap} up"])


def test_a_card_that_the_vm_does_not_have_sends_nothing(net: Fabric) -> None:
    checks = [check for check in CHECKS.values() if check.id == "spoofed/db/own-mac/4"]
    for shipped in (True, False):
        sender = prober(net.vms["api"], shipped=shipped)
        assert judged(net, checks, sender) == [Outcome.ERROR]


def forged(
    net: Fabric, checks: Sequence[Check], *, shipped: bool, gone: bool = False
) -> dict[str, Outcome]:
    """What `verify` makes of each forged ICMP error, whose connection stands or has ended."""
    first, answers, sent = net.report(), {}, []
    for check in checks:
        assert check.about
        opener = place(net, check.about.client, shipped=shipped)
        held = opener.hold([check.about], 600)
        assert held.ends[0]
        sent.append(with_frame(check, held.ends[0]))
        if gone:
            opener.let_go(held.pid)
            net.forget_connections()
        (answers[check.id],) = place(net, check.vantage, shipped=shipped).probe([sent[-1].sent])
        if not gone:
            opener.let_go(held.pid)
    before = net.report()
    ends = frozenset(map(ends_of, sent))
    seen = Observed(answers, {}, before, before, first=first, forged=ends)
    return {check.id: judge(check, seen).outcome for check in sent}


def place(net: Fabric, name: str, *, shipped: bool) -> Prober:
    if name == INTERNET:
        return prober(net.outside, shipped=False)
    return prober(net.vms[name], shipped=shipped)


@pytest.mark.parametrize("shipped", [True, False], ids=["perl", "python"])
def test_an_error_about_a_connection_of_others_must_stop_at_the_firewall(
    net: Fabric, shipped: bool
) -> None:
    checks = [check for check in CHECKS.values() if check.about]
    found = forged(net, checks, shipped=shipped)
    # `api` is an end of each connection but those that the firewall gives to two VMs in turn.
    assert without_errors(DESIGN) == ["api"]
    assert {key.split("/")[1] for key in found} == {
        *("web-1", "web-2", "db", "tool-1", "tool-2", INTERNET)
    }
    assert set(found.values()) == {Outcome.PASS}
    assert net.counted()["ctl:forged-error"] == 3 * len(found)
    net.firewall.run("nft", "insert rule inet vcloud errors goto marked", check=True)
    assert set(forged(net, checks, shipped=shipped).values()) == {Outcome.FAIL}


@pytest.mark.parametrize(("flow", "end"), [("admin", "client"), ("updates", "server")])
def test_an_error_about_a_connection_with_the_outside_must_stop_there_too(
    net: Fabric, flow: str, end: str
) -> None:
    """It goes to the end outside."""
    only = replace(DESIGN, flows=tuple(one for one in DESIGN.flows if one.id == flow))
    world = World(tuple(Server(ip_address(outside(version))) for version in (4, 6)))
    checks = [check for check in error_checks(only, UPLINK, world) if check.vantage == "db"]
    assert {getattr(check.about, end) for check in checks} == {INTERNET}
    assert list(forged(net, checks, shipped=True).values()) == [Outcome.PASS] * 2
    assert net.counted()["ctl:forged-error"] == 6
    net.firewall.run("nft", "insert rule inet vcloud errors goto marked", check=True)
    assert list(forged(net, checks, shipped=True).values()) == [Outcome.FAIL] * 2


def test_an_error_about_no_connection_proves_nothing(net: Fabric) -> None:
    """Every firewall drops it, and counts it as denied."""
    checks = [CHECKS[f"forged-error/db/{version}"] for version in (4, 6)]
    for shipped in (True, False):
        found = forged(net, checks, shipped=shipped, gone=True)
        assert list(found.values()) == [Outcome.ERROR] * 2
    seen = Observed({}, {}, net.report(), net.report(), first=net.report())
    assert judge(checks[0], seen).outcome is Outcome.NOT_RUN
    assert checks[0].about
    nobody = replace(checks[0].about, port=9)
    for shipped in (True, False):
        assert prober(net.vms[nobody.client], shipped=shipped).hold([nobody], 5).ends == (None,)


def test_connections_that_were_let_go_have_ended(net: Fabric) -> None:
    connection = CHECKS["forged-error/db/4"].about
    assert connection
    where = net.vms[connection.client]
    for shipped in (True, False):
        held = prober(where, shipped=shipped).hold([connection], 600)
        assert held.ends[0]
        found = ["ss", "-Hntp", "sport", "=", str(held.ends[0].port)]
        assert where.run(*found).stdout
        prober(where, shipped=shipped).let_go(held.pid)
        assert settled(lambda found=found: "ESTAB" not in where.run(*found).stdout)


def test_a_place_that_is_not_on_the_firewalls_segment_forges_nothing(net: Fabric) -> None:
    check = next(check for check in CHECKS.values() if check.id == f"forged-error/{INTERNET}/4")
    far = replace(check.sent, card="to:192.0.2.1", payload=bytes(60))
    answers = place(net, INTERNET, shipped=False).probe([far])
    assert [answer.result for answer in answers] == ["elsewhere"]
    assert judge(
        check, Observed({check.id: answers[0]}, {}, net.report(), net.report())
    ).outcome is (Outcome.NOT_TRIED)


@pytest.fixture
def host(net: Fabric) -> Iterator[Prober]:
    """The host with an address of its own, as every host has one."""
    net.host.ip(["addr add 198.51.100.1/32 dev lo"])
    yield prober(net.host, shipped=False)
    net.host.ip(["addr del 198.51.100.1/32 dev lo"])


def test_the_host_reaches_no_vm_by_its_bridge_until_it_has_an_address_there(
    net: Fabric, host: Prober
) -> None:
    """In an open zone a VM answers its neighbours, and with an address the host is one."""
    checks = [check for check in CHECKS.values() if check.kind is Kind.HOST]
    assert {check.sent.card for check in checks if "tool" in check.id} == {
        "",
        DESIGN.zone("plain").network.bridge,
    }
    assert set(judged(net, checks, host)) == {Outcome.PASS}
    bridge, prefix = DESIGN.zone("plain").network.bridge, DESIGN.zone("plain").prefix4
    net.host.ip([f"addr add {prefix[-2]}/32 dev {bridge}"])
    try:
        outcomes = dict(zip((check.id for check in checks), judged(net, checks, host), strict=True))
    finally:
        net.host.ip([f"addr del {prefix[-2]}/32 dev {bridge}"])
    failed = {key for key, outcome in outcomes.items() if outcome is Outcome.FAIL}
    assert failed == {"host/tool-1/bridge/4", "host/tool-2/bridge/4"}
