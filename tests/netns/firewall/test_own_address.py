"""VMs that reach what their own vApp publishes, at its address outside."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from tests.design_builder import with_flows
from tests.netns import frames
from tests.netns.fabric import LONG, SHORT, Fabric, Live, datagram, greeting, unanswered
from tests.netns.firewall.traffic import DESIGN, FLOWS, both_versions, outside
from vcloud.design.model import Design, Detector
from vcloud.design.origin import FromFile
from vcloud.values import Action

pytestmark = pytest.mark.timeout(900)

OUTWARDS = """
    again: api -> internet tcp/8080 tcp/6001 udp/7001
    itself: web -> internet tcp/8080
"""
WITH = with_flows(DESIGN, FLOWS + OUTWARDS)


@both_versions
def test_a_flow_outwards_leads_to_what_is_published_too(net: Fabric, version: int) -> None:
    """All replicas in turn, ports of ranges, and datagrams. The server sees the vApp's own address."""
    uplink = net.uplink_address(version)
    net.load(WITH)
    greetings = [greeting(net.vms["api"], uplink, 8080) for _ in range(4)]
    assert Counter(greetings) == {f"web-1:80 {uplink}": 2, f"web-2:80 {uplink}": 2}
    assert greeting(net.vms["api"], uplink, 6001).endswith(f":5001 {uplink}")
    assert b":7001" in datagram(net.vms["api"], uplink, 7001)
    assert net.counted()["flow:checkout"] > 0


@both_versions
def test_a_vm_reaches_itself_there(net: Fabric, version: int) -> None:
    uplink = net.uplink_address(version)
    net.load(WITH)
    served = {greeting(net.vms["web-1"], uplink, 8080).split(":")[0] for _ in range(2)}
    assert served == {"web-1", "web-2"}


@both_versions
def test_without_one_of_the_two_flows_it_stays_closed(net: Fabric, version: int) -> None:
    """Neither other ports, nor other VMs, nor the VMs themselves at their own addresses."""
    api, uplink = net.vms["api"], net.uplink_address(version)
    assert unanswered(api, uplink, 8080)
    assert net.report().denied[net.address("api", version), uplink, "tcp", 8080] == 1
    net.load(WITH)
    assert greeting(api, uplink, 8080)
    assert unanswered(api, uplink, 6000)
    assert unanswered(api, uplink, 9100)
    assert unanswered(api, uplink, 443)
    assert unanswered(net.vms["db"], uplink, 8080)
    assert unanswered(api, net.address("web-1", version), 80)
    assert unanswered(api, net.address("web-1", version), 8080)
    net.load(with_flows(DESIGN, OUTWARDS))
    assert unanswered(api, uplink, 8080)


@both_versions
def test_such_a_connection_dies_with_either_flow(net: Fabric, version: int) -> None:
    net.load(WITH)
    with Live(net.vms["api"], net.uplink_address(version), 8080) as live:
        for design in (DESIGN, with_flows(DESIGN, OUTWARDS)):
            assert live.echoes("before")
            net.load(design)
            assert not live.echoes("after", wait=SHORT)
            net.load(WITH)
            live.socket.settimeout(LONG)
            assert live.line() == "after"


@both_versions
def test_a_prefix_with_the_own_address_is_enough_and_another_is_not(
    net: Fabric, version: int
) -> None:
    uplink = net.uplink_address(version)
    for prefix, opened in (
        (uplink, True),
        ("198.18.2.0/24" if version == 4 else "fd00::/8", False),
    ):
        net.load(with_flows(DESIGN, f"{FLOWS}\n again: api -> {prefix} tcp/8080"))
        wait = LONG if opened else SHORT
        assert bool(greeting(net.vms["api"], uplink, 8080, wait)) is opened


@both_versions
def test_what_is_published_to_a_prefix_is_not_for_vms(net: Fabric, version: int) -> None:
    """Also if the VM's own address is in the prefix: its clients are outside."""
    prefix = "10.0.0.0/8" if version == 4 else "fd00::/8"
    net.load(
        with_flows(
            DESIGN,
            f"lan: {prefix} -> web tcp/80=8080\n all: internet -> api tcp/9100\n again: api -> internet all",
        )
    )
    assert unanswered(net.vms["api"], net.uplink_address(version), 8080)
    assert greeting(net.vms["api"], net.uplink_address(version), 9100)


@both_versions
def test_an_answer_that_nobody_asked_for_is_none_of_such_a_connection(
    net: Fabric, version: int
) -> None:
    """A VM behind a published port sends to one that may go out there, and claims to be asked."""
    net.load(WITH)
    web, api = net.address("web-1", version), net.address("api", version)
    packet = frames.tcp(web, 80, api, 40000, frames.ACK)
    macs = net.card("web-1").mac, DESIGN.zone("dmz").gateway.mac
    with frames.listening(net.vms["api"], "eth0") as until:
        frames.send(net.vms["web-1"], "eth0", frames.ethernet(*macs, packet))
        assert greeting(net.vms["api"], outside(version), 443)
        heard = until(b"outside:443")
    assert net.report().denied[web, api, "tcp", 40000] == 1
    assert packet[20 if version == 4 else 40 :] not in b"".join(heard)


def excepting(design: Design, *flows: str) -> Design:
    """The same vApp with a detector of which these flows are exceptions."""
    detector = Detector(
        id="cards",
        kind="card-number",
        regex="",
        at_least=1,
        zones=("app",),
        excepted=flows,
        action=Action.BLOCK,
        origin=FromFile("shop.yaml", 1),
    )
    return replace(design, inspection=replace(design.inspection, detectors=(detector,)))


@both_versions
def test_an_exception_of_a_detector_leads_outside_and_not_back_into_the_vapp(
    net: Fabric, version: int
) -> None:
    """The IPS would not search it there: it does not know the vApp's own address."""
    api, uplink = net.vms["api"], net.uplink_address(version)
    acquirer = "acquirer: api -> internet tcp/443-8080"
    flows = f"{FLOWS}\n {acquirer}"
    net.load(excepting(with_flows(DESIGN, flows), "acquirer"))
    assert unanswered(api, uplink, 8080)
    assert net.report().denied[net.address("api", version), uplink, "tcp", 8080] == 1
    assert greeting(api, outside(version), 444)
    net.load(excepting(with_flows(DESIGN, flows), "store"))
    assert greeting(api, uplink, 8080)


@both_versions
def test_beside_an_exception_only_a_prefix_that_it_leaves_out_leads_there(
    net: Fabric, version: int
) -> None:
    """The IPS searches what a VM sends to such a prefix, also where an exception has the same ports."""
    api, uplink = net.vms["api"], net.uplink_address(version)
    acquirer = f"{FLOWS}\n acquirer: api -> internet tcp/8080"
    wide = "198.18.0.0/16" if version == 4 else "2001:db8:198:18::/64"
    for flow, excepted, opened in (
        ("internet tcp/8080", ("acquirer",), False),
        ("internet all", ("acquirer",), False),
        (f"{uplink} tcp/8080", ("acquirer",), True),
        (f"{wide} tcp/8080", ("acquirer",), True),
        (f"{uplink} tcp/8080", ("acquirer", "again"), False),
    ):
        net.load(excepting(with_flows(DESIGN, f"{acquirer}\n again: api -> {flow}"), *excepted))
        wait = LONG if opened else SHORT
        assert bool(greeting(api, uplink, 8080, wait)) is opened, flow
