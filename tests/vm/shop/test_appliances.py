"""Appliances that somebody has changed by hand: nothing opens, and `status` names each difference."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.vm.conftest import SHOP
from tests.vm.driver import Vapp
from tests.vm.shop.test_fail_closed import STOPPED, between_tiers, customers_are_served
from vcloud.compile.ips.files import FOLDER

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3000)]

KEPT = "/etc/vcloud/firewall.nft"
FIREWALL = f"""
sed -i 's/policy drop/policy accept/' {KEPT}
nft add table netdev mine
tc qdisc add dev z-dmz clsact
tc filter add dev z-dmz ingress matchall action mirred egress redirect dev z-cde
tc qdisc replace dev z-app root handle 1: prio
ip link add br7 type bridge
ip rule add from all fwmark 0x9 lookup main priority 5
ip route add 10.9.9.0/24 dev z-app
echo 1 > /proc/sys/net/ipv4/conf/z-app/proxy_arp
"""
"""What a person does in the firewall, without a word to vcloud."""
NAMED = (
    "for its next boot",
    "tables: inet vcloud, netdev mine",
    "foreign: qdisc z-dmz clsact ffff",
    "foreign: qdisc z-app prio 1",
    "foreign: link br7",
    "foreign: rule 4 5 mark 9 table 254",
    "foreign: route z-app 10.9.9.0/24",
    "net/ipv4/conf/z-app/proxy_arp is 1, not 0",
)
RULES_GONE = f"""
cd {FOLDER}/rules
cp -p leaks.rules /run/leaks.rules
sed -i '2,$s/^drop/#drop/' leaks.rules
/usr/lib/vcloud/guest suricata ruleset-reload-rules
cp -p /run/leaks.rules leaks.rules
ip link add br7 type bridge
"""


def problems(shop: Vapp) -> str:
    return "\n".join(shop.operator.status("shop")["problems"])


@pytest.fixture(autouse=True)
def whole_again(shop: Vapp) -> Iterator[None]:
    """Each test begins and ends with a shop that takes orders."""
    assert problems(shop) == ""
    yield
    for appliance in ("firewall", "ips"):
        shop.operator.virsh("destroy", shop.domain(appliance))
    shop.operator.up(SHOP)
    assert problems(shop) == ""


def test_without_its_rules_the_firewall_forwards_nothing_and_with_them_again(shop: Vapp) -> None:
    """tests/netns/firewall/test_without_rules.py takes away each chain, and any two of them."""
    assert between_tiers(shop) == ["open"] * 6
    for change in (
        "nft flush ruleset",
        "nft 'flush chain inet vcloud hook_flows; delete chain inet vcloud hook_flows'",
    ):
        shop.inside("firewall", change)
        assert {*between_tiers(shop, 2500)} <= STOPPED, change
        assert customers_are_served(shop, 3) == [False, False], change
        shop.operator.up(SHOP, "--reload")
        assert between_tiers(shop) == ["open"] * 6
    assert customers_are_served(shop) == [True, True]


def test_what_was_changed_by_hand_is_named(shop: Vapp) -> None:
    """One status tells of both appliances."""
    shop.inside("firewall", f"set -e\n{FIREWALL}")
    shop.inside("ips", f"set -e\n{RULES_GONE}")
    told = problems(shop)
    assert [text for text in NAMED if text not in told] == []
    assert "Suricata has the delivered rules in its memory" in told
    assert "before the files changed" in told
    assert told.count("foreign: link br7") == 2
    assert "the IPS's rules are the ones" not in told
