"""When an appliance stops, so does the traffic; `status` says so, and `up` repairs it and says why."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.vm.conftest import SHOP
from tests.vm.driver import PATIENT, Probe, Vapp, domains, wait_until

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3000)]

CARD = "4111111111111111"
STOPPED = {"timeout", "unreachable"}
"""What comes of a probe that does not get through."""
SERVER = {4: "203.0.113.10", 6: "2001:db8:203::10"}


@pytest.fixture(autouse=True)
def whole_again(shop: Vapp) -> Iterator[None]:
    """Each test begins and ends with a shop that takes orders."""
    assert shop.curl("/orders", "--fail").code == 0
    yield
    shop.operator.up(SHOP)


def customers_are_served(shop: Vapp, patience: int = 120) -> list[bool]:
    return [
        shop.curl("/orders", "--fail", family=family, patience=patience).code == 0
        for family in (4, 6)
    ]


def between_tiers(shop: Vapp, milliseconds: int = PATIENT) -> list[str]:
    """web asks api and api asks the database and the outside, in both families."""
    api, db = (
        (shop.addresses4[vm], shop.addresses6[vm], port)
        for vm, port in (("api", 8000), ("db", 5432))
    )

    def asked(vm: str, *targets: tuple[str, str, int]) -> list[str]:
        return shop.probe(
            vm,
            *(
                Probe("tcp", address, port, milliseconds=milliseconds)
                for *addresses, port in targets
                for address in addresses
            ),
        )

    return asked("web-1", api) + asked("api", db, (SERVER[4], SERVER[6], 443))


def repaired(shop: Vapp, appliance: str) -> None:
    """`plan` and `up` agree on what is to do and why; the other VMs go on as they were."""
    status = shop.operator.run("status", "shop", "--exit-code", "-o", "json", code=3).data
    assert not status["healthy"]
    (problem,) = status["problems"]
    assert problem.startswith(f"{appliance} '{appliance}' is shut off")
    assert "`vcloud up` repairs it" in problem
    assert {vm["state"] for vm in status["vms"] if vm["name"] == appliance} == {"shut off"}
    steps = shop.operator.run("plan", str(SHOP), "-o", "json").data["steps"]
    assert {(step["verb"], step["subject"]) for step in steps} == {
        ("start VM", appliance),
        (f"load {word(appliance)}", appliance),
    }
    assert "it is not running" in {step["why"] for step in steps}
    before = domains(shop.operator, "shop")
    shop.operator.up(SHOP)
    after = domains(shop.operator, "shop")
    assert {name for name in after if before[name] != after[name]} == {shop.domain(appliance)}
    assert shop.operator.run("status", "shop", "--exit-code", "-o", "json").data["healthy"]


def word(appliance: str) -> str:
    return "IPS" if appliance == "ips" else appliance


def test_without_the_firewall_nothing_passes_between_any_two(shop: Vapp) -> None:
    assert between_tiers(shop) == ["open"] * 6
    shop.operator.virsh("destroy", shop.domain("firewall"))
    assert customers_are_served(shop, 4) == [False, False]
    assert {*between_tiers(shop, 2500)} <= STOPPED
    repaired(shop, "firewall")
    assert customers_are_served(shop) == [True, True]
    assert between_tiers(shop) == ["open"] * 6


def test_without_the_ips_nothing_passes_in_or_out_of_an_inspected_zone(shop: Vapp) -> None:
    """Every zone of the shop is one."""
    shop.operator.virsh("destroy", shop.domain("ips"))
    assert customers_are_served(shop, 4) == [False, False]
    assert {*between_tiers(shop, 2500)} <= STOPPED
    repaired(shop, "ips")
    assert customers_are_served(shop) == [True, True]


def test_a_suricata_that_dies_stops_the_traffic_and_is_started_again(shop: Vapp) -> None:
    """At no moment does a request pass that was not inspected: there is no bridge beside it."""
    placed = shop.curl("/orders", "--fail", "-d", json.dumps({"item": "teapot", "card": CARD}))
    card = f"/orders/{json.loads(placed.out)['order']}/card"
    before = shop.inside("ips", "cat /run/suricata/suricata.pid")
    shop.inside("ips", "kill -9 $(cat /run/suricata/suricata.pid)")
    assert all(CARD not in shop.curl(card, patience=3).out for _ in range(4))
    wait_until(
        "orders are served again", lambda: shop.curl("/orders", "--fail", patience=60).code == 0
    )
    assert shop.inside("ips", "cat /run/suricata/suricata.pid") != before
    assert CARD not in shop.curl(card, patience=6).out


def test_a_paused_firewall_is_told_and_resumed_by_up(shop: Vapp) -> None:
    shop.operator.virsh("suspend", shop.domain("firewall"))
    assert customers_are_served(shop, 4) == [False, False]
    assert "is paused" in shop.operator.run("status", "shop", "--exit-code", code=3).err
    before = domains(shop.operator, "shop")
    shop.operator.up(SHOP)
    assert domains(shop.operator, "shop") == before
    assert customers_are_served(shop) == [True, True]


def test_a_workload_that_stopped_is_started_and_ready_again(shop: Vapp) -> None:
    shop.operator.virsh("destroy", shop.domain("api"))
    assert customers_are_served(shop, 20) == [False, False]
    before = domains(shop.operator, "shop")
    shop.operator.up(SHOP)
    after = domains(shop.operator, "shop")
    assert {name for name in after if before[name] != after[name]} == {shop.domain("api")}
    assert customers_are_served(shop) == [True, True]


@pytest.mark.parametrize("vm", ["web-1", "firewall", "ips"])
def test_a_vm_that_is_started_by_hand_is_told_and_up_sees_to_it(shop: Vapp, vm: str) -> None:
    """A workload has no live link until then; an appliance comes back with the rules that it has
    kept.
    """
    shop.operator.virsh("destroy", shop.domain(vm))
    shop.operator.virsh("start", shop.domain(vm))
    if vm == "web-1":
        rows = [
            line.split()
            for line in shop.operator.virsh("domiflist", shop.domain(vm)).splitlines()
            if line.strip()
        ]
        assert rows
        for row in rows:
            assert (
                shop.operator.virsh("domif-getlink", shop.domain(vm), row[-1]).split()[-1] == "down"
            )
        assert customers_are_served(shop, 4) == [False, False]
    assert (
        "was not started by `vcloud up`"
        in shop.operator.run("status", "shop", "--exit-code", code=3).err
    )
    before = domains(shop.operator, "shop")
    shop.operator.up(SHOP)
    assert domains(shop.operator, "shop") == before
    assert shop.operator.run("status", "shop", "--exit-code").code == 0
    assert customers_are_served(shop) == [True, True]


def test_a_network_that_was_stopped_is_told_and_its_vms_are_back_on_it_after_up(shop: Vapp) -> None:
    """Started again, a network does not have the cards that hung on it before."""
    shop.operator.virsh("net-destroy", "shop.dmz")
    assert customers_are_served(shop, 4) == [False, False]
    assert (
        "the network 'shop.dmz' is not active"
        in shop.operator.run("status", "shop", "--exit-code", code=3).err
    )
    before = domains(shop.operator, "shop")
    shop.operator.up(SHOP)
    after = domains(shop.operator, "shop")
    assert {name for name in after if before[name] != after[name]} == {
        shop.domain("ips"),
        shop.domain("web-1"),
    }
    assert customers_are_served(shop) == [True, True]
