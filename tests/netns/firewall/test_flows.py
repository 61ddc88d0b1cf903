"""What a loaded ruleset lets pass, drops and counts."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.design_builder import UPLINK, with_flows
from tests.netns import frames
from tests.netns.fabric import LONG, SHORT, Fabric, datagram, greeting, unanswered
from tests.netns.firewall.traffic import (
    DESIGN,
    FLOWS,
    UNDECLARED,
    both_versions,
    bound,
    outside,
    settled,
)

pytestmark = pytest.mark.timeout(900)


@both_versions
def test_declared_flows_pass_and_are_counted(net: Fabric, version: int) -> None:
    api, db = net.address("api", version), net.address("db", version)
    assert greeting(net.vms["web-1"], api, 8000) == f"api:8000 {net.address('web-1', version)}"
    assert datagram(net.vms["web-2"], api, 53).startswith(b"api:53")
    assert net.vms["web-1"].pings(api)
    assert greeting(net.vms["api"], db, 5432)
    counted = net.counted()
    assert all(counted[f"flow:{name}"] > 0 for name in ("orders", "alive", "store"))
    assert counted["flow:updates"] == 0


@both_versions
def test_what_no_flow_names_is_dropped_and_remembered(net: Fabric, version: int) -> None:
    web, api, db = (net.address(name, version) for name in ("web-1", "api", "db"))
    assert unanswered(net.vms["web-1"], api, UNDECLARED)
    assert not datagram(net.vms["web-1"], api, 54, wait=SHORT)
    assert unanswered(net.vms["web-1"], db, 5432)
    assert net.vms["web-1"].pings_in_vain(db)
    report = net.report()
    assert report.denied[web, api, "tcp", UNDECLARED] == 1
    assert report.denied[web, api, "udp", 54] == 1
    assert report.denied[web, db, "tcp", 5432] == 1
    assert report.denied[web, db, "icmp", 0] == 1
    assert net.counted()["ctl:default-deny"] == 4


@both_versions
def test_flows_have_a_direction(net: Fabric, version: int) -> None:
    assert net.vms["web-1"].pings(net.address("api", version))
    assert net.vms["api"].pings_in_vain(net.address("web-1", version))
    assert unanswered(net.vms["api"], net.address("web-1", version), 80)


@both_versions
def test_a_range_passes_from_its_first_to_its_last_port(net: Fabric, version: int) -> None:
    db = net.address("db", version)
    assert all(greeting(net.vms["api"], db, port) for port in (9000, 9005, 9010))
    assert unanswered(net.vms["api"], db, 9011)


@both_versions
def test_all_is_every_port_and_ping_for_its_ends_only(net: Fabric, version: int) -> None:
    net.load(with_flows(DESIGN, "every: web -> api all"))
    web, api = net.vms["web-1"], net.address("api", version)
    assert greeting(web, api, UNDECLARED)
    assert datagram(web, api, 54)
    assert web.pings(api)
    assert unanswered(net.vms["api"], net.address("db", version), 9000)
    assert unanswered(net.vms["api"], net.address("web-1", version), 80)


@both_versions
def test_replicas_of_a_tier_cannot_meet(net: Fabric, version: int) -> None:
    """Both ends serve port 80 and share a zone; an open zone shows that the servers would answer."""
    one, other = net.vms["web-1"], net.address("web-2", version)
    assert unanswered(one, other, 80)
    assert net.report().denied[net.address("web-1", version), other, "tcp", 80] == 1
    assert greeting(net.vms["tool-1"], net.address("tool-2", version), 22)


@both_versions
def test_a_direct_route_to_a_neighbour_leads_nowhere(net: Fabric, version: int) -> None:
    """Isolated ports: a VM that goes round the firewall gets no answer from its neighbour at layer
    2.
    """
    neighbour, length = net.address("web-2", version), 32 if version == 4 else 128
    net.vms["web-1"].ip([f"route add {neighbour}/{length} dev eth0"])
    try:
        assert unanswered(net.vms["web-1"], neighbour, 80)
    finally:
        net.vms["web-1"].ip([f"route del {neighbour}/{length} dev eth0"])


@both_versions
def test_published_ports_reach_all_replicas_in_turn(net: Fabric, version: int) -> None:
    uplink = net.uplink_address(version)
    served = Counter(greeting(net.outside, uplink, 8080).split()[0] for _ in range(6))
    assert served == {"web-1:80": 3, "web-2:80": 3}


@both_versions
def test_published_ranges_keep_their_order(net: Fabric, version: int) -> None:
    uplink = net.uplink_address(version)
    for offset in range(4):
        assert (
            greeting(net.outside, uplink, 6000 + offset)
            .split(":")[1]
            .startswith(f"{5000 + offset} ")
        )
        assert f":{7000 + offset} ".encode() in datagram(net.outside, uplink, 7000 + offset)
    assert unanswered(net.outside, uplink, 6004)


@both_versions
def test_outside_reaches_nothing_that_is_not_published(net: Fabric, version: int) -> None:
    """Neither ports of the firewall nor, by a route through it, addresses behind it."""
    uplink = net.uplink_address(version)
    assert greeting(net.outside, uplink, 9100)
    assert unanswered(net.outside, uplink, 80)
    assert net.outside.pings_in_vain(uplink)
    assert net.counted()["ctl:input"] >= 2
    web, length = net.address("web-1", version), 32 if version == 4 else 128
    net.outside.ip([f"route add {web}/{length} via {uplink} dev eth0"])
    try:
        assert unanswered(net.outside, web, 80)
    finally:
        net.outside.ip([f"route del {web}/{length} via {uplink} dev eth0"])
    assert any(denied[1:] == (web, "tcp", 80) for denied in net.report().denied)


@both_versions
def test_a_vm_does_not_reach_published_ports_of_its_own_vapp(net: Fabric, version: int) -> None:
    assert unanswered(net.vms["api"], net.uplink_address(version), 8080)
    assert greeting(net.outside, net.uplink_address(version), 8080)


@both_versions
def test_outside_sees_only_the_uplinks_address(net: Fabric, version: int) -> None:
    uplink = net.uplink_address(version)
    assert greeting(net.vms["api"], outside(version), 443) == f"outside:443 {uplink}"
    neighbour = str(UPLINK.gateway4 if version == 4 else UPLINK.gateway6)
    assert datagram(net.vms["api"], neighbour, 123).startswith(f"outside:123 {uplink}".encode())
    assert net.vms["api"].pings(outside(version))


@both_versions
def test_what_may_leave_is_declared_too(net: Fabric, version: int) -> None:
    assert unanswered(net.vms["api"], outside(version), 444)
    assert unanswered(net.vms["web-1"], outside(version), 443)
    assert net.vms["web-1"].pings_in_vain(outside(version))


@both_versions
def test_a_flow_to_the_internet_is_none_to_the_vapps_own_prefixes(
    net: Fabric, version: int
) -> None:
    """An address of a zone that no VM has would follow the default route."""
    zone = DESIGN.zone("dmz")
    free = str(zone.prefix4[4000] if version == 4 else zone.prefix6[4000])
    assert unanswered(net.vms["api"], free, 443)
    assert net.report().denied[net.address("api", version), free, "tcp", 443] == 1


@both_versions
@pytest.mark.parametrize("vm", ["web-1", "tool-1"])
def test_forged_sources_are_dropped_and_counted(net: Fabric, version: int, vm: str) -> None:
    """Another VM's address, an outsider's, and the right address with the wrong MAC; in an open
    zone as well.
    """
    zone = DESIGN.zone(net.card(vm).zone)
    own, mac, api = net.address(vm, version), net.card(vm).mac, net.address("api", version)
    neighbour = net.address(vm.replace("1", "2"), version)
    forged = [
        (neighbour, mac),
        (outside(version), mac),
        (net.address("db", version), mac),
        (own, "52:54:00:00:00:99"),
    ]
    for source, source_mac in forged:
        frames.send(
            net.vms[vm],
            "eth0",
            frames.ethernet(source_mac, zone.gateway.mac, frames.udp(source, 4000, api, 53)),
        )
    assert settled(lambda: net.counted()["ctl:antispoof"] == len(forged))
    frames.send(
        net.vms[vm], "eth0", frames.ethernet(mac, zone.gateway.mac, frames.udp(own, 4000, api, 54))
    )
    assert settled(lambda: net.report().denied.get((own, api, "udp", 54)) == 1)
    assert net.counted()["ctl:antispoof"] == len(forged)


@both_versions
def test_no_address_of_the_vapp_comes_in_from_outside(net: Fabric, version: int) -> None:
    uplink_mac, outside_mac = DESIGN.firewall.nics[-1].mac, "52:54:00:00:00:77"
    packet = frames.udp(net.address("web-1", version), 4000, net.address("api", version), 53)
    frames.send(net.outside, "eth0", frames.ethernet(outside_mac, uplink_mac, packet))
    assert settled(lambda: net.counted()["ctl:antispoof"] == 1)


@both_versions
def test_an_answer_that_nobody_asked_for_is_dropped(net: Fabric, version: int) -> None:
    """From the port of an allowed service to any port of its client; the same frame passes while
    the client has asked.
    """
    api, web = net.address("api", version), net.address("web-1", version)
    frame = frames.ethernet(
        net.card("api").mac, DESIGN.zone("app").gateway.mac, frames.udp(api, 53, web, 4444)
    )
    with bound(net.vms["web-1"], version, 4444) as client:
        frames.send(net.vms["api"], "eth0", frame)
        client.settimeout(SHORT)
        with pytest.raises(TimeoutError):
            client.recv(100)
        client.settimeout(LONG)
        assert net.report().denied[api, web, "udp", 4444] == 1
        client.sendto(b"question", (api, 53))
        assert client.recv(100).startswith(b"api:53")
        frames.send(net.vms["api"], "eth0", frame)
        assert client.recv(100) == b"forged"


@both_versions
def test_a_lone_tcp_answer_is_dropped(net: Fabric, version: int) -> None:
    api, web = net.address("api", version), net.address("web-1", version)
    packet = frames.tcp(api, 8000, web, 4444, frames.ACK)
    frames.send(
        net.vms["api"],
        "eth0",
        frames.ethernet(net.card("api").mac, DESIGN.zone("app").gateway.mac, packet),
    )
    assert settled(lambda: net.report().denied.get((api, web, "tcp", 4444)) == 1)


@both_versions
def test_fragments_are_judged_as_the_packet_they_make(net: Fabric, version: int) -> None:
    api, large = net.address("api", version), b"z" * 6000
    assert datagram(net.vms["web-1"], api, 53, large).endswith(large)
    assert not datagram(net.vms["web-1"], api, 54, large, SHORT)
    assert net.report().denied[net.address("web-1", version), api, "udp", 54] == 1


def test_icmp_errors_pass_while_their_flow_is_declared(net: Fabric) -> None:
    """The mark on the connection decides: the same error about the same connection is dropped once
    the flow is revoked.
    """
    api, web = net.address("api", 4), net.address("web-1", 4)
    with bound(net.vms["web-1"], 4, 4445) as client:
        client.connect((api, 53))
        client.send(b"question")
        assert client.recv(100)
        error = frames.error(api, web, 3, 3, frames.udp(web, 4445, api, 53)[:28])
        frame = frames.ethernet(net.card("api").mac, DESIGN.zone("app").gateway.mac, error)
        frames.send(net.vms["api"], "eth0", frame)
        with pytest.raises(ConnectionRefusedError):
            client.recv(100)
        net.load(
            with_flows(
                DESIGN,
                FLOWS.replace("orders: web -> api tcp/8000 udp/53", "orders: web -> api tcp/8000"),
            )
        )
        frames.send(net.vms["api"], "eth0", frame)
        client.settimeout(SHORT)
        with pytest.raises(TimeoutError):
            client.recv(100)


@both_versions
def test_the_firewall_answers_pings_from_its_zones_and_nothing_else(
    net: Fabric, version: int
) -> None:
    gateway = DESIGN.zone("dmz").gateway
    address = str(gateway.address4 if version == 4 else gateway.address6)
    assert net.vms["web-1"].pings(address)
    assert net.vms["api"].pings_in_vain(address)
    assert unanswered(net.vms["web-1"], address, 22)


def test_neighbour_discovery_reaches_the_firewall(net: Fabric) -> None:
    """An image that vcloud did not build has no permanent neighbours."""
    gateway = DESIGN.zone("dmz").gateway
    net.vms["web-1"].ip([f"neigh del {gateway.address6} dev eth0"])
    try:
        assert net.vms["web-1"].pings(str(gateway.address6))
    finally:
        net.vms["web-1"].ip(
            [f"neigh replace {gateway.address6} lladdr {gateway.mac} dev eth0 nud permanent"]
        )
