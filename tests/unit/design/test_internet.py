"""Which addresses a flow to `internet` leads to, judged by Python's own list of private addresses."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.design_builder import UPLINK, build_design, with_flows
from vcloud.design.addressing import zone_prefixes
from vcloud.design.internet import beyond_local, is_internet, leads_to, local_ranges
from vcloud.design.names import NAT_NETWORK
from vcloud.errors import SpecError
from vcloud.pipeline import load_file

DOCUMENTATION = tuple(
    map(
        ip_network,
        ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32", "3fff::/20"),
    )
)
BOX = replace(UPLINK, network=NAT_NETWORK, bridge="")
PUBLIC = ("1.1.1.1", "9.255.255.255", "11.0.0.0", "172.15.255.255", "172.32.0.0", "192.0.1.0")
PUBLIC += ("198.17.255.255", "198.20.0.0", "203.0.113.10", "223.255.255.255", "2606:4700::1")
PUBLIC += ("168.63.129.15", "168.63.129.17", "64:ff9b::a83f:8111")
PUBLIC += ("2001:200::1", "2003::1", "3ffe::1", "2001:db8:203::10", "64:ff9b::808:808")


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)))
@example(IPv4Address("169.254.169.254"))
@example(IPv4Address("192.168.1.1"))
@example(IPv6Address("fd00:ec2::254"))
@example(IPv6Address("::ffff:192.168.1.1"))
@example(IPv6Address("2001:0:53aa:64c::1"))
@example(IPv6Address("fec0::1"))
def test_no_address_of_one_network_only_is_internet(address: IPv4Address | IPv6Address) -> None:
    documented = any(address in network for network in DOCUMENTATION)
    if not documented and (address.is_private or address.is_multicast or not address.is_global):
        assert not is_internet(BOX, address)


@pytest.mark.parametrize("written", PUBLIC)
def test_public_addresses_are_internet_up_to_the_border(written: str) -> None:
    assert is_internet(BOX, ip_address(written))


@pytest.mark.parametrize("written", ["168.63.129.16", "64:ff9b::a83f:8110"])
def test_what_a_cloud_serves_at_a_public_address_is_not_internet(written: str) -> None:
    assert not is_internet(BOX, ip_address(written))


@given(st.ip_addresses(v=4))
@example(IPv4Address("10.0.0.1"))
@example(IPv4Address("8.8.8.8"))
@example(IPv4Address("198.51.100.7"))
def test_a_translated_address_is_judged_as_what_it_holds(address: IPv4Address) -> None:
    box = replace(BOX, beside=(IPv4Network("198.51.100.0/24"),))
    translated = IPv6Address(int(IPv6Address("64:ff9b::")) | int(address))
    assert is_internet(box, translated) == is_internet(box, address)


@pytest.mark.parametrize("version", [4, 6])
def test_ranges_are_sorted_and_apart_as_nft_wants_them(version: int) -> None:
    ranges = local_ranges(UPLINK, version)
    numbers = [int(end) for span in ranges for end in span]
    assert numbers == sorted(numbers)
    assert all(int(one[1]) + 1 < int(other[0]) for one, other in pairwise(ranges))


def test_the_gateway_is_internet_unless_it_is_the_host() -> None:
    for gateway in (UPLINK.gateway4, UPLINK.gateway6):
        assert gateway
        assert is_internet(UPLINK, gateway)
        assert not is_internet(UPLINK, gateway + 1), "a neighbour"
        assert not is_internet(UPLINK, gateway - 1)
        assert not is_internet(BOX, gateway)
    assert UPLINK.gateway6
    own = {UPLINK.gateway4, UPLINK.gateway6, UPLINK.gateway4 + 7}
    here = replace(UPLINK, beside=beyond_local(UPLINK, (), own))
    alone = [ip_network(UPLINK.gateway4), ip_network(UPLINK.gateway6)]
    there = replace(UPLINK, beside=beyond_local(UPLINK, alone, {UPLINK.gateway4 + 7}))
    for gateway in (UPLINK.gateway4, UPLINK.gateway6):
        assert not is_internet(here, gateway), "the host is the gateway of a network of others, too"
        assert is_internet(there, gateway), "the host has another address there"


def test_the_hosts_public_networks_are_no_internet() -> None:
    networks = [
        ip_network(one)
        for one in ("192.168.0.0/24", "198.51.100.0/25", "198.51.100.128/25", "2606:5::/64")
    ]
    segment = UPLINK.address6.network if UPLINK.address6 else None
    assert segment
    beside = beyond_local(UPLINK, [*networks, UPLINK.address4.network, segment])
    assert beside == (IPv4Network("198.51.100.0/24"), IPv6Network("2606:5::/64"))
    here = replace(UPLINK, beside=beside)
    for written in ("198.51.100.200", "2606:5::7"):
        assert is_internet(UPLINK, ip_address(written))
        assert not is_internet(here, ip_address(written))


def test_a_flow_to_a_prefix_leads_there_and_nowhere_else() -> None:
    shop = build_design("dmz", {"web": "dmz"})
    flows = with_flows(shop, "a: web -> internet tcp/443\nb: web -> 192.168.7.0/24 tcp/443").flows
    near, far = ip_address("192.168.7.9"), ip_address("9.9.9.9")
    assert [leads_to(flow, UPLINK, near) for flow in flows] == [False, True]
    assert [leads_to(flow, UPLINK, far) for flow in flows] == [True, False]


def test_addresses_of_the_vapp_itself_are_not_outside(tmp_path: Path) -> None:
    inner4, inner6 = zone_prefixes("shop", ["dmz"])["dmz"]
    file = tmp_path / "shop.yaml"
    text = (
        "vcloud: 1\nname: shop\nzones: {dmz: {}}\nvms: {web: {image: nginx, zone: dmz}}\nflows:\n"
    )
    for inner in (inner4, inner6, inner4[7]):
        file.write_text(f"{text}  - {{from: web, to: '{inner}', service: tcp/80}}\n")
        with pytest.raises(SpecError) as refused:
            load_file(file, {})
        (problem,) = refused.value.problems
        assert (problem.field, problem.line) == ("flows[0].to", 6)
        assert "is in the zone 'dmz' of this vApp" in problem.what
    file.write_text(f"{text}  - {{from: web, to: '{inner4.supernet(4)}', service: tcp/80}}\n")
    assert load_file(file, {}).flows
