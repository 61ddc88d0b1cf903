"""How it is tried that a flow to the internet leads to no machine beside the host, and what is tried
of flows to and from prefixes.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from tests.design_builder import UPLINK, build_design
from vcloud.design.model import Design, Uplink
from vcloud.design.names import NAT_NETWORK
from vcloud.proof.checks import Kind
from vcloud.proof.network import network_checks
from vcloud.proof.world import Server, World

WORLD = World((Server(ip_address("203.0.113.10")), Server(ip_address("2001:db8:203::10"))))
LOCAL_FLOWS = """
    out: api -> internet udp/53 tcp/443
    web: internet -> web tcp/80
"""


def local_probes(design: Design, uplink: Uplink = UPLINK) -> dict[str, set[str]]:
    """VM -> where it must not get although a flow leads it to the internet."""
    found: dict[str, set[str]] = {}
    for check in network_checks(design, uplink, WORLD, 1):
        if check.proves == "ctl:not-internet":
            found.setdefault(check.vantage, set()).add(str(check.sent.target))
    return found


def test_a_vm_with_a_flow_to_the_internet_is_tried_on_the_host_and_its_neighbours() -> None:
    design = build_design("dmz app", {"web": "dmz", "api": "app"}, LOCAL_FLOWS)
    metadata = {"169.254.169.254", "fd00:ec2::254"}
    assert local_probes(design) == {"api": {*metadata, "198.18.0.2", "2001:db8:198:18::2"}}
    box = replace(UPLINK, network=NAT_NETWORK, beside=(ip_network("198.51.100.0/24"),))
    gateways = {str(UPLINK.gateway4), str(UPLINK.gateway6)}
    assert local_probes(design, box)["api"] >= {*metadata, *gateways, "198.51.100.1"}
    assert not local_probes(design)["api"] & gateways
    own = replace(UPLINK, beside=tuple(map(ip_network, sorted(gateways))))
    assert local_probes(design, own)["api"] == local_probes(design)["api"] | gateways


def test_where_a_flow_names_the_address_it_is_not_tried() -> None:
    flows = LOCAL_FLOWS + "meta: api -> 169.254.0.0/16 tcp/80"
    design = build_design("dmz app", {"web": "dmz", "api": "app"}, flows)
    assert "169.254.169.254" not in local_probes(design)["api"]
    assert "fd00:ec2::254" in local_probes(design)["api"]


def test_probes_of_a_zone_that_is_told_expect_to_be_told() -> None:
    design = build_design(
        "loud:reject silent", {"web": "loud", "db": "silent"}, "f: web -> internet tcp/80"
    )
    checks = network_checks(design, UPLINK, WORLD, 1)
    denied = [check for check in checks if check.kind is Kind.DENIED]
    assert {check.vantage for check in denied if check.told} == {"web"}
    assert {check.vantage for check in denied if not check.told} == {"db", "internet"}


@pytest.mark.parametrize(
    ("flow", "said"),
    [
        ("f: api -> internet tcp/443", ""),
        ("f: api -> 203.0.113.0/24 tcp/443", ""),
        ("f: api -> 192.168.0.0/16 tcp/443", "the test server outside is not in 192.168.0.0/16"),
        ("f: 198.18.0.0/16 -> api tcp/443", ""),
        ("f: 192.168.0.0/16 -> api tcp/443", "no probe is sent from 192.168.0.0/16"),
    ],
)
def test_a_flow_of_a_prefix_is_tried_where_somebody_can_try_it(flow: str, said: str) -> None:
    design = build_design("app", {"api": "app"}, flow)
    tried = [check for check in network_checks(design, UPLINK, WORLD, 1) if check.kind is Kind.FLOW]
    assert tried
    assert {check.reason for check in tried} == {said}
    assert all((check.probe is None) == bool(said) == check.excused for check in tried)


def test_a_test_server_in_the_hosts_own_network_is_no_internet() -> None:
    design = build_design("app", {"api": "app"}, "f: api -> internet tcp/443")
    world = World((Server(ip_address("192.168.7.7")),))
    checks = [
        check for check in network_checks(design, UPLINK, world, 1) if check.kind is Kind.FLOW
    ]
    assert {check.reason for check in checks} == {"the test server outside is not on the internet"}
