"""What all VMs share in the firewall beside its table of connections: each has a share of its own, so
that one that floods takes nothing from another.
"""

from __future__ import annotations

import pytest

from tests.netns import frames
from tests.netns.fabric import Fabric, unanswered
from tests.netns.firewall.test_connections import flood
from tests.netns.firewall.traffic import DESIGN, both_versions, settled
from vcloud.compile.firewall.rules import FRAGMENTS_OF_VM

pytestmark = pytest.mark.timeout(900)

LARGE = "3000"
"""Bytes of a ping that is sent in fragments."""


@both_versions
def test_fragments_without_end_leave_room_for_those_of_others(net: Fabric, version: int) -> None:
    """First fragments of packets that never become whole, in any direction, on a flow or not."""
    macs = net.card("api").mac, DESIGN.zone("app").gateway.mac
    source, target = net.address("api", version), net.address("web-1", version)
    sent = 20 * FRAGMENTS_OF_VM
    first = [
        frames.ethernet(
            *macs, frames.fragments(frames.udp(source, 7, target, 9, bytes(2000)), 1400)[0]
        )
        for _ in range(sent)
    ]
    flood(net.vms["api"], first)
    assert settled(lambda: net.counted()["ctl:fragments"] >= sent // 4)
    assert net.vms["web-1"].pings(net.address("api", version), "-s", LARGE)


@both_versions
def test_a_false_mac_address_gives_no_second_share_of_fragments(net: Fabric, version: int) -> None:
    packet = frames.udp(
        net.address("api", version), 7, net.address("web-1", version), 9, bytes(2000)
    )
    forged = frames.ethernet(
        "52:54:00:00:00:66", DESIGN.zone("app").gateway.mac, frames.fragments(packet, 1400)[0]
    )
    flood(net.vms["api"], [forged])
    assert settled(lambda: net.counted()["ctl:fragments"] == 1)
    assert net.vms["web-1"].pings(net.address("api", version), "-s", LARGE)


@both_versions
def test_a_vm_that_floods_its_gateway_with_pings_leaves_an_answer_for_others(
    net: Fabric, version: int
) -> None:
    gateway = net.design.zone("dmz").gateway
    address = str(gateway.address4 if version == 4 else gateway.address6)
    kind = 8 if version == 4 else 128
    ping = frames.error(net.address("web-1", version), address, kind, 0, b"")
    flood(net.vms["web-1"], [frames.ethernet(net.card("web-1").mac, gateway.mac, ping)] * 400)
    assert settled(lambda: net.counted()["ctl:input"] >= 200)
    assert net.vms["web-2"].pings(address, wait=1)


@both_versions
def test_a_vm_that_is_denied_very_often_hides_nobody_else_from_the_log(
    net: Fabric, version: int
) -> None:
    """The log itself is the machine's, so the packets are counted that go there."""
    packet = frames.udp(net.address("web-1", version), 7, net.address("api", version), 9)
    macs = net.card("web-1").mac, DESIGN.zone("dmz").gateway.mac
    flood(net.vms["web-1"], [frames.ethernet(*macs, packet)] * 500)
    assert settled(lambda: net.counted()["ctl:default-deny"] >= 500)
    before = net.counted()["ctl:logged"]
    assert 0 < before < 400
    assert unanswered(net.vms["db"], net.address("api", version), 9)
    assert net.counted()["ctl:logged"] > before
